//! What every task of a lease has in common, made once: the command, the environment, the limits.
//!
//! A [`Template`] is parsed from `Run`; what is wrong with the request itself is found here, before a slot is taken.
//! What differs from task to task (indices, folders, devices) is added by [`Template::env`].
//!
//! Elsewhere: folders of an attempt are `supervisor::attempt`; what the child does with it all is `supervisor::spawn`.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use gangsaw_proto::supervisor::v1::{Gang, Rank, Run, run, start_failed};
use rustix::fs::{Access, access};

use super::attempt::Folders;
use super::spawn::{CStrings, Ids};
use crate::cgroup::Limits;

/// Bounds a fork bomb on a lease that names no limit.
const PIDS_DEFAULT: u64 = 4096;
/// Where commands are looked for when the environment has no PATH.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";
/// Slots of one lease.
const SLOTS_MAX: u32 = 1024;
/// Below this limit exec itself may run out of memory, which only a child of its own memory can tell well.
const SHARING_MEMORY_MIN: u64 = 16 << 20;
/// Names that tell whose a process is; [`super::kill`] looks for them.
pub(super) const LEASE_ENV: &str = "GANGSAW_LEASE_ID";
/// The state folder's tag, for lease ids are unique in one cluster only.
pub(super) const NODE_ENV: &str = "GANGSAW_NODE_TAG";
/// The task's name in its job.
pub(super) const TASK_ENV: &str = "GANGSAW_TASK_ID";

/// Why a task did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StartFault {
    pub(super) step: start_failed::Step,
    pub(super) errno: i32,
    pub(super) users_fault: bool,
    pub(super) detail: String,
}

impl StartFault {
    /// The request says something that cannot be.
    pub(super) fn request(detail: impl Into<String>) -> Self {
        Self { step: start_failed::Step::Request, errno: 0, users_fault: true, detail: detail.into() }
    }

    /// This node could not do `step`.
    pub(super) fn infra(step: start_failed::Step, what: &str, fault: &std::io::Error) -> Self {
        Self { step, errno: fault.raw_os_error().unwrap_or(0), users_fault: false, detail: format!("{what}: {fault}") }
    }
}

/// A lease's tasks before they differ.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) run: Run,
    /// At least one.
    pub(super) ranks: Vec<Rank>,
    pub(super) slots: u32,
    pub(super) limits: Limits,
    pub(super) ids: Option<Ids>,
    pub(super) argv: CStrings,
    /// The first argument, for messages.
    pub(super) command: String,
    /// Variables that are the same for each task, as `NAME=VALUE`.
    shared: Vec<CString>,
    /// Rendezvous; Start may have filled in the address.
    pub(super) gang: Option<Gang>,
    search: String,
    /// The executable, once it was found.
    found: OnceCell<CString>,
    /// Whether the way to exec stays on this machine.
    local: OnceCell<bool>,
}

impl Template {
    /// Parses the request. `tag` names the state folder.
    pub(super) fn new(run: Run, tag: &str) -> Result<Self, StartFault> {
        if !run.refused.is_empty() {
            return Err(StartFault::request(run.refused));
        }
        let words = match &run.work {
            Some(run::Work::Shell(script)) => vec!["/bin/sh".to_owned(), "-c".to_owned(), script.clone()],
            Some(run::Work::Argv(argv)) => argv.args.clone(),
            None => Vec::new(),
        };
        let command = words.first().cloned().unwrap_or_default();
        if command.is_empty() {
            return Err(StartFault::request("there is no command"));
        }
        let ranks = if run.ranks.is_empty() { vec![Rank::default()] } else { run.ranks.clone() };
        if run.first_index > run.last_index || (ranks.len() > 1 && run.first_index != run.last_index) {
            return Err(StartFault::request("a lease of several ranks has one element, and ranges ascend"));
        }
        let limits = run.limits.unwrap_or_default();
        let limits = Limits {
            milli_cpus: if limits.milli_cpus == 0 { 1000 } else { limits.milli_cpus },
            memory_bytes: limits.memory_bytes,
            pids_max: if limits.pids_max == 0 { PIDS_DEFAULT } else { limits.pids_max },
        };
        let ids = run.user.as_ref().map(|user| Ids { uid: user.uid, gid: user.gid, groups: user.groups.clone() });
        let slots = u32::try_from(ranks.len()).unwrap_or(u32::MAX).max(run.slots).clamp(1, SLOTS_MAX);
        let search = run.env.get("PATH").cloned().unwrap_or_else(|| PATH_DEFAULT.to_owned());
        let argv = CStrings::new(words.into_iter().map(c_string).collect::<Result<_, _>>()?);
        let shared = shared_env(&run, &limits, tag)?;
        let gang = run.gang.clone();
        Ok(Self {
            ranks,
            slots,
            limits,
            ids,
            argv,
            command,
            shared,
            gang,
            search,
            found: OnceCell::new(),
            local: OnceCell::new(),
            run,
        })
    }

    /// Finds the executable: a name with a slash is taken as it is, another one is looked for in the task's PATH.
    pub(super) fn program(&self) -> Result<&CString, StartFault> {
        match self.found.get() {
            Some(found) => Ok(found),
            None => self.find_program().map(|found| self.found.get_or_init(|| found)),
        }
    }

    fn find_program(&self) -> Result<CString, StartFault> {
        if self.command.contains('/') {
            return c_string(self.command.clone());
        }
        let mut errno = libc::ENOENT;
        for folder in self.search.split(':') {
            let candidate = self.workdir().join(folder).join(&self.command);
            match access(&candidate, Access::EXEC_OK) {
                Ok(()) if candidate.is_file() => return c_string(candidate.to_string_lossy().into_owned()),
                Err(rustix::io::Errno::ACCESS) => errno = libc::EACCES,
                _ => {}
            }
        }
        Err(exec_fault(&self.command, errno))
    }

    /// Whether the way to exec can wait for nothing outside of this machine, so that the supervisor may wait for it:
    /// local file systems, no interpreter of a script, and memory enough for exec itself.
    pub(super) fn is_local(&self, program: &CString) -> bool {
        *self.local.get_or_init(|| {
            let program = Path::new(OsStr::from_bytes(program.as_bytes()));
            let mut start = [0; 4];
            let is_elf =
                File::open(program).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"\x7fELF";
            let roomy = self.limits.memory_bytes == 0 || self.limits.memory_bytes >= SHARING_MEMORY_MIN;
            let no_folders = self.run.output_dir.is_empty() && self.run.checkpoint_dir.is_empty();
            is_elf
                && roomy
                && no_folders
                && program.is_absolute()
                && on_local_disk(program)
                && on_local_disk(self.workdir())
        })
    }

    /// The named working folder, or `/` for the time before an attempt's folder is known.
    fn workdir(&self) -> &Path {
        if self.run.workdir.is_empty() { Path::new("/") } else { Path::new(&self.run.workdir) }
    }

    /// Whether the named working folder is there. Whether the task's user may enter it is seen by the child.
    pub(super) fn check_workdir(&self) -> Result<(), StartFault> {
        match std::fs::metadata(self.workdir()) {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => Err(workdir_fault(&self.run.workdir, libc::ENOTDIR)),
            Err(fault) => Err(workdir_fault(&self.run.workdir, fault.raw_os_error().unwrap_or(libc::EIO))),
        }
    }

    /// The name of a task, as people write it: `7`, `7[3]`, `7[3].1`.
    pub(super) fn task_name(&self, index: u32, rank: u32) -> String {
        let mut name = self.run.job_id.to_string();
        if self.run.array.is_some() {
            name += &format!("[{index}]");
        }
        if self.gang.is_some() || self.ranks.len() > 1 {
            name += &format!(".{rank}");
        }
        name
    }

    /// The whole environment of one task.
    pub(super) fn env(&self, index: u32, position: usize, folders: &Folders) -> Result<CStrings, StartFault> {
        let rank = self.ranks.get(position).ok_or_else(|| StartFault::request("no such rank"))?;
        let mut own: Vec<(&str, String)> = vec![
            (TASK_ENV, self.task_name(index, rank.rank)),
            ("GANGSAW_OUTPUT_DIR", folders.output.clone()),
            ("GANGSAW_CHECKPOINT_DIR", folders.checkpoints.clone()),
            ("GANGSAW_NOTICE", folders.notice()),
            ("CUDA_VISIBLE_DEVICES", if rank.gpu_uuids.is_empty() { "-1".into() } else { rank.gpu_uuids.join(",") }),
        ];
        if self.run.array.is_some() {
            own.push(("GANGSAW_ARRAY_INDEX", index.to_string()));
        }
        if let Some(gang) = &self.gang {
            own.extend(rendezvous(gang, rank, position, self.ranks.len()));
        }
        let mut all = self.shared.clone();
        for (name, value) in own {
            all.push(c_string(format!("{name}={value}"))?);
        }
        Ok(CStrings::new(all))
    }

    /// The folders of the user that the child makes: (path with its parents).
    pub(super) fn user_folders(&self, folders: &Folders) -> Result<Vec<CString>, StartFault> {
        let mut wanted = Vec::new();
        for (template, path) in
            [(&self.run.output_dir, &folders.output), (&self.run.checkpoint_dir, &folders.checkpoints)]
        {
            if !template.is_empty() {
                let mut parents: Vec<PathBuf> = Path::new(path).ancestors().map(Path::to_path_buf).collect();
                parents.reverse();
                // The root is there, and mkdir of a folder above that exists is refused as EEXIST without harm.
                wanted.extend(parents.into_iter().skip(1));
            }
        }
        wanted.into_iter().map(|path| c_string(path.to_string_lossy().into_owned())).collect()
    }
}

/// Whether a path is on a file system that is known to need no network and no other process.
fn on_local_disk(path: &Path) -> bool {
    // ext2–4, xfs, btrfs, f2fs, zfs, tmpfs, ramfs, overlayfs, squashfs, bcachefs.
    const LOCAL: [i64; 10] = [
        0xef53,
        0x5846_5342,
        0x9123_683e,
        0xf2f5_2010,
        0x2fc1_2fc1,
        0x0102_1994,
        0x8584_58f6,
        0x794c_7630,
        0x7371_7368,
        0xca45_1a4e,
    ];
    rustix::fs::statfs(path).is_ok_and(|stat| LOCAL.contains(&stat.f_type))
}

/// Names the supervisor decides; what the agent gives for them is dropped.
fn is_ours(name: &str) -> bool {
    const OURS: [&str; 14] = [
        LEASE_ENV,
        NODE_ENV,
        TASK_ENV,
        "GANGSAW_JOB_ID",
        "GANGSAW_ATTEMPT",
        "GANGSAW_ARRAY_INDEX",
        "GANGSAW_ARRAY_COUNT",
        "GANGSAW_ARRAY_MIN",
        "GANGSAW_ARRAY_MAX",
        "GANGSAW_OUTPUT_DIR",
        "GANGSAW_CHECKPOINT_DIR",
        "GANGSAW_RESUME_FROM",
        "GANGSAW_NOTICE",
        "CUDA_VISIBLE_DEVICES",
    ];
    OURS.contains(&name)
}

/// Rendezvous names, which must come from one gang only.
fn is_rendezvous(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "NODE_RANK",
        "NNODES",
        "NPROC_PER_NODE",
        "MASTER_ADDR",
        "MASTER_PORT",
    ];
    NAMES.contains(&name)
}

fn shared_env(run: &Run, limits: &Limits, tag: &str) -> Result<Vec<CString>, StartFault> {
    let cores = limits.milli_cpus.div_ceil(1000).to_string();
    let mut all: BTreeMap<&str, String> = BTreeMap::new();
    for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"] {
        all.insert(name, cores.clone());
    }
    all.insert("PYTHONUNBUFFERED", "1".into());
    all.insert("PATH", PATH_DEFAULT.into());
    for (name, value) in &run.env {
        if name.is_empty() || name.contains('=') {
            return Err(StartFault::request(format!("`{name}` cannot name a variable")));
        }
        let replaced = is_ours(name) || (run.gang.is_some() && is_rendezvous(name));
        if !replaced {
            all.insert(name, value.clone());
        }
    }
    all.insert("GANGSAW_JOB_ID", run.job_id.to_string());
    all.insert("GANGSAW_ATTEMPT", run.attempt.to_string());
    all.insert(LEASE_ENV, run.lease_id.to_string());
    all.insert(NODE_ENV, tag.to_owned());
    all.insert("CUDA_DEVICE_ORDER", "PCI_BUS_ID".into());
    if !run.resume_from.is_empty() {
        all.insert("GANGSAW_RESUME_FROM", run.resume_from.clone());
    }
    if let Some(array) = &run.array {
        all.insert("GANGSAW_ARRAY_COUNT", array.count.to_string());
        all.insert("GANGSAW_ARRAY_MIN", array.min.to_string());
        all.insert("GANGSAW_ARRAY_MAX", array.max.to_string());
    }
    all.into_iter().map(|(name, value)| c_string(format!("{name}={value}"))).collect()
}

/// The variables of one of the two modes, never both.
fn rendezvous(gang: &Gang, rank: &Rank, position: usize, local: usize) -> Vec<(&'static str, String)> {
    let mut all = vec![("MASTER_ADDR", gang.master_addr.clone()), ("MASTER_PORT", gang.master_port.to_string())];
    if gang.per_process {
        all.extend([
            ("RANK", rank.rank.to_string()),
            ("LOCAL_RANK", position.to_string()),
            ("WORLD_SIZE", gang.world_size.to_string()),
            ("LOCAL_WORLD_SIZE", local.to_string()),
        ]);
    } else {
        all.extend([
            ("NODE_RANK", rank.rank.to_string()),
            ("NNODES", gang.world_size.to_string()),
            ("NPROC_PER_NODE", rank.gpu_uuids.len().max(1).to_string()),
        ]);
    }
    all
}

fn c_string(text: String) -> Result<CString, StartFault> {
    CString::new(text).map_err(|_| StartFault::request("an argument or variable holds a zero byte"))
}

/// The folder the task should run in cannot be entered.
pub(super) fn workdir_fault(workdir: &str, errno: i32) -> StartFault {
    let users_fault = matches!(errno, libc::ENOENT | libc::ENOTDIR | libc::EACCES | libc::ELOOP | libc::ENAMETOOLONG);
    let detail = format!("cannot enter the working folder `{workdir}`: {}", explain(errno));
    StartFault { step: start_failed::Step::Workdir, errno, users_fault, detail }
}

/// The command cannot be executed.
pub(super) fn exec_fault(command: &str, errno: i32) -> StartFault {
    let users_fault = !matches!(errno, libc::ENOMEM | libc::EIO | libc::EMFILE | libc::ENFILE | libc::EAGAIN);
    let hint = if errno == libc::ENOEXEC { " (a script needs a first line like `#!/bin/sh`)" } else { "" };
    let detail = format!("cannot execute `{command}`: {}{hint}", explain(errno));
    StartFault { step: start_failed::Step::Exec, errno, users_fault, detail }
}

/// The kernel's words for an errno, without the number that `io::Error` adds.
pub(super) fn explain(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests;
