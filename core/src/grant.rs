//! New leases, and what their nodes get: once when the lease is new, and again when `owed` finds that the node does not
//! have it. Both are equal, for they are built here.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::effect::{Effect, Grant, TaskSpec};
use crate::event::{Event, GangPart};
use crate::id::{Attempt, Index, JobId, LeaseId, NodeId};
use crate::job::body::Job;
use crate::job::spec::OnDisconnect;
use crate::lease::{GangPlace, Lease, RevokeReason};
use crate::ranges::RangeSet;
use crate::state::State;
use crate::time::Time;

impl State {
    /// Returns the leases that ChunkLeased or GangLeased make; none for other events.
    pub(crate) fn leases_of(&self, at: Time, event: &Event) -> Vec<Lease> {
        if let Event::ChunkLeased { lease, job, first, last, attempt, node, slots, alternative, hold, .. } = event {
            let new = self.new_lease(at, *job, (*first, *last), *attempt, *alternative);
            let (ranks, slots) = (vec![hold.clone()], *slots);
            return new.map(|new| Lease { id: *lease, node: *node, slots, ranks, ..new }).into_iter().collect();
        }
        let Event::GangLeased { job, index, attempt, alternative, parts, .. } = event else {
            return Vec::new();
        };
        let Some(new) = self.new_lease(at, *job, (*index, *index), *attempt, *alternative) else {
            return Vec::new();
        };
        let world_size = parts.iter().map(|part| part.ranks.len() as u32).sum();
        let nodes = parts.len() as u32;
        let part = |(node_rank, part): (u32, &GangPart)| Lease {
            id: part.lease,
            node: part.node,
            slots: part.ranks.len() as u32,
            ranks: part.ranks.clone(),
            gang: Some(GangPlace { node_rank, nodes, world_size }),
            started: false,
            ..new.clone()
        };
        (0..).zip(parts).map(part).collect()
    }

    fn new_lease(
        &self,
        at: Time,
        job: JobId,
        (first, last): (Index, Index),
        attempt: Attempt,
        alternative: u32,
    ) -> Option<Lease> {
        let body = &self.jobs.get(&job)?.body;
        Some(Lease {
            id: LeaseId(0),
            job,
            node: NodeId(0),
            first,
            last,
            attempt,
            slots: 1,
            alternative,
            demand: body.spec.demands.get(alternative as usize)?.clone(),
            live: RangeSet::range(first, last),
            ranks: Vec::new(),
            gang: None,
            time_limit: body.time_limit,
            granted_at: at,
            begun: false,
            port: None,
            started: true,
            mean_us: 0,
            tasks: BTreeMap::new(),
            revoke: None,
            preempted: false,
            trimmed: false,
            fenced: false,
        })
    }
}

/// Returns the grant of a lease. `None` if its job is gone.
pub(crate) fn grant(state: &State, lease: &Lease) -> Option<Effect> {
    let job = state.jobs.get(&lease.job)?;
    Some(Effect::Grant(Grant {
        node: lease.node,
        lease: lease.id,
        job: lease.job,
        first: lease.first,
        last: lease.last,
        attempt: lease.attempt,
        slots: lease.slots,
        alternative: lease.alternative,
        ranks: lease.ranks.clone(),
        gang: lease.gang,
        task: Arc::new(task(job, lease)),
    }))
}

fn task(job: &Job, lease: &Lease) -> TaskSpec {
    let spec = &job.body.spec;
    let checkpoint = job.body.records.get(&lease.first).and_then(|record| record.checkpoint.as_ref());
    let resume = checkpoint.filter(|checkpoint| checkpoint.node == lease.node && lease.width() == 1);
    TaskSpec {
        job_name: spec.name.clone(),
        work: spec.work.clone(),
        demand: lease.demand.clone(),
        exported_env: spec.exported_env.clone(),
        env: spec.env.clone(),
        workdir: spec.workdir.clone(),
        output_dir: spec.output_dir.clone(),
        time_limit: lease.time_limit,
        grace: spec.grace,
        stop_after: match spec.on_disconnect {
            OnDisconnect::Keep => None,
            OnDisconnect::Stop { after } => Some(after),
        },
        user: job.body.user.to_string(),
        array: spec
            .array
            .as_ref()
            .and_then(|array| Some((array.indices.len(), array.indices.first()?, array.indices.last()?))),
        resume_from: resume.map(|checkpoint| checkpoint.path.clone()),
        rendezvous: spec.rendezvous,
    }
}

/// Returns the revoke that a lease is owed: a fence or a preemption takes all, else what was revoked and is live.
pub(crate) fn revoke(lease: &Lease) -> Option<Effect> {
    let (reason, elements) = match &lease.revoke {
        _ if lease.fenced => (RevokeReason::Fenced, RangeSet::new()),
        _ if lease.preempted => (RevokeReason::Preempted, RangeSet::new()),
        None => return None,
        Some(revoking) => {
            let elements = revoking.elements.intersection(&lease.live);
            let all = elements.len() == lease.live.len();
            (revoking.reason, if all { RangeSet::new() } else { elements })
        }
    };
    Some(Effect::Revoke { node: lease.node, lease: lease.id, reason, elements })
}

/// Returns the start of a gang's lease. `None` if the gang has not been started.
pub(crate) fn start(state: &State, lease: &Lease) -> Option<Effect> {
    let gang = state.gangs.get(&(lease.job, lease.first)).filter(|gang| gang.attempt == lease.attempt)?;
    let master = gang.started.as_ref()?;
    let (master_addr, master_port) = (master.address.clone(), master.port);
    Some(Effect::Start { node: lease.node, lease: lease.id, master_addr, master_port })
}
