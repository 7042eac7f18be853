//! Why a database cannot be used, and which of that may pass by waiting.
//!
//! Elsewhere: what a failed append means is the store's own; what a user reads is `config`.

use tokio_postgres::error::SqlState;

use super::link::LinkError;
use super::schema;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PgOpenError {
    /// The address is none.
    #[error("the store's address is not a postgres:// URL")]
    Address(#[source] tokio_postgres::Error),
    /// It would be spoken to in the clear.
    #[error("PostgreSQL at {host} might be spoken to in the clear")]
    InTheClear {
        /// The server.
        host: String,
    },
    /// It would not be known whom to believe.
    #[error("certificates of authorities from {what} cannot be used")]
    Authorities {
        /// Where they should be.
        what: String,
        /// Why they cannot.
        #[source]
        why: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It has no TLS, or is not who it should be.
    #[error("there is no TLS with PostgreSQL at {host} that could be trusted")]
    Untrusted {
        /// The server.
        host: String,
        /// Why not.
        source: tokio_postgres::Error,
    },
    /// There are no tables of a scheduler.
    #[error("{shown} has no tables of gangsaw")]
    Empty {
        /// The database.
        shown: String,
    },
    /// A scheduler leads there, or began to.
    #[error("a scheduler is using {shown}")]
    InUse {
        /// The database.
        shown: String,
    },
    /// The tables were written by another version.
    #[error("{shown} has store format {found}, and this version reads {format}", format = schema::FORMAT)]
    Format {
        /// The database.
        shown: String,
        /// Its format.
        found: i64,
    },
    /// Something that was once good is not now.
    #[error("{shown} is damaged at {place}")]
    Damaged {
        /// The database.
        shown: String,
        /// The event.
        place: String,
    },
    /// PostgreSQL refused, or is not there.
    #[error("PostgreSQL cannot be used")]
    Postgres(#[from] tokio_postgres::Error),
    /// PostgreSQL took what was said and does not answer.
    #[error("PostgreSQL does not answer")]
    Silent,
    /// It is not the server that it was.
    #[error("PostgreSQL was taken over by another server")]
    Moved(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// This machine refused.
    #[error("the way to PostgreSQL cannot be opened")]
    Io(#[from] std::io::Error),
}

impl From<LinkError> for PgOpenError {
    fn from(error: LinkError) -> PgOpenError {
        match error {
            LinkError::Postgres(error) => PgOpenError::Postgres(error),
            LinkError::Untrusted { host, source } => PgOpenError::Untrusted { host, source },
            LinkError::Silent => PgOpenError::Silent,
            LinkError::Older { .. } | LinkError::Behind => PgOpenError::Moved(error.into()),
        }
    }
}

impl PgOpenError {
    /// Says whether waiting may help.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            PgOpenError::Postgres(error) => !matches!(
                error.code(),
                Some(&SqlState::INVALID_PASSWORD)
                    | Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
                    | Some(&SqlState::INVALID_CATALOG_NAME)
                    | Some(&SqlState::INSUFFICIENT_PRIVILEGE)
            ),
            PgOpenError::Silent | PgOpenError::Moved(_) => true,
            PgOpenError::Address(_)
            | PgOpenError::InTheClear { .. }
            | PgOpenError::Authorities { .. }
            | PgOpenError::Untrusted { .. }
            | PgOpenError::Empty { .. }
            | PgOpenError::InUse { .. }
            | PgOpenError::Format { .. }
            | PgOpenError::Damaged { .. }
            | PgOpenError::Io(_) => false,
        }
    }
}
