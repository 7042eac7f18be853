//! kill -9 at every append: a test runs itself again as a scheduler process that dies at a chosen moment.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gangsaw_core::apply::apply;
use gangsaw_core::check::{History, Unseen};
use gangsaw_core::id::JobId;
use gangsaw_core::state::State;
use gangsaw_proto::jobs::v1 as jobs;
use gangsaw_proto::node::v1::attach_response::Message as ToNode;
use gangsaw_scheduler::Config;
use tokio_util::sync::CancellationToken;

use crate::common::{Agent, Clients, PATIENCE, connect, ended, get, shell, started, token, wait};

const CHILD: &str = "GANGSAW_TEST_SCHEDULER_STATE";
/// The `postgres://` URL of the child's store, if it has one.
pub(crate) const STORE: &str = "GANGSAW_STORE";

/// Not a test of its own: the process that the tests below start and kill.
#[test]
fn child_process_of_the_kill_tests() {
    let Some(state) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut config = Config::new(state.into(), "127.0.0.1:0".parse().unwrap());
    config.credentials = None;
    config.store = std::env::var(STORE).ok();
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        let told = stop.clone();
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        tokio::spawn(async move {
            terminate.recv().await;
            told.cancel();
        });
        gangsaw_scheduler::serve(config, stop).await
    });
    std::process::exit(ended.map_or_else(|error| i32::from(error.exit_code()), |()| 0));
}

/// A scheduler in a process of its own. Dropping it kills it, so that a test that fails leaves nothing behind.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

impl Process {
    pub(crate) fn start(state: &Path, env: &[(&str, &OsStr)]) -> Process {
        let _ = std::fs::remove_file(state.join("scheduler/address"));
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_process_of_the_kill_tests", "--nocapture"])
            .env(CHILD, state)
            .env_remove("GANGSAW_FAIL_AT")
            .env_remove(STORE)
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Process(child.unwrap())
    }

    /// Starts one that dies at a chosen append.
    fn dying(state: &Path, at: &str) -> Process {
        Process::start(state, &[("GANGSAW_FAIL_AT", OsStr::new(at))])
    }

    /// Waits for the address. `None`: the process ended before it had one.
    pub(crate) async fn connect(&mut self, state: &Path) -> Option<Clients> {
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        loop {
            ticks.tick().await;
            if let Ok(address) = std::fs::read_to_string(state.join("scheduler/address")) {
                let address: SocketAddr = address.parse().unwrap();
                return Some(connect(address, &token(state)).await);
            }
            if self.0.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(begun.elapsed() < PATIENCE, "no address");
        }
    }

    /// Waits for the end and returns the signal that brought it.
    pub(crate) fn died_of(mut self) -> Option<i32> {
        self.0.wait().unwrap().signal()
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Plays a node that ends every grant well, for as long as its session lasts.
pub(crate) fn play_node(clients: &Clients) -> tokio::task::JoinHandle<()> {
    let clients = clients.clone();
    tokio::spawn(async move {
        let Ok(mut agent) = Agent::try_attach(&clients, "n1", "uuid-n1", Vec::new()).await else { return };
        while let Some(message) = agent.try_next().await {
            if let ToNode::Grant(grant) = message {
                let facts = vec![started(grant.first_index), ended(grant.first_index, 0)];
                agent.say(grant.lease_id, facts).await;
            }
        }
    })
}

/// Submits beside a node until the scheduler dies or all is submitted; returns the acknowledged jobs by key.
async fn drive(clients: &Clients, jobs_wanted: u32) -> BTreeMap<String, u64> {
    let node = play_node(clients);
    let mut acknowledged = BTreeMap::new();
    for number in 0..jobs_wanted {
        let key = format!("k{number}");
        match clients.jobs.clone().submit(shell(&key, "true")).await {
            Ok(reply) => {
                acknowledged.insert(key, reply.into_inner().job_ids[0]);
            }
            Err(_) => break,
        }
    }
    node.abort();
    acknowledged
}

/// Lets a restarted scheduler finish every job, and then reads the whole log: each job ended once, nothing that a
/// history must never show, every round decided again as it was.
async fn finish_and_check_history(state_dir: &Path) {
    let mut process = Process::start(state_dir, &[]);
    let clients = process.connect(state_dir).await.unwrap();
    let node = play_node(&clients);
    let all = jobs::ListJobsRequest { all: true, page_size: 1_000, ..Default::default() };
    let listed = clients.jobs.clone().list_jobs(all).await.unwrap().into_inner().jobs;
    for job in &listed {
        assert_eq!(wait(&clients, job.job_id).await.state(), jobs::State::Completed);
    }
    node.abort();
    process.kill();

    let (mut history, mut state, mut records) = (History::default(), State::new(), Vec::new());
    gangsaw_scheduler::read_log(state_dir, |record| {
        assert_eq!(history.observe(&record, &Unseen), Ok(()), "event {}", record.seq);
        apply(&mut state, record.at, &record.event);
        records.push(record);
    })
    .unwrap();
    assert_eq!(gangsaw_core::check::check(&state), Ok(()));
    for job in &listed {
        assert!(history.has_job(JobId(job.job_id)));
    }
    assert_eq!((history.jobs(), history.unfinished()), (listed.len() as u64, None));
    assert_eq!(gangsaw_core::place::replay(State::new(), &records), []);
    let checked = gangsaw_scheduler::fsck(state_dir, false).unwrap();
    assert_eq!((checked.faults, checked.whole, checked.live), (Vec::new(), true, false));
}

/// Restarts and checks that every acknowledged job is there once, and that keys still mean their jobs.
async fn check(state: &Path, acknowledged: &BTreeMap<String, u64>) {
    let mut process = Process::start(state, &[]);
    let clients = process.connect(state).await.expect("it serves again");
    let all = jobs::ListJobsRequest { all: true, page_size: 1_000, ..Default::default() };
    let listed = clients.jobs.clone().list_jobs(all).await.unwrap().into_inner().jobs;
    for (key, job_id) in acknowledged {
        assert_eq!(listed.iter().filter(|job| job.job_id == *job_id).count(), 1, "{key}");
        let again = clients.jobs.clone().submit(shell(key, "true")).await.unwrap().into_inner();
        assert_eq!((again.job_ids.as_slice(), again.repeated), ([*job_id].as_slice(), true), "{key}");
        assert_eq!(get(&clients, *job_id).await.job.unwrap().element_count, 1);
    }
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_job_is_lost_when_the_scheduler_dies_at_any_append() {
    for moment in ["before", "torn", "after"] {
        for append in 1..=10 {
            let dir = tempfile::tempdir().unwrap();
            let at = format!("append:{append}:{moment}");
            let mut process = Process::dying(dir.path(), &at);
            let acknowledged = match process.connect(dir.path()).await {
                Some(clients) => drive(&clients, 40).await,
                None => BTreeMap::new(),
            };
            assert_eq!(process.died_of(), Some(6), "it died at {at}");
            assert!(acknowledged.len() < 40, "{at}");
            check(dir.path(), &acknowledged).await;
            if append % 4 == 2 {
                finish_and_check_history(dir.path()).await;
            }
        }
    }
}

/// What a state folder has come to, without what depends on when: jobs in order of their keys, and how each ended.
fn end_state(state_dir: &Path) -> Vec<(String, u64, u64)> {
    let (mut state, mut history) = (State::new(), History::default());
    gangsaw_scheduler::read_log(state_dir, |record| {
        history.observe(&record, &Unseen).unwrap();
        apply(&mut state, record.at, &record.event);
    })
    .unwrap();
    let ended = |job: &gangsaw_core::job::body::Job| {
        (format!("{:?}", state.job_state(job.body.id)), job.ended_counts.values().sum(), history.ended(job.body.id))
    };
    state.jobs().map(ended).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_any_two_steps_of_the_engine_it_comes_to_the_same_end() {
    const JOBS: u32 = 6;
    for moment in ["decided", "placed", "before", "after", "performing", "performed"] {
        // Append 1 registers the node; the others carry submits with their grants, starts, and ends.
        for append in [1, 2, 3, 5, 8] {
            let dir = tempfile::tempdir().unwrap();
            let at = format!("append:{append}:{moment}");
            let mut process = Process::dying(dir.path(), &at);
            let acknowledged = match process.connect(dir.path()).await {
                Some(clients) => drive(&clients, 40).await,
                None => BTreeMap::new(),
            };
            assert_eq!(process.died_of(), Some(6), "it died at {at}");
            // The same submits again, under the same keys: each is stored once, whatever was acknowledged.
            let mut process = Process::start(dir.path(), &[]);
            let clients = process.connect(dir.path()).await.unwrap();
            for number in 0..JOBS.max(u32::try_from(acknowledged.len()).unwrap() + 1) {
                let key = format!("k{number}");
                let reply = clients.jobs.clone().submit(shell(&key, "true")).await.unwrap().into_inner();
                assert!(
                    acknowledged.get(&key).is_none_or(|job| reply.job_ids == [*job] && reply.repeated),
                    "{at} {key}"
                );
            }
            process.kill();
            finish_and_check_history(dir.path()).await;
            let ends = end_state(dir.path());
            assert!(ends.len() >= JOBS as usize, "{at}: {}", ends.len());
            assert!(ends.iter().all(|end| *end == ("Some(Completed)".to_owned(), 1, 1)), "{at}: {ends:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_submitters_lose_nothing_when_the_scheduler_is_killed_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 0..3 {
        let mut process = Process::start(dir.path(), &[]);
        let clients = process.connect(dir.path()).await.unwrap();
        let loops: Vec<_> = (0..4)
            .map(|number| {
                let clients = clients.clone();
                tokio::spawn(async move {
                    let mut mine = BTreeMap::new();
                    for count in 0..1_000_000 {
                        let key = format!("r{round}-l{number}-{count}");
                        let Ok(reply) = clients.jobs.clone().submit(shell(&key, "true")).await else { break };
                        mine.insert(key, reply.into_inner().job_ids[0]);
                    }
                    mine
                })
            })
            .collect();
        let begun = Instant::now();
        // The kill comes when enough is in flight, whatever the machine's pace.
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        let server = gangsaw_proto::admin::v1::GetServerRequest {};
        while clients.admin.clone().get_server(server).await.unwrap().into_inner().last_seq < 200 * (round + 1) {
            ticks.tick().await;
            assert!(begun.elapsed() < PATIENCE);
        }
        process.kill();
        for each in loops {
            acknowledged.extend(each.await.unwrap());
        }
        assert!(acknowledged.len() >= 50);
        let ids: std::collections::BTreeSet<_> = acknowledged.values().collect();
        assert_eq!(ids.len(), acknowledged.len(), "no id was given twice");
        check(dir.path(), &acknowledged).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_was_durable_but_not_sent_comes_after_the_restart() {
    let dir = tempfile::tempdir().unwrap();
    // Append 1 registers the node, append 2 stores the job and leases it.
    let mut process = Process::dying(dir.path(), "append:2:after");
    let clients = process.connect(dir.path()).await.unwrap();
    let agent = Agent::attach(&clients, "n1", Vec::new()).await;
    clients.jobs.clone().submit(shell("k1", "true")).await.unwrap_err();
    assert_eq!(process.died_of(), Some(6));
    drop(agent);
    let mut process = Process::start(dir.path(), &[]);
    let clients = process.connect(dir.path()).await.unwrap();
    let mut agent = Agent::attach(&clients, "n1", Vec::new()).await;
    let grant = agent.grant().await;
    agent.run(&grant, 0).await;
    let job = crate::common::wait(&clients, 1).await;
    assert_eq!(job.state(), jobs::State::Completed);
    process.kill();
}
