//! How people call what is checked, and what they can do about what is found there.

use std::path::{Path, PathBuf};

use super::super::postgres::link::Target;

/// A store's name: that of its file, or that of its database, from whichever copy it is read.
pub(in crate::store) struct Place {
    pub(super) database: PathBuf,
    in_rows: bool,
    /// What to do about something that is lost.
    pub(super) restore: &'static str,
    /// What to do about rows that are not what the log says.
    pub(super) rebuild: &'static str,
}

impl Place {
    /// A file.
    pub(in crate::store) fn file(path: &Path) -> Place {
        Place {
            database: path.to_owned(),
            in_rows: false,
            restore: "restore a backup into a new folder: `gangsaw restore BACKUP --state DIR`",
            rebuild: "`gangsaw fsck --rebuild` writes them again from the log",
        }
    }

    /// A database.
    pub(in crate::store) fn database(target: &Target) -> Place {
        Place {
            database: PathBuf::from(target.shown()),
            in_rows: true,
            restore: "restore a backup into an empty database: `gangsaw restore BACKUP --state DIR --store URL`",
            rebuild: "`gangsaw fsck --rebuild --store URL` writes them again from the log",
        }
    }

    /// What an archive that begins with the event `first` is called.
    pub(super) fn archive(&self, file: &Path, first: u64) -> PathBuf {
        if !self.in_rows {
            return file.to_owned();
        }
        PathBuf::from(format!("{}, row {first} of gangsaw.archive,", self.database.display()))
    }
}
