//! The guard on a real small file system: low space is seen, the ballast gives way, and all of it comes back.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

/// A tmpfs of its own, unmounted on drop.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts `bytes` of tmpfs, or says why it cannot; with `CI=true` that is a failure.
    fn mount(bytes: u64) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(dir.path())
            .output();
        if done.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(dir));
        }
        println!("not run: mounting a tmpfs needs root and mount(8): {done:?}");
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must be able to mount a tmpfs");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_seen_relieved_and_recovers_alone() {
    let Some(disk) = SmallDisk::mount(4 << 20) else { return };
    let folder = disk.0.path();
    let mut guard = DiskGuard::open(folder).unwrap();
    assert!(!guard.check().unwrap());
    assert_eq!(std::fs::metadata(folder.join("ballast")).unwrap().len(), 512 << 10);

    let (_, available) = space(folder).unwrap();
    std::fs::write(folder.join("hog"), vec![7; usize::try_from(available - (100 << 10)).unwrap()]).unwrap();
    assert!(guard.check().unwrap());
    assert!(guard.release().unwrap());
    assert!(!guard.release().unwrap());
    assert!(guard.check().unwrap(), "half a megabyte is no room for ballast and batches");
    assert!(space(folder).unwrap().1 >= 512 << 10);

    std::fs::remove_file(folder.join("hog")).unwrap();
    assert!(!guard.check().unwrap());
    assert_eq!(std::fs::metadata(folder.join("ballast")).unwrap().len(), 512 << 10);
}

#[test]
fn the_ballast_holds_blocks_and_is_laid_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut guard = DiskGuard::open(dir.path()).unwrap();
    assert!(!guard.check().unwrap());
    let meta = std::fs::metadata(dir.path().join("ballast")).unwrap();
    assert_eq!(allocated(&meta), guard.ballast_bytes);
    assert!(guard.ballast_bytes <= BALLAST_BYTES_MAX);
    drop(guard);
    DiskGuard::open(dir.path()).unwrap();
    assert_eq!(allocated(&std::fs::metadata(dir.path().join("ballast")).unwrap()), allocated(&meta));
}

#[test]
fn a_written_ballast_has_its_whole_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ballast");
    assert!(fill(std::fs::File::create(&path).unwrap(), (1 << 20) + 17).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), (1 << 20) + 17);
}
