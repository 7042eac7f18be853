//! What things are called: numbers the cluster gives, and names people give.
//!
//! A number is unique in the cluster and never used again. A name is checked when it is made, so whoever holds one
//! may print it: 1..=128 characters, none of them a control character.

mod compact;

use std::fmt;
use std::sync::Arc;

use self::compact::Compact;

/// Longest name, in characters: it must fit a table column, a file name and a log line.
pub const NAME_CHARS_MAX: usize = 128;

/// A job, numbered from 1 in the order of submission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// A node, numbered from 1 in the order of registration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// A lease, numbered from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// An API token, numbered from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u32);

/// An element's index in its job's array; 0 if there is no array.
pub type Index = u32;

/// A task's number within its element, from 0.
pub type Rank = u32;

/// The number of a try at an element, from 1. Zero: none yet.
pub type Attempt = u32;

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has no character.
    #[error("is empty")]
    Empty,
    /// It has more than [`NAME_CHARS_MAX`] characters.
    #[error("has {0} characters, and {NAME_CHARS_MAX} are allowed")]
    Long(usize),
    /// It has a control character, which could rewrite a terminal.
    #[error("has a control character at position {0}")]
    Control(usize),
}

fn checked(text: &str) -> Result<Arc<str>, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    let count = text.chars().count();
    if count > NAME_CHARS_MAX {
        return Err(NameError::Long(count));
    }
    match text.chars().position(char::is_control) {
        Some(at) => Err(NameError::Control(at)),
        None => Ok(text.into()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and makes a name of it.
            ///
            /// # Errors
            /// What is wrong with it.
            pub fn new(text: &str) -> Result<Self, NameError> {
                checked(text).map(Self)
            }

            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

/// A name that is never shared, see `compact`.
macro_rules! compact {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Compact);

        impl $name {
            /// Checks `text` and makes a name of it.
            ///
            /// # Errors
            /// What is wrong with it.
            pub fn new(text: &str) -> Result<Self, NameError> {
                checked(text).map(|text| Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

name!(
    /// What a job is called. Not unique.
    JobName
);
name!(
    /// An ordered line of one tenant's jobs.
    QueueName
);
name!(
    /// What a node is called, unique among nodes that are not forgotten.
    NodeName
);
name!(
    /// Who pays and holds quota.
    Tenant
);
name!(
    /// Who caused an event: a person, a program or a node.
    Actor
);
compact!(
    /// One request of a client, for tracing a change back to it.
    RequestId
);
compact!(
    /// A client's name for one Submit, so that it may be repeated.
    IdempotencyKey
);
name!(
    /// A GPU's UUID as its driver gives it.
    DeviceId
);

impl JobName {
    /// Makes a name of a text of ours that needs no check.
    pub(crate) fn literal(text: &'static str) -> Self {
        Self(text.into())
    }
}

impl Actor {
    /// Returns an operating system user who has no name.
    pub fn of_user(uid: u32) -> Self {
        Self(format!("uid-{uid}").into())
    }

    /// Returns the scheduler itself, for what nobody asked for.
    pub(crate) fn scheduler() -> Self {
        Self("scheduler".into())
    }
}

impl RequestId {
    /// Returns the id of what nobody asked for.
    pub(crate) fn internal() -> Self {
        Self(Compact::from(Arc::from("internal")))
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self("default".into())
    }
}

impl Default for QueueName {
    fn default() -> Self {
        Self("default".into())
    }
}
