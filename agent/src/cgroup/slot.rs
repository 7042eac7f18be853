//! One slot's cgroup: limits in, tree out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use super::{Base, Limits, Role, Version};

/// A slot's folders. On the rlimit backend there are none and every question is answered by "unknown".
#[derive(Debug)]
pub(crate) struct Slot {
    groups: Vec<Group>,
    pub(crate) doors: Doors,
    /// `cgroup.events` or `pids.current`, kept open: it is asked after every task.
    watch: Option<(File, Watch)>,
    set: Option<Limits>,
    ooms: u64,
    /// `cgroup.kill` was used: nobody can be born inside any more.
    killed: bool,
}

/// The ways into the cgroups of a slot.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    /// Version 1: `tasks` of each folder. A child of one thread writes `0` to each and is inside.
    pub(crate) tasks: Vec<OwnedFd>,
    /// Version 2: where a child is born.
    pub(crate) unified: Option<Unified>,
}

impl Doors {
    /// Returns the folder a child can be born in.
    pub(crate) fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref()?.folder.as_ref().map(OwnedFd::as_fd)
    }
}

/// A folder of version 2.
#[derive(Debug)]
pub(crate) struct Unified {
    /// The folder itself, where children are born inside. Absent once a birth there has failed.
    pub(crate) folder: Option<OwnedFd>,
    /// Whether a birth was tried.
    pub(crate) tried: bool,
    /// Its `cgroup.procs`, for those that cannot be born inside.
    pub(crate) procs: OwnedFd,
}

impl Unified {
    fn open(folder: &Path) -> io::Result<Self> {
        let procs = door(folder, "cgroup.procs")?;
        Ok(Self { folder: Some(File::open(folder)?.into()), tried: false, procs })
    }
}

#[derive(Debug)]
struct Group {
    folder: PathBuf,
    version: Version,
    roles: Vec<Role>,
}

#[derive(Clone, Copy, Debug)]
enum Watch {
    /// `populated 0` in cgroup.events.
    Events,
    /// `0` in pids.current.
    Pids,
    /// Nothing in cgroup.procs.
    Procs,
}

impl Slot {
    pub(super) fn open(bases: &[Base], number: u32) -> io::Result<Self> {
        let mut groups = Vec::new();
        let mut doors = Doors::default();
        for base in bases {
            let folder = base.folder.join(format!("slot-{number}"));
            match fs::create_dir(&folder) {
                Err(fault) if fault.kind() != io::ErrorKind::AlreadyExists => return Err(fault),
                _ => {}
            }
            match base.version {
                Version::V1 => doors.tasks.push(door(&folder, "tasks")?),
                Version::V2 => doors.unified = Some(Unified::open(&folder)?),
            }
            groups.push(Group { folder, version: base.version, roles: base.roles.clone() });
        }
        let mut slot = Self { groups, doors, watch: None, set: None, ooms: 0, killed: false };
        slot.watch = slot.open_watch()?;
        slot.ooms = slot.oom_count();
        Ok(slot)
    }

    fn open_watch(&self) -> io::Result<Option<(File, Watch)>> {
        let ways = [
            (Role::Tree, "cgroup.events", Watch::Events),
            (Role::Pids, "pids.current", Watch::Pids),
            (Role::Memory, "cgroup.procs", Watch::Procs),
        ];
        for (role, file, watch) in ways {
            if let Some(group) = self.group(role) {
                return Ok(Some((File::open(group.folder.join(file))?, watch)));
            }
        }
        Ok(None)
    }

    fn group(&self, role: Role) -> Option<&Group> {
        self.groups.iter().find(|group| group.roles.contains(&role))
    }

    /// Makes the folder of version 2 anew. Linux compares the number of kills of a newborn's cgroup with that of its
    /// parent's, also for one born elsewhere (6.14 to 6.18 at least): after the first `cgroup.kill` each is killed.
    fn renew(&mut self) -> io::Result<()> {
        let unified = self.groups.iter().find(|group| group.version == Version::V2);
        if let Some(folder) = unified.map(|group| &group.folder) {
            self.watch = None;
            self.set = None;
            if fs::remove_dir(folder).is_ok() {
                fs::create_dir(folder)?;
            }
            self.doors.unified = Some(Unified::open(folder)?);
            self.watch = self.open_watch()?;
            self.ooms = self.oom_count();
        }
        self.killed = false;
        Ok(())
    }

    /// Writes the limits that differ from those set last.
    ///
    /// # Errors
    /// When a memory or pids limit cannot be written. A refused CPU weight is no error: it limits nothing.
    pub(crate) fn set(&mut self, limits: Limits) -> io::Result<()> {
        if self.killed {
            self.renew()?;
        }
        if self.set == Some(limits) {
            return Ok(());
        }
        self.set = None;
        if let Some(group) = self.group(Role::Cpu) {
            let (file, weight) = match group.version {
                Version::V1 => ("cpu.shares", (limits.milli_cpus.max(1) * 1024 / 1000).clamp(2, 262_144)),
                Version::V2 => ("cpu.weight", (limits.milli_cpus / 10).clamp(1, 10_000)),
            };
            let _ = write(&group.folder.join(file), &weight.to_string());
        }
        if let Some(group) = self.group(Role::Memory) {
            set_memory(group, limits.memory_bytes)?;
        }
        if let Some(group) = self.group(Role::Pids) {
            write(&group.folder.join("pids.max"), &or_max(limits.pids_max))?;
        }
        self.set = Some(limits);
        Ok(())
    }

    /// Limits this slot cannot hold by itself, for the child to set on itself: (resource, bytes or count).
    pub(crate) fn rlimits(&self, limits: Limits, is_root: bool) -> Vec<(libc::__rlimit_resource_t, u64)> {
        let mut own = Vec::new();
        if limits.memory_bytes > 0 && self.group(Role::Memory).is_none() {
            own.push((libc::RLIMIT_DATA, limits.memory_bytes));
        }
        // The kernel counts a user's processes, all of them together, and does not hold root to it.
        if limits.pids_max > 0 && self.group(Role::Pids).is_none() && !is_root {
            own.push((libc::RLIMIT_NPROC, limits.pids_max));
        }
        own
    }

    /// Whether a process is inside. `None`: this backend cannot tell.
    pub(crate) fn populated(&self) -> Option<bool> {
        let (file, watch) = self.watch.as_ref()?;
        let mut buffer = [0_u8; 128];
        let length = file.read_at(&mut buffer, 0).ok()?;
        let text = buffer.get(..length)?;
        Some(match watch {
            Watch::Events => !text.windows(11).any(|line| line == b"populated 0"),
            Watch::Pids => text.trim_ascii() != b"0",
            Watch::Procs => !text.is_empty(),
        })
    }

    /// Sends SIGKILL to all that is inside. Repeat until [`Slot::populated`] says no. False: this backend cannot.
    pub(crate) fn kill(&mut self) -> bool {
        if self.groups.is_empty() {
            return false;
        }
        if let Some(group) = self.group(Role::Tree)
            && write(&group.folder.join("cgroup.kill"), "1").is_ok()
        {
            self.killed = true;
            return true;
        }
        // Without cgroup.kill a tree could fork faster than it is killed: let it have no new process first.
        if let Some(group) = self.group(Role::Pids) {
            let _ = write(&group.folder.join("pids.max"), "0");
            self.set = None;
        }
        for group in &self.groups {
            kill_each(&group.folder);
        }
        true
    }

    /// Whether the kernel killed something here for memory since the last call.
    pub(crate) fn took_oom(&mut self) -> bool {
        let count = self.oom_count();
        std::mem::replace(&mut self.ooms, count) < count
    }

    fn oom_count(&self) -> u64 {
        let Some(group) = self.group(Role::Memory) else { return 0 };
        let file = match group.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = fs::read_to_string(group.folder.join(file)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// The most memory that was used here, ever. `None`: this backend cannot tell.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        let group = self.group(Role::Memory)?;
        let file = match group.version {
            Version::V1 => "memory.max_usage_in_bytes",
            Version::V2 => "memory.peak",
        };
        fs::read_to_string(group.folder.join(file)).ok()?.trim().parse().ok()
    }
}

fn set_memory(group: &Group, bytes: u64) -> io::Result<()> {
    let file = |name: &str| group.folder.join(name);
    match group.version {
        Version::V2 => {
            write(&file("memory.max"), &or_max(bytes))?;
            // Absent where the kernel has no swap accounting; then swap is not limited.
            let _ = write(&file("memory.swap.max"), if bytes == 0 { "max" } else { "0" });
            let _ = write(&file("memory.oom.group"), "1");
        }
        Version::V1 => {
            let value = if bytes == 0 { "-1".to_owned() } else { bytes.to_string() };
            // What earlier tasks left in the page cache must not stand in the way, and the limit with swap may never
            // be below the one without: lift it first, lower it last.
            let _ = write(&file("memory.force_empty"), "0");
            let _ = write(&file("memory.memsw.limit_in_bytes"), "-1");
            write(&file("memory.limit_in_bytes"), &value)?;
            let _ = write(&file("memory.memsw.limit_in_bytes"), &value);
        }
    }
    Ok(())
}

fn or_max(limit: u64) -> String {
    if limit == 0 { "max".to_owned() } else { limit.to_string() }
}

fn door(folder: &Path, file: &str) -> io::Result<OwnedFd> {
    OpenOptions::new().write(true).open(folder.join(file)).map(OwnedFd::from)
}

/// A control file takes one write and is never created.
fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// Kills each process listed in a folder.
pub(super) fn kill_each(folder: &Path) -> usize {
    let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let pids: Vec<Pid> = pids.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect();
    for pid in &pids {
        let _ = kill_process(*pid, Signal::KILL);
    }
    pids.len()
}
