//! Why elements of a job wait: asked when somebody wants to know, with the same functions that place, so that the
//! reason is the code's that refused.

use crate::id::{JobId, NodeId};
use crate::job::body::{Job, Standing};
use crate::node::{Node, NodeBody, NodeMode};
use crate::place::free::{Free, NodeFree};
use crate::place::gang;
use crate::reason::{Lack, Reason};
use crate::resources::{Demand, Inventory};
use crate::state::State;
use crate::state::index::{Place, Shape};
use crate::time::Time;

impl State {
    /// Returns every reason why elements of a job wait, the deciding one first. Empty when none waits.
    pub fn wait_reasons(&self, job: JobId, now: Time) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let Some(job) = self.jobs.get(&job) else {
            return reasons;
        };
        let (pending, waiting) = (job.body.pending.len(), job.waiting.len() as u64);
        if pending + waiting == 0 {
            return reasons;
        }
        if job.body.held {
            reasons.push(Reason::Held);
        }
        for after in &job.body.after {
            match after.standing {
                Standing::Open => reasons.push(Reason::Dependency { on: after.job }),
                Standing::Failed => reasons.insert(0, Reason::DependencyFailed { on: after.job }),
                Standing::Met => {}
            }
        }
        let due = job.waiting.iter().take_while(|(at, _)| *at <= now).count() as u64;
        if reasons.is_empty() && pending + due > 0 {
            if job.room() == 0 {
                let max = job.body.spec.array.as_ref().and_then(|array| array.running_max).unwrap_or(0);
                reasons.push(Reason::ArrayLimit { max });
            } else {
                reasons.extend(self.start_reasons(job, now));
            }
        }
        if let Some((until, _)) = job.waiting.iter().find(|(at, _)| *at > now) {
            reasons.push(Reason::Backoff { elements: waiting - due, until: *until });
        }
        if let Some(last) = job.body.excluded.values().find(|excluded| excluded.until > now)
            && !reasons.iter().any(|reason| matches!(reason, Reason::NodeExcluded { .. }))
        {
            let nodes = job.body.excluded.values().filter(|excluded| excluded.until > now).count() as u64;
            reasons.push(Reason::NodeExcluded { nodes, last: last.reason.clone() });
        }
        reasons
    }

    /// Says why no alternative of a job starts: what each of them lacks, the least demanding (the last) first.
    fn start_reasons(&self, job: &Job, now: Time) -> Vec<Reason> {
        let shape = job.shape_at(now);
        let free = Free::new(self);
        let fits = |demand: &Demand| match shape.replicas {
            1 => free.tightest(demand, &shape.excluded).is_some(),
            replicas => gang::pack(&free, demand, &shape.excluded, replicas).is_some(),
        };
        let mut reasons = Vec::new();
        for demand in shape.demands.iter().rev() {
            let limits = self.limit_reasons(job, demand);
            if limits.is_empty() && fits(demand) {
                // One alternative that could start is all a job needs.
                let ahead = self.ahead_of(Place::of(job));
                return vec![ahead.map_or(Reason::NextRound, |ahead| Reason::GangReserved { ahead })];
            }
            let lacks = if limits.is_empty() { vec![self.fit_reason(job, demand, &shape, now)] } else { limits };
            for reason in lacks {
                if !reasons.contains(&reason) {
                    reasons.push(reason);
                }
            }
        }
        reasons
    }

    /// Returns the limits that keep one alternative of a job from starting: its queue's, and its tenant's.
    fn limit_reasons(&self, job: &Job, demand: &Demand) -> Vec<Reason> {
        let Some(key) = job.entry.queue.as_ref() else { return Vec::new() };
        let gpus = u64::from(demand.gpus) * u64::from(job.body.spec.replicas);
        let mut reasons = Vec::new();
        for (held, tenant) in [(self.queue(key), None), (self.tenant(&key.tenant), Some(key.tenant.clone()))] {
            let used = held.usage;
            let running = held.limits.running_max.filter(|max| used.running >= *max);
            let running = running.map(|max| ("running_max", max, used.running));
            let by_gpus = held.limits.gpus_max.filter(|max| gpus > 0 && used.gpus + gpus > *max);
            let found = running.or(by_gpus.map(|max| ("gpus_max", max, used.gpus)));
            reasons.extend(found.map(|(limit, max, used)| match tenant {
                None => Reason::QueueLimit { limit, max, used },
                Some(tenant) => Reason::TenantLimit { tenant, limit, max, used },
            }));
        }
        reasons
    }

    /// Says why one alternative of a job finds no room.
    fn fit_reason(&self, job: &Job, demand: &Demand, shape: &Shape, now: Time) -> Reason {
        if self.nodes.is_empty() {
            return Reason::NoNodes;
        }
        let could: Vec<&Node> = self.nodes.values().filter(|node| owns(node, demand)).collect();
        if could.is_empty() {
            return self.owned_by_none(demand);
        }
        if let Some(reason) = could_not(&could, &shape.excluded, job, now) {
            return reason;
        }
        let allowed = could.into_iter().filter(|node| node.takes_work() && !shape.excluded.contains(&node.body.id));
        let frees: Vec<(&Node, NodeFree)> = allowed.map(|node| (node, NodeFree::of(node))).collect();
        let ranks: u64 = frees.iter().map(|(node, left)| left.ranks(node, demand)).sum();
        if ranks > 0 {
            return Reason::InsufficientForGang { ranks: shape.replicas, fit: ranks };
        }
        shortage(&frees, demand)
    }

    /// Says what of a demand no node owns: GPUs of the model, then cores, then memory, then enough GPUs.
    fn owned_by_none(&self, demand: &Demand) -> Reason {
        let nodes = || self.nodes.values().map(|node| &node.body);
        let has = |inventory: &Inventory| inventory.devices.iter().any(|device| demand.model_matches(device));
        if demand.gpus > 0 && !nodes().any(|node| has(&node.inventory)) {
            let had = nodes().filter(|node| node.models.iter().any(|model| demand.is_model(model))).count() as u64;
            let model = demand.gpu_model.clone();
            return match model {
                model if had > 0 => Reason::GpusGone { model, nodes: had },
                Some(model) => Reason::NoSuchGpuModel { model },
                None => Reason::NodesTooSmall(Lack::Gpus { needed: demand.gpus, of: demand.gpu_kind(), largest: 0 }),
            };
        }
        let largest = |of: fn(&Inventory) -> u64| nodes().map(|node| of(&node.inventory)).max().unwrap_or(0);
        let (cpus, memory) = (largest(|owned| owned.milli_cpus), largest(|owned| owned.memory_bytes));
        let accepted = |node: &NodeBody| node.inventory.devices.iter().filter(|device| demand.accepts(device)).count();
        let gpus = nodes().map(accepted).max().unwrap_or(0);
        Reason::NodesTooSmall(if cpus < demand.milli_cpus {
            Lack::Cpus { needed: demand.milli_cpus, largest: cpus }
        } else if memory < demand.memory_bytes {
            Lack::Memory { needed: demand.memory_bytes, largest: memory }
        } else if gpus < demand.gpus as usize {
            Lack::Gpus { needed: demand.gpus, of: demand.gpu_kind(), largest: u32::try_from(gpus).unwrap_or(u32::MAX) }
        } else {
            Lack::Together { demand: demand.clone() }
        })
    }

    /// Returns the first job that is ahead in the lines, for which room is kept.
    fn ahead_of(&self, place: Place) -> Option<JobId> {
        let heads = self.index.lines.values().filter_map(|places| places.first());
        heads.min().filter(|first| **first < place).map(|first| first.job)
    }
}

/// Says whether an empty node could run a rank.
fn owns(node: &Node, demand: &Demand) -> bool {
    let inventory = &node.body.inventory;
    let devices = inventory.devices.iter().filter(|device| demand.accepts(device)).count();
    inventory.milli_cpus >= demand.milli_cpus
        && inventory.memory_bytes >= demand.memory_bytes
        && devices >= demand.gpus as usize
}

/// Says why none of the nodes that own enough may be used.
fn could_not(could: &[&Node], excluded: &[NodeId], job: &Job, now: Time) -> Option<Reason> {
    let nodes = could.len() as u64;
    let heard: Vec<_> = could.iter().filter(|node| node.connected()).collect();
    if heard.is_empty() {
        return Some(Reason::NodesSilent { nodes });
    }
    let active: Vec<_> = heard.iter().filter(|node| node.body.mode == NodeMode::Active).collect();
    if active.is_empty() {
        return Some(Reason::NodesCordoned { nodes });
    }
    if active.iter().all(|node| !node.body.foreign.is_empty()) {
        return Some(Reason::NodesClearing { nodes: active.len() as u64 });
    }
    if active.iter().all(|node| node.body.inventory.withheld.is_some()) {
        let why = active.iter().find_map(|node| node.body.inventory.withheld.clone()).unwrap_or_default();
        return Some(Reason::NodesWithheld { nodes: active.len() as u64, why });
    }
    if active.iter().all(|node| excluded.contains(&node.body.id)) {
        let last = job.body.excluded.values().find(|excluded| excluded.until > now);
        let last = last.map(|excluded| excluded.reason.clone()).unwrap_or_default();
        return Some(Reason::NodeExcluded { nodes: active.len() as u64, last });
    }
    None
}

/// Names the first amount that is short on every node: cores, then memory where there are cores, then GPUs.
fn shortage(frees: &[(&Node, NodeFree)], demand: &Demand) -> Reason {
    let cpus = frees.iter().map(|(_, left)| left.milli_cpus).max().unwrap_or(0);
    if cpus < demand.milli_cpus {
        return Reason::InsufficientCpus { needed: demand.milli_cpus, free: cpus };
    }
    let with_cpus = || frees.iter().filter(|(_, left)| left.milli_cpus >= demand.milli_cpus);
    let memory = with_cpus().map(|(_, left)| left.memory_bytes).max().unwrap_or(0);
    if memory < demand.memory_bytes {
        return Reason::InsufficientMemory { needed: demand.memory_bytes, free: memory };
    }
    let with_memory = with_cpus().filter(|(_, left)| left.memory_bytes >= demand.memory_bytes);
    let gpus = with_memory.map(|(node, left)| left.devices(node, demand).len()).max().unwrap_or(0);
    let (needed, model) = (demand.gpus, demand.gpu_model.clone());
    Reason::InsufficientGpus { needed, model, free: u32::try_from(gpus).unwrap_or(u32::MAX) }
}
