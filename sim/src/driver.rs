//! The people: random requests while chaos lasts, and the tidying after it.
//!
//! A request may be lost, repeated, or lose its answer; a client then asks again, a submit under the same key. What an
//! answer promises is checked at once: it must be in the log already.

mod joins;

use std::collections::BTreeMap;

use gangsaw_core::agent;
use gangsaw_core::effect::{RefusalKind, Reply};
use gangsaw_core::id::{IdempotencyKey, JobId, NodeName, QueueName, Tenant};
use gangsaw_core::input::{Change, Input, Submit};
use gangsaw_core::job::spec::JobSpec;
use gangsaw_core::node::NodeMode;
use gangsaw_core::ranges::RangeSet;
use gangsaw_core::time::Millis;

use crate::faults::Fault;
use crate::jobs;
use crate::net::Up;
use crate::node::Node;
use crate::scheduler::Asker;
use crate::world::{Happening, World};

/// A client waits so long for an answer before it asks again.
const PATIENCE_MS: u64 = 4_000;
/// And so often.
const TRIES_MAX: u32 = 10;
/// The queues that jobs are submitted to.
const QUEUES: [&str; 3] = ["default", "blue", "green"];
/// Nothing is submitted while more elements wait: a run is to see ends, not only a queue.
const OPEN_MAX: u64 = 60;
/// The tidying looks again after so long.
const TIDY_MS: u64 = 15_000;

/// Whether a client's requests may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Careless,
    Careful,
}

#[derive(Clone, Debug)]
struct Call {
    client: Client,
    tenant: Tenant,
    input: Input,
    tries: u32,
}

/// What the clients know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clients {
    calls: BTreeMap<u64, Call>,
    made: u64,
    keys: u64,
    /// Tokens that were asked for.
    tokens: u64,
    /// Submits that may be sent again.
    sent: Vec<(Tenant, Submit)>,
    /// Jobs that were acknowledged.
    pub(crate) acked: Vec<JobId>,
    /// Those that no machine could ever run, accepted while no node was registered.
    hopeless: Vec<(Tenant, JobId)>,
}

impl World {
    /// Asks for something random, and plans the next.
    pub(crate) fn on_work(&mut self) {
        if !self.chaos {
            return;
        }
        match self.rng.below(1_000) {
            0..=399 if self.history.open() < OPEN_MAX => self.submit(),
            0..=439 => self.submit_again(),
            440..=449 => self.submit_other_payload(),
            450..=569 => self.cancel(),
            570..=629 => self.hold_or_release(),
            630..=689 => self.retry(),
            690..=739 => self.update(),
            740..=839 => self.set_node(),
            840..=846 => {
                if self.forget_alive() {
                    self.counters.fault(Fault::ForgottenAlive);
                }
            }
            847..=859 => self.forget_node(),
            860..=909 => self.set_queue(),
            910..=929 => self.set_tenant(),
            930..=939 => self.stop_tasks(),
            940..=959 => self.compact(),
            960..=969 => self.change_tokens(),
            970..=979 => self.change_joins(),
            _ => self.ask_nonsense(),
        }
        let pause = self.rng.range(1, 2 * self.work_pause_ms);
        self.queue.add(self.quiet_until.max(self.now) + pause, Happening::Work);
    }

    fn tenant(&mut self) -> Tenant {
        if self.rng.permille(100) { Tenant::new("other").unwrap_or_default() } else { Tenant::default() }
    }

    fn submit(&mut self) {
        let earlier: Vec<JobId> = self.clients.acked.iter().rev().take(8).copied().collect();
        let drafts = if self.rng.permille(200) {
            jobs::chain(&mut self.rng, self.size, &QUEUES, &earlier)
        } else {
            vec![jobs::draft(&mut self.rng, self.size, &QUEUES)]
        };
        let jobs: Result<Vec<JobSpec>, _> = drafts.into_iter().map(JobSpec::try_from).collect();
        let jobs = match jobs {
            Ok(jobs) => jobs,
            Err(faults) => return self.fail(format!("a job that should be valid is not: {faults:?}")),
        };
        self.clients.keys += 1;
        let Ok(key) = IdempotencyKey::new(&format!("key-{}", self.clients.keys)) else { return };
        let tenant = self.tenant();
        let submit = Submit { key, user: String::from("ada"), jobs };
        self.clients.sent.push((tenant.clone(), submit.clone()));
        self.call(Client::Careless, tenant, Input::Submit(submit));
    }

    fn submit_again(&mut self) {
        if let Some((tenant, submit)) = self.rng.pick(&self.clients.sent) {
            self.call(Client::Careless, tenant, Input::Submit(submit));
        }
    }

    fn submit_other_payload(&mut self) {
        let Some((tenant, mut submit)) = self.rng.pick(&self.clients.sent) else { return };
        submit.jobs.truncate(1);
        if let Some(job) = submit.jobs.first_mut() {
            job.priority = 777;
            job.after.clear();
        }
        self.call(Client::Careless, tenant, Input::Submit(submit));
    }

    fn job(&mut self) -> Option<JobId> {
        let recent = self.clients.acked.len().saturating_sub(24);
        let from = if self.rng.permille(800) { recent } else { 0 };
        self.rng.pick(&self.clients.acked[from..])
    }

    fn elements(&mut self) -> Option<RangeSet> {
        self.rng.permille(500).then(|| {
            let first = u32::try_from(self.rng.below(10)).unwrap_or(0);
            RangeSet::range(first, first + u32::try_from(self.rng.below(5)).unwrap_or(0))
        })
    }

    fn about_job(&mut self, input: impl FnOnce(&mut Self, JobId) -> Input) {
        if let Some(job) = self.job() {
            let input = input(self, job);
            self.call(Client::Careless, Tenant::default(), input);
        }
    }

    fn cancel(&mut self) {
        self.about_job(|world, job| Input::Cancel { job, elements: world.elements() });
    }

    fn hold_or_release(&mut self) {
        self.about_job(|world, job| if world.rng.permille(500) { Input::Hold { job } } else { Input::Release { job } });
    }

    fn retry(&mut self) {
        self.about_job(|world, job| Input::Retry { job, elements: world.elements() });
    }

    fn update(&mut self) {
        self.about_job(|world, job| {
            let priority = world.rng.permille(500).then(|| i32::try_from(world.rng.below(500)).unwrap_or(0));
            let queue = world.rng.permille(300).then(|| QueueName::new("blue").unwrap_or_default());
            let time_limit = world.rng.permille(300).then_some(Millis(30_000));
            Input::Update { job, priority, queue, time_limit }
        });
    }

    fn node_name(&mut self) -> Option<NodeName> {
        let names: Vec<NodeName> = self.nodes.iter().map(|node| node.name.clone()).collect();
        self.rng.pick(&names)
    }

    fn set_node(&mut self) {
        let Some(name) = self.node_name() else { return };
        let modes = [NodeMode::Active, NodeMode::Active, NodeMode::Cordoned, NodeMode::Draining];
        let mode = self.rng.pick(&modes).unwrap_or(NodeMode::Active);
        let reason = String::from("works on it");
        let evicts = mode == NodeMode::Draining && self.rng.permille(500);
        let evict_after = evicts.then(|| Millis(self.rng.pick(&[0, 2_000, 30_000]).unwrap_or(0)));
        self.call(Client::Careless, Tenant::default(), Input::SetNode { name, mode, reason, evict_after });
    }

    fn forget_node(&mut self) {
        // A node can only be removed while it is silent: mostly this is refused, so silent ones are preferred.
        let silent: Vec<NodeName> = self.scheduler.as_ref().map_or_else(Vec::new, |scheduler| {
            let nodes = scheduler.state.nodes().filter(|node| !node.connected());
            nodes.map(|node| node.body.name.clone()).collect()
        });
        // A cluster without a node takes any job, and what no node can ever run would wait for ever.
        let some_left = self.scheduler.as_ref().is_some_and(|scheduler| scheduler.state.nodes().count() > 1);
        if let Some(name) = self.rng.pick(&silent).or_else(|| self.node_name()).filter(|_| some_left) {
            self.call(Client::Careless, Tenant::default(), Input::ForgetNode { name });
        }
    }

    pub(crate) fn forget(&mut self, at: usize) {
        let name = self.nodes[at].name.clone();
        self.call(Client::Careless, Tenant::default(), Input::ForgetNode { name });
    }

    fn set_queue(&mut self) {
        let Some(name) = self.rng.pick(&QUEUES).and_then(|name| QueueName::new(name).ok()) else { return };
        let mut change = |most: u64| match self.rng.below(3) {
            0 => Change::Keep,
            1 => Change::Unlimited,
            _ => Change::Set(self.rng.below(most)),
        };
        let input = Input::SetQueue { name, running_max: change(6), queued_max: change(400), gpus_max: change(4) };
        self.call(Client::Careless, Tenant::default(), input);
    }

    fn set_tenant(&mut self) {
        let name = self.tenant();
        let mut change = |most: u64| match self.rng.below(3) {
            0 => Change::Keep,
            1 => Change::Unlimited,
            _ => Change::Set(self.rng.below(most)),
        };
        let input = Input::SetTenant { name, running_max: change(9), queued_max: change(500), gpus_max: change(5) };
        self.call(Client::Careless, Tenant::default(), input);
    }

    fn stop_tasks(&mut self) {
        let at = usize::try_from(self.rng.below(self.nodes.len() as u64)).unwrap_or(0);
        if self.nodes[at].agent.as_ref().is_some_and(|agent| agent.paused_until <= self.now) {
            self.agent_step(at, agent::Input::StopTasks { grace_max: Millis(5_000) });
        }
    }

    fn ask_nonsense(&mut self) {
        let job = JobId(1_000_000 + self.rng.below(5));
        let input = match self.rng.below(4) {
            0 => Input::Cancel { job, elements: None },
            1 => Input::Hold { job },
            2 => Input::Retry { job, elements: None },
            _ => Input::Tick,
        };
        self.call(Client::Careless, Tenant::default(), input);
    }

    /// Tells the scheduler what a node owns now.
    pub(crate) fn tell_inventory(&mut self, at: usize) {
        let inventory = self.nodes[at].inventory.clone();
        self.send_up(at, Up::Inventory(inventory));
    }

    fn call(&mut self, client: Client, tenant: Tenant, input: Input) {
        self.clients.made += 1;
        let id = self.clients.made;
        self.clients.calls.insert(id, Call { client, tenant, input, tries: 0 });
        self.on_call_again(id);
    }

    /// Sends a call, unless it was answered or the client gave up.
    pub(crate) fn on_call_again(&mut self, id: u64) {
        let Some(call) = self.clients.calls.get_mut(&id) else { return };
        call.tries += 1;
        if call.tries > TRIES_MAX {
            self.clients.calls.remove(&id);
            return;
        }
        let client = call.client;
        let delay = self.rng.range(1, 20);
        if !self.client_fault(Fault::RequestLost, client) {
            self.queue.add(self.now + delay, Happening::Call { call: id });
        }
        if self.client_fault(Fault::RequestRepeated, client) {
            self.queue.add(self.now + 3 * delay, Happening::Call { call: id });
        }
        self.queue.add(self.now + PATIENCE_MS, Happening::CallAgain { call: id });
    }

    /// A call arrives; nobody listens while the scheduler is down.
    pub(crate) fn on_call(&mut self, id: u64) {
        if let Some(call) = self.clients.calls.get(&id) {
            let (tenant, input) = (call.tenant.clone(), call.input.clone());
            self.ask(Asker::Client(id), "ada", Some(tenant), input);
        }
    }

    /// The scheduler answered: what it says must be durable.
    pub(crate) fn answered(&mut self, id: u64, reply: Reply) {
        let Some(call) = self.clients.calls.get(&id).cloned() else { return };
        if let Input::Submit(submit) = &call.input {
            self.submitted(&call.tenant, submit, &reply);
        }
        let full = matches!(&reply, Reply::Refused(refusal) if refusal.kind == RefusalKind::Exhausted);
        if full || self.client_fault(Fault::ReplyLost, call.client) {
            return;
        }
        self.clients.calls.remove(&id);
    }

    fn submitted(&mut self, tenant: &Tenant, submit: &Submit, reply: &Reply) {
        let Reply::Submitted { jobs, .. } = reply else { return };
        let durable = jobs.iter().all(|job| self.history.has_job(*job));
        if !durable {
            return self.fail(format!("{jobs:?} were acknowledged and are not in the log"));
        }
        if !self.history.submitted_as(tenant, &submit.key, jobs) {
            return self.fail(format!("key {} stands for {jobs:?} and the log says otherwise", submit.key));
        }
        for (job, spec) in jobs.iter().zip(&submit.jobs) {
            if !self.clients.acked.contains(job) {
                self.clients.acked.push(*job);
                if !self.could_run(spec) {
                    self.clients.hopeless.push((tenant.clone(), *job));
                }
            }
        }
    }

    /// Says whether all machines together, empty and well, could run an element.
    fn could_run(&self, spec: &JobSpec) -> bool {
        let by = |owned: u64, asked: u64| owned.checked_div(asked).unwrap_or(u64::MAX);
        spec.demands.iter().any(|demand| {
            let ranks = |node: &Node| {
                let owned = &node.owned;
                let devices = owned.devices.iter().filter(|device| demand.accepts(device)).count() as u64;
                by(owned.milli_cpus, demand.milli_cpus)
                    .min(by(owned.memory_bytes, demand.memory_bytes))
                    .min(by(devices, u64::from(demand.gpus)))
            };
            self.nodes.iter().map(ranks).sum::<u64>() >= u64::from(spec.replicas)
        })
    }

    /// After the chaos: ends holds, resumes nodes and lifts limits until nothing keeps the queue from emptying.
    pub(crate) fn on_tidy(&mut self) {
        let mut wishes = Vec::new();
        if let Some(scheduler) = &self.scheduler {
            let state = &scheduler.state;
            for job in state.jobs().filter(|job| job.body.held && job.body.ended_at.is_none()) {
                wishes.push((job.body.tenant.clone(), Input::Release { job: job.body.id }));
            }
            for (tenant, job) in &self.clients.hopeless {
                if state.job(*job).is_some_and(|job| job.body.ended_at.is_none()) {
                    wishes.push((tenant.clone(), Input::Cancel { job: *job, elements: None }));
                }
            }
            for node in state.nodes().filter(|node| node.body.mode != NodeMode::Active) {
                let name = node.body.name.clone();
                let input = Input::SetNode { name, mode: NodeMode::Active, reason: String::new(), evict_after: None };
                wishes.push((Tenant::default(), input));
            }
            for (key, queue) in state.queues() {
                let limits = queue.limits;
                if limits.running_max.or(limits.queued_max).or(limits.gpus_max).is_some() {
                    let all = Change::Unlimited;
                    let name = key.name.clone();
                    let input = Input::SetQueue { name, running_max: all, queued_max: all, gpus_max: all };
                    wishes.push((key.tenant.clone(), input));
                }
            }
            for (tenant, held) in state.tenants() {
                let limits = held.limits;
                if limits.running_max.or(limits.queued_max).or(limits.gpus_max).is_some() {
                    let all = Change::Unlimited;
                    let name = tenant.clone();
                    let input = Input::SetTenant { name, running_max: all, queued_max: all, gpus_max: all };
                    wishes.push((tenant.clone(), input));
                }
            }
        }
        for (tenant, input) in wishes {
            self.call(Client::Careful, tenant, input);
        }
        self.queue.add(self.now + TIDY_MS, Happening::Tidy);
    }
}
