//! What an input means: events to append and effects to perform after that. Changes nothing.
//!
//! Every request of a person, and a node's Hello, gets exactly one reply. What is refused changes nothing. A node's
//! report counts only under a lease that it holds; anything else is answered with Revoke.
//!
//! Elsewhere: what an event changes is `apply`; what starts where is `place`; what a node must be told again is `owed`.

mod change;
mod fits;
mod next;
mod nodes;
mod report;
mod scratch;
mod submit;
mod tick;
mod tokens;

pub use next::{INFRA_STARTS_MAX, NODE_EXCLUDED_FOR, REQUEUE_WAIT, REQUEUES_MAX};
pub use submit::{KEY_KEPT, QUEUES_MAX, SUBMIT_JOBS_MAX, TENANTS_MAX};
pub use tick::{JOB_KEPT, JOBS_ENDED_MAX};

use crate::access::Standing;
use crate::effect::{Effect, Refusal, RefusalKind, Reply, Step};
use crate::event::By;
use crate::id::JobId;
use crate::input::{Input, Request};
use crate::job::body::Job;
use crate::state::State;
use crate::time::Time;

/// Decides what `request` means in `state` at `now`.
pub fn decide(state: &State, now: Time, request: &Request) -> Step {
    let decider = Decider { state, now, request };
    match &request.input {
        Input::Submit(submit) => decider.submit(submit),
        Input::Cancel { job, elements } => decider.cancel(*job, elements.as_ref()),
        Input::Hold { job } => decider.hold(*job),
        Input::Release { job } => decider.release(*job),
        Input::Retry { job, elements } => decider.retry(*job, elements.as_ref()),
        Input::Update { job, priority, queue, time_limit } => {
            decider.update(*job, *priority, queue.as_ref(), *time_limit)
        }
        Input::NodeHello(hello) => decider.hello(hello),
        Input::NodeSilent { node } => decider.silent(*node),
        Input::NodeReport { node, seq, facts } => decider.report(*node, *seq, facts),
        Input::NodeInventory { node, inventory } => decider.inventory(*node, inventory),
        Input::SetNode { name, mode, reason, evict_after } => decider.set_node(name, *mode, reason, *evict_after),
        Input::ForgetNode { name } => decider.forget_node(name),
        Input::SetQueue { name, running_max, queued_max, gpus_max } => {
            decider.set_queue(name, *running_max, *queued_max, *gpus_max)
        }
        Input::CreateToken(draft) => decider.create_token(draft),
        Input::RevokeToken { token } => decider.revoke_token(*token),
        Input::SetTenant { name, running_max, queued_max, gpus_max } => {
            decider.set_tenant(name, *running_max, *queued_max, *gpus_max)
        }
        Input::Tick => decider.tick(),
    }
}

/// One decision in the making: the state, the time and the request, none of which it changes.
struct Decider<'a> {
    state: &'a State,
    now: Time,
    request: &'a Request,
}

impl Decider<'_> {
    fn by(&self) -> By {
        By { actor: self.request.actor.clone(), request_id: self.request.request_id.clone() }
    }

    fn reply(&self, reply: Reply) -> Effect {
        Effect::Reply { request_id: self.request.request_id.clone(), reply }
    }

    /// Returns the step that only answers.
    fn answer(&self, reply: Reply) -> Step {
        Step { events: Vec::new(), effects: vec![self.reply(reply)] }
    }

    fn refuse(&self, kind: RefusalKind, reason: &'static str, message: String, hint: &str) -> Step {
        self.answer(Reply::Refused(Refusal { kind, reason, message, hint: hint.to_owned() }))
    }

    /// Returns a job that the request may change. Beyond its tenant a job is as unknown as one that never was.
    fn job(&self, id: JobId) -> Result<&Job, Step> {
        let (job, standing) = self.standing(id);
        match (job, standing) {
            (Some(job), Standing::Within) => Ok(job),
            (Some(job), Standing::AnotherPersons) => {
                let message = format!("job {id} was submitted by {}", job.body.actor);
                let hint = "ask its submitter, or somebody with the operator role";
                Err(self.refuse(RefusalKind::Denied, "not-your-job", message, hint))
            }
            (Some(_), Standing::Unknown) | (None, _) => {
                let message = format!("there is no job {id}");
                Err(self.refuse(RefusalKind::NotFound, "unknown-job", message, "`gangsaw ps --all` lists jobs"))
            }
        }
    }

    /// Returns a job that the request may name, whoever of its tenant submitted it.
    fn known_job(&self, id: JobId) -> Option<&Job> {
        let (job, standing) = self.standing(id);
        job.filter(|_| standing != Standing::Unknown)
    }

    fn standing(&self, id: JobId) -> (Option<&Job>, Standing) {
        let Some(job) = self.state.jobs.get(&id) else { return (None, Standing::Unknown) };
        let (caller, owner) = ((&self.request.tenant, &self.request.actor), (&job.body.tenant, &job.body.actor));
        (Some(job), self.request.reach.covers(caller, owner))
    }
}
