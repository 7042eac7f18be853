//! What simulated jobs ask for and what their tasks do.
//!
//! A task's behaviour is its command: `sim ACT MS N [stubborn]`. So it travels through the whole core as any command
//! would, and a retry of the same element behaves as written there.

use gangsaw_core::id::{Attempt, Index, JobId};
use gangsaw_core::job::draft::{
    ArrayDraft, DemandDraft, DependencyDraft, JobDraft, JobRefDraft, RetryDraft, StepRange, WorkDraft,
};
use gangsaw_core::job::record::{Cause, Exit};
use gangsaw_core::job::spec::{DependencyKind, Work};

use crate::rng::Rng;

const GIB: u64 = 1 << 30;

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Exits 0.
    Well,
    /// Exits 3.
    Fails,
    /// Exits 3 in its first `n` attempts, then 0.
    FailsFirst,
    /// Every third element exits 3 in its first attempt.
    FailsSome,
    /// Is killed for memory.
    Oom,
    /// Dies of SIGSEGV.
    Signal,
    /// Asks to be put back (75) in its first `n` attempts, then 0.
    Requeues,
    /// Cannot be executed.
    NoCommand,
}

const ACTS: [(&str, Act); 8] = [
    ("well", Act::Well),
    ("fails", Act::Fails),
    ("fails-first", Act::FailsFirst),
    ("fails-some", Act::FailsSome),
    ("oom", Act::Oom),
    ("signal", Act::Signal),
    ("requeues", Act::Requeues),
    ("no-command", Act::NoCommand),
];

/// A command that is understood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    pub(crate) act: Act,
    ms: u64,
    n: u32,
    pub(crate) stubborn: bool,
}

impl Behaviour {
    pub(crate) fn of(work: &Work) -> Self {
        let args: &[String] = match work {
            Work::Argv(args) => args,
            Work::Shell(_) | Work::Recipe { .. } => &[],
        };
        let word = |at: usize| args.get(at).map_or("", String::as_str);
        let act = ACTS.iter().find(|(name, _)| *name == word(1)).map_or(Act::Well, |(_, act)| *act);
        Self { act, ms: word(2).parse().unwrap_or(1), n: word(3).parse().unwrap_or(1), stubborn: word(4) == "stubborn" }
    }

    fn argv(self) -> Vec<String> {
        let act = ACTS.iter().find(|(_, act)| *act == self.act).map_or("well", |(name, _)| name);
        let mut args = vec!["sim".to_owned(), act.to_owned(), self.ms.to_string(), self.n.to_string()];
        if self.stubborn {
            args.push("stubborn".to_owned());
        }
        args
    }

    /// Returns how long the task runs and how it ends, if nothing happens to it.
    pub(crate) fn end(self, index: Index, attempt: Attempt) -> (u64, Exit) {
        let code = |code: i32| (Cause::Exit, Some(code), None);
        let (cause, exit_code, signal) = match self.act {
            Act::Well | Act::NoCommand => code(0),
            Act::Fails => code(3),
            Act::FailsFirst => code(if attempt <= self.n { 3 } else { 0 }),
            Act::FailsSome => code(if index % 3 == 1 && attempt == 1 { 3 } else { 0 }),
            Act::Oom => (Cause::Oom, None, Some(9)),
            Act::Signal => (Cause::Exit, None, Some(11)),
            Act::Requeues => code(if attempt <= self.n { 75 } else { 0 }),
        };
        let spread = u64::from(index % 7) * self.ms / 10;
        let checkpoint = (self.ms > 2_000 && attempt % 2 == 1).then(|| format!("ckpt-{index}-{attempt}"));
        let exit =
            Exit { cause, exit_code, signal, detail: String::new(), ran_us: 0, checkpoint, max_rss_bytes: 1 << 20 };
        (self.ms + spread, exit)
    }
}

/// What the cluster has, so that most jobs fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) nodes: u64,
    pub(crate) gpus: u64,
}

fn behaviour(rng: &mut Rng) -> Behaviour {
    let act = match rng.below(100) {
        0..=59 => Act::Well,
        60..=65 => Act::Fails,
        66..=75 => Act::FailsFirst,
        76..=81 => Act::FailsSome,
        82..=85 => Act::Oom,
        86..=88 => Act::Signal,
        89..=93 => Act::Requeues,
        _ => Act::NoCommand,
    };
    let ms = match rng.below(100) {
        0..=39 => rng.range(1, 45),
        40..=79 => rng.range(100, 3_000),
        80..=96 => rng.range(3_000, 60_000),
        _ => rng.range(120_000, 900_000),
    };
    let n = u32::try_from(rng.range(1, 3)).unwrap_or(1);
    Behaviour { act, ms, n, stubborn: rng.permille(100) }
}

fn demands(rng: &mut Rng, size: Size) -> Vec<DemandDraft> {
    let cpu = DemandDraft {
        milli_cpus: [500, 1_000, 1_000, 2_000][usize::try_from(rng.below(4)).unwrap_or(0)],
        memory_bytes: if rng.permille(300) { rng.range(1, 4) * GIB } else { 0 },
        ..DemandDraft::default()
    };
    if size.gpus == 0 || rng.permille(650) {
        return if rng.permille(200) { Vec::new() } else { vec![cpu] };
    }
    let gpu = DemandDraft {
        gpus: u32::try_from(rng.range(1, size.gpus.min(2))).unwrap_or(1),
        gpu_model: if rng.permille(200) { "h200".to_owned() } else { String::new() },
        ..cpu.clone()
    };
    if rng.permille(400) { vec![gpu, cpu] } else { vec![gpu] }
}

fn array(rng: &mut Rng) -> ArrayDraft {
    let count = u32::try_from(if rng.permille(30) { rng.range(200, 600) } else { rng.range(2, 40) }).unwrap_or(2);
    let first = u32::try_from(rng.below(3)).unwrap_or(0);
    let step = if rng.permille(200) { 2 } else { 1 };
    let last = first + (count - 1) * step;
    let running_max = if rng.permille(200) { u32::try_from(rng.range(1, 4)).unwrap_or(1) } else { 0 };
    ArrayDraft { ranges: vec![StepRange { first, last, step }], running_max }
}

/// Returns a job that is valid but may not fit.
pub(crate) fn draft(rng: &mut Rng, size: Size, queues: &[&str]) -> JobDraft {
    let mut behaviour = behaviour(rng);
    let mut draft = JobDraft {
        name: String::from("sim"),
        queue: rng.pick(queues).unwrap_or("default").to_owned(),
        priority: rng.permille(300).then(|| i32::try_from(rng.below(200)).unwrap_or(0) - 100),
        work: Some(WorkDraft::Argv(behaviour.argv())),
        demands: demands(rng, size),
        grace_ms: rng.permille(500).then(|| i64::try_from(rng.below(5_000)).unwrap_or(0)),
        lost_after_ms: rng.permille(700).then(|| i64::try_from(rng.range(1_000, 100_000)).unwrap_or(0)),
        hold: rng.permille(50),
        notify: if rng.permille(300) { String::from("http://there/") } else { String::new() },
        ..JobDraft::default()
    };
    match rng.below(100) {
        0..=49 => {}
        50..=79 => draft.array = Some(array(rng)),
        _ => {
            draft.replicas = u32::try_from(rng.range(2, 2 + size.nodes)).unwrap_or(2);
            if rng.permille(150) {
                draft.array =
                    Some(ArrayDraft { ranges: vec![StepRange { first: 0, last: 2, step: 1 }], running_max: 0 });
            }
        }
    }
    if let Some(array) = &draft.array {
        // A long array of long elements would outlive every run.
        let count: u64 =
            array.ranges.iter().map(|range| u64::from((range.last - range.first) / range.step.max(1)) + 1).sum();
        behaviour.ms = behaviour.ms.min(120_000 / count);
        draft.work = Some(WorkDraft::Argv(behaviour.argv()));
    }
    draft.retry = RetryDraft {
        failure: rng.permille(500).then(|| u32::try_from(rng.below(4)).unwrap_or(0)),
        infra: rng.permille(150).then(|| u32::try_from(rng.below(3)).unwrap_or(0)),
        preempted: None,
        oom: rng.permille(300).then_some(1),
        backoff_ms: rng.permille(500).then(|| i64::try_from(rng.range(1, 4_000)).unwrap_or(1)),
    };
    if rng.permille(200) {
        draft.time_limit_ms = Some(i64::try_from(rng.range(1_000, 60_000)).unwrap_or(1_000));
    }
    if behaviour.act == Act::Requeues && rng.permille(800) {
        draft.requeue_on = vec![75];
    }
    if rng.permille(120) {
        draft.stop_on_disconnect = true;
        draft.stop_after_ms = Some(45_000);
        draft.lost_after_ms = Some(240_000);
        draft.grace_ms = Some(2_000);
    }
    draft
}

/// Returns several jobs that wait for each other, some for `earlier` jobs.
pub(crate) fn chain(rng: &mut Rng, size: Size, queues: &[&str], earlier: &[JobId]) -> Vec<JobDraft> {
    let count = rng.range(1, 3);
    let mut drafts: Vec<JobDraft> = Vec::new();
    for at in 0..count {
        let mut next = draft(rng, size, queues);
        next.alias = format!("j{at}");
        let kind = rng.pick(&[DependencyKind::Ok, DependencyKind::Ok, DependencyKind::Any, DependencyKind::Failed]);
        let job = match (at, rng.pick(earlier)) {
            (0, Some(job)) => Some(JobRefDraft::Id(job.0)),
            (0, None) => None,
            _ => Some(JobRefDraft::Alias(format!("j{}", rng.below(at)))),
        };
        if job.is_some() {
            next.after.push(DependencyDraft { kind, job });
        }
        drafts.push(next);
    }
    drafts
}
