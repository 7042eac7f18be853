//! Random runs: nodes that lose messages, reboot, stay silent and report twice, while people change everything.
//!
//! Every step checks every invariant; every run replays to the same rounds, and in the end, when faults stop, the queue
//! empties. A failing seed is printed.

mod agent;

use std::collections::BTreeMap;

use agent::{Agent, Random};

use super::world::*;
use crate::effect::{Effect, Grant};
use crate::event::Event;
use crate::id::*;
use crate::input::*;
use crate::job::draft::*;
use crate::job::spec::DependencyKind;
use crate::lease::{Lease, RevokeReason};
use crate::node::NodeMode;
use crate::owed::owed;
use crate::ranges::RangeSet;
use crate::time::Millis;

struct Run {
    world: World,
    random: Random,
    agents: BTreeMap<u32, Agent>,
    jobs: Vec<JobId>,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self { world: World::new(), random: Random(seed), agents: BTreeMap::new(), jobs: Vec::new() }
    }

    /// Delivers effects, some of them never.
    fn deliver(&mut self, effects: Vec<Effect>, lossy: bool) {
        for effect in effects {
            let node = match &effect {
                Effect::Reply { .. } => continue,
                Effect::Grant(Grant { node, .. })
                | Effect::Start { node, .. }
                | Effect::Revoke { node, .. }
                | Effect::Trim { node, .. }
                | Effect::AckReport { node, .. } => *node,
            };
            let name = self.world.state.node(node).map(|node| node.body.name.as_str().to_owned());
            let number = name.and_then(|name| name[1..].parse().ok());
            if lossy && self.random.percent(10) {
                continue;
            }
            if let Some(agent) = number.and_then(|number: u32| self.agents.get_mut(&number)) {
                agent.take(&effect);
            }
        }
    }

    fn send(&mut self, input: Input, lossy: bool) {
        let effects = self.world.send(input);
        self.deliver(effects, lossy);
    }

    fn hello(&mut self, number: u32, lossy: bool) {
        let agent = self.agents.entry(number).or_default();
        let boot = format!("boot-{}", agent.boots);
        let held = agent.list();
        let (cpus, gpus) = (2 + u64::from(number % 3), number % 3);
        let effects = self.world.hello_boot(number, &boot, inventory(number, cpus, gpus), &held);
        let name = NodeName::new(&format!("n{number}")).unwrap();
        let node = self.world.state.node_id(&name).unwrap();
        let acked = self.world.state.node(node).unwrap().body.acked_report;
        let agent = self.agents.get_mut(&number).unwrap();
        agent.take(&Effect::AckReport { node, seq: acked.min(agent.next_seq) });
        let first = agent.unacked.front().map(|(seq, _)| *seq);
        if first.unwrap_or(agent.next_seq + 1) > acked + 1 {
            agent.renumber(acked);
        }
        self.deliver(effects, lossy);
        let debts = owed(&self.world.state, node, &held);
        self.deliver(debts, lossy);
    }

    fn report(&mut self, number: u32, lossy: bool) {
        let name = NodeName::new(&format!("n{number}")).unwrap();
        let Some(node) = self.world.state.node_id(&name) else { return };
        let agent = self.agents.get_mut(&number).unwrap();
        let again = lossy && self.random.percent(10);
        let Some((seq, facts)) = agent.unacked.front().cloned() else { return };
        self.send(Input::NodeReport { node, seq, facts: facts.clone() }, lossy);
        if again {
            self.send(Input::NodeReport { node, seq, facts }, lossy);
        }
    }

    fn draft(&mut self) -> JobDraft {
        let random = &mut self.random;
        let mut draft = match random.below(6) {
            0 => gang(2 + random.below(3) as u32, 1),
            1 => array(random.below(200) as u32),
            2 => array(random.below(5) as u32),
            3 => needing(1 + random.below(3), 0),
            4 => needing(1, 1 + random.below(2) as u32),
            _ => sleep(),
        };
        if random.percent(20) {
            let gpu = DemandDraft { gpus: 1, ..DemandDraft::default() };
            draft.demands.insert(0, gpu);
            if draft.demands.len() == 1 {
                draft.demands.push(DemandDraft::default());
            }
        }
        if let Some(array) = draft.array.as_mut().filter(|_| random.percent(30)) {
            array.running_max = 1 + random.below(3) as u32;
        }
        draft.priority = Some(random.below(11) as i32 - 5);
        draft.hold = random.percent(10);
        draft.retry.failure = Some(random.below(3) as u32);
        draft.retry.infra = Some(random.below(4) as u32);
        draft.lost_after_ms = Some(60_000);
        draft.requeue_on = if random.percent(20) { vec![2] } else { Vec::new() };
        draft.queue = if random.percent(30) { "other".into() } else { String::new() };
        if let Some(on) = self.jobs.last().filter(|_| random.percent(25)) {
            let kinds = [DependencyKind::Ok, DependencyKind::Any, DependencyKind::Failed];
            let kind = Some(kinds[random.below(3) as usize]);
            draft.after.push(DependencyDraft { kind, job: Some(JobRefDraft::Id(on.0)) });
        }
        draft
    }

    fn people(&mut self) {
        let jobs = self.jobs.len() as u64;
        let some = |run: &mut Run| run.jobs.get(run.random.below(jobs) as usize).copied();
        let Some(job) = some(self) else { return };
        let part = self.random.percent(50).then(|| RangeSet::range(0, self.random.below(10) as u32));
        let input = match self.random.below(10) {
            0 | 1 => Input::Cancel { job, elements: part },
            2 => Input::Hold { job },
            3 => Input::Release { job },
            4 => Input::Retry { job, elements: part },
            5 => Input::Update {
                job,
                priority: Some(self.random.below(7) as i32),
                queue: self.random.percent(50).then(|| QueueName::new("other").unwrap()),
                time_limit: None,
            },
            6 => Input::SetTenant {
                name: Tenant::default(),
                running_max: Change::Set(self.random.below(7)),
                queued_max: Change::Keep,
                gpus_max: Change::Set(self.random.below(4)),
            },
            7 => Input::SetTenant {
                name: Tenant::default(),
                running_max: Change::Unlimited,
                queued_max: Change::Keep,
                gpus_max: Change::Unlimited,
            },
            8 => Input::SetQueue {
                name: QueueName::default(),
                running_max: Change::Set(self.random.below(5)),
                queued_max: Change::Keep,
                gpus_max: Change::Set(self.random.below(3)),
            },
            _ => Input::SetQueue {
                name: QueueName::default(),
                running_max: Change::Unlimited,
                queued_max: Change::Keep,
                gpus_max: Change::Unlimited,
            },
        };
        self.send(input, true);
    }

    fn operators(&mut self, number: u32) {
        let name = NodeName::new(&format!("n{number}")).unwrap();
        let node = self.world.state.node_id(&name);
        match (self.random.below(10), node) {
            (0 | 1, Some(node)) => self.send(Input::NodeSilent { node }, true),
            (2, Some(_)) => self.send(Input::ForgetNode { name }, true),
            (3 | 4, Some(_)) => {
                let modes = [NodeMode::Active, NodeMode::Cordoned, NodeMode::Draining];
                let mode = modes[self.random.below(3) as usize];
                let evicts = mode == NodeMode::Draining && self.random.percent(60);
                let evict_after = evicts.then(|| Millis(self.random.below(3) * 20_000));
                self.send(Input::SetNode { name, mode, reason: "test".into(), evict_after }, true);
            }
            (5, Some(node)) => {
                let inventory = inventory(number, 1 + self.random.below(4), number % 3);
                self.send(Input::NodeInventory { node, inventory }, true);
            }
            (6, _) => {
                self.agents.entry(number).or_default().reboot();
                self.hello(number, true);
            }
            (_, _) => self.hello(number, true),
        }
    }

    fn step(&mut self) {
        let number = 1 + self.random.below(4) as u32;
        match self.random.below(100) {
            0..12 => {
                let draft = self.draft();
                let reply = self.world.submit(vec![draft]);
                let effects = std::mem::take(&mut self.world.effects);
                self.deliver(effects, true);
                if let crate::effect::Reply::Submitted { jobs, .. } = reply {
                    self.jobs.extend(jobs);
                }
            }
            12..20 => self.people(),
            20..28 => self.operators(number),
            28..36 => {
                self.world.now = self.world.now + crate::time::Millis(self.random.below(20_000));
                self.send(Input::Tick, true);
            }
            36..70 => {
                if let Some(agent) = self.agents.get_mut(&number) {
                    agent.work(&mut self.random, true);
                }
            }
            _ => {
                if self.agents.contains_key(&number) {
                    self.report(number, true);
                }
            }
        }
        self.world.effects.clear();
        self.check_owed();
    }

    /// What `owed` derives is what was issued and not confirmed: for a node that has got nothing, and for one that has
    /// got every grant and nothing since.
    fn check_owed(&self) {
        let state = &self.world.state;
        for node in state.nodes() {
            let leases: Vec<_> = node.leases.iter().filter_map(|lease| state.lease(*lease)).collect();
            let phase = |gang: bool| if gang { Phase::Prepared } else { Phase::Running };
            let all: Vec<_> = leases.iter().map(|lease| held(lease.id.0, phase(lease.gang.is_some()))).collect();
            let nothing = owed(state, node.body.id, &[]);
            let behind = owed(state, node.body.id, &all);
            let acked = (node.body.acked_report > 0)
                .then_some(Effect::AckReport { node: node.body.id, seq: node.body.acked_report });
            let mut unconfirmed: Vec<Effect> = acked.clone().into_iter().collect();
            let mut undelivered: Vec<Effect> = acked.into_iter().collect();
            for lease in leases {
                let issued = &self.world.issued[&lease.id];
                unconfirmed.extend(outstanding(lease, issued));
                let grant = issued.iter().find(|effect| matches!(effect, Effect::Grant(_)));
                if !lease.fenced {
                    undelivered.extend(grant.filter(|_| !lease.begun).cloned());
                    let after = outstanding(lease, issued).into_iter();
                    undelivered.extend(after.filter(|effect| !matches!(effect, Effect::Start { .. })));
                }
            }
            assert_eq!(behind, unconfirmed);
            assert_eq!(nothing, undelivered);
        }
    }

    /// Faults stop: everything that was accepted comes to its end.
    fn settle(&mut self) {
        for key in ["default", "other"] {
            let name = QueueName::new(key).unwrap();
            let free = Change::Unlimited;
            self.send(Input::SetQueue { name, running_max: free, queued_max: free, gpus_max: free }, false);
        }
        let (name, free) = (Tenant::default(), Change::Unlimited);
        self.send(Input::SetTenant { name, running_max: free, queued_max: free, gpus_max: free }, false);
        for job in self.jobs.clone() {
            self.send(Input::Release { job }, false);
        }
        for number in 1..=4 {
            self.hello(number, false);
            let name = NodeName::new(&format!("n{number}")).unwrap();
            self.send(Input::SetNode { name, mode: NodeMode::Active, reason: String::new(), evict_after: None }, false);
        }
        for turn in 0..3_000 {
            let state = &self.world.state;
            let open = state.jobs().filter(|job| job.body.ended_at.is_none()).count();
            if open == 0 && state.leases().next().is_none() {
                return;
            }
            let wake = state.next_wake().filter(|wake| *wake > self.world.now);
            if let Some(wake) = wake.filter(|_| turn % 20 == 0) {
                self.world.now = wake;
            }
            self.send(Input::Tick, false);
            for number in 1..=4 {
                if turn % 50 == 0 {
                    self.hello(number, false);
                }
                self.agents.get_mut(&number).unwrap().work(&mut self.random, false);
                self.report(number, false);
                self.world.effects.clear();
            }
        }
        let stuck: Vec<_> = self.world.state.jobs().filter(|job| job.body.ended_at.is_none()).collect();
        let stuck: Vec<_> = stuck.iter().map(|job| (job.body.id, self.world.reasons(job.body.id))).collect();
        let leases: Vec<_> = self.world.state.leases().collect();
        panic!("the queue does not empty: {stuck:?} {leases:#?}");
    }
}

/// Returns what was issued about a lease after its grant, and is not confirmed.
fn outstanding(lease: &Lease, issued: &[Effect]) -> Vec<Effect> {
    let start = issued.iter().find(|effect| matches!(effect, Effect::Start { .. }));
    let trim = issued.iter().find(|effect| matches!(effect, Effect::Trim { .. }));
    let mut revoked = RangeSet::new();
    let mut why = None;
    for effect in issued {
        if let Effect::Revoke { reason, elements, .. } = effect {
            let elements = if elements.is_empty() { &lease.live } else { elements };
            revoked.extend(&elements.intersection(&lease.live));
            why = Some(*reason).filter(|_| why != Some(RevokeReason::Fenced)).or(why);
        }
    }
    let fenced = why == Some(RevokeReason::Fenced);
    let mut effects: Vec<Effect> = start.filter(|_| !fenced).cloned().into_iter().collect();
    if let Some(reason) = why {
        let elements = if fenced || revoked == lease.live { RangeSet::new() } else { revoked };
        effects.push(Effect::Revoke { node: lease.node, lease: lease.id, reason, elements });
    }
    effects.extend(trim.filter(|_| !fenced && lease.has_unstarted()).cloned());
    effects
}

/// Returns what an event is called.
fn name(event: &Event) -> String {
    let text = format!("{event:?}");
    text.split([' ', '(']).next().unwrap_or_default().to_owned()
}

/// Runs a seed and returns how often each event occurred.
fn run(seed: u64, steps: usize) -> BTreeMap<String, u64> {
    let result = std::panic::catch_unwind(|| {
        let mut run = Run::new(seed);
        (1..=3).for_each(|number| run.hello(number, false));
        for _ in 0..steps {
            run.step();
        }
        run.world.replays();
        run.world.deep = false;
        run.settle();
        run.world.replays();
        let mut counts = BTreeMap::new();
        run.world.log.iter().for_each(|record| *counts.entry(name(&record.event)).or_default() += 1);
        counts
    });
    result.unwrap_or_else(|panic| {
        eprintln!("seed {seed} of {steps} steps fails");
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn whatever_happens_the_invariants_hold_and_the_queue_empties() {
    let seeds = std::env::var("GANGSAW_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(60);
    let first = std::env::var("GANGSAW_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for seed in first..first + seeds {
        run(seed, 300).into_iter().for_each(|(name, count)| *counts.entry(name).or_default() += count);
    }
    println!("{counts:#?}");
    // Restored is in snapshots, which every step folds; old keys and jobs need days.
    assert!(counts.len() >= 28, "some event never occurred: {counts:?}");
}
