//! The machine is read from folders that look like /proc and /sys.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

/// A file tree of its own, removed at the end.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str, files: &[(&str, &str)]) -> Tree {
        let root = std::env::temp_dir().join(format!("gangsaw-host-{}-{name}", std::process::id()));
        for (path, text) in files {
            let file = root.join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        Tree(root)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       8388608 kB\nMemFree: 1 kB\n");

#[test]
fn machine_without_limits_is_offered_whole() {
    let tree = Tree::new("whole", &[MEMINFO, ("proc/sys/kernel/random/boot_id", "abc\n")]);
    let host = read(&tree.0, 4);
    assert_eq!(host, Host { milli_cpus: 4000, memory_bytes: 8 << 30, boot_id: "abc".to_owned(), notes: Vec::new() });
}

#[test]
fn smallest_limit_of_all_parents_holds_in_version_2() {
    let tree = Tree::new(
        "v2",
        &[
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("proc/self/mountinfo", "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.max", "1073741824\n"),
        ],
    );
    let host = read(&tree.0, 4);
    assert_eq!(host.milli_cpus, 1500);
    assert_eq!(host.memory_bytes, 1 << 30);
    assert_eq!(host.notes, ["cpu: limited to 1.500 cores by a cgroup", "memory: limited to 1024 MiB by a cgroup"]);
}

#[test]
fn version_1_limits_are_read_below_a_bind_mounted_root() {
    let tree = Tree::new(
        "v1",
        &[
            MEMINFO,
            ("proc/self/cgroup", "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x/inner\n0::/\n"),
            (
                "proc/self/mountinfo",
                "31 20 0:27 /docker/x /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                 32 20 0:28 /docker/x /cg/memory rw - cgroup cgroup rw,memory\n",
            ),
            ("cg/cpu/cpu.cfs_quota_us", "50000\n"),
            ("cg/cpu/cpu.cfs_period_us", "100000\n"),
            ("cg/memory/memory.limit_in_bytes", "2147483648\n"),
            ("cg/memory/inner/memory.limit_in_bytes", "9223372036854771712\n"),
        ],
    );
    let host = read(&tree.0, 4);
    assert_eq!((host.milli_cpus, host.memory_bytes), (500, 2 << 30));
}

#[test]
fn this_machine_has_cores_memory_and_a_boot_id() {
    let host = read(Path::new("/"), cores());
    assert!(host.milli_cpus >= 1 && host.memory_bytes > 0 && !host.boot_id.is_empty(), "{host:?}");
    assert!(boottime_ms() > 0 && !hostname().is_empty());
}
