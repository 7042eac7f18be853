//! A primary with a synchronous standby that is promoted: nothing that was acknowledged is lost, and the primary of
//! before is not gone back to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::common::{Clients, PATIENCE, shell};
use crate::lead::{Member, check, finish_and_check_history};
use crate::server::Server;

/// Longest time until submits are acknowledged again after the promotion.
const BACK_MAX: Duration = Duration::from_secs(30);
/// How long a client waits for one answer before it asks another scheduler.
const CALL_WAIT: Duration = Duration::from_secs(1);

/// A primary, and a standby that every commit waits for.
struct Pair {
    primary: Server,
    standby: Server,
}

impl Pair {
    fn start() -> Option<Pair> {
        let primary = Server::start_with("-c synchronous_commit=local -c statement_timeout=4s")?;
        let standby = Server::of_nothing("")?;
        let (from, to) = (primary.folder(), standby.data());
        primary.sql("CREATE ROLE replicator LOGIN REPLICATION");
        let copy = ["-h", &from, "-U", "replicator", "-D", &to, "-R", "-X", "stream", "--no-sync", "-c", "fast"];
        standby.run("pg_basebackup", &copy);
        standby.up();
        // Only now: the standby's copy of the settings must not have it.
        primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
        primary.sql("SELECT pg_reload_conf()");
        let begun = Instant::now();
        while primary.sql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") != "1" {
            assert!(begun.elapsed() < PATIENCE, "the standby does not follow");
            std::thread::yield_now();
        }
        Some(Pair { primary, standby })
    }

    /// The address that schedulers are given: both of them, the first primary first.
    fn url(&self) -> String {
        let (one, two) = (self.primary.folder(), self.standby.folder());
        format!("postgresql:///postgres?user=gangsaw&target_session_attrs=read-write&host={one}&host={two}")
    }

    fn promote(&self) {
        self.standby.run("pg_ctl", &["-D", &self.standby.data(), "-w", "promote"]);
    }
}

/// Clients that submit until they are told to stop, each under one key until somebody acknowledges it.
struct Load {
    stop: CancellationToken,
    acknowledged: tokio::sync::watch::Sender<BTreeMap<String, u64>>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(round: &str, members: &[&Member]) -> Load {
        let (stop, acknowledged) = (CancellationToken::new(), tokio::sync::watch::Sender::new(BTreeMap::new()));
        let mut clients = JoinSet::new();
        for lane in 0..4_usize {
            let doors: Vec<Clients> = members.iter().map(|member| member.clients.clone()).collect();
            let (stop, acknowledged, round) = (stop.clone(), acknowledged.clone(), round.to_owned());
            clients.spawn(async move {
                let (mut at, mut number, mut pause) = (lane, 0, tokio::time::interval(Duration::from_millis(5)));
                loop {
                    let key = format!("{round}-{lane}-{number}");
                    let mut jobs = doors[at % doors.len()].jobs.clone();
                    if let Ok(Ok(reply)) = timeout(CALL_WAIT, jobs.submit(shell(&key, "true"))).await {
                        let job = reply.into_inner().job_ids[0];
                        acknowledged.send_modify(|all| {
                            all.insert(key, job);
                        });
                        number += 1;
                        if stop.is_cancelled() {
                            return;
                        }
                    } else {
                        at += 1;
                        pause.tick().await;
                    }
                }
            });
        }
        Load { stop, acknowledged, clients }
    }

    /// Waits until `more` jobs than now are acknowledged.
    #[track_caller]
    fn until_more(&self, more: usize) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller().line();
        let mut seen = self.acknowledged.subscribe();
        let wanted = seen.borrow().len() + more;
        async move {
            let more = timeout(BACK_MAX, seen.wait_for(|all| all.len() >= wanted)).await;
            more.unwrap_or_else(|_| panic!("nobody acknowledges at line {at}")).unwrap();
        }
    }

    /// Lets every client have its last answer.
    async fn stop(mut self) -> BTreeMap<String, u64> {
        self.stop.cancel();
        while let Some(ended) = timeout(BACK_MAX, self.clients.join_next()).await.expect("a client is not answered") {
            ended.unwrap();
        }
        self.acknowledged.borrow().clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_the_primary_and_the_one_that_comes_back_is_not_written() {
    let Some(pair) = Pair::start() else { return };
    let url = pair.url();
    let one = Member::start(&url, None).await;
    one.until_it_leads().await;
    let two = Member::start(&url, None).await;
    let load = Load::start("r", &[&one, &two]);
    load.until_more(100).await;

    pair.primary.crash();
    let begun = Instant::now();
    pair.promote();
    load.until_more(8).await;
    println!("acknowledging again {:?} after the primary was killed, its standby promoted meanwhile", begun.elapsed());
    load.until_more(50).await;

    // The old primary comes back as it was, and it is the first that is asked.
    pair.primary.up();
    let old = || pair.primary.sql("SELECT max(last_seq) FROM gangsaw.batch");
    let (left_at, term) = (old(), "SELECT epoch, holder FROM gangsaw.leader");
    let old_term = pair.primary.sql(term);
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'gangsaw%'";
    assert_ne!(pair.standby.sql(cut), "0");
    load.until_more(50).await;
    let mut acknowledged = load.stop().await;
    // One that knows nothing, and is given both. Whoever gets the lock that was cut may lead.
    let three = Member::start(&url, None).await;
    let load = Load::start("s", &[&one, &two, &three]);
    // And one that reaches the old primary alone: there every commit waits for a standby that is gone.
    let lost = Member::start(&pair.primary.url(), None).await;
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE 'gangsaw%'";
    let begun = Instant::now();
    while pair.primary.sql(waits) == "0" {
        assert!(begun.elapsed() < PATIENCE, "it does not try to lead");
        assert!(!lost.leads().await.unwrap());
    }
    load.until_more(50).await;
    assert!(!lost.leads().await.unwrap(), "whoever leads there would acknowledge what nobody else has");
    acknowledged.extend(load.stop().await);
    assert_eq!((old(), pair.primary.sql(term)), (left_at, old_term), "nothing was written to the old primary");
    lost.process.kill();

    let mut leader = None;
    for member in [&one, &two, &three] {
        if member.leads().await.unwrap() {
            leader = Some(member.clients.clone());
        }
    }
    let leader = leader.expect("nobody leads");
    check(&leader, &acknowledged).await;
    println!("{} jobs acknowledged, each is there once", acknowledged.len());
    finish_and_check_history(&leader, &pair.standby.url(), &acknowledged).await;
    for member in [one, two, three] {
        member.process.kill();
    }
}
