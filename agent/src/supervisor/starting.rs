//! From an element to a running process.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd as _;
use std::rc::Rc;

use gangsaw_proto::supervisor::v1::{Returned, Started, fact, start_failed};

use super::attempt::Folders;
use super::clock::now_us;
use super::command::start_failed;
use super::logs::pump::Meter;
use super::server::{Source, Supervisor};
use super::slot::Task;
use super::spawn::{self, Plan, Step, Way};
use super::template::{StartFault, Template, exec_fault, explain, workdir_fault};

/// In a chunk only tasks that live this long are told as started.
const TELL_AFTER_US: u64 = 20_000;

impl Supervisor {
    /// Fills the lease's free slots with its next elements.
    pub(super) fn start_more(&mut self, lease_id: u64) {
        while let Some(lease) = self.leases.get_mut(&lease_id) {
            let template = Rc::clone(&lease.template);
            let per_element = u32::try_from(template.ranks.len()).unwrap_or(u32::MAX);
            if lease.prepared.is_some() || lease.running + per_element > template.slots {
                break;
            }
            let Some(index) = lease.pop() else { break };
            for position in 0..template.ranks.len() {
                self.start(lease_id, &template, index, position);
            }
        }
        self.settle_lease(lease_id);
    }

    fn start(&mut self, lease_id: u64, template: &Template, index: u32, position: usize) {
        match self.try_start(lease_id, template, index, position) {
            Ok(()) => {
                if let Some(lease) = self.leases.get_mut(&lease_id) {
                    lease.running += 1;
                }
            }
            Err(fault) => self.tell_start_failed(lease_id, index, position, &fault),
        }
    }

    /// A task that never ran; what has not started comes back.
    pub(super) fn tell_start_failed(&mut self, lease_id: u64, index: u32, position: usize, fault: &StartFault) {
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        let rank = lease.template.ranks.get(position).map_or(0, |rank| rank.rank);
        let back = lease.cut(0);
        self.reporter.tell(lease_id, fact::Fact::StartFailed(start_failed(index, rank, fault)));
        for (first_index, last_index) in back {
            self.reporter.tell(lease_id, fact::Fact::Returned(Returned { first_index, last_index }));
        }
    }

    fn try_start(&mut self, lease_id: u64, template: &Template, index: u32, position: usize) -> Result<(), StartFault> {
        let program = template.program()?;
        let at_slot = |fault| StartFault::infra(start_failed::Step::Slot, "cannot make a slot", &fault);
        let which = self.slots.take(lease_id, &self.epoll).map_err(at_slot)?;
        let started = self.start_in(which, lease_id, template, index, position, program);
        if started.is_err() {
            self.slots.all[which].taken = false;
        }
        started
    }

    fn start_in(
        &mut self,
        which: usize,
        lease_id: u64,
        template: &Template,
        index: u32,
        position: usize,
        program: &CString,
    ) -> Result<(), StartFault> {
        let at_slot = |fault| StartFault::infra(start_failed::Step::Slot, "cannot make a slot", &fault);
        let slot = &mut self.slots.all[which];
        let tokens = [Source::Stdout(which).token(), Source::Stderr(which).token()];
        slot.get_ready(template.limits, &self.epoll, tokens).map_err(at_slot)?;
        let folders = self.make_folders(which, template, index, position)?;
        let slot = &self.slots.all[which];
        let env = template.env(index, position, &folders)?;
        let workdir = working_folder(&template.run.workdir, &folders)?;
        let make_dirs = template.user_folders(&folders)?;
        let is_root = template.ids.as_ref().map_or_else(|| rustix::process::geteuid().is_root(), |ids| ids.uid == 0);
        let rlimits = slot.group.rlimits(template.limits, is_root);
        let Some([out, err]) = &slot.pipes else { return Err(StartFault::request("a slot without pipes")) };
        let plan = Plan {
            path: program,
            argv: &template.argv,
            env: &env,
            workdir: &workdir,
            make_dirs: &make_dirs,
            stdio: [self.null.as_fd(), out.write.as_fd(), err.write.as_fd()],
            doors: &slot.group.doors,
            rlimits: &rlimits,
            nofile: self.nofile,
            ignored: &self.ignored,
            ids: template.ids.as_ref(),
        };
        let forked = match template.is_local(program) {
            true => spawn::spawn_sharing(&plan, &mut self.stack).map(|(pid, failed)| (pid, None, failed)),
            false => spawn::spawn(&plan).map(|(pid, status)| (pid, Some(status), None)),
        };
        let (pid, status, failed) =
            forked.map_err(|fault| StartFault::infra(start_failed::Step::Fork, "cannot fork", &fault))?;
        if let Some(status) = &status {
            let _ = self.watch(status, Source::Status(which));
            self.on_the_way.insert(which);
        }
        let now = now_us();
        let executed = status.is_none() && failed.is_none();
        self.mains.insert(pid, which);
        self.slots.all[which].task = Some(Task {
            lease_id,
            index,
            position,
            pid,
            status,
            failed,
            forked_at: now,
            executed_at: None,
            told: false,
            folders,
            meter: Meter::new(self.rates, now),
            ending: None,
            gone: None,
            alarm: None,
        });
        // The lease counts the task as running only after this function; what follows from exec does not need that.
        if executed {
            self.executed(which, now);
        }
        Ok(())
    }

    /// Makes an attempt's folders, from those an earlier task of the slot left empty if there are any.
    fn make_folders(
        &mut self,
        which: usize,
        template: &Template,
        index: u32,
        position: usize,
    ) -> Result<Folders, StartFault> {
        let run = &template.run;
        let rank = template.ranks.get(position).map_or(0, |rank| rank.rank);
        let job = self.paths.attempts(run.job_id);
        let mut folders = Folders::name(&job, index, rank, run.attempt, &run.output_dir, &run.checkpoint_dir);
        folders.make(self.slots.all[which].spare.take(), template.ids.as_ref()).map_err(|fault| {
            StartFault::infra(start_failed::Step::Directories, "cannot make the attempt's folders", &fault)
        })?;
        Ok(folders)
    }

    /// The status pipe of a child: exec happened, or a step before it failed (its exit follows and tells).
    pub(super) fn on_status(&mut self, which: usize) {
        let Some(task) = self.slots.all.get_mut(which).and_then(|slot| slot.task.as_mut()) else { return };
        let Some(status) = task.status.take() else { return };
        let way = spawn::way(&status);
        if way == Way::Open {
            task.status = Some(status);
            return;
        }
        self.on_the_way.remove(&which);
        self.unwatch(status);
        let Some(task) = self.slots.all[which].task.as_mut() else { return };
        if let Way::Failed(step, errno) = way {
            // The exit follows at once and tells.
            task.failed = Some((step, errno));
            return;
        }
        self.executed(which, now_us());
    }

    /// A task's command runs: its limit counts from now.
    fn executed(&mut self, which: usize, now: u64) {
        let Some(task) = self.slots.all[which].task.as_mut() else { return };
        task.executed_at = Some(now);
        let (lease_id, ends) = (task.lease_id, task.ending.map(|ending| ending.kill_at));
        let Some(lease) = self.leases.get(&lease_id) else { return };
        let limit = lease.template.run.time_limit_ms;
        let single = lease.is_single();
        let limit_at = (limit > 0 && ends.is_none()).then(|| now + limit.saturating_mul(1000));
        let tell_at = (!single).then_some(now + TELL_AFTER_US);
        if let Some(at) = [limit_at, tell_at, ends].into_iter().flatten().min() {
            self.set_alarm(which, at);
        }
        if single {
            self.tell_started(which);
        }
    }

    pub(super) fn tell_started(&mut self, which: usize) {
        let Some(task) = self.slots.all[which].task.as_mut() else { return };
        let Some(lease) = self.leases.get(&task.lease_id) else { return };
        let Some(executed_at) = task.executed_at else { return };
        if std::mem::replace(&mut task.told, true) {
            return;
        }
        let started = Started {
            index: task.index,
            rank: lease.template.ranks.get(task.position).map_or(0, |rank| rank.rank),
            pid: u32::try_from(task.pid).unwrap_or(0),
            start_ticks: start_ticks(task.pid),
            output_dir: task.folders.output.clone(),
            spawn_us: executed_at.saturating_sub(lease.granted_us),
            checkpoint_dir: task.folders.checkpoints.clone(),
        };
        self.reporter.tell(task.lease_id, fact::Fact::Started(started));
    }

    /// In a chunk: whether it is time to tell that the task has started.
    pub(super) fn tell_if_long(&mut self, which: usize, now: u64) {
        let task = self.slots.all[which].task.as_ref();
        if task.is_some_and(|task| !task.told && task.executed_at.is_some_and(|at| at + TELL_AFTER_US <= now)) {
            self.tell_started(which);
        }
    }
}

/// Field 22 of /proc/PID/stat; zero when the process is no more.
pub(super) fn start_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything; the third field follows the last one.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after.split_whitespace().nth(19).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

/// What the child's (step, errno) means.
pub(super) fn step_fault(template: &Template, step: Step, errno: i32) -> StartFault {
    use start_failed::Step as Told;
    let infra = |told, what: &str| StartFault {
        step: told,
        errno,
        users_fault: false,
        detail: format!("{what}: {}", explain(errno)),
    };
    match step {
        Step::Session => infra(Told::Session, "cannot make a session"),
        Step::Cgroup => infra(Told::Cgroup, "cannot enter the slot's cgroup"),
        Step::Rlimit => infra(Told::Rlimit, "cannot set the limits"),
        Step::User => infra(Told::User, "cannot become the task's user"),
        Step::Descriptors => infra(Told::Exec, "cannot set up standard output"),
        Step::Workdir => workdir_fault(&template.run.workdir, errno),
        Step::Exec => exec_fault(&template.command, errno),
        Step::Directories => StartFault {
            users_fault: !matches!(errno, libc::ENOSPC | libc::EIO | libc::EDQUOT | libc::ENOMEM),
            ..infra(Told::Directories, "cannot make the output folders")
        },
    }
}

/// Returns where a task works: what the job asks for, else its attempt's folder.
fn working_folder(asked: &str, folders: &Folders) -> Result<CString, StartFault> {
    let folder = if asked.is_empty() { folders.root.to_string_lossy().into_owned() } else { asked.to_owned() };
    CString::new(folder).map_err(|_| StartFault::request("the working folder holds a zero byte"))
}
