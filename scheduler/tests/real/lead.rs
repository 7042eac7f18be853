//! Several schedulers on one PostgreSQL, as processes of their own: killed, stopped, told to end, and nothing is lost.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::time::{Duration, Instant};

use gangsaw_core::apply::apply;
use gangsaw_core::check::{History, Unseen};
use gangsaw_core::id::JobId;
use gangsaw_core::state::State;
use gangsaw_proto::jobs::v1 as jobs;
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

use crate::common::{Agent, Clients, PATIENCE, connect, get, reason, shell, token, wait};
use crate::kill::{Process, STORE, play_node};
use crate::server::Server;

/// Longest fail-over after a kill, and after a leader hangs.
const KILLED_MAX: Duration = Duration::from_secs(4);
const HUNG_MAX: Duration = Duration::from_secs(10);
/// Longest planned hand-over.
const PLANNED_MAX: Duration = Duration::from_secs(1);

/// One scheduler with a folder of its own.
pub(crate) struct Member {
    folder: tempfile::TempDir,
    pub(crate) process: Process,
    pub(crate) clients: Clients,
}

impl Member {
    pub(crate) async fn start(url: &str, fail_at: Option<&str>) -> Member {
        let folder = tempfile::tempdir().unwrap();
        let mut env = vec![(STORE, OsStr::new(url))];
        env.extend(fail_at.map(|at| ("GANGSAW_FAIL_AT", OsStr::new(at))));
        let mut process = Process::start(folder.path(), &env);
        let clients = process.connect(folder.path()).await.unwrap();
        Member { folder, process, clients }
    }

    pub(crate) fn address(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("scheduler/address")).unwrap()
    }

    /// Connects anew.
    async fn dial(&self) -> Clients {
        connect(self.address().parse().unwrap(), &token(self.folder.path())).await
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.0), signal).unwrap();
    }

    async fn until_it_stands_still(&self) {
        let status = format!("/proc/{}/status", self.process.0.id());
        let begun = Instant::now();
        while !std::fs::read_to_string(&status).unwrap().contains("State:\tT") {
            assert!(begun.elapsed() < PATIENCE, "it does not stop");
            tokio::task::yield_now().await;
        }
    }

    /// Asks for a job nobody has; whoever leads says so.
    pub(crate) async fn leads(&self) -> Result<bool, tonic::Status> {
        let job = Some(jobs::Selector { job_id: u64::MAX, elements: Vec::new() });
        let request = jobs::GetJobRequest { job, page_size: 0, page: String::new() };
        match self.clients.jobs.clone().get_job(request).await {
            Err(status) if status.code() == Code::NotFound => Ok(true),
            Err(status) if status.code() == Code::Unavailable => Ok(false),
            Err(status) => Err(status),
            Ok(_) => panic!("there is no such job"),
        }
    }

    /// Waits until it leads, and returns how long that took.
    pub(crate) async fn until_it_leads(&self) -> Duration {
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while !self.leads().await.unwrap() {
            ticks.tick().await;
            assert!(begun.elapsed() < PATIENCE, "it does not take over");
        }
        begun.elapsed()
    }
}

/// Submits until the scheduler dies or says no; returns the acknowledged jobs by key.
pub(crate) async fn submit_all(clients: &Clients, round: &str, count: u32) -> BTreeMap<String, u64> {
    let mut acknowledged = BTreeMap::new();
    for number in 0..count {
        let key = format!("{round}-{number}");
        let Ok(reply) = clients.jobs.clone().submit(shell(&key, "true")).await else { break };
        acknowledged.insert(key, reply.into_inner().job_ids[0]);
    }
    acknowledged
}

/// Checks that every acknowledged job is there once, and that keys still mean their jobs.
pub(crate) async fn check(clients: &Clients, acknowledged: &BTreeMap<String, u64>) {
    for (key, job_id) in acknowledged {
        let again = clients.jobs.clone().submit(shell(key, "true")).await.unwrap().into_inner();
        assert_eq!((again.job_ids.as_slice(), again.repeated), ([*job_id].as_slice(), true), "{key}");
        assert_eq!(get(clients, *job_id).await.job.unwrap().element_count, 1);
    }
}

/// Lets every job end, and reads the whole log: each ended once, and every round is decided again as it was.
pub(crate) async fn finish_and_check_history(clients: &Clients, url: &str, acknowledged: &BTreeMap<String, u64>) {
    let node = play_node(clients);
    for job_id in acknowledged.values() {
        assert_eq!(wait(clients, *job_id).await.state(), jobs::State::Completed);
    }
    node.abort();
    let url = url.to_owned();
    let records = tokio::task::spawn_blocking(move || {
        let mut records = Vec::new();
        gangsaw_scheduler::read_log_postgres(&url, |record| records.push(record)).unwrap();
        records
    });
    let records = records.await.unwrap();
    let (mut history, mut state) = (History::default(), State::new());
    for record in &records {
        assert_eq!(history.observe(record, &Unseen), Ok(()), "event {}", record.seq);
        apply(&mut state, record.at, &record.event);
    }
    assert_eq!(gangsaw_core::check::check(&state), Ok(()));
    for job_id in acknowledged.values() {
        assert_eq!(history.ended(JobId(*job_id)), 1);
    }
    assert_eq!(gangsaw_core::place::replay(State::new(), &records), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_says_who_leads_and_takes_over_at_once_when_the_leader_is_killed() {
    let Some(server) = Server::start() else { return };
    let url = server.url();
    let mut leader = Member::start(&url, None).await;
    leader.until_it_leads().await;
    let mut standby = Member::start(&url, None).await;
    let mut acknowledged = BTreeMap::new();
    for round in 0..3 {
        let begun = Instant::now();
        let refused = loop {
            let refused = standby.clients.jobs.clone().submit(shell("k", "true")).await.unwrap_err();
            // It may not have looked yet.
            if refused.message().contains(&leader.address()) {
                break refused;
            }
            assert!(begun.elapsed() < PATIENCE, "{refused}");
        };
        assert_eq!((refused.code(), reason(&refused).0.as_str()), (Code::Unavailable, "standby"));
        assert!(reason(&refused).1.contains("--server"));
        let (clients, round) = (leader.clients.clone(), format!("r{round}"));
        let driving = tokio::spawn(async move { submit_all(&clients, &round, 1_000_000).await });
        let busy = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(10));
            let seen = |text: String| text.parse::<u64>().unwrap_or(0);
            let before = seen(server.sql("SELECT max(last_seq) FROM gangsaw.batch"));
            while seen(server.sql("SELECT max(last_seq) FROM gangsaw.batch")) < before + 40 {
                ticks.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, busy).await.unwrap();
        leader.process.kill();
        let took = standby.until_it_leads().await;
        println!("fail-over after kill -9: {took:?}");
        assert!(took < KILLED_MAX, "{took:?}");
        acknowledged.extend(driving.await.unwrap());
        assert!(!acknowledged.is_empty());
        check(&standby.clients, &acknowledged).await;
        leader = standby;
        standby = Member::start(&url, None).await;
    }
    finish_and_check_history(&leader.clients, &url, &acknowledged).await;
    standby.process.kill();
    leader.process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_job_is_lost_when_the_leader_dies_at_any_append() {
    let Some(server) = Server::start() else { return };
    let url = server.url();
    let mut acknowledged = BTreeMap::new();
    // The last one lives.
    let mut dying = (1..=3_u32).flat_map(|append| ["before", "torn", "after"].map(|moment| (append, moment)));
    let mut next = dying.next();
    loop {
        let at = next.map(|(append, moment)| format!("append:{append}:{moment}"));
        let member = Member::start(&url, at.as_deref()).await;
        member.until_it_leads().await;
        let round = at.clone().unwrap_or_default();
        acknowledged.extend(submit_all(&member.clients, &round, 10).await);
        if at.is_some() {
            assert_eq!(member.process.died_of(), Some(6), "it died at {round}");
            next = dying.next();
            continue;
        }
        check(&member.clients, &acknowledged).await;
        assert_eq!(acknowledged.len(), 10 + 9, "what was answered was durable, and nothing else was answered");
        finish_and_check_history(&member.clients, &url, &acknowledged).await;
        return member.process.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_stopped_beyond_its_lease_writes_nothing_when_it_wakes_and_stands_by() {
    let Some(server) = Server::start() else { return };
    let url = server.url();
    let stopped = Member::start(&url, None).await;
    stopped.until_it_leads().await;
    let mut acknowledged = submit_all(&stopped.clients, "before", 3).await;
    let standby = Member::start(&url, None).await;
    let epoch = || server.sql("SELECT epoch FROM gangsaw.leader").parse::<u64>().unwrap();
    let first = epoch();
    stopped.signal(Signal::STOP);
    // The signal takes hold when one of its threads runs next; until then the others go on.
    stopped.until_it_stands_still().await;
    // What it is asked while it is stopped it will find when it wakes.
    let (clients, late) = (stopped.clients.clone(), shell("late", "true"));
    let late = tokio::spawn(async move { clients.jobs.clone().submit(late).await });
    let took = standby.until_it_leads().await;
    println!("fail-over after SIGSTOP: {took:?}");
    assert!(took < HUNG_MAX, "{took:?}");
    assert!(took > Duration::from_secs(3), "not before the lease may be over: {took:?}");
    acknowledged.extend(submit_all(&standby.clients, "after", 3).await);
    stopped.signal(Signal::CONT);
    let refused = tokio::time::timeout(PATIENCE, late).await.unwrap().unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(epoch(), first + 1, "the one that woke did not take the lead back");
    let refused = stopped.dial().await.jobs.submit(shell("later", "true")).await.unwrap_err();
    assert_eq!(reason(&refused).0, "standby");
    check(&standby.clients, &acknowledged).await;
    finish_and_check_history(&standby.clients, &url, &acknowledged).await;
    // And it is as good a standby as any.
    standby.process.kill();
    let woken = Member { clients: stopped.dial().await, ..stopped };
    assert!(woken.until_it_leads().await < KILLED_MAX);
    check(&woken.clients, &acknowledged).await;
    woken.process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_told_to_end_hands_over_within_a_second_with_agents_attached() {
    let Some(server) = Server::start() else { return };
    let url = server.url();
    let leader = Member::start(&url, None).await;
    leader.until_it_leads().await;
    let standby = Member::start(&url, None).await;
    let mut agent = Agent::attach(&leader.clients, "n1", Vec::new()).await;
    let acknowledged = submit_all(&leader.clients, "k", 1).await;
    let grant = agent.grant().await;
    leader.signal(Signal::TERM);
    let took = standby.until_it_leads().await;
    println!("planned hand-over: {took:?}");
    assert!(took < PLANNED_MAX, "{took:?}");
    assert!(agent.try_next().await.is_none(), "its session ended");
    let held = gangsaw_proto::node::v1::HeldLease {
        lease_id: grant.lease_id,
        phase: gangsaw_proto::node::v1::held_lease::Phase::Running.into(),
        ..Default::default()
    };
    // The lease goes on at the new leader, and its end counts.
    let mut agent = Agent::attach(&standby.clients, "n1", vec![held]).await;
    agent.run(&grant, 0).await;
    for job_id in acknowledged.values() {
        assert_eq!(wait(&standby.clients, *job_id).await.state(), jobs::State::Completed);
    }
    let mut leader = leader.process;
    assert!(leader.0.wait().unwrap().success(), "an end that was asked for is no failure");
    standby.process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedulers_outlast_their_postgresql_and_one_of_them_leads_again() {
    let Some(server) = Server::start() else { return };
    let url = server.url();
    let one = Member::start(&url, None).await;
    one.until_it_leads().await;
    let two = Member::start(&url, None).await;
    let mut acknowledged = submit_all(&one.clients, "before", 3).await;
    server.crash();
    // Longer than the lease: the leader cannot know that nobody else leads, and steps down.
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    loop {
        let clients = one.dial().await;
        let asked = tokio::time::timeout(Duration::from_secs(1), clients.jobs.clone().submit(shell("x", "true"))).await;
        if matches!(&asked, Ok(Err(status)) if status.code() == Code::Unavailable && reason(status).0 == "standby") {
            break;
        }
        ticks.tick().await;
        assert!(begun.elapsed() < PATIENCE, "{asked:?}");
    }
    server.up();
    let begun = Instant::now();
    let leader = loop {
        let mut leads = None;
        for member in [&one, &two] {
            let clients = member.dial().await;
            let fresh = clients.jobs.clone().submit(shell("again", "true")).await;
            if let Ok(reply) = fresh {
                acknowledged.insert("again".to_owned(), reply.into_inner().job_ids[0]);
                leads = Some(clients);
            }
        }
        if let Some(leads) = leads {
            break leads;
        }
        ticks.tick().await;
        assert!(begun.elapsed() < PATIENCE, "nobody leads");
    };
    println!("back {:?} after PostgreSQL", begun.elapsed());
    check(&leader, &acknowledged).await;
    finish_and_check_history(&leader, &url, &acknowledged).await;
    one.process.kill();
    two.process.kill();
}
