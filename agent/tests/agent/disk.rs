//! The agent's disk is full.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gangsaw_proto::node::v1::held_lease;

use crate::Test;
use crate::node::{Node, runs, signal, wait_for};

pub(crate) const TESTS: &[Test] = &[
    ("agent_and_supervisor_start_on_a_full_disk_and_tell_every_end", agent_and_supervisor_start_on_a_full_disk),
    ("agent_that_never_ran_here_says_that_the_disk_is_full", agent_that_never_ran_here_says_that_the_disk_is_full),
];

/// A small file system, unmounted whatever the test came to.
struct Small(PathBuf);

impl Small {
    /// `None`, said aloud, where nothing can be mounted.
    fn mount(path: &Path) -> Option<Small> {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m,mode=755", "tmpfs"]).arg(path).status();
        if mount.is_ok_and(|status| status.success()) {
            return Some(Small(path.to_owned()));
        }
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI may mount a tmpfs");
        println!("NOT RUN: this machine lacks the right to mount a tmpfs");
        None
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        let mut filler = std::fs::File::options().create(true).append(true).open(self.0.join("filler")).unwrap();
        let mut size = 64 << 10;
        while size > 0 {
            match filler.write(&vec![1; size]) {
                Ok(_) => {}
                Err(_) => size /= 2,
            }
        }
        assert!(std::fs::write(self.0.join("one-more"), "x").is_err(), "the disk is full");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The agent's own messages go to the same disk, as an operator may have it.
fn start(node: &mut Node) -> gangsaw_proto::node::v1::Hello {
    let messages = std::fs::File::options().create(true).append(true).open(node.path("messages")).unwrap();
    let mut command = node.command(&[]);
    node.agent = Some(command.stderr(Stdio::from(messages)).spawn().unwrap());
    node.hello()
}

fn agent_and_supervisor_start_on_a_full_disk() {
    let elsewhere = tempfile::tempdir().unwrap();
    let mut node = Node::without_agent();
    let Some(disk) = Small::mount(node.state.path()) else { return };
    let go = elsewhere.path().join("go");
    start(&mut node);
    node.grant(1, &format!("while ! test -e {}; do sleep 0.02; done; exit 7", go.display()));
    let pid = node.started(1).pid;
    disk.fill();
    node.kill_agent();
    let hello = start(&mut node);
    assert_eq!(
        hello.leases.iter().map(|lease| (lease.lease_id, lease.phase())).collect::<Vec<_>>(),
        [(1, held_lease::Phase::Running)]
    );
    assert!(runs(pid));
    std::fs::write(&go, "").unwrap();
    assert_eq!(node.ended(1).exit_code, Some(7));
    // A task that prints: its log is cut, its end is told.
    node.grant(2, "head -c 100000 /dev/zero; echo lost >&2; exit 3");
    assert_eq!(node.ended(2).exit_code, Some(3));
    let supervisor = node.supervisor().unwrap();
    signal(supervisor, "-KILL");
    wait_for("its death", || !runs(supervisor));
    node.grant(3, "exit 4");
    assert_eq!(node.ended(3).exit_code, Some(4), "a supervisor that was started on the full disk");
    node.kill_agent();
    signal(node.supervisor().unwrap(), "-KILL");
    wait_for("its death", || node.supervisor().is_none());
    start(&mut node);
    node.grant(4, "exit 5");
    assert_eq!(node.ended(4).exit_code, Some(5));
    drop(node);
    drop(disk);
}

fn agent_that_never_ran_here_says_that_the_disk_is_full() {
    let node = Node::without_agent();
    let Some(disk) = Small::mount(node.state.path()) else { return };
    disk.fill();
    let output = node.command(&[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("the disk under") && said.contains(node.state.path().to_str().unwrap()), "{said}");
    drop(node);
    drop(disk);
}
