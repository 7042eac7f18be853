//! Places what one job may start now: which element next, in which alternative, in how large a chunk, on which node.

use super::Decision;
use super::gang;
use super::solve::{Solver, Tried};
use crate::id::{Attempt, Index, NodeId};
use crate::job::body::{DeviceChoice, DeviceCode, Job};
use crate::lease::RankHold;
use crate::queue::Usage;
use crate::resources::Demand;
use crate::state::index::Line;

/// Slots of one lease: an agent runs that many processes of it at once.
const SLOTS_MAX: u64 = 1_024;

/// Elements of one lease: when its node is lost, each of them becomes an event.
const CHUNK_ELEMENTS_MAX: u64 = 16_384;

/// What may be placed next of a job.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    first: Index,
    /// Elements in a row, at least 1; 1 if they were tried before.
    run: u64,
    attempt: Attempt,
    /// Where its checkpoint lies.
    prefer: Option<NodeId>,
}

/// Where a job stands during the round.
struct Cursor {
    /// Elements that wait for another attempt, those placed already not among them.
    waiting: Vec<Index>,
    /// The first pending index that was not placed; absent at the end.
    next: Option<Index>,
    /// What the array's throttle still lets run.
    room: u64,
    pending: u64,
}

impl Solver<'_> {
    /// Places as much of a job as fits.
    pub(super) fn try_job(&mut self, job: &Job, line: &Line) -> Tried {
        let due = job.waiting.iter().take_while(|(at, _)| *at <= self.now);
        let mut waiting: Vec<Index> = due.map(|(_, index)| *index).take(super::DECISIONS_MAX).collect();
        waiting.reverse();
        let (next, pending) = (job.body.pending.first(), job.body.pending.len());
        let mut cursor = Cursor { waiting, next, room: job.room(), pending };
        loop {
            if cursor.room == 0 {
                return Tried::Done;
            }
            if self.full() {
                return Tried::Full;
            }
            let Some(candidate) = cursor.candidate(job, self.state.counters.attempt_base) else {
                return Tried::Done;
            };
            let placed = match job.body.spec.is_gang() {
                true => self.place_gang(job, line, candidate),
                false => self.place_chunk(job, line, candidate, &cursor),
            };
            match placed {
                Ok((elements, slots)) => cursor.advance(job, candidate, elements, slots),
                Err(tried) => return tried,
            }
        }
    }

    /// Tries the alternatives in order, best first. Gives elements and slots placed.
    fn place_chunk(
        &mut self,
        job: &Job,
        line: &Line,
        candidate: Candidate,
        cursor: &Cursor,
    ) -> Result<(u64, u64), Tried> {
        let mut limited = true;
        for (alternative, demand) in (0..).zip(&line.shape.demands) {
            let room = self.room_in_queue(&line.queue, u64::from(demand.gpus)).min(cursor.room);
            if room == 0 {
                continue;
            }
            limited = false;
            let Some(node) = self.node_for(demand, line, candidate) else {
                continue;
            };
            let Some((found, left)) = self.free.node(node) else {
                continue;
            };
            let fit = left.ranks(found, demand).min(room).min(SLOTS_MAX);
            let (elements, slots) = self.size(job, demand, candidate, cursor, fit);
            let mut gpu_uuids = left.devices(found, demand);
            gpu_uuids.truncate(demand.gpus as usize);
            let cpus = demand.milli_cpus.saturating_mul(slots);
            self.free.take(node, cpus, demand.memory_bytes.saturating_mul(slots), &gpu_uuids);
            self.use_queue(line, Usage { running: slots, queued: 0, gpus: gpu_uuids.len() as u64 });
            let last = candidate.first + u32::try_from(elements - 1).unwrap_or(0);
            self.round.decisions.push(Decision::Chunk {
                job: job.body.id,
                first: candidate.first,
                last,
                attempt: candidate.attempt,
                node,
                slots: u32::try_from(slots).unwrap_or(1),
                alternative,
                hold: RankHold { rank: 0, gpu_uuids, live: true },
                device: self.choice(&line.shape.demands, alternative),
            });
            return Ok((elements, slots));
        }
        Err(if limited { Tried::Limited } else { Tried::NoRoom })
    }

    /// Returns the node for a candidate: where its checkpoint lies if there is room, else the tightest.
    fn node_for(&self, demand: &Demand, line: &Line, candidate: Candidate) -> Option<NodeId> {
        let preferred = candidate.prefer.filter(|node| !line.shape.excluded.contains(node));
        let fits = |id: &NodeId| self.free.node(*id).is_some_and(|(node, left)| left.ranks(node, demand) > 0);
        preferred.filter(fits).or_else(|| self.free.tightest(demand, &line.shape.excluded))
    }

    /// Returns how many elements a lease gets, and how many of them at once.
    fn size(&self, job: &Job, demand: &Demand, candidate: Candidate, cursor: &Cursor, fit: u64) -> (u64, u64) {
        let chunk = u64::from(job.body.chunk);
        if demand.gpus > 0 || chunk <= 1 || candidate.run == 1 {
            return (1, 1);
        }
        let slots = fit.min(candidate.run.div_ceil(chunk)).max(1);
        // Towards the end of the array chunks shrink, so that no node is left with the rest while others idle.
        let share = cursor.pending / (2 * self.state.nodes.len() as u64).max(1);
        let elements = (slots * chunk).min(candidate.run).min(share.max(slots)).min(CHUNK_ELEMENTS_MAX);
        (elements.max(1), slots.min(elements.max(1)))
    }

    fn place_gang(&mut self, job: &Job, line: &Line, candidate: Candidate) -> Result<(u64, u64), Tried> {
        let replicas = job.body.spec.replicas;
        let mut limited = true;
        for (alternative, demand) in (0..).zip(&line.shape.demands) {
            let gpus = u64::from(demand.gpus) * u64::from(replicas);
            if self.room_in_queue(&line.queue, gpus) == 0 {
                continue;
            }
            limited = false;
            let Some(parts) = gang::pack(&self.free, demand, &line.shape.excluded, replicas) else {
                continue;
            };
            for (node, ranks) in &parts {
                let devices: Vec<_> = ranks.iter().flat_map(|hold| hold.gpu_uuids.iter().cloned()).collect();
                let count = ranks.len() as u64;
                let cpus = demand.milli_cpus.saturating_mul(count);
                self.free.take(*node, cpus, demand.memory_bytes.saturating_mul(count), &devices);
            }
            self.use_queue(line, Usage { running: 1, queued: 0, gpus });
            self.round.decisions.push(Decision::Gang {
                job: job.body.id,
                index: candidate.first,
                attempt: candidate.attempt,
                alternative,
                parts,
                device: self.choice(&line.shape.demands, alternative),
            });
            return Ok((1, 1));
        }
        Err(if limited { Tried::Limited } else { Tried::NoRoom })
    }

    /// Says which device an alternative means, and why it was taken.
    fn choice(&self, demands: &[Demand], alternative: u32) -> DeviceChoice {
        let Some(demand) = demands.get(alternative as usize) else {
            return DeviceChoice { gpu: false, code: DeviceCode::OnlyChoice, detail: String::new() };
        };
        let gpu = demand.gpus > 0;
        if demands.iter().all(|other| (other.gpus > 0) == gpu) {
            let detail = if gpu { "the job asks for a GPU" } else { "the job asks for no GPU" };
            return DeviceChoice { gpu, code: DeviceCode::OnlyChoice, detail: detail.to_owned() };
        }
        let detail = match gpu {
            true => "a GPU was free",
            false if self.free.has_gpus() => "no GPU was free that fits",
            false => "no node has a GPU",
        };
        DeviceChoice { gpu, code: DeviceCode::DefaultRule, detail: detail.to_owned() }
    }
}

impl Cursor {
    /// Returns what is next: elements that were tried before, then those that were not.
    fn candidate(&self, job: &Job, base: Attempt) -> Option<Candidate> {
        if let Some(index) = self.waiting.last() {
            let record = job.body.records.get(index)?;
            let attempt = record.attempts.max(base) + 1;
            let prefer = record.checkpoint.as_ref().map(|checkpoint| checkpoint.node);
            return Some(Candidate { first: *index, run: 1, attempt, prefer });
        }
        let range = job.body.pending.within(self.next?, Index::MAX).next()?;
        Some(Candidate { first: range.first, run: range.count(), attempt: base + 1, prefer: None })
    }

    fn advance(&mut self, job: &Job, placed: Candidate, elements: u64, slots: u64) {
        self.room -= slots;
        if self.waiting.last() == Some(&placed.first) {
            self.waiting.pop();
            return;
        }
        self.pending = self.pending.saturating_sub(elements);
        let after = u64::from(placed.first) + elements;
        let after = u32::try_from(after).ok();
        self.next = after.and_then(|after| job.body.pending.within(after, Index::MAX).next()).map(|range| range.first);
    }
}
