//! Switches that break the core on purpose, so that the simulator can show that its checks would notice.
//!
//! They are fields only with the feature `mutations`, which the simulator's tests turn on; without it every question is
//! a constant `false` and costs nothing. Nothing from outside (flag, file, input) can set one.

/// What is broken. Everything is false unless a test says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mutations {
    /// Reports of fenced leases count.
    #[cfg(feature = "mutations")]
    pub fence_off: bool,
    /// Repeated reports and repeated submits are taken again.
    #[cfg(feature = "mutations")]
    pub dedupe_off: bool,
    /// `owed` owes nothing.
    #[cfg(feature = "mutations")]
    pub owed_skipped: bool,
    /// A node takes work while leases run on it that nobody here granted.
    #[cfg(feature = "mutations")]
    pub clearing_off: bool,
}

#[cfg(feature = "mutations")]
impl Mutations {
    pub(crate) fn fence_off(self) -> bool {
        self.fence_off
    }

    pub(crate) fn dedupe_off(self) -> bool {
        self.dedupe_off
    }

    pub(crate) fn owed_skipped(self) -> bool {
        self.owed_skipped
    }

    pub(crate) fn clearing_off(self) -> bool {
        self.clearing_off
    }
}

#[cfg(not(feature = "mutations"))]
impl Mutations {
    pub(crate) fn fence_off(self) -> bool {
        false
    }

    pub(crate) fn dedupe_off(self) -> bool {
        false
    }

    pub(crate) fn owed_skipped(self) -> bool {
        false
    }

    pub(crate) fn clearing_off(self) -> bool {
        false
    }
}
