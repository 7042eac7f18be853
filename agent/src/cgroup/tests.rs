//! Finding hierarchies in the files of three kinds of system, and the files that limits are written to.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::discover::parse;
use super::*;

const HYBRID: &str = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 /docker/abc /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
35 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
const HYBRID_OWN: &str = "\
9:name=systemd:/
8:pids:/docker/abc
4:memory:/user/x
1:cpu,cpuacct:/
0::/user.slice
";

#[test]
fn hybrid_system_gives_each_controller_with_our_place_in_it() {
    let found = parse(HYBRID, HYBRID_OWN);
    let own = |controller: &str| {
        let hierarchy = found.iter().find(|one| one.controllers.iter().any(|name| name == controller)).unwrap();
        hierarchy.own.to_str().unwrap().to_owned()
    };
    assert_eq!(own("cpu"), "/sys/fs/cgroup/cpu,cpuacct/");
    assert_eq!(own("memory"), "/sys/fs/cgroup/memory/user/x");
    assert_eq!(own("pids"), "/sys/fs/cgroup/pids/", "a container sees its own folder as the root");
    let v2 = found.iter().find(|one| one.version == Version::V2).unwrap();
    assert_eq!(v2.own.to_str().unwrap(), "/sys/fs/cgroup/unified/user.slice");
}

#[test]
fn pure_v2_system_is_one_hierarchy_and_none_is_none() {
    let mounts = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    let found = parse(mounts, "0::/system.slice/gangsaw.service\n");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].own.to_str().unwrap(), "/sys/fs/cgroup/system.slice/gangsaw.service");
    assert!(parse("29 23 0:26 / / rw - ext4 /dev/vda rw\n", "0::/\n").is_empty());
}

/// A slot folder as the kernel would make it, of plain files.
fn fake_slot(version: Version, files: &[(&str, &str)]) -> (tempfile::TempDir, Slot) {
    let folder = tempfile::tempdir().unwrap();
    let slot = folder.path().join("slot-0");
    fs::create_dir(&slot).unwrap();
    for (name, text) in files {
        fs::write(slot.join(name), text).unwrap();
    }
    let roles = ROLES.into_iter().filter(|role| version == Version::V2 || *role != Role::Tree).collect();
    let base = Base { folder: folder.path().to_path_buf(), version, roles };
    let slot = Slot::open(&[base], 0).unwrap();
    (folder, slot)
}

fn read(folder: &tempfile::TempDir, name: &str) -> String {
    fs::read_to_string(folder.path().join("slot-0").join(name)).unwrap()
}

const LIMITS: Limits = Limits { milli_cpus: 2500, memory_bytes: 1 << 30, pids_max: 99 };

#[test]
fn v2_limits_go_to_v2_files() {
    let files =
        ["cgroup.procs", "cpu.weight", "memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cgroup.kill"];
    let mut files: Vec<(&str, &str)> = files.iter().map(|name| (*name, "")).collect();
    files.extend([
        ("cgroup.events", "populated 1\nfrozen 0\n"),
        ("memory.events", "oom 1\noom_kill 3\n"),
        ("memory.peak", "77\n"),
    ]);
    let (folder, mut slot) = fake_slot(Version::V2, &files);
    slot.set(LIMITS).unwrap();
    let written =
        ["cpu.weight", "memory.max", "memory.swap.max", "memory.oom.group", "pids.max"].map(|name| read(&folder, name));
    assert_eq!(written, ["250", "1073741824", "0", "1", "99"]);
    assert_eq!((slot.populated(), slot.peak_bytes(), slot.took_oom()), (Some(true), Some(77), false));
    fs::write(folder.path().join("slot-0/memory.events"), "oom 1\noom_kill 4\n").unwrap();
    assert!(slot.took_oom() && !slot.took_oom());
    fs::write(folder.path().join("slot-0/cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
    assert_eq!(slot.populated(), Some(false));
    assert!(slot.kill());
    assert_eq!(read(&folder, "cgroup.kill"), "1");
}

#[test]
fn limits_are_written_again_only_when_they_differ() {
    let files = [
        ("tasks", ""),
        ("cgroup.procs", ""),
        ("cpu.shares", ""),
        ("memory.limit_in_bytes", ""),
        ("pids.max", ""),
        ("pids.current", "0\n"),
        ("memory.oom_control", ""),
    ];
    let (folder, mut slot) = fake_slot(Version::V1, &files);
    slot.set(LIMITS).unwrap();
    assert_eq!(
        ["cpu.shares", "memory.limit_in_bytes", "pids.max"].map(|name| read(&folder, name)),
        ["2560", "1073741824", "99"]
    );
    assert_eq!(slot.populated(), Some(false));
    fs::write(folder.path().join("slot-0/pids.max"), "").unwrap();
    slot.set(LIMITS).unwrap();
    assert_eq!(read(&folder, "pids.max"), "");
    slot.set(Limits { pids_max: 100, ..LIMITS }).unwrap();
    assert_eq!(read(&folder, "pids.max"), "100");
    // Killed by a limit of no processes: the real one comes back with the next task.
    assert!(slot.kill());
    assert!(read(&folder, "pids.max").starts_with('0'));
    slot.set(Limits { pids_max: 100, ..LIMITS }).unwrap();
    assert_eq!(read(&folder, "pids.max"), "100");
}

#[test]
fn memory_limit_that_cannot_be_set_is_an_error() {
    let files = [("tasks", ""), ("cgroup.procs", ""), ("cpu.shares", ""), ("pids.max", ""), ("pids.current", "0\n")];
    let (_folder, mut slot) = fake_slot(Version::V1, &files);
    assert_eq!(slot.set(LIMITS).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn without_cgroups_the_process_limits_itself() {
    let cgroups = Cgroups::rlimit_only();
    assert_eq!(cgroups.name(), "rlimit");
    assert!(cgroups.notes.iter().any(|note| note.contains("best effort")));
    let mut slot = cgroups.slot(0).unwrap();
    slot.set(LIMITS).unwrap();
    assert_eq!(slot.populated(), None);
    assert!(!slot.kill());
    assert_eq!(slot.rlimits(LIMITS, true), [(libc::RLIMIT_DATA, 1 << 30)]);
    assert_eq!(slot.rlimits(LIMITS, false), [(libc::RLIMIT_DATA, 1 << 30), (libc::RLIMIT_NPROC, 99)]);
}

#[test]
fn only_folders_of_our_name_are_ever_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let slot = folder.path().join("slot-0");
    fs::create_dir(&slot).unwrap();
    fs::write(slot.join("cgroup.procs"), "2147483646\n").unwrap();
    fs::write(slot.join("cgroup.kill"), "").unwrap();
    assert_eq!(leftover::kill(folder.path()), 0);
    assert_eq!(fs::read_to_string(slot.join("cgroup.kill")).unwrap(), "");
}
