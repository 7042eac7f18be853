//! One node under test: a state folder, a scheduler, an agent process, and the proof that nothing of it stays.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use gangsaw_agent::{Config, run};
use gangsaw_proto::node::v1::{
    Ended, Fact, Grant, Hello, Report, Returned, StartFailed, Started, TaskSpec, attach_request, attach_response, fact,
    task_spec,
};
use tokio_util::sync::CancellationToken;

use crate::scheduler::{Got, Scheduler, TOKEN};

/// In the environment of every process of this test run.
const MARK: &str = "GANGSAW_AGENT_TEST";
/// Longer than anything a test waits for.
pub(crate) const WAIT: Duration = Duration::from_secs(30);
/// Between two looks at something that no event tells.
const LOOK: Duration = Duration::from_millis(2);

/// Becomes an agent: `agent STATE SERVER FLAGS…`.
pub(crate) fn agent_main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(2).collect();
    let flag = |name: &str| words.iter().any(|word| word == name);
    let config = Config {
        state_dir: PathBuf::from(&words[0]),
        server: std::env::var("GANGSAW_TEST_SERVER").unwrap_or_else(|_| words[1].clone()),
        token: std::env::var("GANGSAW_TOKEN").ok(),
        name: Some("node-of-the-test".to_owned()),
        labels: BTreeMap::from([("rack".to_owned(), "7".to_owned())]),
        address: None,
        cgroup_root: None,
        gpus: flag("--gpus"),
        stop_tasks: flag("--stop-tasks"),
        version: std::env::var("GANGSAW_TEST_VERSION").ok(),
        exe: flag("--no-exe").then(|| PathBuf::from("/nowhere/gangsaw")),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        let told = stop.clone();
        let watch = async move {
            terminate.recv().await;
            told.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = run(config, stop) => result,
            () = watch => unreachable!("the watch never ends"),
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent: {error}");
            ExitCode::from(3)
        }
    }
}

/// Sends one progress message as `gangsaw progress` does: `say-progress JSON`.
pub(crate) fn say_progress() -> ExitCode {
    let path = std::env::var_os("GANGSAW_PROGRESS").unwrap_or_default();
    match gangsaw_agent::send_progress(Path::new(&path), &std::env::args().nth(2).unwrap()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("progress: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything of one test.
pub(crate) struct Node {
    pub(crate) state: tempfile::TempDir,
    pub(crate) scheduler: Scheduler,
    pub(crate) agent: Option<Child>,
    env: Vec<(String, String)>,
}

impl Node {
    /// A scheduler and an agent that has said hello.
    pub(crate) fn start(flags: &[&str]) -> (Node, Hello) {
        let mut node = Node::without_agent();
        let hello = node.start_agent(flags);
        (node, hello)
    }

    pub(crate) fn without_agent() -> Node {
        let state = tempfile::tempdir().unwrap();
        Node { state, scheduler: Scheduler::start(), agent: None, env: Vec::new() }
    }

    /// Sets a variable of the next agent's environment.
    pub(crate) fn env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Starts an agent process and waits for its Hello.
    pub(crate) fn start_agent(&mut self, flags: &[&str]) -> Hello {
        self.agent = Some(self.command(flags).spawn().unwrap());
        self.hello()
    }

    /// The command of an agent on this node's folder.
    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .arg("agent")
            .arg(self.state.path())
            .arg(format!("http://{}", self.scheduler.address))
            .args(flags)
            .env("GANGSAW_TOKEN", TOKEN)
            .env(MARK, std::process::id().to_string())
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Waits for a Hello.
    pub(crate) fn hello(&self) -> Hello {
        self.scheduler.until("hello", |got| match got {
            Got::Message(attach_request::Message::Hello(hello)) => Some(hello),
            _ => None,
        })
    }

    /// Grants element 0 of a job with a shell line.
    pub(crate) fn grant(&self, lease: u64, line: &str) {
        self.say_grant(grant(lease, line));
    }

    pub(crate) fn say_grant(&self, grant: Grant) {
        self.scheduler.say(attach_response::Message::Grant(grant));
    }

    /// Waits for a fact of the lease that `wanted` likes.
    pub(crate) fn fact<T>(&self, what: &str, lease: u64, mut wanted: impl FnMut(fact::Fact) -> Option<T>) -> T {
        self.scheduler.fact(what, |fact| if fact.lease_id == lease { wanted(fact.fact.clone()?) } else { None })
    }

    pub(crate) fn started(&self, lease: u64) -> Started {
        self.fact("start", lease, |fact| match fact {
            fact::Fact::Started(started) => Some(started),
            _ => None,
        })
    }

    pub(crate) fn ended(&self, lease: u64) -> Ended {
        self.fact("end", lease, |fact| match fact {
            fact::Fact::Ended(ended) => Some(ended),
            _ => None,
        })
    }

    /// Waits for the success of element 0.
    pub(crate) fn succeeded(&self, lease: u64) {
        self.fact("success", lease, |fact| match fact {
            fact::Fact::Succeeded(_) => Some(()),
            fact::Fact::Ended(ended) => (ended.exit_code == Some(0)).then_some(()),
            _ => None,
        });
    }

    pub(crate) fn returned(&self, lease: u64) -> Returned {
        self.fact("return", lease, |fact| match fact {
            fact::Fact::Returned(returned) => Some(returned),
            _ => None,
        })
    }

    pub(crate) fn start_failed(&self, lease: u64) -> StartFailed {
        self.fact("failed start", lease, |fact| match fact {
            fact::Fact::StartFailed(failed) => Some(failed),
            _ => None,
        })
    }

    /// kill -9, and the wait for its end.
    pub(crate) fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
        // What the dead agent said is not what the next one says.
        self.scheduler.until("end of the stream", |got| matches!(got, Got::Gone).then_some(()));
        self.scheduler.forget();
    }

    /// SIGTERM; returns how long the agent took to end.
    pub(crate) fn stop_agent(&mut self) -> Duration {
        let started = Instant::now();
        let mut agent = self.agent.take().unwrap();
        signal(agent.id(), "-TERM");
        let status = agent.wait().unwrap();
        assert!(status.success(), "{status}");
        started.elapsed()
    }

    /// The pid of the supervisor of this node, if it lives.
    pub(crate) fn supervisor(&self) -> Option<u32> {
        let state = self.state.path().to_str().unwrap().to_owned();
        processes()
            .into_iter()
            .find(|(_, words, _)| {
                words.get(1).is_some_and(|verb| verb == "supervisor") && words.iter().any(|word| word.contains(&state))
            })
            .map(|(pid, _, _)| pid)
    }

    /// Processes of this node that have this word among their arguments.
    pub(crate) fn running(&self, word: &str) -> Vec<u32> {
        let (state, mark) = (self.state.path().to_str().unwrap(), mark());
        let ours = |environ: &Vec<String>| environ.iter().any(|pair| pair.contains(state) || *pair == mark);
        let has = |words: &Vec<String>| words.iter().any(|w| w == word);
        let found = processes().into_iter().filter(|(_, words, environ)| has(words) && ours(environ));
        found.map(|(pid, _, _)| pid).collect()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let state = self.state.path().to_str().unwrap().to_owned();
        let ours = || {
            processes()
                .into_iter()
                .filter(|(_, words, environ)| {
                    words.iter().any(|word| word.contains(&state)) || environ.iter().any(|pair| pair.contains(&state))
                })
                .map(|(pid, _, _)| pid)
                .collect::<Vec<u32>>()
        };
        let deadline = Instant::now() + WAIT;
        loop {
            let left = ours();
            if left.is_empty() {
                return;
            }
            left.iter().for_each(|pid| signal(*pid, "-KILL"));
            assert!(Instant::now() < deadline, "left running: {left:?}");
            std::thread::park_timeout(LOOK);
        }
    }
}

/// A grant of element 0 with a shell line, a grace of a second, and the job's id that of the lease.
pub(crate) fn grant(lease: u64, line: &str) -> Grant {
    Grant {
        lease_id: lease,
        job_id: lease,
        attempt: 1,
        slots: 1,
        ranks: vec![gangsaw_proto::node::v1::RankGrant::default()],
        task: Some(TaskSpec {
            job_name: "job".to_owned(),
            work: Some(task_spec::Work::Shell(line.to_owned())),
            milli_cpus: 1000,
            grace_ms: 1000,
            ..TaskSpec::default()
        }),
        ..Grant::default()
    }
}

/// The facts of a message, if it is a report.
pub(crate) fn facts(got: Got) -> Vec<Fact> {
    match got {
        Got::Message(attach_request::Message::Report(Report { facts, .. })) => facts,
        _ => Vec::new(),
    }
}

/// Waits until something holds.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::park_timeout(LOOK);
    }
}

/// Whether a process runs: it is there, and is more than the entry that its parent has not fetched.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, after)| !after.starts_with('Z'))
}

fn mark() -> String {
    format!("{MARK}={}", std::process::id())
}

pub(crate) fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args([name, &pid.to_string()]).stderr(Stdio::null()).status();
}

pub(crate) fn kill_everything_of_ours() {
    let mark = mark();
    for (pid, _, environ) in processes() {
        if environ.contains(&mark) {
            signal(pid, "-KILL");
        }
    }
}

/// Pid, command line and environment of every process that may be looked at.
fn processes() -> Vec<(u32, Vec<String>, Vec<String>)> {
    let split = |path: PathBuf| -> Option<Vec<String>> {
        let bytes = std::fs::read(path).ok()?;
        Some(bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
    };
    let me = std::process::id();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| *pid != me);
    pids.filter_map(|pid| {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let words = split(folder.join("cmdline"))?;
        // A process that has ended has no command line any more.
        words.first().filter(|word| !word.is_empty())?;
        Some((pid, words, split(folder.join("environ")).unwrap_or_default()))
    })
    .collect()
}
