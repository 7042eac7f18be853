//! A node of one test: a state folder, a supervisor, and a connection as the agent has it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use gangsaw_agent::supervisor::logs::{LogChunk, LogQuery, LogReader};
use gangsaw_agent::supervisor::{Connection, Launch, LaunchError, kill_leftovers, spawn_supervisor};
use gangsaw_proto::supervisor::v1::{
    Ack, Argv, Ended, Fact, HeldLease, Hello, Limits, List, Listing, Quit, Run, StartFailed, Started, Stop, Trim,
    Welcome, command::Command, fact, notice::Notice, run, stop,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Supervisors of this run, for the watchdog.
static STARTED: Mutex<Vec<u32>> = Mutex::new(Vec::new());

pub(crate) fn kill_all() {
    for pid in STARTED.lock().unwrap().drain(..) {
        kill(pid, Signal::KILL);
    }
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal);
}

/// Waits for a condition that another process brings about, and says which one did not come.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Whether a process runs: a zombie does not.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    test_kill_process(Pid::from_raw(pid.cast_signed()).unwrap()).is_ok()
        && stat.rsplit_once(')').is_some_and(|(_, after)| !after.trim_start().starts_with(['Z', 'X']))
}

/// A test that needs something this machine lacks says so; in CI that is a failure.
pub(crate) fn lacking(what: &str) {
    assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "CI lacks {what}");
    println!("skipped: this machine lacks {what}");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) struct Node {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) state: PathBuf,
    verb: Vec<String>,
    agent: Option<Connection>,
    pub(crate) welcome: Welcome,
    /// Every fact that arrived, in order.
    pub(crate) facts: Vec<Fact>,
    /// Answers to commands for leases that are not held.
    pub(crate) unknown: Vec<u64>,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// A supervisor with further arguments.
    pub(crate) fn with(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().to_path_buf();
        Self::at(folder, state, args)
    }

    /// The state folder may be elsewhere below `folder`.
    pub(crate) fn at(folder: tempfile::TempDir, state: PathBuf, args: &[&str]) -> Self {
        fs::create_dir_all(&state).unwrap();
        // Tasks of other users must get through.
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let verb = ["supervisor"].iter().chain(args).map(ToString::to_string).collect();
        let (facts, unknown) = (Vec::new(), Vec::new());
        let mut node = Self { folder, state, verb, agent: None, welcome: Welcome::default(), facts, unknown };
        node.launch().unwrap();
        node.connect(0);
        node
    }

    pub(crate) fn launch(&self) -> Result<(), LaunchError> {
        spawn_supervisor(&Launch {
            exe: std::env::current_exe().unwrap(),
            verb: self.verb.iter().map(Into::into).collect(),
            state: self.state.clone(),
            cgroup_root: None,
            rlimit_only: false,
            beside: None,
            version: None,
        })
    }

    pub(crate) fn connect(&mut self, acked_seq: u64) {
        let mut agent = Connection::connect(&self.state).unwrap();
        agent.send(Command::Hello(Hello { agent_pid: std::process::id(), protocol: 1, acked_seq })).unwrap();
        let Some(Notice::Welcome(welcome)) = agent.receive().unwrap() else { panic!("no welcome") };
        STARTED.lock().unwrap().push(welcome.supervisor_pid);
        self.welcome = welcome;
        self.agent = Some(agent);
    }

    /// The agent dies.
    pub(crate) fn disconnect(&mut self) {
        self.agent = None;
    }

    pub(crate) fn send(&self, command: Command) {
        self.agent.as_ref().unwrap().send(command).unwrap();
    }

    pub(crate) fn quit(&self) {
        self.send(Command::Quit(Quit {}));
    }

    pub(crate) fn ack(&self, seq: u64) {
        self.send(Command::Ack(Ack { seq }));
    }

    pub(crate) fn stop(&self, lease_id: u64, elements: &[u32], grace_ms: Option<u64>) {
        let elements = elements.to_vec();
        self.send(Command::Stop(Stop { lease_id, reason: stop::Reason::Cancelled.into(), elements, grace_ms }));
    }

    pub(crate) fn trim(&self, lease_id: u64, last_index: u32, keep_none: bool) {
        self.send(Command::Trim(Trim { lease_id, last_index, keep_none }));
    }

    /// Takes the next notice in; false when the supervisor has gone.
    pub(crate) fn take(&mut self) -> bool {
        match self.agent.as_mut().unwrap().receive().unwrap() {
            Some(Notice::Facts(facts)) => self.facts.extend(facts.facts),
            Some(Notice::Unknown(unknown)) => self.unknown.push(unknown.lease_id),
            Some(Notice::Listing(_) | Notice::Welcome(_)) => {}
            None => return false,
        }
        true
    }

    pub(crate) fn list(&mut self) -> Vec<HeldLease> {
        self.send(Command::List(List {}));
        loop {
            match self.agent.as_mut().unwrap().receive().unwrap().unwrap() {
                Notice::Listing(Listing { leases, .. }) => return leases,
                Notice::Facts(facts) => self.facts.extend(facts.facts),
                Notice::Unknown(unknown) => self.unknown.push(unknown.lease_id),
                Notice::Welcome(_) => {}
            }
        }
    }

    /// Takes facts until `found` finds what it looks for.
    pub(crate) fn until<T>(&mut self, mut found: impl FnMut(&Fact) -> Option<T>) -> T {
        let mut seen = 0;
        loop {
            while let Some(fact) = self.facts.get(seen) {
                if let Some(found) = found(fact) {
                    return found;
                }
                seen += 1;
            }
            assert!(self.take(), "the supervisor has gone");
        }
    }

    pub(crate) fn started(&mut self, lease_id: u64, index: u32) -> Started {
        self.until(|fact| match &fact.fact {
            Some(fact::Fact::Started(started)) if fact.lease_id == lease_id && started.index == index => {
                Some(started.clone())
            }
            _ => None,
        })
    }

    pub(crate) fn ended(&mut self, lease_id: u64, index: u32) -> Ended {
        self.until(|fact| match &fact.fact {
            Some(fact::Fact::Ended(ended)) if fact.lease_id == lease_id && ended.index == index => Some(ended.clone()),
            _ => None,
        })
    }

    pub(crate) fn start_failed(&mut self, lease_id: u64) -> StartFailed {
        self.until(|fact| match &fact.fact {
            Some(fact::Fact::StartFailed(failed)) if fact.lease_id == lease_id => Some(failed.clone()),
            _ => None,
        })
    }

    /// What became of each element of a lease of one rank so far; panics when an element has two ends.
    pub(crate) fn ends(&self, lease_id: u64) -> BTreeMap<u32, &'static str> {
        let mut ends = BTreeMap::new();
        for fact in self.facts.iter().filter(|fact| fact.lease_id == lease_id) {
            let (range, end) = match fact.fact.as_ref().unwrap() {
                fact::Fact::Succeeded(range) => (range.first_index..=range.last_index, "succeeded"),
                fact::Fact::Returned(range) => (range.first_index..=range.last_index, "returned"),
                fact::Fact::Ended(ended) => (ended.index..=ended.index, "ended"),
                fact::Fact::StartFailed(failed) => (failed.index..=failed.index, "start-failed"),
                fact::Fact::Prepared(_) | fact::Fact::Started(_) => continue,
            };
            for index in range {
                assert_eq!(ends.insert(index, end), None, "element {index} of lease {lease_id} ended twice");
            }
        }
        ends
    }

    /// Takes facts until every element of the lease has an end.
    pub(crate) fn over(&mut self, lease_id: u64, count: usize) -> BTreeMap<u32, &'static str> {
        loop {
            let ends = self.ends(lease_id);
            if ends.len() == count {
                return ends;
            }
            let before = self.facts.len();
            while self.facts.len() == before {
                assert!(self.take(), "the supervisor has gone");
            }
        }
    }

    pub(crate) fn read_logs(&self, query: LogQuery) -> Vec<LogChunk> {
        let mut reader = LogReader::open(&self.state, query).unwrap();
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    /// Resident memory of the supervisor.
    pub(crate) fn rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.welcome.supervisor_pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Every process whose environment names this state folder's tasks.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let wanted = self.state.join("agent/attempts").into_os_string().into_encoded_bytes();
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let ours = |pid: &u32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.windows(wanted.len()).any(|part| part == wanted) && runs(*pid)
        };
        pids.filter(ours).collect()
    }

    pub(crate) fn has_cgroups(&self) -> bool {
        self.welcome.limits != "rlimit"
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        kill(self.welcome.supervisor_pid, Signal::KILL);
        let cgroups = fs::read_to_string(self.state.join("agent/supervisor.cgroups")).unwrap_or_default();
        eventually("the supervisor dies", || !runs(self.welcome.supervisor_pid));
        let leases: Vec<u64> = (1..100).collect();
        let report = kill_leftovers(&self.state, &leases);
        if !std::thread::panicking() {
            assert!(report.unwrap().left.is_empty(), "killed supervisor's leftovers");
            assert!(self.processes().is_empty(), "nothing is left running");
            let left: Vec<&str> = cgroups.lines().filter(|folder| Path::new(folder).exists()).collect();
            assert!(left.is_empty(), "no cgroup is left: {left:?}");
        }
    }
}

/// One element of `words`.
pub(crate) fn command(lease_id: u64, words: &[&str]) -> Run {
    let args = words.iter().map(ToString::to_string).collect();
    Run { work: Some(run::Work::Argv(Argv { args })), ..shell(lease_id, "") }
}

/// One element of a shell script.
pub(crate) fn shell(lease_id: u64, script: &str) -> Run {
    Run {
        lease_id,
        job_id: lease_id + 1000,
        attempt: 1,
        grace_ms: 300,
        limits: Some(Limits { milli_cpus: 1000, memory_bytes: 0, pids_max: 0 }),
        work: Some(run::Work::Shell(script.to_owned())),
        ..Run::default()
    }
}

/// All that one job printed.
pub(crate) fn all_of(job_id: u64) -> LogQuery {
    LogQuery {
        job_id,
        first_index: 0,
        last_index: u32::MAX,
        rank: None,
        attempt: 0,
        stream: None,
        tail_lines: None,
        since_wall_ms: 0,
    }
}

/// The bytes of chunks, put together.
pub(crate) fn bytes(chunks: &[LogChunk]) -> Vec<u8> {
    chunks.iter().flat_map(|chunk| chunk.data.clone()).collect()
}

pub(crate) fn text(chunks: &[LogChunk]) -> String {
    String::from_utf8(bytes(chunks)).unwrap()
}

pub(crate) fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).map_or_else(|_| Vec::new(), |entries| entries.filter_map(Result::ok).collect());
    let size = |entry: &fs::DirEntry| {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() { folder_bytes(&entry.path()) } else { std::os::unix::fs::MetadataExt::blocks(&meta) * 512 }
    };
    entries.iter().map(size).sum()
}
