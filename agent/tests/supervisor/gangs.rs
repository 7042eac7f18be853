//! Gangs: prepared, then started together.

use std::net::{Ipv4Addr, TcpListener};

use gangsaw_proto::supervisor::v1::{Gang, Rank, Run, Start, command::Command, ended::Cause, fact, start_failed::Step};

use crate::node::{Node, all_of, shell, text};

pub(crate) const TESTS: &[crate::Test] = &[
    (
        "prepared_gang_holds_its_port_and_starts_with_its_rendezvous",
        prepared_gang_holds_its_port_and_starts_with_its_rendezvous,
    ),
    ("gang_that_cannot_start_says_so_when_it_prepares", gang_that_cannot_start_says_so_when_it_prepares),
    ("prepared_gang_that_is_stopped_returns", prepared_gang_that_is_stopped_returns),
];

fn gang(lease_id: u64, per_process: bool, script: &str) -> Run {
    let rank = |rank, gpu: &str| Rank { rank, gpu_uuids: vec![gpu.to_owned()] };
    let gang = Some(Gang { world_size: 4, per_process, ..Gang::default() });
    Run { ranks: vec![rank(2, "GPU-x"), rank(3, "GPU-y")], gang, prepare: true, ..shell(lease_id, script) }
}

fn prepared(node: &mut Node, lease_id: u64) -> u16 {
    let port = node.until(|fact| match &fact.fact {
        Some(fact::Fact::Prepared(prepared)) if fact.lease_id == lease_id => Some(prepared.port),
        _ => None,
    });
    u16::try_from(port).unwrap()
}

fn prepared_gang_holds_its_port_and_starts_with_its_rendezvous() {
    let mut node = Node::new();
    for (lease_id, per_process, names, lines) in [
        (1, true, "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $NODE_RANK", ["2 0 4 2", "3 1 4 2"]),
        (2, false, "$NODE_RANK $NNODES $NPROC_PER_NODE $RANK", ["2 4 1", "3 4 1"]),
    ] {
        let script = format!("echo {names} $MASTER_ADDR $MASTER_PORT $CUDA_VISIBLE_DEVICES $GANGSAW_TASK_ID; exit 4");
        node.send(Command::Run(gang(lease_id, per_process, &script)));
        let port = prepared(&mut node, lease_id);
        assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err(), "the port is held");
        let [held] = node.list().try_into().unwrap();
        assert!(held.prepared && held.tasks.is_empty());
        let start = Start { lease_id, master_addr: "10.0.0.1".into(), master_port: 4242 };
        node.send(Command::Start(start.clone()));
        node.send(Command::Start(start));
        let mut ended = Vec::new();
        node.until(|fact| {
            if let Some(fact::Fact::Ended(end)) = &fact.fact
                && fact.lease_id == lease_id
            {
                assert_eq!((end.exit_code, end.cause()), (Some(4), Cause::Exit));
                ended.push(end.rank);
            }
            (ended.len() == 2).then_some(())
        });
        ended.sort_unstable();
        assert_eq!(ended, [2, 3]);
        let job = lease_id + 1000;
        let printed = text(&node.read_logs(all_of(job)));
        let mut printed: Vec<&str> = printed.lines().collect();
        printed.sort_unstable();
        let line = |at: usize, rank: u32, gpu: &str| format!("{} 10.0.0.1 4242 {gpu} {job}.{rank}", lines[at]);
        assert_eq!(printed, [line(0, 2, "GPU-x"), line(1, 3, "GPU-y")]);
        assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok(), "the port was let go");
    }
}

fn gang_that_cannot_start_says_so_when_it_prepares() {
    let mut node = Node::new();
    node.send(Command::Run(Run { workdir: "/no/such/folder".into(), ..gang(1, true, "true") }));
    let failed = node.start_failed(1);
    assert_eq!((failed.step(), failed.users_fault), (Step::Workdir, true));
    let ranks: Vec<u32> = node
        .facts
        .iter()
        .filter_map(|fact| match &fact.fact {
            Some(fact::Fact::StartFailed(failed)) => Some(failed.rank),
            _ => None,
        })
        .collect();
    assert_eq!(ranks, [2, 3]);
    assert!(node.list().is_empty());
}

fn prepared_gang_that_is_stopped_returns() {
    let mut node = Node::new();
    node.send(Command::Run(gang(1, true, "echo never")));
    let port = prepared(&mut node, 1);
    node.stop(1, &[], None);
    node.until(|fact| matches!(&fact.fact, Some(fact::Fact::Returned(_))).then_some(()));
    assert!(node.list().is_empty());
    assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok());
    node.send(Command::Start(Start { lease_id: 1, ..Start::default() }));
    node.list();
    assert_eq!(node.unknown, [1]);
    // The slots are free for others.
    node.send(Command::Run(shell(2, "echo other")));
    assert_eq!(node.over(2, 1)[&0], "succeeded");
}
