//! The agent's own folder, STATE/agent: who this node is, and that nobody else is it.
//!
//! Holds the lock against a second agent, the node's uuid (made once), the count of starts (so that report sequences
//! rise over restarts) and the boot id of the last start (after another boot, no process of before is left).
//!
//! Invariants:
//! - The lock is held as long as [`Folder`] lives, and no child inherits it.
//! - The count is on disk before it is used, also when the disk is full.
//!
//! Elsewhere: grants are `journal`, attempt directories and logs are the supervisor's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another agent runs on it.
    #[error("another agent runs on {}", .0.display())]
    Held(PathBuf),
    /// There is no room for the few bytes a first start needs.
    #[error("the disk under {} is full", .0.display())]
    Full(PathBuf),
    /// The file system refused.
    #[error("cannot use {}", path.display())]
    Io {
        /// What was to be read or written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// An agent's folder, locked.
#[derive(Debug)]
pub(crate) struct Folder {
    /// STATE/agent.
    pub(crate) path: PathBuf,
    /// Random, made once.
    pub(crate) node_uuid: String,
    /// Starts of an agent on this folder, this one included.
    pub(crate) starts: u64,
    /// The machine was booted since the last start.
    pub(crate) rebooted: bool,
    _lock: File,
}

impl Folder {
    /// Opens and locks STATE/agent, making it if it is not there.
    pub(crate) fn open(state: &Path, boot_id: &str) -> Result<Folder, FolderError> {
        let path = state.join("agent");
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| match is_full(&source) {
                true => FolderError::Full(path),
                false => FolderError::Io { path, source },
            }
        };
        // Tasks of another user pass through it to their own directories; they cannot list it.
        let mode = if rustix::process::getuid().is_root() { 0o711 } else { 0o700 };
        fs::DirBuilder::new().recursive(true).mode(mode).create(&path).map_err(failed(&path))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed(&lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(FolderError::Held(path)),
            Err(error) => return Err(failed(&lock_path)(error.into())),
        }
        let node_uuid = node_uuid(&path).map_err(failed(&path))?;
        let starts = count_start(&path).map_err(failed(&path))?;
        let boot_path = path.join("boot_id");
        let before = fs::read_to_string(&boot_path).unwrap_or_default();
        let rebooted = !before.is_empty() && before != boot_id;
        if before != boot_id {
            write_durably(&boot_path, boot_id.as_bytes()).map_err(failed(&boot_path))?;
        }
        Ok(Folder { path, node_uuid, starts, rebooted, _lock: lock })
    }
}

fn node_uuid(folder: &Path) -> io::Result<String> {
    let path = folder.join("node_uuid");
    match fs::read_to_string(&path) {
        Ok(text) if text.trim().len() == 36 => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let uuid = random_uuid()?;
    write_durably(&path, uuid.as_bytes())?;
    Ok(uuid)
}

/// Makes a random uuid (version 4).
fn random_uuid() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    let number = (u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{number:032x}");
    Ok([&hex[0..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]].join("-"))
}

fn count_start(folder: &Path) -> io::Result<u64> {
    let path = folder.join("starts");
    let before = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| io::Error::other("the count of starts is not a number"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0_u64,
        Err(error) => return Err(error),
    };
    let starts = before.saturating_add(1);
    // Always as long, so that a full disk cannot keep it from being counted.
    write_durably(&path, format!("{starts:020}").as_bytes())?;
    Ok(starts)
}

/// Whether there is no room on a file system.
pub(crate) fn is_full(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Replaces a file so that either the old or the new content is there, whatever happens. On a full disk a file of the
/// same length is written over where it lies, which needs no room; it is shorter than what a disk writes at once.
fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let Err(fault) = replace(path, &new, content) else { return Ok(()) };
    if !is_full(&fault) {
        return Err(fault);
    }
    let _ = fs::remove_file(&new);
    let Ok(file) = OpenOptions::new().write(true).open(path) else { return Err(fault) };
    if file.metadata()?.len() != content.len() as u64 {
        return Err(fault);
    }
    file.write_all_at(content, 0)?;
    file.sync_all()
}

fn replace(path: &Path, new: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(new, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    //! Identity, count, boots and the lock.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn folder_keeps_its_uuid_counts_starts_sees_a_reboot_and_refuses_a_second_agent() {
        let state = std::env::temp_dir().join(format!("gangsaw-folder-{}", std::process::id()));
        let first = Folder::open(&state, "boot-1").unwrap();
        assert_eq!((first.starts, first.rebooted, first.node_uuid.len()), (1, false, 36));
        assert_eq!(first.node_uuid.as_bytes()[14], b'4');
        assert!(matches!(Folder::open(&state, "boot-1"), Err(FolderError::Held(_))));
        let uuid = first.node_uuid.clone();
        drop(first);
        let second = Folder::open(&state, "boot-1").unwrap();
        assert_eq!((second.starts, second.rebooted, &second.node_uuid), (2, false, &uuid));
        drop(second);
        let third = Folder::open(&state, "boot-2").unwrap();
        assert_eq!((third.starts, third.rebooted), (3, true));
        drop(third);
        fs::remove_dir_all(&state).unwrap();
    }
}
