//! The core's plain types and their messages, both ways, field by field.
//!
//! `rpc` and the store share these where a stored message means the same as a sent one. Reading here is for messages
//! this scheduler wrote itself: nothing is validated, for it was when the job was submitted. What people send goes
//! through `spec::draft` and the core's own parsing.

pub(crate) mod grant;
pub(crate) mod node;
pub(crate) mod spec;
pub(crate) mod terms;
pub(crate) mod view;

/// A stored message without a field it needs, or with a value no version has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its `{0}` cannot be read")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Returns the field, or says which is missing.
pub(crate) fn need<T>(field: Option<T>, name: &'static str) -> Result<T, Malformed> {
    field.ok_or(Malformed(name))
}
