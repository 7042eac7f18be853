//! Submit: all of its jobs are stored, or none, and then all faults are told at once.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::Decider;
use super::fits::never_fits;
use crate::effect::{RefusalKind, Reply, Step, SubmitFault};
use crate::event::{Event, NewJob};
use crate::hash::Fnv;
use crate::id::{JobId, JobName, Tenant};
use crate::input::Submit;
use crate::job::body::{After, Standing};
use crate::job::spec::{DependsOn, Fault, JobSpec};
use crate::keys::UsedKeys;
use crate::queue::QueueKey;
use crate::state::State;
use crate::time::Millis;

/// Jobs of one Submit: they are stored in one event.
pub const SUBMIT_JOBS_MAX: usize = 1_024;

/// A repeated Submit is known again that long.
pub const KEY_KEPT: Millis = Millis::hours(24);

/// Queues of a cluster: each has a line in every listing.
pub const QUEUES_MAX: usize = 1_000;

/// Tenants with limits or use: each has a line in every listing.
pub const TENANTS_MAX: usize = 1_000;

impl Decider<'_> {
    pub(super) fn submit(&self, submit: &Submit) -> Step {
        let digest = digest(submit);
        let used =
            self.state.keys.get(&self.request.tenant, &submit.key).filter(|_| !self.state.mutations.dedupe_off());
        match used {
            Some((first, used)) if used.digest == digest => {
                return self.answer(Reply::Submitted { jobs: UsedKeys::jobs(first, used), repeated: true });
            }
            Some(_) => {
                let message = format!("the idempotency key `{}` was used with other jobs", submit.key);
                let hint = "repeat a submit as it was, or take a new key";
                return self.refuse(RefusalKind::AlreadyExists, "key-used", message, hint);
            }
            None => {}
        }
        if submit.jobs.is_empty() || submit.jobs.len() > SUBMIT_JOBS_MAX {
            let message = format!("{} jobs, and 1 to {SUBMIT_JOBS_MAX} are allowed", submit.jobs.len());
            return self.refuse(RefusalKind::Invalid, "job-count", message, "");
        }
        match Resolver::new(self, &submit.jobs).resolve() {
            Err(faults) => self.answer(Reply::Faults(faults)),
            Ok(jobs) => {
                let ids = jobs.iter().map(|job| job.id).collect();
                let mut step = self.answer(Reply::Submitted { jobs: ids, repeated: false });
                step.events.push(Event::JobsSubmitted {
                    by: self.by(),
                    tenant: self.request.tenant.clone(),
                    user: submit.user.clone(),
                    key: submit.key.clone(),
                    digest,
                    jobs,
                });
                step
            }
        }
    }
}

/// Returns a digest of what a submit asks for, the key left out.
fn digest(submit: &Submit) -> u64 {
    let mut hasher = Fnv::default();
    submit.user.hash(&mut hasher);
    submit.jobs.hash(&mut hasher);
    hasher.finish()
}

/// Returns what is wrong with `more` waiting elements in a queue.
pub(super) fn queue_fault(state: &State, key: &QueueKey, more: u64) -> Option<Fault> {
    let fault =
        |reason, message, hint: &str| Some(Fault { path: "queue".into(), reason, message, hint: hint.to_owned() });
    if state.queues.len() >= QUEUES_MAX && !state.queues.contains_key(key) {
        let message = format!("there are {QUEUES_MAX} queues, and `{}` would be another", key.name);
        return fault("too-many-queues", message, "use a queue of `gangsaw queue list`");
    }
    let queue = state.queue(key);
    match queue.limits.queued_max {
        Some(max) if more > 0 && queue.usage.queued.saturating_add(more) > max => {
            let used = queue.usage.queued;
            let message = format!("queue `{}` may hold {max} waiting elements and has {used}; {more} more", key.name);
            fault("queue-full", message, "wait, or ask for a larger queued_max")
        }
        Some(_) | None => None,
    }
}

/// Returns what is wrong with `more` waiting elements of a tenant, in whichever of its queues.
pub(super) fn tenant_fault(state: &State, tenant: &Tenant, more: u64) -> Option<Fault> {
    let held = state.tenant(tenant);
    let max = held.limits.queued_max?;
    let used = held.usage.queued;
    (used.saturating_add(more) > max).then(|| Fault {
        path: String::new(),
        reason: "tenant-full",
        message: format!("tenant `{tenant}` may hold {max} waiting elements and has {used}; {more} more"),
        hint: "wait, or ask for a larger queued_max of the tenant".to_owned(),
    })
}

/// Resolves the aliases of one submit and collects what is wrong with it.
struct Resolver<'a> {
    decider: &'a Decider<'a>,
    jobs: &'a [JobSpec],
    aliases: BTreeMap<&'a JobName, usize>,
    faults: Vec<SubmitFault>,
}

impl<'a> Resolver<'a> {
    fn new(decider: &'a Decider<'a>, jobs: &'a [JobSpec]) -> Self {
        Self { decider, jobs, aliases: BTreeMap::new(), faults: Vec::new() }
    }

    fn resolve(mut self) -> Result<Vec<NewJob>, Vec<SubmitFault>> {
        for (at, spec) in self.jobs.iter().enumerate() {
            if let Some(alias) = &spec.alias
                && let Some(other) = self.aliases.insert(alias, at)
            {
                let message = format!("job {} of this submit is called `{alias}`, too", other + 1);
                self.fault(at, "jobs", "alias-twice", message, "give each job a name of its own");
            }
        }
        let after: Vec<Vec<After>> = (0..self.jobs.len()).map(|at| self.dependencies(at)).collect();
        self.cycles();
        self.queues();
        for (at, spec) in self.jobs.iter().enumerate() {
            if let Some(fault) = never_fits(self.decider.state, spec) {
                self.faults.push(SubmitFault { job: position(at), fault });
            }
        }
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        let jobs = self.jobs.iter().zip(after).enumerate();
        Ok(jobs.map(|(at, (spec, after))| NewJob { id: self.id(at), spec: Arc::new(spec.clone()), after }).collect())
    }

    fn id(&self, at: usize) -> JobId {
        JobId(self.decider.state.counters.job + at as u64)
    }

    fn fault(&mut self, at: usize, path: &str, reason: &'static str, message: String, hint: &str) {
        let fault = Fault { path: path.to_owned(), reason, message, hint: hint.to_owned() };
        self.faults.push(SubmitFault { job: position(at), fault });
    }

    fn dependencies(&mut self, at: usize) -> Vec<After> {
        let mut resolved = Vec::new();
        for (place, dependency) in self.jobs[at].after.iter().enumerate() {
            let path = format!("after[{place}]");
            let found = match &dependency.on {
                DependsOn::Alias(alias) => match self.aliases.get(alias) {
                    Some(other) => Some((self.id(*other), Standing::Open)),
                    None => {
                        let message = format!("no job of this submit is called `{alias}`");
                        self.fault(at, &path, "unknown-alias", message, "write the name or the number of a job");
                        None
                    }
                },
                DependsOn::Job(id) => match self.decider.known_job(*id) {
                    Some(job) => Some((*id, job.standing(dependency.kind))),
                    None => {
                        let message = format!("there is no job {id}");
                        self.fault(at, &path, "unknown-job", message, "`gangsaw ps --all` lists jobs");
                        None
                    }
                },
            };
            let after = found.map(|(job, standing)| After { kind: dependency.kind, job, standing });
            resolved.extend(after.filter(|after| !resolved.contains(after)));
        }
        resolved
    }

    /// Finds cycles: walks from each job along its aliases, and reports a cycle once, at the place that closes it.
    fn cycles(&mut self) {
        let mut done = BTreeSet::new();
        for start in 0..self.jobs.len() {
            let mut path: Vec<(usize, usize)> = vec![(start, 0)];
            while let Some((at, place)) = path.last().copied() {
                let next = self.jobs[at].after.get(place);
                let Some(next) = next.filter(|_| !done.contains(&at)) else {
                    done.insert(at);
                    path.pop();
                    continue;
                };
                if let Some(last) = path.last_mut() {
                    last.1 += 1;
                }
                let DependsOn::Alias(alias) = &next.on else {
                    continue;
                };
                let Some(to) = self.aliases.get(alias).copied() else {
                    continue;
                };
                if let Some(from) = path.iter().position(|(job, _)| *job == to) {
                    self.report_cycle(&path[from..], place);
                } else if !done.contains(&to) {
                    path.push((to, 0));
                }
            }
        }
    }

    fn report_cycle(&mut self, cycle: &[(usize, usize)], place: usize) {
        let name = |at: usize| self.jobs[at].alias.as_ref().map_or("?", JobName::as_str);
        let mut names: Vec<&str> = cycle.iter().map(|(at, _)| name(*at)).collect();
        names.extend(names.first().copied());
        let message = format!("a cycle: {}", names.join(" → "));
        let at = cycle.last().map_or(0, |(at, _)| *at);
        self.fault(at, &format!("after[{place}]"), "dependency-cycle", message, "take one of them out");
    }

    fn queues(&mut self) {
        let mut more: BTreeMap<QueueKey, (usize, u64)> = BTreeMap::new();
        for (at, spec) in self.jobs.iter().enumerate() {
            let key = QueueKey { tenant: self.decider.request.tenant.clone(), name: spec.queue.clone() };
            more.entry(key).or_insert((at, 0)).1 += spec.element_count();
        }
        let all = more.values().map(|(_, more)| more).sum();
        if let Some(fault) = tenant_fault(self.decider.state, &self.decider.request.tenant, all) {
            self.faults.push(SubmitFault { job: 0, fault });
        }
        let new = more.keys().filter(|key| !self.decider.state.queues.contains_key(key)).count();
        let count = self.decider.state.queues.len() + new;
        for (key, (at, more)) in more {
            let full = queue_fault(self.decider.state, &key, more);
            if let Some(fault) = full {
                self.faults.push(SubmitFault { job: position(at), fault });
            } else if count > QUEUES_MAX && !self.decider.state.queues.contains_key(&key) {
                let message = format!("there may be {QUEUES_MAX} queues");
                self.fault(at, "queue", "too-many-queues", message, "use a queue of `gangsaw queue list`");
            }
        }
    }
}

fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
