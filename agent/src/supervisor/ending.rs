//! From a running process to a fact: exits, time limits, stops, and the proof that nothing is left.
//!
//! A task has ended when its whole tree has: its main process was reaped **and** its slot is empty. Until then its
//! fact is not told, its slot is not reused, and what is left gets SIGKILL again and again.

use std::fs;

use gangsaw_proto::supervisor::v1::{Ended, Returned, Succeeded, ended::Cause, fact, stop::Reason};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::clock::{now_us, wall_ms};
use super::kill::{self, Mark};
use super::lease::ranges;
use super::logs::Stream;
use super::logs::Tag;
use super::logs::pump::Place;
use super::server::{Supervisor, TURN_BYTES, Timer};
use super::slot::{Ending, Gone, Task};
use super::spawn::{self, Exit};
use super::starting::step_fault;

/// Between two looks at what is left of a task that was killed.
const LOOK_AGAIN_US: u64 = 5_000;
/// The same when it has been refusing to go, for example in uninterruptible sleep.
const LOOK_LATER_US: u64 = 200_000;
/// Successes of a chunk wait so long, or until there are so many.
const DONE_WAIT_US: u64 = 10_000;
const DONE_MAX: usize = 256;

impl Supervisor {
    /// Reads one turn of a stream into the log. False: nothing was there.
    pub(super) fn pump(&mut self, which: usize, stream: Stream) {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.pump_with(which, stream, &mut buffer);
        self.buffer = buffer;
    }

    fn pump_with(&mut self, which: usize, stream: Stream, buffer: &mut [u8]) -> usize {
        let Some(slot) = self.slots.all.get_mut(which) else { return 0 };
        let Some(bytes) = slot.read_pipe(stream, buffer) else { return 0 };
        let Some(task) = slot.task.as_mut() else { return bytes.len() };
        let Some(lease) = self.leases.get(&task.lease_id) else { return bytes.len() };
        let run = &lease.template.run;
        let rank = lease.template.ranks.get(task.position).map_or(0, |rank| rank.rank);
        let folder = self.paths.logs(run.job_id);
        let tag = Tag { index: task.index, rank, attempt: run.attempt };
        let place = Place { job_id: run.job_id, folder: &folder, stream, tag };
        self.logs.write(&place, &mut task.meter, now_us(), wall_ms(), bytes);
        bytes.len()
    }

    /// Reaps every child that ended, then looks at slots that were not empty the last time.
    pub(super) fn reap_all(&mut self) {
        // The way to exec is told before the exit, also when epoll has not brought it yet.
        for which in self.on_the_way.iter().copied().collect::<Vec<_>>() {
            self.on_status(which);
        }
        while let Some(reaped) = spawn::reap() {
            let Some(which) = self.mains.remove(&reaped.pid) else { continue };
            // A child that forked and ended since the look above has its word in the pipe.
            self.on_status(which);
            if let Some(task) = self.slots.all[which].task.as_mut() {
                task.gone = Some(Gone { exit: reaped.exit, max_rss_bytes: reaped.max_rss_bytes, at: now_us() });
                self.draining.insert(which);
            }
        }
        for which in self.draining.iter().copied().collect::<Vec<_>>() {
            self.drain(which);
        }
    }

    /// Ends the task of a slot if nothing of it is left; else kills what is.
    fn drain(&mut self, which: usize) {
        if self.has_leftovers(which) {
            self.kill_tree(which);
            let gone = self.slots.all[which].task.as_ref().and_then(|task| task.gone);
            let slow = gone.is_some_and(|gone| now_us() > gone.at + 1_000_000);
            self.set_alarm(which, now_us() + if slow { LOOK_LATER_US } else { LOOK_AGAIN_US });
            return;
        }
        self.draining.remove(&which);
        self.finish(which);
    }

    fn has_leftovers(&self, which: usize) -> bool {
        let slot = &self.slots.all[which];
        if let Some(populated) = slot.group.populated() {
            return populated;
        }
        let Some(task) = &slot.task else { return false };
        let Some(strays) = kill::strays(|pid| self.mains.contains_key(&pid)) else {
            // Without the list of children the group is what can be asked cheaply.
            return Pid::from_raw(task.pid)
                .is_some_and(|group| rustix::process::test_kill_process_group(group).is_ok());
        };
        // Nobody else runs: whoever is there is a leftover, whatever its environment says.
        let alone = self.mains.is_empty() && self.draining.len() == 1;
        let mark = self.mark(task);
        strays.into_iter().any(|pid| is_alive(pid) && (alone || mark.as_ref().is_some_and(|mark| mark.is_on(pid))))
    }

    fn mark(&self, task: &Task) -> Option<Mark> {
        let lease = self.leases.get(&task.lease_id)?;
        let rank = lease.template.ranks.get(task.position)?.rank;
        Some(Mark::new(&self.tag, task.lease_id, Some(&lease.template.task_name(task.index, rank))))
    }

    /// SIGKILL to everything of a task.
    fn kill_tree(&mut self, which: usize) {
        if self.slots.all[which].group.kill() {
            return;
        }
        let Some(task) = &self.slots.all[which].task else { return };
        if let Some(pid) = Pid::from_raw(task.pid) {
            let _ = kill_process_group(pid, Signal::KILL);
            // Not reaped yet, so the pid is still this task's. Before setsid there is no group.
            if task.gone.is_none() {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        kill::tree(self.mark(task).as_slice());
        if self.mains.is_empty() && self.draining.len() == 1 {
            for pid in kill::strays(|_| false).unwrap_or_default() {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }

    /// The task's tree is gone: what it printed last, its fact, its slot.
    fn finish(&mut self, which: usize) {
        self.empty_pipes(which);
        let slot = &mut self.slots.all[which];
        let Some(mut task) = slot.task.take() else { return };
        slot.taken = false;
        let limited = self.leases.get(&task.lease_id).is_some_and(|lease| lease.template.limits.memory_bytes > 0);
        let oom = limited && slot.group.took_oom();
        let peak = if oom { slot.group.peak_bytes() } else { None };
        slot.spare = task.folders.untouched();
        if let Some(at) = task.alarm.take() {
            self.timers.remove(&(at, Timer::Task(which)));
        }
        if let Some(lease) = self.leases.get_mut(&task.lease_id) {
            lease.running -= 1;
        }
        self.tell_end(&mut task, oom, peak);
        self.start_more(task.lease_id);
    }

    fn empty_pipes(&mut self, which: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(TURN_BYTES, 0);
        for stream in Stream::ALL {
            while self.pump_with(which, stream, &mut buffer) > 0 {}
        }
        self.buffer = buffer;
        let Some(task) = self.slots.all[which].task.as_mut() else { return };
        let Some(lease) = self.leases.get(&task.lease_id) else { return };
        let run = &lease.template.run;
        let rank = lease.template.ranks.get(task.position).map_or(0, |rank| rank.rank);
        let folder = self.paths.logs(run.job_id);
        for stream in Stream::ALL {
            let tag = Tag { index: task.index, rank, attempt: run.attempt };
            self.logs.finish(&Place { job_id: run.job_id, folder: &folder, stream, tag }, &mut task.meter, wall_ms());
        }
    }

    fn tell_end(&mut self, task: &mut Task, oom: bool, peak: Option<u64>) {
        let (Some(lease), Some(gone)) = (self.leases.get_mut(&task.lease_id), task.gone) else { return };
        if let Some((step, errno)) = task.failed {
            let fault = step_fault(&lease.template, step, errno);
            return self.tell_start_failed(task.lease_id, task.index, task.position, &fault);
        }
        let ran_us = gone.at.saturating_sub(task.executed_at.unwrap_or(task.forked_at));
        let by_itself = task.ending.is_none();
        if by_itself && gone.exit == Exit::Code(0) && !lease.is_gang() {
            if lease.done.is_empty() {
                lease.done_since = gone.at;
                self.timers.insert((gone.at + DONE_WAIT_US, Timer::Flush(task.lease_id)));
            }
            lease.done.push((task.index, ran_us));
            if lease.is_single() || lease.done.len() >= DONE_MAX {
                self.tell_done(task.lease_id);
            }
            return;
        }
        let limit = lease.template.limits.memory_bytes;
        let oom = oom && by_itself && gone.exit != Exit::Code(0);
        let (cause, reason) = match task.ending {
            Some(ending) => (ending.cause, ending.reason),
            None if oom => (Cause::Oom, Reason::Unspecified),
            None => (Cause::Exit, Reason::Unspecified),
        };
        let detail = match cause {
            Cause::Oom => format!("out of memory: limit {limit} bytes, peak {} bytes", peak.unwrap_or(limit)),
            Cause::TimeLimit => format!("ran into its time limit of {} ms", lease.template.run.time_limit_ms),
            Cause::Disconnected => "the node was out of touch for longer than the job allows".to_owned(),
            Cause::Exit | Cause::Stopped | Cause::Unspecified => String::new(),
        };
        let (exit_code, signal) = match gone.exit {
            Exit::Code(code) => (Some(code), None),
            Exit::Signal(signal) => (None, Some(signal)),
        };
        let ended = Ended {
            index: task.index,
            rank: lease.template.ranks.get(task.position).map_or(0, |rank| rank.rank),
            exit_code,
            signal,
            cause: cause.into(),
            reason: reason.into(),
            detail,
            ran_us,
            max_rss_bytes: gone.max_rss_bytes,
        };
        self.reporter.tell(task.lease_id, fact::Fact::Ended(ended));
    }

    /// Tells a lease's successes so far, as ranges.
    pub(super) fn tell_done(&mut self, lease_id: u64) {
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        let mut done = std::mem::take(&mut lease.done);
        self.timers.remove(&(lease.done_since + DONE_WAIT_US, Timer::Flush(lease_id)));
        if done.is_empty() {
            return;
        }
        done.sort_unstable();
        let mean_us = done.iter().map(|(_, ran_us)| ran_us).sum::<u64>() / done.len() as u64;
        for (first_index, last_index) in ranges(done.iter().map(|(index, _)| *index)) {
            self.reporter.tell(lease_id, fact::Fact::Succeeded(Succeeded { first_index, last_index, mean_us }));
        }
    }

    /// Forgets a lease that is over.
    pub(super) fn settle_lease(&mut self, lease_id: u64) {
        if self.leases.get(&lease_id).is_some_and(super::lease::Lease::is_over) {
            self.tell_done(lease_id);
            self.forget(lease_id);
        }
    }

    pub(super) fn forget(&mut self, lease_id: u64) {
        let Some(lease) = self.leases.remove(&lease_id) else { return };
        self.timers.remove(&(lease.deadline, Timer::Deadline(lease_id)));
        self.slots.release(lease_id, &self.epoll);
        self.reporter.lease_ended(lease_id);
        let job_id = lease.template.run.job_id;
        if !self.leases.values().any(|other| other.template.run.job_id == job_id) {
            self.logs.close(job_id);
        }
    }

    /// When the task is to be looked at again; a later time never replaces an earlier one.
    pub(super) fn set_alarm(&mut self, which: usize, at: u64) {
        let Some(task) = self.slots.all[which].task.as_mut() else { return };
        if let Some(old) = task.alarm {
            if old <= at {
                return;
            }
            self.timers.remove(&(old, Timer::Task(which)));
        }
        task.alarm = Some(at);
        self.timers.insert((at, Timer::Task(which)));
    }

    /// A task's due time: its limit, its SIGKILL, another look, or just the moment to tell that it started.
    pub(super) fn on_alarm(&mut self, which: usize, now: u64) {
        let Some(task) = self.slots.all.get_mut(which).and_then(|slot| slot.task.as_mut()) else { return };
        task.alarm = None;
        if task.gone.is_some() {
            return self.drain(which);
        }
        self.tell_if_long(which, now);
        let Some(task) = self.slots.all[which].task.as_ref() else { return };
        let Some(lease) = self.leases.get(&task.lease_id) else { return };
        let run = &lease.template.run;
        if let Some(ending) = task.ending {
            return if ending.kill_at <= now { self.kill(which) } else { self.set_alarm(which, ending.kill_at) };
        }
        if let Some(executed_at) = task.executed_at.filter(|_| run.time_limit_ms > 0) {
            let limit_at = executed_at + run.time_limit_ms.saturating_mul(1000);
            if limit_at <= now {
                self.end_task(which, Cause::TimeLimit, Reason::Unspecified, run.grace_ms);
            } else {
                self.set_alarm(which, limit_at);
            }
        }
    }

    fn kill(&mut self, which: usize) {
        if let Some(ending) = self.slots.all[which].task.as_mut().and_then(|task| task.ending.as_mut()) {
            ending.killed = true;
            ending.kill_at = now_us() + LOOK_LATER_US;
        }
        self.kill_tree(which);
        self.set_alarm(which, now_us() + LOOK_LATER_US);
    }

    /// Notice, SIGTERM, and SIGKILL after the grace. A second call may only shorten the grace.
    fn end_task(&mut self, which: usize, cause: Cause, reason: Reason, grace_ms: u64) {
        let now = now_us();
        let kill_at = now + grace_ms.saturating_mul(1000);
        let Some(task) = self.slots.all[which].task.as_mut().filter(|task| task.gone.is_none()) else { return };
        if let Some(ending) = &mut task.ending {
            if ending.killed || ending.kill_at <= kill_at {
                return;
            }
            ending.kill_at = kill_at;
        } else {
            task.ending = Some(Ending { cause, reason, kill_at, killed: false });
            if grace_ms > 0 {
                let (deadline, why) = (wall_ms() + grace_ms, why(cause, reason));
                let notice =
                    format!("{{\"reason\":\"{why}\",\"deadline_unix_ms\":{deadline},\"grace_ms\":{grace_ms}}}\n");
                // A full disk must not keep a task from being stopped.
                let _ = fs::write(task.folders.notice(), notice);
                terminate(task.pid);
            }
        }
        if grace_ms == 0 {
            return self.kill(which);
        }
        self.set_alarm(which, kill_at);
    }

    /// Stops the selected elements of a lease; none named: all.
    pub(super) fn stop_lease(&mut self, lease_id: u64, elements: &[u32], reason: Reason, grace_ms: Option<u64>) {
        self.end_lease(lease_id, elements, Cause::Stopped, reason, grace_ms);
    }

    fn end_lease(&mut self, lease_id: u64, elements: &[u32], cause: Cause, reason: Reason, grace_ms: Option<u64>) {
        if elements.is_empty() {
            self.give_back(lease_id, 0);
        }
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        let grace_ms = grace_ms.unwrap_or(lease.template.run.grace_ms);
        for index in elements.iter().copied().filter(|index| lease.cut_one(*index)) {
            let returned = Returned { first_index: index, last_index: index };
            self.reporter.tell(lease_id, fact::Fact::Returned(returned));
        }
        for which in self.tasks_of(lease_id).collect::<Vec<_>>() {
            let index = self.slots.all[which].task.as_ref().map(|task| task.index);
            if elements.is_empty() || index.is_some_and(|index| elements.contains(&index)) {
                self.end_task(which, cause, reason, grace_ms);
            }
        }
        // Passes over elements that have just returned, and settles the lease.
        self.start_more(lease_id);
    }

    /// Nobody renewed the lease.
    pub(super) fn on_deadline(&mut self, lease_id: u64, now: u64) {
        if self.leases.get(&lease_id).is_some_and(|lease| lease.deadline > 0 && lease.deadline <= now) {
            self.end_lease(lease_id, &[], Cause::Disconnected, Reason::Unspecified, None);
        }
    }
}

/// What a notice says to the task.
fn why(cause: Cause, reason: Reason) -> &'static str {
    match (cause, reason) {
        (Cause::TimeLimit, _) => "time-limit",
        (Cause::Disconnected, _) => "disconnected",
        (_, Reason::Cancelled) => "cancelled",
        (_, Reason::Preempted) => "preempted",
        (_, Reason::Fenced) => "fenced",
        (_, Reason::Gang) => "gang",
        (_, Reason::Shutdown) => "shutdown",
        (Cause::Stopped | Cause::Exit | Cause::Oom | Cause::Unspecified, Reason::Unspecified) => "stopped",
    }
}

fn terminate(pid: i32) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    // Before setsid there is no group of that name yet; the signal waits until the child unblocks it.
    if kill_process_group(pid, Signal::TERM).is_err() {
        let _ = kill_process(pid, Signal::TERM);
    }
    // A stopped process hears SIGTERM only when it goes on.
    let _ = kill_process_group(pid, Signal::CONT);
}

/// False for a zombie, which only waits to be reaped.
fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, after)| !after.trim_start().starts_with(['Z', 'X']))
}
