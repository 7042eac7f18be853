//! What the keeper and the supervisor say, and what follows from it.

use std::collections::BTreeSet;

use gangsaw_core::agent::{Input, Spool, Spooled};
use gangsaw_core::id::LeaseId;
use gangsaw_core::input::{FactKind, Phase};
use gangsaw_core::job::record::{Cause, Exit};
use gangsaw_proto::supervisor::v1::command::Command;
use gangsaw_proto::supervisor::v1::notice::Notice;
use gangsaw_proto::supervisor::v1::stop::Reason;
use gangsaw_proto::supervisor::v1::{Fact, HeldLease, List, Stop, Welcome};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::perform::tasks;
use super::{Driver, Supervisor, now};
use crate::adopt;
use crate::checkpoint;
use crate::keeper::Heard;

impl Driver {
    pub(super) async fn on_heard(&mut self, heard: Heard) {
        match heard {
            Heard::Dead(facts, elsewhere) => {
                self.elsewhere = elsewhere;
                self.on_dead(facts).await;
            }
            Heard::Fallen(leases, facts) => self.on_fallen(&leases, facts),
            Heard::Cleared(leases) => {
                self.clearing = None;
                for lease in leases {
                    self.step(Input::LeftoversGone { lease: LeaseId(lease) });
                }
            }
            Heard::Listed(welcome, facts, commands) => self.on_listed(*welcome, facts, commands),
            Heard::Notice(notice) => self.on_notice(notice),
            Heard::Lost => {
                if matches!(self.supervisor, Supervisor::Up(_)) {
                    self.supervisor = Supervisor::Down(Vec::new());
                }
            }
            Heard::Failed(error) => self.on_failed(&error),
        }
    }

    /// The supervisor is dead: what it held is open until its processes are killed.
    async fn on_dead(&mut self, facts: Option<Vec<Fact>>) {
        self.supervisor = Supervisor::Down(Vec::new());
        self.clearing = Some(Vec::new());
        let facts = facts.map(|facts| self.fresh(facts));
        let spool = facts.map(|facts| self.left(facts));
        if self.parts.journal.grants.is_empty() {
            info!("no supervisor is there, and no lease");
        } else {
            warn!(leases = self.parts.journal.grants.len(), "the supervisor is dead");
        }
        self.lost(spool);
        let clearing = self.clearing.clone().unwrap_or_default();
        // The keeper waits for exactly this; it is gone only when the agent ends.
        let _ = self.parts.clears.send(clearing).await;
    }

    /// What is open now that no supervisor of ours is there.
    fn left(&self, facts: Vec<Spooled>) -> Spool {
        let alive = |lease: u64| self.elsewhere.contains(&lease);
        adopt::dead(&self.parts.journal.grants, facts, &self.reached, alive, now())
    }

    /// Has the machine give up what our supervisor held, and nothing of the others'.
    fn lost(&mut self, spool: Option<Spool>) {
        if self.elsewhere.is_empty() {
            return self.step(Input::SupervisorLost(spool));
        }
        let spool = spool.unwrap_or_else(|| self.left(Vec::new()));
        self.step(Input::SupervisorList(spool));
    }

    /// A supervisor of another version is gone, with all of its processes: what it held and did not tell is lost.
    fn on_fallen(&mut self, leases: &BTreeSet<u64>, facts: Vec<Fact>) {
        for spooled in self.fresh(facts) {
            self.step(Input::Fact(spooled));
        }
        let alive = |lease: u64| !leases.contains(&lease);
        let mut spool = adopt::dead(&self.parts.journal.grants, Vec::new(), &self.reached, alive, now());
        // Leases that the journal lost.
        let unknown = self
            .machine
            .held()
            .into_iter()
            .filter(|lease| alive(lease.lease.0) && !self.parts.journal.grants.contains_key(&lease.lease.0));
        spool.leases.extend(unknown.map(|lease| adopt::alive_without_terms(lease.lease, lease.last_index, now())));
        self.step(Input::SupervisorList(spool));
    }

    /// A supervisor answered, an old one or a new one.
    fn on_listed(&mut self, welcome: Welcome, facts: Vec<Fact>, commands: mpsc::Sender<Command>) {
        self.clearing = None;
        self.listing = false;
        self.since_list.clear();
        let mut notes = welcome.notes;
        notes.push(format!("limits: {}", welcome.limits));
        self.parts.offer.supervisor_notes = notes;
        self.parts.held.send_modify(|held| held.marks.supervisor = Some(welcome.supervisor_pid));
        for grant in self.parts.journal.grants.values() {
            if let Err(error) = self.parts.progress.bind(tasks(grant)) {
                warn!(lease = grant.lease_id, %error, "no progress socket");
            }
        }
        self.parts.progress.sweep();
        info!(pid = welcome.supervisor_pid, leases = welcome.leases.len(), "the supervisor is there");
        let facts = self.fresh(facts);
        self.list(&welcome.leases, facts);
        let before = std::mem::replace(&mut self.supervisor, Supervisor::Up(commands));
        if let Supervisor::Down(pending) = before {
            pending.into_iter().for_each(|command| self.command(command));
        }
        self.stop_strays(&welcome.leases);
        self.drop_unknown();
        self.publish_held();
        self.ready = true;
        self.send_news();
    }

    fn list(&mut self, held: &[HeldLease], facts: Vec<Spooled>) {
        let pending = |lease: u64| match &self.supervisor {
            Supervisor::Down(pending) => {
                pending.iter().any(|command| matches!(command, Command::Run(run) if run.lease_id == lease))
            }
            Supervisor::Up(_) => self.since_list.contains(&lease),
        };
        let spool = adopt::listed(&self.parts.journal.grants, held, facts, &self.reached, pending, now());
        self.step(Input::SupervisorList(spool));
    }

    /// Stops what the supervisor holds and the machine does not: it was given up while nobody could be reached.
    fn stop_strays(&mut self, held: &[HeldLease]) {
        let live = self.live();
        for lease in held.iter().filter(|lease| !live.contains(&lease.lease_id)) {
            warn!(lease = lease.lease_id, "the supervisor holds a lease that was given up");
            let reason = Reason::Fenced.into();
            let stop = Stop { lease_id: lease.lease_id, reason, elements: Vec::new(), grace_ms: Some(0) };
            self.command(Command::Stop(stop));
        }
    }

    /// Strikes grants that neither the supervisor nor the machine knows: the scheduler gives them again or has them.
    fn drop_unknown(&mut self) {
        let known: Vec<u64> = self.machine.held().iter().map(|lease| lease.lease.0).collect();
        let grants: Vec<u64> = self.parts.journal.grants.keys().copied().collect();
        for lease in grants.into_iter().filter(|lease| !known.contains(lease)) {
            if let Err(error) = self.parts.journal.strike(lease) {
                self.journal_failed(&error);
            }
            self.parts.progress.release(lease);
        }
    }

    fn live(&self) -> Vec<u64> {
        let held = self.machine.held();
        held.iter().filter(|lease| lease.phase != Phase::Ended).map(|lease| lease.lease.0).collect()
    }

    fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Facts(facts) => {
                for spooled in self.fresh(facts.facts) {
                    if matches!(spooled.fact.kind, FactKind::Ended { .. }) {
                        // A task's last word goes out before its end.
                        self.parts.progress.drain(spooled.fact.lease.0);
                        self.flush_progress();
                    }
                    if matches!(spooled.fact.kind, FactKind::StartFailed { users_fault: false, .. }) {
                        // Most often it is the folder of an attempt that could not be made.
                        self.parts.disk.doubt();
                    }
                    self.step(Input::Fact(spooled));
                }
            }
            Notice::Unknown(unknown) => {
                if self.live().contains(&unknown.lease_id) && !self.listing {
                    self.listing = true;
                    self.command(Command::List(List {}));
                }
            }
            Notice::Listing(listing) => {
                self.list(&listing.leases, Vec::new());
                self.listing = false;
                self.since_list.clear();
            }
            Notice::Welcome(_) => warn!("a second welcome of the supervisor"),
        }
    }

    /// No supervisor can be had: leases that wait for one fail to start.
    fn on_failed(&mut self, error: &str) {
        self.parts.offer.supervisor_notes = vec![format!("supervisor: {error}")];
        self.ready = true;
        if self.clearing.is_none() {
            self.supervisor = Supervisor::Down(Vec::new());
            // Nothing of a lease that waits has begun.
            let spool = if self.elsewhere.is_empty() { Spool::default() } else { self.left(Vec::new()) };
            self.lost(Some(spool));
        }
        self.send_news();
    }

    /// The facts that the machine has not heard yet.
    fn fresh(&mut self, facts: Vec<Fact>) -> Vec<Spooled> {
        let seen = self.seen;
        let fresh: Vec<Fact> = facts.into_iter().filter(|fact| fact.seq > seen).collect();
        self.seen = fresh.last().map_or(seen, |fact| fact.seq);
        let mut spooled = adopt::spooled(fresh, |lease, index, rank| self.checkpoint(lease, index, rank));
        for fact in spooled.iter_mut().map(|spooled| &mut spooled.fact) {
            if let FactKind::Succeeded { first, mean_us, .. } = fact.kind
                && self.is_alone(fact.lease.0)
            {
                let checkpoint = self.checkpoint(fact.lease.0, first, 0);
                fact.kind = FactKind::Ended { index: first, rank: 0, exit: success(mean_us, checkpoint) };
            }
        }
        self.reached.note(&spooled);
        spooled
    }

    /// Whether a lease is of one element and no gang: its success is told in full, not as a range.
    fn is_alone(&self, lease: u64) -> bool {
        let grant = self.parts.journal.grants.get(&lease);
        grant.is_some_and(|grant| grant.first_index == grant.last_index && !grant.gang)
    }

    /// The newest complete checkpoint of a task's attempt.
    fn checkpoint(&self, lease: u64, index: u32, rank: u32) -> Option<String> {
        let grant = self.parts.journal.grants.get(&lease)?;
        let agent = &self.parts.launcher.folder;
        let folder = checkpoint::checkpoints_of(agent, grant.job_id, index, rank, grant.attempt);
        let (_, path) = checkpoint::complete(&folder).into_iter().next()?;
        path.to_str().map(str::to_owned)
    }
}

/// The end of a task that exited 0 by itself.
fn success(ran_us: u64, checkpoint: Option<String>) -> Exit {
    Exit {
        cause: Cause::Exit,
        exit_code: Some(0),
        signal: None,
        detail: String::new(),
        ran_us,
        checkpoint,
        max_rss_bytes: 0,
    }
}
