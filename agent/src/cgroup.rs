//! The limits layer: what holds a task to its memory and its number of processes, and finds all of its tree.
//!
//! Three backends, chosen once at start by what this node lets us do:
//! - *v2*: one folder a slot, below a delegated cgroup or `--cgroup-root`;
//! - *v1*: one folder a slot in each of the cpu, memory and pids hierarchies, and, on a hybrid system, in the
//!   controller-less v2 one, for its `cgroup.kill` and `populated`;
//! - *rlimit*: `RLIMIT_DATA` and, for a user who is not root, `RLIMIT_NPROC`; best effort, and said aloud in the notes.
//!
//! CPU is a weight: a task may use idle cores, and gets its share when there are none. Slot folders are made once and
//! reused; [`Slot::set`] writes a limit only when it differs from the last one.
//!
//! Invariants: nothing outside of our own `gangsaw-TAG` folders is ever written, moved or removed. A memory limit that
//! cannot be set is an error, never a task without a limit.
//!
//! Elsewhere: finding the hierarchies is [`discover`]; one slot is [`slot`]; cleaning after a killed supervisor is
//! [`leftover`]; when slots are taken and freed is `supervisor::slot`.

mod discover;
pub(crate) mod leftover;
mod slot;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use slot::{Doors, Slot};

/// What one task may use. Zero means no limit, but for `milli_cpus`, where it means one core's weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// A weight, in 1/1000 of a core.
    pub(crate) milli_cpus: u64,
    /// Memory without swap.
    pub(crate) memory_bytes: u64,
    /// Processes and threads.
    pub(crate) pids_max: u64,
}

/// The generation of a hierarchy: it decides file names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// What a hierarchy is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Cpu,
    Memory,
    Pids,
    /// `cgroup.kill` and `populated`: any v2 folder, with or without controllers.
    Tree,
}

const ROLES: [Role; 4] = [Role::Cpu, Role::Memory, Role::Pids, Role::Tree];

/// One of our folders, `…/gangsaw-TAG`, and what it is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Base {
    folder: PathBuf,
    version: Version,
    roles: Vec<Role>,
}

/// The backend of this node.
#[derive(Debug)]
pub(crate) struct Cgroups {
    bases: Vec<Base>,
    /// For people: what is missing and what that means.
    pub(crate) notes: Vec<String>,
}

impl Cgroups {
    /// The rlimit backend, for whoever asks for it.
    pub(crate) fn rlimit_only() -> Self {
        Self::with(Vec::new(), vec!["cgroups: not used, as asked".into()])
    }

    /// Finds what can be used and makes our folders. `tag` tells the supervisors of several state folders apart.
    pub(crate) fn detect(root: Option<&Path>, tag: &str) -> Self {
        let mut notes = Vec::new();
        let mut bases = Vec::new();
        let candidates = match discover::bases(root, &mut notes) {
            Ok(candidates) => candidates,
            Err(fault) => {
                notes.push(format!("cgroups: {fault}"));
                Vec::new()
            }
        };
        for mut base in candidates {
            base.folder.push(format!("gangsaw-{tag}"));
            match fs::create_dir(&base.folder) {
                Err(fault) if fault.kind() != io::ErrorKind::AlreadyExists => {
                    notes.push(format!("cgroups: cannot make {}: {fault}", base.folder.display()));
                }
                _ => bases.push(base),
            }
        }
        for base in &bases {
            discover::enable_below(base);
            // What a killed supervisor left is nobody's, and its slots will be used again.
            leftover::empty(&base.folder);
        }
        Self::with(bases, notes)
    }

    fn with(bases: Vec<Base>, mut notes: Vec<String>) -> Self {
        let cgroups = Self { bases, notes: Vec::new() };
        let without = [
            (Role::Memory, "memory limits are RLIMIT_DATA of each process, best effort"),
            (Role::Pids, "a task's number of processes is not limited"),
            (Role::Tree, "stray processes are found by their environment and parent, best effort"),
        ];
        notes.extend(
            without.iter().filter(|(role, _)| !cgroups.has(*role)).map(|(_, meaning)| format!("limits: {meaning}")),
        );
        Self { notes, ..cgroups }
    }

    fn has(&self, role: Role) -> bool {
        self.bases.iter().any(|base| base.roles.contains(&role))
    }

    /// `cgroup-v2`, `cgroup-v1` or `rlimit`.
    pub(crate) fn name(&self) -> &'static str {
        match self.bases.first() {
            None => "rlimit",
            Some(_) if self.bases.iter().all(|base| base.version == Version::V2) => "cgroup-v2",
            Some(_) => "cgroup-v1",
        }
    }

    /// Our folders, for [`leftover`].
    pub(crate) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.bases.iter().map(|base| base.folder.as_path())
    }

    /// Makes slot `number`, or takes over an empty one that is there already.
    pub(crate) fn slot(&self, number: u32) -> io::Result<Slot> {
        Slot::open(&self.bases, number)
    }

    /// Removes our folders: the supervisor leaves. What is still populated stays.
    pub(crate) fn remove(&self) {
        self.folders().for_each(leftover::remove);
    }
}

#[cfg(test)]
mod tests;
