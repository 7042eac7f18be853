//! The world of a test: one scheduler's core, nodes that report what the test says, and a trace of all that happened.
//!
//! After every step the invariants are checked, the incremental round is compared with the one from scratch, and the
//! snapshot's fold with the state.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::apply::{apply, snapshot_events};
use crate::check::{History, Unseen, check};
use crate::decide::decide;
use crate::effect::{Effect, Reply, Step};
use crate::event::{Event, NoticeChange, Record};
use crate::id::*;
use crate::input::*;
use crate::job::draft::{DemandDraft, JobDraft, WorkDraft};
use crate::job::record::{Cause, Exit};
use crate::job::spec::JobSpec;
use crate::place::{place, replay, solve::solve};
use crate::resources::{Device, Inventory};
use crate::state::State;
use crate::time::Time;

pub(super) struct World {
    pub(super) state: State,
    pub(super) now: Time,
    pub(super) log: Vec<Record>,
    pub(super) effects: Vec<Effect>,
    pub(super) trace: String,
    pub(super) seqs: BTreeMap<NodeId, u64>,
    pub(super) deep: bool,
    /// Every effect about a lease that was ever issued.
    pub(super) issued: BTreeMap<LeaseId, Vec<Effect>>,
    history: History,
    keys: u32,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            state: State::new(),
            now: Time::ZERO,
            log: Vec::new(),
            effects: Vec::new(),
            trace: String::new(),
            seqs: BTreeMap::new(),
            deep: true,
            issued: BTreeMap::new(),
            history: History::default(),
            keys: 0,
        }
    }

    /// A world with nodes of so many cores and GPUs, 64 GiB each.
    pub(super) fn with_nodes(nodes: &[(u64, u32)]) -> Self {
        let mut world = World::new();
        for (at, (cpus, gpus)) in nodes.iter().enumerate() {
            world.hello(at as u32 + 1, inventory(at as u32 + 1, *cpus, *gpus), &[]);
        }
        world.trace.clear();
        world
    }

    pub(super) fn at(&mut self, seconds: u64) -> &mut Self {
        assert!(Time(seconds * 1_000) >= self.now, "time goes on");
        self.now = Time(seconds * 1_000);
        self
    }

    pub(super) fn hello(&mut self, node: u32, inventory: Inventory, leases: &[HeldLease]) -> Vec<Effect> {
        self.hello_boot(node, "boot", inventory, leases)
    }

    pub(super) fn hello_boot(
        &mut self,
        node: u32,
        boot: &str,
        inventory: Inventory,
        leases: &[HeldLease],
    ) -> Vec<Effect> {
        let hello = NodeHello {
            name: NodeName::new(&format!("n{node}")).unwrap(),
            uuid: format!("uuid-{node}"),
            boot_id: boot.into(),
            agent_version: "1".into(),
            inventory,
            leases: leases.to_vec(),
        };
        self.send(Input::NodeHello(hello))
    }

    fn request(&self, input: Input) -> Request {
        Request {
            actor: Actor::new("tester").unwrap(),
            tenant: Tenant::default(),
            reach: crate::access::Reach::Tenant,
            request_id: RequestId::new("r").unwrap(),
            input,
        }
    }

    pub(super) fn send(&mut self, input: Input) -> Vec<Effect> {
        let request = self.request(input);
        let step = decide(&self.state, self.now, &request);
        let mut effects = self.take(step);
        effects.extend(self.rounds());
        self.effects.extend(effects.iter().cloned());
        self.verify();
        effects
    }

    /// Runs placement until nothing is left to decide.
    pub(super) fn rounds(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        for _ in 0..1_000 {
            let scratch = solve(&self.state, self.now, true);
            let wanted = self.state.wants_round(self.now);
            let step = place(&self.state, self.now);
            let incremental = solve(&self.state, self.now, false);
            if incremental != scratch {
                let lines: Vec<&str> = self.trace.lines().collect();
                eprintln!("{}", lines[lines.len().saturating_sub(120)..].join("\n"));
                eprintln!("{:#?}", self.state.index.lines);
            }
            assert_eq!(incremental, scratch, "the incremental round decides what the one from scratch does");
            assert!(wanted || step.events.is_empty(), "a round that nobody wanted decided something");
            if step.events.is_empty() {
                return effects;
            }
            effects.extend(self.take(step));
        }
        panic!("placement does not come to rest");
    }

    pub(super) fn take(&mut self, step: Step) -> Vec<Effect> {
        for event in step.events {
            apply(&mut self.state, self.now, &event);
            writeln!(self.trace, "{} {}", self.now, brief(&event)).unwrap();
            let seq = self.log.len() as u64 + 1;
            let record = Record { seq, at: self.now, wall_ms: 0, event };
            self.history.observe(&record, &Unseen).unwrap();
            self.log.push(record);
        }
        for effect in &step.effects {
            if let Some(lease) = lease_of(effect) {
                self.issued.entry(lease).or_default().push(effect.clone());
            }
            writeln!(self.trace, "    → {}", brief_effect(effect)).unwrap();
        }
        step.effects
    }

    fn verify(&mut self) {
        check(&self.state).unwrap();
        if !self.deep {
            return;
        }
        let mut folded = State::new();
        for event in snapshot_events(&self.state) {
            apply(&mut folded, self.state.now(), &event);
        }
        assert!(folded.same_as(&self.state), "a snapshot's fold is the state");
    }

    /// Every recorded round comes out the same.
    pub(super) fn replays(&self) {
        assert_eq!(replay(State::new(), &self.log), []);
    }

    pub(super) fn submit(&mut self, jobs: Vec<JobDraft>) -> Reply {
        self.keys += 1;
        let key = format!("k{}", self.keys);
        self.submit_as(&key, jobs)
    }

    pub(super) fn submit_as(&mut self, key: &str, jobs: Vec<JobDraft>) -> Reply {
        let jobs = jobs.into_iter().map(|job| JobSpec::try_from(job).unwrap()).collect();
        let key = IdempotencyKey::new(key).unwrap();
        let effects = self.send(Input::Submit(Submit { key, user: "ada".into(), jobs }));
        match effects.into_iter().next() {
            Some(Effect::Reply { reply, .. }) => reply,
            other => panic!("a submit is answered, not {other:?}"),
        }
    }

    pub(super) fn job(&mut self, draft: JobDraft) -> JobId {
        let reply = self.submit(vec![draft]);
        let Reply::Submitted { jobs, .. } = reply else { panic!("{reply:?}") };
        jobs[0]
    }

    pub(super) fn report(&mut self, node: u32, facts: &[(u64, FactKind)]) -> Vec<Effect> {
        let node = NodeId(node);
        let seq = self.seqs.entry(node).or_default();
        *seq += 1;
        let seq = *seq;
        let facts = facts.iter().map(|(lease, kind)| Fact { lease: LeaseId(*lease), kind: kind.clone() }).collect();
        self.send(Input::NodeReport { node, seq, facts })
    }

    /// Reports without checking the whole state afterwards, for runs that are large.
    pub(super) fn report_unchecked(&mut self, node: u32, facts: &[(u64, FactKind)]) {
        let seq = self.seqs.entry(NodeId(node)).or_default();
        *seq += 1;
        let seq = *seq;
        let facts = facts.iter().map(|(lease, kind)| Fact { lease: LeaseId(*lease), kind: kind.clone() }).collect();
        let request = self.request(Input::NodeReport { node: NodeId(node), seq, facts });
        let step = decide(&self.state, self.now, &request);
        self.take(step);
        for _ in 0..1_000 {
            let step = place(&self.state, self.now);
            if step.events.is_empty() {
                return;
            }
            self.take(step);
        }
    }

    pub(super) fn tick(&mut self) -> Vec<Effect> {
        self.send(Input::Tick)
    }

    /// Gives the trace so far and begins a new one.
    pub(super) fn told(&mut self) -> String {
        std::mem::take(&mut self.trace)
    }

    pub(super) fn states(&self, job: JobId) -> String {
        let counts = self.state.element_counts(job);
        let job_state = self.state.job_state(job).unwrap();
        format!("{job_state:?} {counts:?}")
    }

    pub(super) fn reasons(&self, job: JobId) -> Vec<String> {
        let reasons = self.state.wait_reasons(job, self.now);
        reasons.iter().map(|reason| format!("{}: {reason}", reason.code())).collect()
    }
}

pub(super) fn inventory(node: u32, cpus: u64, gpus: u32) -> Inventory {
    let device = |at| Device {
        uuid: DeviceId::new(&format!("GPU-{node}-{at}")).unwrap(),
        model: "NVIDIA H200".into(),
        memory_bytes: 141 << 30,
        pci_bus_id: format!("0000:{at:02x}:00.0"),
        withheld: None,
        compute_capability: 90,
        driver_version: "580".into(),
    };
    Inventory {
        milli_cpus: cpus * 1_000,
        memory_bytes: 64 << 30,
        devices: (0..gpus).map(device).collect(),
        address: format!("10.0.0.{node}"),
        ..Inventory::default()
    }
}

pub(super) fn sleep() -> JobDraft {
    JobDraft { work: Some(WorkDraft::Argv(vec!["sleep".into(), "1".into()])), ..JobDraft::default() }
}

pub(super) fn needing(cpus: u64, gpus: u32) -> JobDraft {
    JobDraft { demands: vec![DemandDraft { milli_cpus: cpus * 1_000, gpus, ..DemandDraft::default() }], ..sleep() }
}

pub(super) fn array(last: u32) -> JobDraft {
    let range = crate::job::draft::StepRange { first: 0, last, step: 1 };
    let array = crate::job::draft::ArrayDraft { ranges: vec![range], running_max: 0 };
    JobDraft { array: Some(array), ..sleep() }
}

pub(super) fn gang(replicas: u32, cpus: u64) -> JobDraft {
    JobDraft { replicas, ..needing(cpus, 0) }
}

pub(super) fn exit(cause: Cause, exit_code: Option<i32>) -> Exit {
    Exit {
        cause,
        exit_code,
        signal: None,
        detail: String::new(),
        ran_us: 1_000_000,
        checkpoint: None,
        max_rss_bytes: 0,
    }
}

pub(super) fn ended(index: u32, rank: u32, code: i32) -> FactKind {
    FactKind::Ended { index, rank, exit: exit(Cause::Exit, Some(code)) }
}

pub(super) fn ended_by(index: u32, rank: u32, cause: Cause) -> FactKind {
    FactKind::Ended { index, rank, exit: exit(cause, None) }
}

pub(super) fn started(index: u32, rank: u32) -> FactKind {
    FactKind::Started { index, rank, pid: 100 + rank, start_ticks: 1, output_dir: "/out".into(), spawn_us: 900 }
}

pub(super) fn held(lease: u64, phase: Phase) -> HeldLease {
    HeldLease { lease: LeaseId(lease), phase, last_index: 0 }
}

pub(super) fn brief(event: &Event) -> String {
    match event {
        Event::JobsSubmitted { jobs, .. } => {
            format!("submitted {:?}", jobs.iter().map(|job| job.id.0).collect::<Vec<_>>())
        }
        Event::JobCancelled { job, elements, cause, .. } => format!("cancelled {job}[{}] {cause:?}", ranges(elements)),
        Event::ElementsRetried { job, elements, .. } => format!("retried {job}[{}]", ranges(elements)),
        Event::RoundDecided { round, decisions, .. } => format!("round {round} decided {decisions}"),
        Event::ChunkLeased { lease, job, first, last, attempt, node, slots, alternative, hold, .. } => {
            let gpus: Vec<&str> = hold.gpu_uuids.iter().map(DeviceId::as_str).collect();
            format!(
                "leased L{lease} {job}[{first}-{last}] attempt {attempt} n{node} slots {slots} alt {alternative} {gpus:?}"
            )
        }
        Event::GangLeased { job, index, attempt, parts, .. } => {
            let parts: Vec<String> =
                parts.iter().map(|part| format!("L{}:n{}×{}", part.lease, part.node, part.ranks.len())).collect();
            format!("gang {job}[{index}] attempt {attempt} {}", parts.join(" "))
        }
        Event::LeasePrepared { lease, .. } => format!("prepared L{lease}"),
        Event::GangStarted { job, index, master } => {
            format!("gang {job}[{index}] started {}:{}", master.address, master.port)
        }
        Event::TaskStarted { lease, job, index, rank, .. } => format!("started L{lease} {job}[{index}].{rank}"),
        Event::ElementsSucceeded { lease, job, first, last, .. } => format!("succeeded L{lease} {job}[{first}-{last}]"),
        Event::RankEnded { lease, rank, exit, .. } => {
            format!("rank L{lease}.{rank} ended {:?} {:?}", exit.cause, exit.exit_code)
        }
        Event::GangStopping { job, index, outcome, .. } => format!("gang {job}[{index}] stopping {outcome:?}"),
        Event::AttemptEnded { job, index, attempt, outcome, next, .. } => {
            format!("ended {job}[{index}] attempt {attempt} {outcome:?} then {next:?}")
        }
        Event::ElementsReturned { lease, job, first, last } => format!("returned L{lease} {job}[{first}-{last}]"),
        Event::LeaseTrimmed { lease, .. } => format!("trimmed L{lease}"),
        Event::LeaseFenced { lease, .. } => format!("fenced L{lease}"),
        Event::FenceConfirmed { lease, first, last, rank, .. } => {
            format!("fence of L{lease} confirmed {first}-{last} {rank:?}")
        }
        Event::NodeExcluded { job, node, until, reason } => {
            format!("job {job} kept from n{node} until {until}: {reason}")
        }
        Event::ReportTaken { node, seq } => format!("report {seq} of n{node}"),
        Event::NodeModeSet { node, mode, .. } => format!("n{node} is {mode:?}"),
        Event::NodeEvicted(node) => format!("n{node} is evicted"),
        Event::NodeClearing { node, leases } => {
            format!("n{node} clears {:?}", leases.iter().map(|lease| lease.0).collect::<Vec<_>>())
        }
        Event::LeasePreempted { lease, .. } => format!("preempted L{lease}"),
        Event::NodeSilenced(node) => format!("n{node} is silent"),
        Event::NodeReturned { node, .. } => format!("n{node} is back"),
        Event::NodeForgotten { node, .. } => format!("n{node} is forgotten"),
        Event::NodeRegistered { node, .. } => format!("n{node} is registered"),
        Event::NodeInventoryChanged { node, .. } => format!("n{node} owns something else"),
        Event::JobHeld { job, .. } => format!("held {job}"),
        Event::JobReleased { job, .. } => format!("released {job}"),
        Event::JobUpdated { job, .. } => format!("updated {job}"),
        Event::Notice { job, tries, change } => match change {
            NoticeChange::Sent => format!("told of {job} in {tries}"),
            NoticeChange::Failed { not_before, why } => {
                format!("told nobody of {job} in {tries}: {why}; again at {not_before}")
            }
            NoticeChange::GivenUp { why } => format!("tells nobody of {job} after {tries}: {why}"),
        },
        Event::JobForgotten(job) => format!("forgot job {job}"),
        Event::KeysExpired(used_until) => format!("keys until {used_until} expired"),
        Event::QueueSet { queue, limits, .. } => format!("queue {} {limits:?}", queue.name),
        Event::Join(join) => format!("join {join:?}"),
        Event::Token(change) => format!("{change:?}"),
        Event::ClusterRestored(raised) => format!("cluster restored {}", raised.epoch),
        Event::TenantSet { tenant, limits, .. } => format!("tenant {tenant} {limits:?}"),
        Event::Restored(_) => "restored".into(),
    }
}

fn brief_effect(effect: &Effect) -> String {
    match effect {
        Effect::Reply { reply, .. } => format!("reply {reply:?}"),
        Effect::Grant(grant) => {
            format!(
                "grant L{} to n{}: {}[{}-{}] attempt {}",
                grant.lease, grant.node, grant.job, grant.first, grant.last, grant.attempt
            )
        }
        Effect::Start { node, lease, master_addr, master_port } => {
            format!("start L{lease} on n{node} {master_addr}:{master_port}")
        }
        Effect::Revoke { node, lease, reason, elements } => {
            format!("revoke L{lease} on n{node} {reason:?} [{}]", ranges(elements))
        }
        Effect::Trim { node, lease } => format!("trim L{lease} on n{node}"),
        Effect::AckReport { node, seq } => format!("ack {seq} to n{node}"),
    }
}

fn lease_of(effect: &Effect) -> Option<LeaseId> {
    match effect {
        Effect::Grant(grant) => Some(grant.lease),
        Effect::Start { lease, .. } | Effect::Revoke { lease, .. } | Effect::Trim { lease, .. } => Some(*lease),
        Effect::Reply { .. } | Effect::AckReport { .. } => None,
    }
}

fn ranges(set: &crate::ranges::RangeSet) -> String {
    set.iter().map(|range| format!("{}-{}", range.first, range.last)).collect::<Vec<_>>().join(",")
}
