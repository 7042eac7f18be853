//! What follows when records are on disk: the history, the replay of rounds, the fold, and the watchers.

use gangsaw_core::apply::apply;
use gangsaw_core::event::{By, Event, Record};
use gangsaw_core::input::{Input, Request};
use gangsaw_core::place::place;
use gangsaw_core::restore::restored;
use gangsaw_core::state::State;
use gangsaw_core::time::Millis;

use super::World;
use crate::scheduler::request;

/// Starts of the scheduler of which one is from a backup.
const RESTORED_EVERY: u64 = 6;

impl World {
    /// Takes records that are on disk now: everything that is derived from the log follows here.
    pub(crate) fn became_durable(&mut self, records: &[Record]) {
        self.unchecked += 1;
        for (at, record) in records.iter().enumerate() {
            self.counters.event(&record.event);
            self.note("event", &[record.seq, record.at.0]);
            self.read(|| format!("{:?}", record.event));
            let last = self.log.last().map_or(0, |record| record.seq);
            if record.seq != last + 1 {
                return self.fail(format!("record {} follows {last}", record.seq));
            }
            let replayed = self.replay_round(&records[at..]);
            let judged = |()| self.history.observe(record, &self.truth).map_err(|violation| violation.0);
            if let Err(what) = replayed.and_then(judged) {
                return self.fail(format!("record {}: {what}", record.seq));
            }
            apply(&mut self.shadow, record.at, &record.event);
            for watcher in self.watchers.iter_mut().filter(|watcher| watcher.connected) {
                watcher.cursor += 1;
            }
            self.log.push(record.clone());
        }
    }

    /// Computes a recorded round again from the state before it: it must come out the same.
    fn replay_round(&self, records: &[Record]) -> Result<(), String> {
        let Some(Record { event: Event::RoundDecided { now, round, decisions, .. }, .. }) = records.first() else {
            return Ok(());
        };
        let computed = place(&self.shadow, *now).events;
        let recorded = records.iter().take(1 + usize::try_from(*decisions).unwrap_or(0)).map(|record| &record.event);
        let wanted = 1 + usize::try_from(*decisions).unwrap_or(0);
        if recorded.eq(computed.iter().take(wanted)) {
            return Ok(());
        }
        Err(format!("round {round} is replayed otherwise: {computed:?}"))
    }

    /// Checks what the scheduler read from its disk.
    pub(crate) fn recovered(&mut self, state: &State, seq: u64) {
        let last = self.log.last().map_or(0, |record| record.seq);
        if seq != last {
            self.fail(format!("the log ended with record {last} and is loaded up to {seq}"));
        } else if !state.same_as(&self.shadow) {
            self.fail(String::from("the state that was loaded is not the fold of the log"));
        }
    }

    /// Lets some starts of the scheduler be from a backup that was made at its last append. Returns the log's end.
    pub(crate) fn restore_at_times(&mut self, state: &mut State, seq: u64, downtime_ms: u64) -> u64 {
        if !self.scheduler_starts.is_multiple_of(RESTORED_EVERY) {
            return seq;
        }
        let Some(Request { actor, request_id, .. }) = request(0, "operator", Input::Tick) else { return seq };
        let event = restored(state, By { actor, request_id }, Millis(downtime_ms));
        let record = Record { seq: seq + 1, at: state.now() + Millis(downtime_ms), wall_ms: self.now, event };
        if self.disk.append(std::slice::from_ref(&record), true).is_err() {
            return seq;
        }
        apply(state, record.at, &record.event);
        self.became_durable(&[record]);
        seq + 1
    }

    pub(super) fn resume_watcher(&mut self, at: usize) {
        let Some(watcher) = self.watchers.get_mut(at) else { return };
        let mut gap = None;
        for record in
            self.log.iter().rev().take_while(|record| record.seq > watcher.cursor).collect::<Vec<_>>().iter().rev()
        {
            watcher.cursor += 1;
            if record.seq != watcher.cursor {
                gap = Some((watcher.cursor, record.seq));
                break;
            }
        }
        watcher.connected = true;
        if let Some((wanted, read)) = gap {
            self.fail(format!("a watcher expects {wanted} and reads {read}"));
        }
    }
}
