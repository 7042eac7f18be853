//! What people read is what the state says, and stays small.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use gangsaw_core::decide::decide;
use gangsaw_core::id::{Actor, DeviceId, IdempotencyKey, NodeName, RequestId};
use gangsaw_core::input::{Fact, FactKind, Input, NodeHello, Request, Submit};
use gangsaw_core::job::draft::{ArrayDraft, DemandDraft, JobDraft, RetryDraft, StepRange, WorkDraft};
use gangsaw_core::job::record::{Cause, Exit};
use gangsaw_core::job::spec::JobSpec;
use gangsaw_core::place::place;
use gangsaw_core::resources::{Device, Inventory};
use gangsaw_core::time::Time;

use super::super::sqlite::tables;
use super::*;

/// A state, and the tables its events project to.
struct World {
    state: State,
    tables: rusqlite::Connection,
    now: Now,
    reports: BTreeMap<NodeId, u64>,
}

impl World {
    /// `gpus` GPUs on each of two nodes of 8 cores.
    fn new(gpus: u32) -> World {
        let tables = rusqlite::Connection::open_in_memory().unwrap();
        tables.execute_batch(tables::PROJECTED).unwrap();
        // 2026-11-23 00:00:00 UTC.
        let now = Now { time: Time(0), wall_ms: 1_795_392_000_000 };
        let mut world = World { state: State::new(), tables, now, reports: BTreeMap::new() };
        for node in 1..=2 {
            let device = |number| Device {
                uuid: DeviceId::new(&format!("GPU-{node}-{number}")).unwrap(),
                model: "NVIDIA H200".into(),
                memory_bytes: 1 << 37,
                pci_bus_id: String::new(),
                withheld: None,
                compute_capability: 90,
                driver_version: String::new(),
            };
            world.send(Input::NodeHello(NodeHello {
                name: NodeName::new(&format!("n{node}")).unwrap(),
                uuid: format!("u{node}"),
                boot_id: "b".into(),
                agent_version: "1".into(),
                inventory: Inventory {
                    milli_cpus: 8_000,
                    memory_bytes: 1 << 34,
                    devices: (0..gpus).map(device).collect(),
                    address: "127.0.0.1".into(),
                    ..Inventory::default()
                },
                leases: Vec::new(),
            }));
        }
        world
    }

    fn pass(&mut self, ms: u64) {
        self.now = Now { time: Time(self.now.time.0 + ms), wall_ms: self.now.wall_ms + ms };
    }

    /// One batch: the input, and what can be placed after it.
    fn send(&mut self, input: Input) {
        let (actor, request_id) = (Actor::new("ada").unwrap(), RequestId::new("r").unwrap());
        let request =
            Request { actor, tenant: Tenant::default(), reach: gangsaw_core::access::Reach::Own, request_id, input };
        let mut projection = Projection::default();
        let mut step = decide(&self.state, self.now.time, &request);
        while !step.events.is_empty() {
            step.events.iter().for_each(|event| projection.fold(&mut self.state, self.now, event));
            step = if self.state.wants_round(self.now.time) {
                place(&self.state, self.now.time)
            } else {
                Default::default()
            };
        }
        let rows = projection.rows(&self.state, self.now);
        self.tables.execute_batch("BEGIN").unwrap();
        rows.iter().for_each(|row| tables::write(&self.tables, row).unwrap());
        self.tables.execute_batch("COMMIT").unwrap();
    }

    fn submit(&mut self, draft: JobDraft) {
        let key = IdempotencyKey::new(&format!("k{}", self.state.counters().job)).unwrap();
        let draft = JobDraft { work: Some(WorkDraft::Shell("true".into())), ..draft };
        self.send(Input::Submit(Submit { key, user: "ada".into(), jobs: vec![JobSpec::try_from(draft).unwrap()] }));
    }

    fn report(&mut self, lease: LeaseId, kinds: Vec<FactKind>) {
        let node = self.state.lease(lease).unwrap().node;
        let seq = self.reports.entry(node).or_default();
        *seq += 1;
        let (seq, facts) = (*seq, kinds.into_iter().map(|kind| Fact { lease, kind }).collect());
        self.send(Input::NodeReport { node, seq, facts });
    }

    fn lease(&self) -> LeaseId {
        self.state.leases().next().unwrap().id
    }

    /// Every row of a query, as `a|b|c`.
    fn rows(&self, sql: &str) -> Vec<String> {
        let mut statement = self.tables.prepare(sql).unwrap();
        let columns = statement.column_count();
        let text = |row: &rusqlite::Row<'_>| {
            let word = |column| match row.get(column)? {
                rusqlite::types::Value::Null => Ok("-".to_owned()),
                rusqlite::types::Value::Integer(number) => Ok(number.to_string()),
                rusqlite::types::Value::Text(text) => Ok(text),
                other @ (rusqlite::types::Value::Real(_) | rusqlite::types::Value::Blob(_)) => panic!("{other:?}"),
            };
            (0..columns).map(word).collect::<rusqlite::Result<Vec<String>>>().map(|words| words.join("|"))
        };
        statement.query_map([], text).unwrap().map(Result::unwrap).collect()
    }
}

fn started(index: u32, rank: u32) -> FactKind {
    FactKind::Started { index, rank, pid: 77, start_ticks: 1, output_dir: String::new(), spawn_us: 1 }
}

fn ended(index: u32, rank: u32, code: i32) -> FactKind {
    let exit = Exit {
        cause: Cause::Exit,
        exit_code: Some(code),
        signal: None,
        detail: String::new(),
        ran_us: 1_000,
        checkpoint: None,
        max_rss_bytes: 0,
    };
    FactKind::Ended { index, rank, exit }
}

fn array(elements: u32) -> JobDraft {
    let ranges = vec![StepRange { first: 0, last: elements - 1, step: 1 }];
    JobDraft { array: Some(ArrayDraft { ranges, running_max: 0 }), ..JobDraft::default() }
}

const ATTEMPTS: &str = "SELECT element, attempt, state, outcome, node, exit_code FROM attempt";

#[test]
fn a_task_alone_has_a_row_while_it_runs_and_afterwards_only_if_it_deviates() {
    let mut w = World::new(0);
    w.submit(JobDraft { retry: RetryDraft { failure: Some(1), ..RetryDraft::default() }, ..JobDraft::default() });
    assert_eq!(w.rows(ATTEMPTS), ["0|1|STARTING|-|n1|-"]);
    w.report(w.lease(), vec![started(0, 0)]);
    assert_eq!(w.rows(ATTEMPTS), ["0|1|RUNNING|-|n1|-"]);
    w.report(w.lease(), vec![ended(0, 0, 3)]);
    assert_eq!(w.rows(ATTEMPTS), ["0|1|ENDED|failed|n1|3"]);
    w.pass(600_000);
    w.send(Input::Tick);
    // A back-off that ends is no event; the round after it is.
    w.submit(JobDraft { hold: true, ..JobDraft::default() });
    assert_eq!(w.rows(ATTEMPTS), ["0|1|ENDED|failed|n1|3", "0|2|STARTING|-|n1|-"]);
    w.report(w.lease(), vec![ended(0, 0, 0)]);
    assert_eq!(w.rows(ATTEMPTS), ["0|1|ENDED|failed|n1|3", "0|2|ENDED|ok|n1|0"]);
    w.submit(JobDraft::default());
    w.report(w.lease(), vec![ended(0, 0, 0)]);
    assert_eq!(w.rows("SELECT job_id FROM attempt WHERE job_id = 3"), [""; 0], "an ordinary success has no row");
    let jobs = "SELECT job_id, state, waiting, active, completed, retries FROM job";
    assert_eq!(w.rows(jobs), ["1|COMPLETED|0|0|1|1", "2|HELD|1|0|0|0", "3|COMPLETED|0|0|1|0"]);
}

#[test]
fn a_cancelled_attempt_is_stopping_and_then_ends() {
    let mut w = World::new(0);
    w.submit(JobDraft::default());
    w.report(w.lease(), vec![started(0, 0)]);
    w.send(Input::Cancel { job: JobId(1), elements: None });
    assert_eq!(w.rows(ATTEMPTS), ["0|1|COMPLETING|-|n1|-"]);
    let FactKind::Ended { exit, .. } = ended(0, 0, 0) else { unreachable!() };
    let exit = Exit { cause: Cause::Revoked, exit_code: None, signal: Some(15), ..exit };
    w.report(w.lease(), vec![FactKind::Ended { index: 0, rank: 0, exit }]);
    assert_eq!(w.rows(ATTEMPTS), ["0|1|ENDED|cancelled|n1|-"]);
    assert_eq!(w.rows("SELECT state, cancelled FROM job"), ["CANCELLED|1"]);
}

#[test]
fn a_gang_is_one_row_and_its_gpus_are_used_until_each_rank_is_gone() {
    let mut w = World::new(4);
    let demands = vec![DemandDraft { milli_cpus: 2_000, gpus: 4, ..DemandDraft::default() }];
    w.submit(JobDraft { replicas: 2, demands, ..JobDraft::default() });
    let row = "SELECT attempt, state, node, nodes, gpus, pid FROM attempt";
    assert_eq!(w.rows(row), ["1|STARTING|n1|2|8|-"]);
    assert_eq!(
        w.rows("SELECT name, milli_cpus_free, gpus, gpus_free, leases FROM node"),
        ["n1|6000|4|0|1", "n2|6000|4|0|1"]
    );
    let leases: Vec<LeaseId> = w.state.leases().map(|lease| lease.id).collect();
    for lease in &leases {
        w.report(*lease, vec![FactKind::Prepared { port: 9_000 }]);
    }
    for (rank, lease) in (0..).zip(&leases) {
        w.report(*lease, vec![started(0, rank)]);
    }
    assert_eq!(w.rows(row), ["1|RUNNING|n1|2|8|77"]);
    w.pass(10_000);
    w.report(leases[1], vec![ended(0, 1, 0)]);
    assert_eq!(w.rows("SELECT name, gpus_free, leases FROM node"), ["n1|0|1", "n2|4|0"]);
    w.pass(5_000);
    w.report(leases[0], vec![ended(0, 0, 0)]);
    assert_eq!(w.rows(row), [""; 0]);
    let usage = "SELECT tenant, queue, user, day, cpu_ms, gpu_ms, attempts_ok, attempts_lost FROM usage";
    // Rank 1 held two cores and four GPUs for 10 s, rank 0 for 15 s.
    assert_eq!(w.rows(usage), ["default|default|ada|2026-11-23|50000|100000|1|0"]);
}

#[test]
fn an_array_that_fails_everywhere_has_no_more_rows_than_the_state_has_records() {
    let mut w = World::new(0);
    w.submit(array(12_000));
    while w.state.job_state(JobId(1)).is_some_and(|state| !crate::wire::terms::is_ended(state)) {
        let lease = w.state.leases().next().unwrap();
        let (id, facts) = (lease.id, (lease.first..=lease.last).map(|index| ended(index, 0, 1)).collect());
        w.report(id, facts);
    }
    assert_eq!(w.rows("SELECT failed FROM job"), ["12000"]);
    let rows = w.rows("SELECT count(*) FROM attempt")[0].parse::<usize>().unwrap();
    assert!((9_000..=10_000).contains(&rows), "{rows}");
    assert_eq!(w.rows("SELECT attempts_ok, attempts_lost FROM usage"), ["0|12000"]);
}

#[test]
fn an_array_that_ends_well_leaves_one_row_a_job_and_none_an_element() {
    let mut w = World::new(0);
    w.submit(array(50_000));
    let next = |w: &World| w.state.leases().next().map(|lease| (lease.id, lease.first, lease.last));
    while let Some((id, first, last)) = next(&w) {
        w.pass(1);
        w.report(id, vec![FactKind::Succeeded { first, last, mean_us: 1_000 }]);
    }
    assert_eq!(w.rows("SELECT state, elements, completed FROM job"), ["COMPLETED|50000|50000"]);
    assert_eq!(w.rows("SELECT count(*) FROM attempt"), ["0"]);
    assert_eq!(w.rows("SELECT attempts_ok, attempts_lost FROM usage"), ["50000|0"]);
    assert_eq!(w.rows("SELECT milli_cpus_free, leases FROM node"), ["8000|0", "8000|0"]);
}

#[test]
fn a_node_that_is_silent_and_then_removed_says_so() {
    let mut w = World::new(0);
    w.pass(7);
    w.send(Input::NodeSilent { node: NodeId(2) });
    let nodes = "SELECT name, mode, silent_wall_ms FROM node";
    assert_eq!(w.rows(nodes), ["n1|active|-", "n2|active|1795392000007"]);
    w.send(Input::ForgetNode { name: NodeName::new("n2").unwrap() });
    assert_eq!(w.rows(nodes), ["n1|active|-"]);
}

#[test]
fn days_are_those_of_the_calendar() {
    let day = |days: u64| render::day(days * 86_400_000 + 86_399_999).to_string();
    assert_eq!([day(0), day(59), day(11_016), day(11_017)], ["1970-01-01", "1970-03-01", "2000-02-29", "2000-03-01"]);
    assert_eq!([day(20_779), day(20_780), day(47_540)], ["2026-11-22", "2026-11-23", "2100-02-28"]);
    assert_eq!(day(47_541), "2100-03-01", "a century is no leap year");
}
