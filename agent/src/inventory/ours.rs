//! Whether a process belongs to a task of this agent.
//!
//! The supervisor is a subreaper, so every process of a task has it among its ancestors while it lives. After its
//! death the environment still tells: each task was started with a progress socket inside this agent's state folder.
//!
//! Elsewhere: the judgement that uses it is `gpu`; ending such processes is the supervisor's client.

use std::path::Path;

/// Longest chain of parents that is followed. Real ones are far shorter; a pid that is reused meanwhile could loop.
const PARENTS_MAX: usize = 64;

/// What the processes of this agent's tasks have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Pid of the supervisor that holds the tasks.
    pub(crate) supervisor: Option<u32>,
    /// `NAME=PREFIX` that is in the environment of each task.
    pub(crate) environ: String,
}

impl Marks {
    /// Whether `pid` is a process of one of our tasks.
    pub(crate) fn are_on(&self, pid: u32) -> bool {
        self.is_below_supervisor(pid) || self.is_in_environ(pid)
    }

    fn is_below_supervisor(&self, pid: u32) -> bool {
        let Some(supervisor) = self.supervisor else { return false };
        let mut pid = pid;
        for _ in 0..PARENTS_MAX {
            if pid == supervisor {
                return true;
            }
            match parent(Path::new("/proc"), pid) {
                Some(next) if next > 1 => pid = next,
                Some(_) | None => return false,
            }
        }
        false
    }

    fn is_in_environ(&self, pid: u32) -> bool {
        if self.environ.is_empty() {
            return false;
        }
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|pair| pair.starts_with(self.environ.as_bytes()))
    }
}

/// Returns the parent of `pid`: field 4 of its stat, after the name, which may itself hold brackets.
fn parent(proc: &Path, pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    //! Our own process and its parents are the example.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_process_is_ours_when_the_supervisor_is_among_its_parents() {
        let me = std::process::id();
        let parent = parent(Path::new("/proc"), me).unwrap();
        let marks = |supervisor| Marks { supervisor: Some(supervisor), environ: String::new() };
        assert!(marks(me).are_on(me));
        assert!(parent <= 1 || marks(parent).are_on(me));
        assert!(!marks(me).are_on(parent));
    }

    #[test]
    fn a_process_is_ours_when_its_environment_names_our_state_folder() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env("GANGSAW_PROGRESS", "/state/one/agent/progress/7")
            .spawn()
            .unwrap();
        // The system wakes the parent a moment before the new environment is in place.
        while std::fs::read(format!("/proc/{}/environ", child.id())).unwrap().is_empty() {
            std::thread::yield_now();
        }
        let marks = |folder: &str| Marks { supervisor: None, environ: format!("GANGSAW_PROGRESS={folder}") };
        assert!(marks("/state/one/agent/").are_on(child.id()));
        assert!(!marks("/state/two/agent/").are_on(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
