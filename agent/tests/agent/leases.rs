//! What becomes of leases while nothing breaks.

use std::os::unix::fs::PermissionsExt as _;

use gangsaw_proto::node::v1::{
    Argv, ArrayBounds, GangPlace, Grant, RankGrant, Revoke, Start, TaskSpec, Trim, attach_request, attach_response,
    ended, fact, revoke, task_spec,
};

use crate::Test;
use crate::node::{Node, facts, grant, wait_for};
use crate::scheduler::Got;

pub(crate) const TESTS: &[Test] = &[
    ("grant_is_started_ended_acknowledged_and_forgotten", grant_is_started_ended_acknowledged_and_forgotten),
    ("same_grant_twice_starts_one_process", same_grant_twice_starts_one_process),
    ("revoked_task_gets_term_and_its_end_is_reported", revoked_task_gets_term_and_its_end_is_reported),
    ("trim_takes_back_what_has_not_started", trim_takes_back_what_has_not_started),
    ("chunk_reports_its_successes_as_ranges_and_one_failure_alone", chunk_reports_its_successes),
    ("gang_is_prepared_then_started_and_each_rank_ends", gang_is_prepared_then_started),
    ("command_that_is_not_there_is_the_jobs_fault", command_that_is_not_there_is_the_jobs_fault),
    ("progress_reaches_the_scheduler_and_the_last_word_comes_before_the_end", progress_reaches_the_scheduler),
    ("environment_is_the_jobs_over_the_nodes", environment_is_the_jobs_over_the_nodes),
    ("second_attempt_resumes_from_the_checkpoint_of_the_first", second_attempt_resumes),
    (
        "agent_of_root_runs_a_task_as_the_submitting_user_and_nobody_unknown_as_root",
        agent_of_root_runs_a_task_as_the_user,
    ),
    ("hundred_grants_start_without_delay", hundred_grants_start_without_delay),
];

fn grant_is_started_ended_acknowledged_and_forgotten() {
    let (mut node, hello) = Node::start(&[]);
    assert_eq!((hello.node_name.as_str(), hello.leases.len()), ("node-of-the-test", 0));
    let inventory = hello.inventory.unwrap();
    assert!(inventory.milli_cpus >= 1000 && inventory.memory_bytes > 0 && !hello.boot_id.is_empty());
    assert_eq!((inventory.address.as_str(), inventory.labels["rack"].as_str()), ("127.0.0.1", "7"));
    assert!(inventory.notes.iter().any(|note| note.starts_with("limits: ")), "{:?}", inventory.notes);
    node.grant(1, "exit 7");
    let started = node.started(1);
    assert!(started.pid > 0 && started.start_ticks > 0 && started.spawn_us > 0);
    let ended = node.ended(1);
    assert_eq!((ended.exit_code, ended.signal, ended.cause()), (Some(7), None, ended::Cause::Exit));
    node.grant(2, "true");
    node.succeeded(2);
    // Acknowledged is forgotten: a heartbeat without leases, and a journal that a new agent finds empty.
    node.scheduler.until("an idle heartbeat", |got| match got {
        Got::Message(attach_request::Message::Heartbeat(heartbeat)) => (heartbeat.lease_count == 0).then_some(()),
        _ => None,
    });
    node.kill_agent();
    assert_eq!(node.start_agent(&[]).leases, []);
}

fn same_grant_twice_starts_one_process() {
    let (node, _) = Node::start(&[]);
    let file = node.path("starts");
    let line = format!("echo x >> {}; sleep 0.2", file.display());
    node.grant(1, &line);
    node.grant(1, &line);
    node.started(1);
    node.grant(1, &line);
    node.succeeded(1);
    node.grant(1, &line);
    // A later lease is answered, so the copies before it were dealt with.
    node.grant(2, "true");
    node.succeeded(2);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "x\n");
}

fn revoked_task_gets_term_and_its_end_is_reported() {
    let (node, _) = Node::start(&[]);
    let file = node.path("term");
    node.grant(
        1,
        &format!("trap 'echo term > {}; exit 9' TERM; echo up; while :; do sleep 0.05; done", file.display()),
    );
    node.started(1);
    // The trap is set when the shell has begun to loop.
    wait_for("the loop", || !node.running("0.05").is_empty());
    node.scheduler.say(attach_response::Message::Revoke(Revoke {
        lease_id: 1,
        reason: revoke::Reason::Cancelled.into(),
        elements: Vec::new(),
    }));
    let ended = node.ended(1);
    assert_eq!((ended.cause(), ended.exit_code), (ended::Cause::Revoked, Some(9)));
    assert_eq!(std::fs::read_to_string(file).unwrap(), "term\n");
}

/// A chunk of elements `first..=last` on one slot.
fn chunk(lease: u64, first: u32, last: u32, line: &str) -> Grant {
    let mut grant = grant(lease, line);
    (grant.first_index, grant.last_index) = (first, last);
    grant.task.as_mut().unwrap().array = Some(ArrayBounds { count: 100, min: 0, max: 99 });
    grant
}

fn trim_takes_back_what_has_not_started() {
    let (node, _) = Node::start(&[]);
    node.say_grant(chunk(1, 10, 19, "sleep 600"));
    node.started(1);
    node.scheduler.say(attach_response::Message::Trim(Trim { lease_id: 1, last_index: 0, keep_none: true }));
    let returned = node.returned(1);
    assert_eq!((returned.first_index, returned.last_index), (11, 19));
    node.scheduler.say(attach_response::Message::Revoke(Revoke {
        lease_id: 1,
        reason: revoke::Reason::Cancelled.into(),
        elements: vec![10],
    }));
    assert_eq!(node.ended(1).index, 10);
}

fn chunk_reports_its_successes() {
    let (node, _) = Node::start(&[]);
    node.say_grant(chunk(1, 0, 49, "test $GANGSAW_ARRAY_INDEX != 20"));
    let mut over = Vec::new();
    while over.len() < 50 {
        node.scheduler.until("facts", |got| {
            let facts = facts(got);
            let some = !facts.is_empty();
            for fact in facts {
                match fact.fact.unwrap() {
                    fact::Fact::Succeeded(run) => over.extend((run.first_index..=run.last_index).map(|i| (i, true))),
                    fact::Fact::Ended(ended) => {
                        assert_eq!((ended.index, ended.exit_code), (20, Some(1)));
                        over.push((20, false));
                    }
                    other => assert!(matches!(other, fact::Fact::Started(_)), "{other:?}"),
                }
            }
            some.then_some(())
        });
    }
    over.sort_unstable();
    assert_eq!(over, (0..50).map(|index| (index, index != 20)).collect::<Vec<_>>());
}

fn gang_is_prepared_then_started() {
    let (node, _) = Node::start(&[]);
    let line =
        "test $WORLD_SIZE = 4 && test $MASTER_PORT = 4242 && test $MASTER_ADDR = 10.0.0.1 && exit $((RANK + 20))";
    let mut gang = grant(1, line);
    gang.gang = true;
    gang.ranks = [2, 3].map(|rank| RankGrant { rank, gpu_uuids: Vec::new() }).to_vec();
    gang.place = Some(GangPlace { node_rank: 1, nodes: 2, world_size: 4 });
    gang.task.as_mut().unwrap().per_process_rendezvous = true;
    node.say_grant(gang);
    let port = node.fact("readiness", 1, |fact| match fact {
        fact::Fact::Prepared(prepared) => Some(prepared.port),
        other => panic!("before Start: {other:?}"),
    });
    assert!(port > 0);
    node.scheduler.say(attach_response::Message::Start(Start {
        lease_id: 1,
        master_addr: "10.0.0.1".to_owned(),
        master_port: 4242,
    }));
    let mut ends = vec![];
    for _ in 0..2 {
        let ended = node.ended(1);
        ends.push((ended.rank, ended.exit_code));
    }
    ends.sort_unstable();
    assert_eq!(ends, [(2, Some(22)), (3, Some(23))]);
}

fn command_that_is_not_there_is_the_jobs_fault() {
    let (node, _) = Node::start(&[]);
    let mut missing = grant(1, "");
    missing.task.as_mut().unwrap().work =
        Some(task_spec::Work::Argv(Argv { args: vec!["/nowhere/at/all".to_owned()] }));
    node.say_grant(missing);
    let failed = node.start_failed(1);
    assert!(failed.users_fault && failed.detail.contains("/nowhere/at/all"), "{failed:?}");
    let mut nothing = grant(2, "");
    nothing.task = Some(TaskSpec::default());
    node.say_grant(nothing);
    assert!(node.start_failed(2).users_fault);
}

fn progress_reaches_the_scheduler() {
    let (node, _) = Node::start(&[]);
    let exe = std::env::current_exe().unwrap();
    let say = |json: &str| format!("{} say-progress '{json}'", exe.display());
    let first = say(r#"{"step":1,"total":5,"metrics":{"loss":0.5}}"#);
    let last = say(r#"{"step":5,"bad":1}"#);
    node.grant(1, &format!("{first} && {last}; exit 3"));
    let (mut said, mut ended) = (Vec::new(), false);
    while !ended {
        node.scheduler.until("progress and an end", |got| match got {
            Got::Message(attach_request::Message::Progress(batch)) => {
                said.extend(batch.tasks);
                Some(())
            }
            got => {
                ended = facts(got).into_iter().any(|fact| matches!(fact.fact, Some(fact::Fact::Ended(_))));
                ended.then_some(())
            }
        });
    }
    let last = said.last().expect("progress came before the end");
    assert_eq!((last.lease_id, last.index, last.rank), (1, 0, 0));
    let json = String::from_utf8(last.json.clone()).unwrap();
    assert!(json.contains(r#""step":5"#) && !json.contains("bad") && !json.contains("task"), "{json}");
}

fn environment_is_the_jobs_over_the_nodes() {
    let mut node = Node::without_agent();
    node.env("LANG", "xx_NODE");
    node.start_agent(&[]);
    let file = node.path("env");
    let mut job = grant(1, &format!("env > {}", file.display()));
    let mine = [("HOME", "/my home"), ("GANGSAW_LEASE_ID", "999"), ("GREETING", "a=b\nc")];
    job.task.as_mut().unwrap().env = mine.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    node.say_grant(job);
    node.succeeded(1);
    let env = std::fs::read_to_string(file).unwrap();
    for line in ["LANG=xx_NODE", "HOME=/my home", "GANGSAW_LEASE_ID=1", "GREETING=a=b\nc", "GANGSAW_ATTEMPT=1"] {
        assert!(env.contains(&format!("{line}\n")), "{line} is not in {env}");
    }
    assert!(env.contains("\nPATH=") && env.contains("GANGSAW_PROGRESS=") && !env.contains("GANGSAW_TOKEN"), "{env}");
}

fn second_attempt_resumes() {
    let (node, _) = Node::start(&[]);
    let write =
        "mkdir -p $GANGSAW_CHECKPOINT_DIR/step-8 && touch $GANGSAW_CHECKPOINT_DIR/step-8/manifest.json && exit 1";
    node.grant(1, write);
    let checkpoint = node.ended(1).checkpoint;
    assert!(checkpoint.ends_with("/step-8"), "{checkpoint}");
    let mut second = grant(2, &format!("test \"$GANGSAW_RESUME_FROM\" = {checkpoint}"));
    (second.job_id, second.attempt) = (1, 2);
    node.say_grant(second);
    let ended = node.ended(2);
    assert_eq!((ended.exit_code, ended.checkpoint.as_str()), (Some(0), ""));
}

fn hundred_grants_start_without_delay() {
    let (node, _) = Node::start(&[]);
    node.grant(1, "true");
    node.succeeded(1);
    let mut took: Vec<u64> = (2..102)
        .map(|lease| {
            node.grant(lease, "true");
            let took = node.started(lease).spawn_us;
            node.succeeded(lease);
            took
        })
        .collect();
    took.sort_unstable();
    println!("grant at the agent → exec: p50 {} µs, p99 {} µs", took[50], took[98]);
    // The best, because the others tell how busy the machine is. A sleep or a poll on the way would be in all of them.
    assert!(took[0] < 3_000, "{took:?}");
}

fn agent_of_root_runs_a_task_as_the_user() {
    let mut node = Node::without_agent();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    if !rustix::process::getuid().is_root() || !passwd.contains("\nnobody:") {
        assert!(std::env::var_os("CI").is_none(), "CI runs as root");
        return println!("not root, or no user nobody: other users are not tested");
    }
    // The temporary folder is root's alone; a real state folder lets others pass.
    std::fs::set_permissions(node.state.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let notes = node.start_agent(&[]).inventory.unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("as the submitting user")), "{notes:?}");
    let mut theirs = grant(1, "touch $GANGSAW_OUTPUT_DIR/mine && test $USER = nobody && exit $(($(id -u) % 251))");
    theirs.task.as_mut().unwrap().user = "nobody".to_owned();
    node.say_grant(theirs);
    assert_eq!(node.ended(1).exit_code, Some(65_534 % 251));
    let mut unknown = grant(2, "exit $(id -u)");
    unknown.task.as_mut().unwrap().user = "who-is-that".to_owned();
    node.say_grant(unknown);
    let failed = node.start_failed(2);
    assert!(failed.users_fault, "{failed:?}");
    assert_eq!(failed.detail, "user who-is-that is not known on node node-of-the-test");
    let mut own = grant(3, "exit $(id -u)");
    own.task.as_mut().unwrap().user = "root".to_owned();
    node.say_grant(own);
    assert_eq!(node.ended(3).exit_code, Some(0));
}
