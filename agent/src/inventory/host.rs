//! What the machine itself offers: CPU, memory, boot id, from /proc and /sys.
//!
//! An agent may run inside limits somebody else set: an affinity mask, a CPU quota, a memory limit of its cgroup or of
//! any of that cgroup's parents. It offers the smallest of them, never the whole machine, because a task would hit
//! the limit anyway. Versions 1 and 2 of cgroups are read, also both at once.
//!
//! Invariants:
//! - Nothing here fails: what cannot be read limits nothing.
//! - A reader takes the root of the file tree, so tests give it a folder of their own.
//!
//! Elsewhere: GPUs are `gpu`; the cgroups that tasks run in belong to the supervisor.

use std::path::{Path, PathBuf};

/// What the machine offers, inside the limits that hold for this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// In 1/1000 of a core.
    pub(crate) milli_cpus: u64,
    /// In bytes.
    pub(crate) memory_bytes: u64,
    /// Random per boot. Empty when the kernel does not say.
    pub(crate) boot_id: String,
    /// One line for each limit that is smaller than the machine.
    pub(crate) notes: Vec<String>,
}

/// Reads the machine below `root` (`/` in production). `cores` is how many this process may run on.
pub(crate) fn read(root: &Path, cores: usize) -> Host {
    let folders = Folders::read(root);
    let mut notes = Vec::new();
    let all_cpus = u64::try_from(cores).unwrap_or(u64::MAX).saturating_mul(1000).max(1000);
    let mut milli_cpus = all_cpus;
    if let Some(quota) = folders.cpu_quota().filter(|quota| *quota < milli_cpus) {
        notes.push(format!("cpu: limited to {}.{:03} cores by a cgroup", quota / 1000, quota % 1000));
        milli_cpus = quota.max(1);
    }
    let total = memory_total(root);
    let mut memory_bytes = total;
    if let Some(limit) = folders.memory_limit().filter(|limit| *limit < total) {
        notes.push(format!("memory: limited to {} MiB by a cgroup", limit >> 20));
        memory_bytes = limit;
    }
    let boot_id = text(&root.join("proc/sys/kernel/random/boot_id")).unwrap_or_default();
    Host { milli_cpus, memory_bytes, boot_id, notes }
}

/// Returns how many cores this process may run on.
pub(crate) fn cores() -> usize {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => usize::try_from(set.count()).unwrap_or(1).max(1),
        Err(_) => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    }
}

/// Returns milliseconds of BOOTTIME, which counts on while the machine is suspended.
pub(crate) fn boottime_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ms = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
    u64::try_from(ms).unwrap_or(0)
}

/// Returns the machine's name, as other machines know it.
pub(crate) fn hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "node".to_owned() } else { name }
}

fn text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn memory_total(root: &Path) -> u64 {
    let info = text(&root.join("proc/meminfo")).unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// The folders of this process's cgroups, own one first, then its parents up to the mount.
#[derive(Default)]
struct Folders {
    unified: Vec<PathBuf>,
    cpu: Vec<PathBuf>,
    memory: Vec<PathBuf>,
}

impl Folders {
    fn read(root: &Path) -> Folders {
        let mut folders = Folders::default();
        let cgroups = text(&root.join("proc/self/cgroup")).unwrap_or_default();
        let mounts = text(&root.join("proc/self/mountinfo")).unwrap_or_default();
        for mount in mounts.lines().filter_map(Mount::parse) {
            for line in cgroups.lines() {
                let mut parts = line.splitn(3, ':').skip(1);
                let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
                let has = |name| controllers.split(',').any(|controller| controller == name);
                if mount.kind == "cgroup2" && controllers.is_empty() {
                    folders.unified = mount.chain(root, path);
                } else if mount.kind == "cgroup" && has("cpu") && mount.options.split(',').any(|o| o == "cpu") {
                    folders.cpu = mount.chain(root, path);
                } else if mount.kind == "cgroup" && has("memory") && mount.options.split(',').any(|o| o == "memory") {
                    folders.memory = mount.chain(root, path);
                }
            }
        }
        folders
    }

    fn cpu_quota(&self) -> Option<u64> {
        let unified = self.unified.iter().filter_map(|folder| {
            let line = text(&folder.join("cpu.max"))?;
            let (quota, period) = line.split_once(' ')?;
            milli(quota.parse().ok()?, period.parse().ok()?)
        });
        let first = self.cpu.iter().filter_map(|folder| {
            let quota = text(&folder.join("cpu.cfs_quota_us"))?.parse().ok()?;
            milli(quota, text(&folder.join("cpu.cfs_period_us"))?.parse().ok()?)
        });
        unified.chain(first).min()
    }

    fn memory_limit(&self) -> Option<u64> {
        let unified = self.unified.iter().filter_map(|folder| text(&folder.join("memory.max"))?.parse::<u64>().ok());
        let first =
            self.memory.iter().filter_map(|folder| text(&folder.join("memory.limit_in_bytes"))?.parse::<u64>().ok());
        unified.chain(first).min()
    }
}

/// Turns a quota in a period into 1/1000 of cores. A negative quota limits nothing.
fn milli(quota: i64, period: i64) -> Option<u64> {
    let quota = u64::try_from(quota).ok()?;
    let period = u64::try_from(period).ok().filter(|period| *period > 0)?;
    Some(quota.saturating_mul(1000) / period)
}

/// One line of mountinfo: `36 35 98:0 /root /mnt rw - cgroup cgroup rw,cpu,cpuacct`.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let mut after = after.split(' ');
        let mount = Mount {
            root: before.next()?,
            point: before.next()?,
            kind: after.next()?,
            options: after.nth(1).unwrap_or_default(),
        };
        mount.kind.starts_with("cgroup").then_some(mount)
    }

    /// The folder of `path` and of each of its parents inside this mount. A path that is not below the mount's root
    /// (another cgroup namespace) has only the mount itself.
    fn chain(&self, root: &Path, path: &str) -> Vec<PathBuf> {
        let point = root.join(self.point.trim_start_matches('/'));
        let below = if self.root == "/" { Some(path) } else { path.strip_prefix(self.root) };
        let below = below.unwrap_or("").trim_matches('/');
        let mut folders = vec![point.clone()];
        for part in below.split('/').filter(|part| !part.is_empty() && *part != "..") {
            let next = folders.last().map_or_else(|| point.join(part), |folder| folder.join(part));
            folders.push(next);
        }
        folders.reverse();
        folders
    }
}

#[cfg(test)]
mod tests;
