//! What placement costs in the core alone: decide, place and apply over a cluster of nodes without agents.
//!
//! A cluster is filled, its queue is kept long, and then tasks end in small batches: each batch is a report, the round
//! that follows and the folding of all events, as the engine would do it between two appends. Printed are decisions
//! (leases) per second of processor time of the thread, and how long the slowest hundredth of rounds took.

use std::time::Duration;

use anyhow::Context as _;
use gangsaw_core::access::Reach;
use gangsaw_core::apply::apply;
use gangsaw_core::decide::decide;
use gangsaw_core::effect::{Effect, Grant, Step};
use gangsaw_core::event::Event;
use gangsaw_core::id::{Actor, DeviceId, IdempotencyKey, NodeName, RequestId, Tenant};
use gangsaw_core::input::{Fact, FactKind, Input, NodeHello, Request, Submit};
use gangsaw_core::job::draft::{ArrayDraft, DemandDraft, JobDraft, StepRange, WorkDraft};
use gangsaw_core::job::spec::JobSpec;
use gangsaw_core::place::place;
use gangsaw_core::resources::{Device, Inventory};
use gangsaw_core::state::State;
use gangsaw_core::time::Time;

/// Request shapes of the mixed queue.
const SHAPES: u64 = 64;

/// Reports taken before each round, as a batch under load has them.
const BATCH: usize = 8;

/// A cluster and its queue.
#[derive(Clone, Copy, Debug)]
struct Scene {
    name: &'static str,
    nodes: u64,
    cpus: u64,
    gpus: u64,
    jobs: u64,
    /// Each job is a gang of so many ranks now and then.
    gangs: bool,
    /// Elements of an array that is in the queue instead.
    elements: u32,
}

const SCENES: [Scene; 4] = [
    Scene { name: "mixed", nodes: 32, cpus: 64, gpus: 8, jobs: 2_000, gangs: false, elements: 0 },
    Scene { name: "mixed, gangs", nodes: 32, cpus: 64, gpus: 8, jobs: 2_000, gangs: true, elements: 0 },
    Scene { name: "10,000 nodes", nodes: 10_000, cpus: 4, gpus: 1, jobs: 30_000, gangs: false, elements: 0 },
    Scene { name: "array", nodes: 50, cpus: 64, gpus: 0, jobs: 0, gangs: false, elements: 1_000_000 },
];

/// Measures every scene and prints a table.
pub(crate) fn run(only: Option<&str>) -> anyhow::Result<()> {
    println!("| scene | decisions | elements | s | decisions/s | elements/s | round p50 us | p99 us | submit p99 us |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for scene in SCENES.into_iter().filter(|scene| only.is_none_or(|only| scene.name.contains(only))) {
        let mut cluster = Cluster::new(scene)?;
        cluster.fill()?;
        cluster.drain()?;
        cluster.print();
    }
    Ok(())
}

/// Returns the processor time of this thread: the machine's other work does not count.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

struct Cluster {
    scene: Scene,
    state: State,
    now: Time,
    running: Vec<Grant>,
    report: u64,
    decisions: u64,
    elements: u64,
    spent: Duration,
    rounds: Vec<Duration>,
    submits: Vec<Duration>,
}

impl Cluster {
    fn new(scene: Scene) -> anyhow::Result<Self> {
        let mut cluster = Self {
            scene,
            state: State::new(),
            now: Time(1),
            running: Vec::new(),
            report: 0,
            decisions: 0,
            elements: 0,
            spent: Duration::ZERO,
            rounds: Vec::new(),
            submits: Vec::new(),
        };
        for at in 0..scene.nodes {
            cluster.take(Input::NodeHello(hello(scene, at)?))?;
        }
        Ok(cluster)
    }

    /// Decides an input and folds its events.
    fn take(&mut self, input: Input) -> anyhow::Result<()> {
        let (actor, request_id) = (Actor::new("bench")?, RequestId::new("r")?);
        let request = Request { actor, tenant: Tenant::default(), reach: Reach::Cluster, request_id, input };
        let step = decide(&self.state, self.now, &request);
        self.fold(step);
        Ok(())
    }

    fn fold(&mut self, step: Step) {
        for event in &step.events {
            if let Event::ChunkLeased { .. } | Event::GangLeased { .. } = event {
                self.decisions += 1;
            }
            apply(&mut self.state, self.now, event);
        }
        let grants = step.effects.into_iter().filter_map(|effect| match effect {
            Effect::Grant(grant) => Some(grant),
            Effect::Reply { .. }
            | Effect::Start { .. }
            | Effect::Revoke { .. }
            | Effect::Trim { .. }
            | Effect::AckReport { .. } => None,
        });
        self.running.extend(grants);
    }

    fn place(&mut self) {
        let began = cpu();
        while self.state.wants_round(self.now) {
            let step = place(&self.state, self.now);
            if step.events.is_empty() {
                break;
            }
            self.fold(step);
        }
        self.rounds.push(cpu().saturating_sub(began));
    }

    /// Submits the whole queue, one job at a time, each with its round.
    fn fill(&mut self) -> anyhow::Result<()> {
        for at in 0..self.scene.jobs.max(1) {
            let job = JobSpec::try_from(draft(self.scene, at)).map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
            let submit =
                Submit { key: IdempotencyKey::new(&format!("k{at}"))?, user: "bench".to_owned(), jobs: vec![job] };
            self.now = Time(self.now.0 + 1);
            let began = cpu();
            self.take(Input::Submit(submit))?;
            self.place();
            self.submits.push(cpu().saturating_sub(began));
        }
        self.spent = self.submits.iter().sum();
        Ok(())
    }

    /// Ends what runs in batches until nothing is left.
    fn drain(&mut self) -> anyhow::Result<()> {
        let began = cpu();
        let mut next = 0_usize;
        while !self.running.is_empty() {
            self.now = Time(self.now.0 + 1);
            for _ in 0..BATCH.min(self.running.len()) {
                next = next.wrapping_mul(31).wrapping_add(17);
                let at = next % self.running.len();
                let grant = self.running.swap_remove(at);
                self.end(grant)?;
            }
            self.place();
        }
        self.spent += cpu().saturating_sub(began);
        let open = self.state.jobs().filter(|job| job.body.ended_at.is_none()).count();
        anyhow::ensure!(open == 0, "{open} jobs did not end");
        Ok(())
    }

    fn end(&mut self, grant: Grant) -> anyhow::Result<()> {
        self.report += 1;
        let kinds = if grant.gang.is_none() {
            self.elements += u64::from(grant.last - grant.first) + 1;
            vec![FactKind::Succeeded { first: grant.first, last: grant.last, mean_us: 500 }]
        } else {
            self.elements += 1;
            let exit = gangsaw_core::job::record::Exit {
                cause: gangsaw_core::job::record::Cause::Exit,
                exit_code: Some(0),
                signal: None,
                detail: String::new(),
                ran_us: 500,
                checkpoint: None,
                max_rss_bytes: 0,
            };
            let ended = |rank| FactKind::Ended { index: grant.first, rank, exit: exit.clone() };
            std::iter::once(FactKind::Prepared { port: 7_000 })
                .chain(grant.ranks.iter().map(|hold| ended(hold.rank)))
                .collect()
        };
        let facts = kinds.into_iter().map(|kind| Fact { lease: grant.lease, kind }).collect();
        self.take(Input::NodeReport { node: grant.node, seq: self.report, facts })
    }

    fn print(&mut self) {
        let at = |times: &mut Vec<Duration>, share: usize| {
            times.sort_unstable();
            times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).map_or(0, Duration::as_micros)
        };
        let seconds = self.spent.as_secs_f64();
        println!(
            "| {} | {} | {} | {seconds:.2} | {:.0} | {:.0} | {} | {} | {} |",
            self.scene.name,
            self.decisions,
            self.elements,
            self.decisions as f64 / seconds,
            self.elements as f64 / seconds,
            at(&mut self.rounds, 50),
            at(&mut self.rounds, 99),
            at(&mut self.submits, 99),
        );
    }
}

fn hello(scene: Scene, at: u64) -> anyhow::Result<NodeHello> {
    let mut devices = Vec::new();
    for gpu in 0..scene.gpus {
        devices.push(Device {
            uuid: DeviceId::new(&format!("GPU-{at}-{gpu}"))?,
            model: if at.is_multiple_of(4) { "NVIDIA L4" } else { "NVIDIA H200" }.to_owned(),
            memory_bytes: 141 << 30,
            pci_bus_id: format!("0000:{gpu:02x}:00.0"),
            withheld: None,
            compute_capability: 90,
            driver_version: "580".to_owned(),
        });
    }
    Ok(NodeHello {
        name: NodeName::new(&format!("n{at}")).context("a node's name")?,
        uuid: format!("uuid-{at}"),
        boot_id: "boot".to_owned(),
        agent_version: "1".to_owned(),
        inventory: Inventory {
            milli_cpus: scene.cpus * 1_000,
            memory_bytes: 512 << 30,
            devices,
            address: "10.0.0.1".to_owned(),
            ..Inventory::default()
        },
        leases: Vec::new(),
    })
}

/// Returns a job of one of the shapes.
fn draft(scene: Scene, at: u64) -> JobDraft {
    let work = Some(WorkDraft::Argv(vec!["true".to_owned()]));
    if scene.elements > 0 {
        let ranges = vec![StepRange { first: 0, last: scene.elements - 1, step: 1 }];
        return JobDraft { work, array: Some(ArrayDraft { ranges, running_max: 0 }), ..JobDraft::default() };
    }
    let shape = at * 7 % SHAPES;
    let cpus = (1 + shape % 8).min(scene.cpus);
    let gpus = if shape.is_multiple_of(2) { (shape / 8 % 4).min(scene.gpus) } else { 0 };
    let demand = DemandDraft {
        milli_cpus: cpus * 1_000,
        memory_bytes: (1 + shape / 16) << 30,
        gpus: u32::try_from(gpus).unwrap_or(0),
        gpu_model: if gpus > 0 && shape % 16 < 4 { "h200".to_owned() } else { String::new() },
        gpu_memory_bytes: 0,
    };
    let replicas = if scene.gangs && at.is_multiple_of(8) { 4 } else { 0 };
    JobDraft {
        work,
        demands: vec![demand],
        replicas,
        priority: Some(i32::try_from(at % 5).unwrap_or(0)),
        ..JobDraft::default()
    }
}
