//! What every store must do, whichever tables it has. Each implementation runs all of it.
//!
//! Elsewhere: what only a file on this disk can suffer is in the module above.

use gangsaw_core::access::Reach;
use gangsaw_core::decide::decide;
use gangsaw_core::id::{Actor, IdempotencyKey, JobId, RequestId, Tenant};
use gangsaw_core::input::{Input, Request, Submit};
use gangsaw_core::job::draft::{ArrayDraft, JobDraft, StepRange, WorkDraft};
use gangsaw_core::job::spec::JobSpec;
use gangsaw_proto::jobs::v1 as wire;
use prost::Message;

use super::super::contract::{History, Store};
use super::super::*;

/// Where a store is opened, and opened again.
pub(crate) trait Ground {
    /// Opens the store; it snapshots every `snapshot_every` events.
    fn open(&self, snapshot_every: u64) -> (Box<dyn Store>, Loaded);

    /// Returns how many batches lie in the log itself, beside what was archived.
    fn batches(&self) -> u64;
}

/// A store, and the state its events should fold to.
pub(crate) struct Both {
    pub(crate) store: Box<dyn Store>,
    pub(crate) state: State,
}

impl Both {
    pub(crate) fn open(ground: &dyn Ground, snapshot_every: u64) -> Both {
        let (store, loaded) = ground.open(snapshot_every);
        Both { store, state: loaded.state }
    }

    /// Decides one input, folds it and appends what came of it.
    pub(crate) fn feed(&mut self, at: u64, input: Input) {
        let (events, rows) = self.fold(at, input);
        self.store.append(Time(at), 1_000 + at, &events, &rows).unwrap();
    }

    /// Decides one input and folds it; returns its events and the rows they change.
    pub(crate) fn fold(&mut self, at: u64, input: Input) -> (Vec<Event>, Vec<Row>) {
        let (actor, request_id) = (Actor::new("ada").unwrap(), RequestId::new("r").unwrap());
        let request = Request { actor, tenant: Tenant::default(), reach: Reach::Own, request_id, input };
        let events = decide(&self.state, Time(at), &request).events;
        let rows = self.project(at, &events);
        (events, rows)
    }

    /// Folds events and returns the rows they change.
    pub(crate) fn project(&mut self, at: u64, events: &[Event]) -> Vec<Row> {
        let now = crate::wire::view::Now { time: Time(at), wall_ms: 1_000 + at };
        let mut projection = project::Projection::default();
        events.iter().for_each(|event| projection.fold(&mut self.state, now, event));
        projection.rows(&self.state, now)
    }

    /// Submits one job and appends what came of it.
    pub(crate) fn submit(&mut self, number: u64) {
        self.feed(number, submit(number));
    }
}

/// The Submit of one job.
pub(crate) fn submit(number: u64) -> Input {
    submit_of(number, "ada")
}

/// The Submit of one job of `user`.
pub(crate) fn submit_of(number: u64, user: &str) -> Input {
    let draft = JobDraft { work: Some(WorkDraft::Shell("true".into())), ..JobDraft::default() };
    let key = IdempotencyKey::new(&format!("k{number}")).unwrap();
    Input::Submit(Submit { key, user: user.into(), jobs: vec![JobSpec::try_from(draft).unwrap()] })
}

/// A store folds to the state that wrote it, under the same sequence and time.
pub(crate) fn folds_to_the_state_that_wrote_it(ground: &dyn Ground) {
    let mut both = Both::open(ground, SNAPSHOT_EVERY);
    assert_eq!(both.store.last_seq(), 0, "a new store is empty");
    (1..=50).for_each(|number| both.submit(number));
    let seq = both.store.last_seq();
    assert_eq!(both.store.append(Time(51), 1_051, &[], &[]).unwrap(), seq, "nothing to append is no batch");
    drop(both.store);
    assert_eq!(ground.batches(), 50);
    let (store, loaded) = ground.open(SNAPSHOT_EVERY);
    assert!(loaded.state.same_as(&both.state));
    assert_eq!((store.last_seq(), loaded.state.now(), loaded.last_wall_ms), (seq, Time(50), 1_050));
}

/// Snapshots and archives change nothing but the place. Returns the state.
pub(crate) fn snapshots_and_archives_change_nothing_but_the_place(ground: &dyn Ground) -> State {
    let mut both = Both::open(ground, 20);
    let mut snapshots = 0;
    for number in 1..=90 {
        both.submit(number);
        snapshots += u32::from(both.store.snapshot_if_due(&both.state, 1_000 + number));
    }
    assert!(snapshots >= 2);
    assert_eq!(both.store.keeper_failure(), None);
    let seq = both.store.last_seq();
    drop(both.store);
    assert!(ground.batches() < 90, "old events left the log: {}", ground.batches());
    let again = Both::open(ground, 20);
    assert!(again.state.same_as(&both.state));
    assert_eq!(again.store.last_seq(), seq);
    both.state
}

/// A forgotten job is found in its rows with its tasks, written with the event that forgot it.
pub(crate) fn a_forgotten_job_is_found_in_its_rows_with_its_tasks(ground: &dyn Ground) {
    let mut both = Both::open(ground, SNAPSHOT_EVERY);
    let array = ArrayDraft { ranges: vec![StepRange { first: 0, last: 4_999, step: 1 }], running_max: 0 };
    let draft = JobDraft {
        name: "sweep".into(),
        work: Some(WorkDraft::Shell("true".into())),
        array: Some(array),
        ..JobDraft::default()
    };
    let spec = JobSpec::try_from(draft).unwrap();
    let submit = Submit { key: IdempotencyKey::new("k").unwrap(), user: "ada".into(), jobs: vec![spec] };
    both.feed(5, Input::Submit(submit));
    both.feed(9, Input::Cancel { job: JobId(1), elements: None });
    let forgotten = [Event::JobForgotten(JobId(1))];
    let rows = both.project(20, &forgotten);
    assert!(rows.len() <= 3, "five thousand alike tasks are one row: {}", rows.len());
    both.store.append(Time(20), 1_020, &forgotten, &rows).unwrap();
    assert!(both.state.job(JobId(1)).is_none());
    drop(both.store);
    let (store, _) = ground.open(SNAPSHOT_EVERY);
    old_jobs_answer(store.history());
}

fn old_jobs_answer(history: &dyn History) {
    assert!(history.job(2).unwrap().is_none());
    let found = history.job(1).unwrap().unwrap();
    let job = wire::Job::decode(found.job.as_slice()).unwrap();
    assert_eq!((job.name.as_str(), job.state(), job.element_count), ("sweep", wire::State::Cancelled, 5_000));
    let runs = history.tasks(1, (4_000, 0), 10).unwrap();
    assert_eq!((runs.len(), runs[0].first, runs[0].last), (1, 0, 4_999));
    assert_eq!(history.tasks(1, (5_000, 0), 10).unwrap(), []);
    let filter = |user: &str, states: Vec<i32>| history::Filter { user: user.into(), states, ..Default::default() };
    let count = |filter: history::Filter| history.jobs(&filter, 10).unwrap().len();
    assert_eq!(count(filter("ada", Vec::new())), 1);
    assert_eq!(count(filter("bob", Vec::new())), 0);
    assert_eq!(count(filter("", vec![wire::State::Cancelled.into()])), 1);
    assert_eq!(count(filter("", vec![wire::State::Completed.into()])), 0);
    assert_eq!(count(history::Filter { below: Some(1), ..Default::default() }), 0);
    assert_eq!(count(history::Filter { since_wall_ms: 1_006, ..Default::default() }), 0);
    assert_eq!(history.jobs(&history::Filter::default(), 0).unwrap(), []);
}
