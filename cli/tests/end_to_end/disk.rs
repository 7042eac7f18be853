//! Disks that fail under the whole.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::cluster::{Cluster, Daemon, Place, cannot_run, eventually, is_alive, start_ticks};

/// Makes fsync and fdatasync fail with EIO while the flag file exists.
const FAILING_SYNC: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
long syscall(long number, ...);
static int fails(void) {
    const char *flag = getenv("FAILING_SYNC_FLAG");
    return flag && access(flag, F_OK) == 0;
}
int fsync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return (int)syscall(SYS_fsync, fd);
}
int fdatasync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return (int)syscall(SYS_fdatasync, fd);
}
"#;

/// Builds the library, if there is a C compiler.
fn failing_sync(place: &Place) -> Option<PathBuf> {
    let (source, library) = (place.file("failing_sync.c", FAILING_SYNC), place.path().join("failing_sync.so"));
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
    if built.is_ok_and(|output| output.status.success()) {
        return Some(library);
    }
    cannot_run("building a library needs cc");
    None
}

/// The waits between the lives of the scheduler that `up` has told, in ms.
fn waits(messages: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(messages).unwrap();
    let again = |line: &&str| {
        line.starts_with("gangsaw scheduler ended (exit status: 74)")
            || line.starts_with("gangsaw scheduler did not start")
    };
    let told = text.lines().filter(again);
    let seconds = |word: &str| match word.strip_suffix("ms") {
        Some(ms) => ms.parse().unwrap(),
        None => (word.trim_end_matches('s').parse::<f64>().unwrap() * 1000.0).round() as u64,
    };
    told.map(|line| seconds(line.rsplit(' ').next().unwrap())).collect()
}

#[test]
fn up_restarts_a_latched_scheduler_with_growing_waits_until_its_disk_is_well() {
    let place = Place::new();
    let Some(library) = failing_sync(&place) else { return };
    let (state, messages) = (place.path().join("state"), place.path().join("messages"));
    // At its full path it names this place, as everything of it must.
    let flag = place.path().join("flag");
    let args = ["up", "--state", state.to_str().unwrap(), "--listen", "127.0.0.1:0", "--output", "jsonl"];
    let mut command = place.gangsaw(&args);
    command.env("LD_PRELOAD", library).env("FAILING_SYNC_FLAG", &flag);
    command.stderr(Stdio::from(std::fs::File::create(&messages).unwrap()));
    let up = Daemon::start(command);
    let server = up.ready["server"].as_str().unwrap().to_owned();
    let cluster = Cluster { daemons: vec![up], server, place };
    cluster.until_nodes(1);
    let gate = cluster.place.path().join("gate");
    let script = format!("until [ -e {} ]; do sleep 0.02; done; exit 5", gate.display());
    let job = cluster.submit(&["--", "sh", "-c", &script]);
    let pid = cluster.until_running(job);
    let ticks = start_ticks(pid);

    std::fs::write(&flag, "").unwrap();
    let refused = cluster.run(&["submit", "--name", "unheard", "--output", "json", "--", "true"]);
    assert!(!refused.status.success(), "{refused:?}");
    // The first life ends latched; the next ones find that nothing can be written.
    eventually("four deaths", || (waits(&messages).len() >= 4).then_some(()));
    assert!(
        std::fs::read_to_string(&messages).unwrap().contains("ended (exit status: 74); starting it again in 100ms")
    );
    assert_eq!(waits(&messages)[..4], [100, 200, 400, 800]);
    assert!(is_alive(pid) && start_ticks(pid) == ticks, "the task was not touched");

    std::fs::remove_file(&flag).unwrap();
    eventually("a scheduler again", || cluster.run(&["nodes"]).status.success().then_some(()));
    cluster.until_nodes(1);
    let later = cluster.submit(&["--", "true"]);
    cluster.until(later, "COMPLETED");
    assert_eq!(cluster.until_running(job), pid);
    std::fs::write(&gate, "").unwrap();
    let task = cluster.until(job, "FAILED")["tasks"][0].clone();
    assert_eq!((task["exit_code"].as_i64(), task["attempt"].as_u64()), (Some(5), Some(1)));
    let mut cluster = cluster;
    assert_eq!(cluster.daemons[0].end(Signal::TERM).code(), Some(0));
}
