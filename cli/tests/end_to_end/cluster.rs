//! A cluster of the real executable in a folder of its own, and the guard that nothing of it stays behind.
//!
//! Waiting is always for something that can be seen, with [`eventually`]; its deadline is for a machine under load.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

#[path = "watchers.rs"]
mod watchers;

use self::watchers::Watchers;

/// The executable under test.
pub(crate) const GANGSAW: &str = env!("CARGO_BIN_EXE_gangsaw");
/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(60);
/// Wait between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Looks again and again until there is something to see.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "not seen within {DEADLINE:?}: {what}");
        std::thread::park_timeout(LOOK);
    }
}

/// Says aloud that a test cannot run here; a failure where everything must be there.
pub(crate) fn cannot_run(why: &str) {
    assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "{why}");
    eprintln!("NOT RUN: {why}");
}

/// Sends a signal to one process.
pub(crate) fn kill(pid: u64, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// True while a process exists and is no zombie.
pub(crate) fn is_alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

/// When a process was started, in ticks since boot: with its pid, its identity.
pub(crate) fn start_ticks(pid: u64) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap()
}

/// Processes whose command line or environment names this text.
pub(crate) fn processes_naming(text: &str) -> Vec<(u64, String)> {
    let text = text.as_bytes();
    let own = u64::from(std::process::id());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok()) else { continue };
        let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let names_it = |words: &[u8]| words.windows(text.len()).any(|window| window == text);
        let line = read("cmdline");
        if pid != own && is_alive(pid) && (names_it(&line) || names_it(&read("environ"))) {
            found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
        }
    }
    found
}

/// A folder for one test, whose end asserts that no process of it is left, and that what its schedulers wrote down is
/// sound: every checksum, and by the history checker no end twice, no device in two live attempts, no gap. Every job that
/// a test submits is watched meanwhile, and what was seen is judged, too.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    judged: std::sync::Mutex<Vec<PathBuf>>,
    watchers: std::sync::Mutex<Option<Watchers>>,
}

impl Place {
    /// A new folder with an empty config and state.
    pub(crate) fn new() -> Place {
        let folder = tempfile::Builder::new().prefix("gangsaw-test-").tempdir().unwrap();
        Place { folder, judged: std::sync::Mutex::default(), watchers: std::sync::Mutex::default() }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Has the scheduler's log in this state folder judged when the test is over.
    pub(crate) fn judge(&self, state: &Path) {
        self.judged.lock().unwrap().push(state.to_owned());
    }

    /// The test damages a log on purpose: none is judged.
    pub(crate) fn forgive(&self) {
        self.judged.lock().unwrap().clear();
    }

    /// Watches a job of the scheduler at this address to its end.
    pub(crate) fn watch(&self, server: &str, job: u64) {
        let mut watchers = self.watchers.lock().unwrap();
        let known = |server: &str| {
            let address = server.trim_start_matches("http://");
            let token = self.path().join("xdg/gangsaw/credentials").join(address);
            (server.to_owned(), std::fs::read_to_string(token).unwrap())
        };
        let start = || Watchers::start(server.split(',').map(known).collect());
        watchers.get_or_insert_with(start).watch(job);
    }

    /// Waits until whoever watches a job that is over has seen that, too.
    fn until_watched(&self, job: u64) {
        eventually(&format!("the end of job {job} in its watcher's stream"), || {
            let watchers = self.watchers.lock().unwrap();
            watchers.as_ref().is_none_or(|watchers| watchers.saw_the_end(job)).then_some(())
        });
    }

    /// An older state takes the place of what was watched: nobody judges that.
    pub(crate) fn unwatch(&self) {
        drop(self.watchers.lock().unwrap().take());
    }

    /// What `gangsaw fsck` says of a state folder.
    pub(crate) fn fsck(&self, state: &Path) -> Value {
        let output = self.gangsaw(&["fsck", "--state", state.to_str().unwrap(), "--output", "json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("fsck gave {output:?}"))
    }

    /// A file in the folder with this text.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The executable, at home in this folder.
    pub(crate) fn gangsaw(&self, args: &[&str]) -> Command {
        let mut command = Command::new(GANGSAW);
        command
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.path())
            .env("XDG_STATE_HOME", self.path().join("xdg"))
            .env("XDG_CONFIG_HOME", self.path().join("config"))
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let watchers = self.watchers.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let faults = watchers.map(|watchers| watchers.faults()).unwrap_or_default();
        let text = self.path().display().to_string();
        let end = Instant::now() + Duration::from_secs(8);
        let mut left = processes_naming(&text);
        while !left.is_empty() && Instant::now() < end {
            std::thread::park_timeout(LOOK);
            left = processes_naming(&text);
        }
        for (pid, _) in &left {
            kill(*pid, rustix::process::Signal::KILL);
        }
        if std::thread::panicking() {
            return;
        }
        assert!(left.is_empty(), "left running: {left:?}");
        assert!(faults.is_empty(), "{faults:?}");
        for state in std::mem::take(self.judged.get_mut().unwrap()) {
            let found = self.fsck(&state);
            assert_eq!(found["sound"], true, "the history of {}: {found}", state.display());
        }
    }
}

/// A daemon that was started by a test and said that it is ready.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) ready: Value,
}

impl Daemon {
    /// Starts it and reads its first line.
    pub(crate) fn start(mut command: Command) -> Daemon {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not ready: {line:?} {command:?}"));
        Daemon { child, ready }
    }

    /// A number it said.
    pub(crate) fn number(&self, field: &str) -> u64 {
        self.ready[field].as_u64().unwrap_or_else(|| panic!("no {field} in {}", self.ready))
    }

    /// Ends it with a signal, and waits.
    pub(crate) fn end(&mut self, signal: rustix::process::Signal) -> std::process::ExitStatus {
        if self.child.try_wait().unwrap().is_none() {
            kill(u64::from(self.child.id()), signal);
        }
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end(rustix::process::Signal::TERM);
    }
}

/// A cluster: `gangsaw up`, or scheduler and agents apart.
pub(crate) struct Cluster {
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) server: String,
    // Last, so that it is dropped after its daemons.
    pub(crate) place: Place,
}

impl Cluster {
    /// Scheduler and agent under `gangsaw up`.
    pub(crate) fn up() -> Cluster {
        let place = Place::new();
        let state = place.path().join("state");
        let args = ["up", "--state", state.to_str().unwrap(), "--listen", "127.0.0.1:0", "--output", "jsonl"];
        place.judge(&state);
        let up = Daemon::start(place.gangsaw(&args));
        let server = up.ready["server"].as_str().unwrap().to_owned();
        let cluster = Cluster { daemons: vec![up], server, place };
        cluster.until_nodes(1);
        cluster
    }

    /// A scheduler alone.
    pub(crate) fn scheduler() -> Cluster {
        let place = Place::new();
        place.judge(&place.path().join("state"));
        let scheduler = Daemon::start(
            place.gangsaw(&Self::scheduler_args(&place, "127.0.0.1:0").each_ref().map(|arg| arg.as_str())),
        );
        let server = scheduler.ready["server"].as_str().unwrap().to_owned();
        Cluster { daemons: vec![scheduler], server, place }
    }

    /// How the scheduler is started.
    fn scheduler_args(place: &Place, listen: &str) -> [String; 7] {
        let state = place.path().join("state").display().to_string();
        ["scheduler", "--state", &state, "--listen", listen, "--output", "jsonl"].map(str::to_owned)
    }

    /// A scheduler again where the first one was.
    pub(crate) fn scheduler_again(&self) -> Daemon {
        Daemon::start(self.scheduler_command())
    }

    /// How a scheduler is started where the first one was.
    pub(crate) fn scheduler_command(&self) -> Command {
        let listen = self.server.trim_start_matches("http://");
        let args = Self::scheduler_args(&self.place, listen);
        self.place.gangsaw(&args.each_ref().map(|arg| arg.as_str()))
    }

    /// How an agent of this cluster is started.
    pub(crate) fn agent(&self, name: &str) -> Command {
        let state = self.place.path().join(name).display().to_string();
        self.place.gangsaw(&[
            "agent",
            "--state",
            &state,
            "--server",
            &self.server,
            "--node-name",
            name,
            "--output",
            "jsonl",
            "--stop-tasks",
        ])
    }

    /// Starts an agent and waits until its node is there.
    pub(crate) fn start_agent(&mut self, name: &str) {
        let agent = Daemon::start(self.agent(name));
        self.daemons.push(agent);
        self.until_node(name);
    }

    /// Waits until so many nodes are connected.
    pub(crate) fn until_nodes(&self, count: usize) {
        eventually("connected nodes", || {
            let nodes = self.json(&["nodes"]);
            let nodes = nodes["nodes"].as_array().unwrap();
            (nodes.iter().filter(|node| node["connected"] == true).count() >= count).then_some(())
        });
    }

    /// Waits until this node is connected.
    pub(crate) fn until_node(&self, name: &str) {
        eventually("the node", || {
            let nodes = self.json(&["nodes"]);
            let nodes = nodes["nodes"].as_array().unwrap();
            nodes.iter().any(|node| node["name"] == name && node["connected"] == true).then_some(())
        });
    }

    /// A client command of this cluster.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.gangsaw(args);
        command.env("GANGSAW_SERVER", &self.server);
        command
    }

    /// Runs a client command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a client command that must succeed and returns its JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        // What follows `--` is a job's own.
        let own = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
        let args = [&args[..own], &["--output", "json"], &args[own..]].concat();
        let output = self.run(&args);
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{args:?} gave {output:?}"))
    }

    /// Submits a job and returns its number.
    pub(crate) fn submit(&self, args: &[&str]) -> u64 {
        let args: Vec<&str> = ["submit", "--output", "json"].iter().chain(args).copied().collect();
        let output = self.run(&args);
        let value: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{args:?} gave {output:?}"));
        let job = value["job_id"].as_u64().unwrap();
        self.place.watch(&self.server, job);
        job
    }

    /// What `show` says of a job.
    pub(crate) fn show(&self, job: u64) -> Value {
        self.json(&["show", &job.to_string()])
    }

    /// Waits until a job is in this state, and returns what `show` says then.
    pub(crate) fn until(&self, job: u64, state: &str) -> Value {
        let shown = eventually(&format!("job {job} is {state}"), || {
            let shown = self.show(job);
            (shown["state"] == state).then_some(shown)
        });
        if !["PENDING", "HELD", "RUNNING"].contains(&state) {
            self.place.until_watched(job);
        }
        shown
    }

    /// Waits until a job's first task runs, and returns its pid.
    pub(crate) fn until_running(&self, job: u64) -> u64 {
        eventually("a running task", || {
            let task = self.show(job)["tasks"][0].clone();
            (task["state"] == "RUNNING").then(|| task["pid"].as_u64()).flatten()
        })
    }
}

/// What a command printed on stdout.
pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command printed on stderr.
pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
