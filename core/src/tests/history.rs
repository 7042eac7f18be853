//! The history checker finds what must never be: logs that went well, and one thing wrong in each.

use super::world::*;
use crate::check::{History, Truth, Try, Unseen, Watched};
use crate::event::{Event, Record};
use crate::id::*;
use crate::input::*;
use crate::job::record::Cause;
use crate::time::Time;

/// A log in which a job fails once and then completes on the only GPU, beside an array that completes.
fn log() -> Vec<Record> {
    let mut w = World::with_nodes(&[(4, 1)]);
    w.job(needing(1, 1));
    w.report(1, &[(1, started(0, 0))]);
    w.report(1, &[(1, ended_by(0, 0, Cause::Infra))]);
    w.at(60).tick();
    w.job(array(3));
    let next = |w: &World| w.state.leases().next().map(|lease| (lease.id.0, lease.live.clone()));
    while let Some((lease, live)) = next(&w) {
        let facts: Vec<(u64, FactKind)> = live.indices().map(|index| (lease, ended(index, 0, 0))).collect();
        w.report(1, &facts);
    }
    w.log.clone()
}

/// What the checker says of a log, numbered anew.
fn said(log: impl IntoIterator<Item = Event>) -> Result<History, String> {
    let mut history = History::default();
    for (seq, event) in (1..).zip(log) {
        history.observe(&Record { seq, at: Time::ZERO, wall_ms: 0, event }, &Unseen).map_err(|found| found.0)?;
    }
    Ok(history)
}

fn events() -> Vec<Event> {
    log().into_iter().map(|record| record.event).collect()
}

/// What is said of a log whose events `what` may double, change or leave out.
fn changed(what: impl FnMut(Event) -> Vec<Event>) -> String {
    said(events().into_iter().flat_map(what)).unwrap_err()
}

#[test]
fn a_log_that_went_well_is_found_well_and_over() {
    let history = said(events()).unwrap();
    assert!(history.is_over(), "{:?}", history.unfinished());
    assert_eq!(history.jobs(), 2);
}

#[test]
fn an_end_that_is_recorded_twice_is_found() {
    let twice = changed(|event| {
        let end = matches!(event, Event::AttemptEnded { .. });
        vec![event; if end { 2 } else { 1 }]
    });
    assert!(twice.contains("ended attempt 1 of lease 1 and stands"), "{twice}");
    let mut seen = None;
    let twice = changed(|event| {
        if let Event::JobsSubmitted { jobs, by, .. } = &event {
            seen.get_or_insert((jobs[0].id, by.clone()));
        }
        let cancel = |(job, by): (JobId, crate::event::By)| Event::JobCancelled {
            by,
            job,
            elements: crate::ranges::RangeSet::range(0, 0),
            cause: crate::job::body::CancelCause::Asked,
        };
        let after = matches!(event, Event::AttemptEnded { attempt: 2, .. });
        if after { vec![event, cancel(seen.clone().unwrap())] } else { vec![event] }
    });
    assert_eq!(twice, "1[0] had ended and was cancelled");
}

#[test]
fn a_device_in_two_live_attempts_is_found() {
    let mut first = None;
    let double = changed(|event| {
        let mut event = event;
        if let Event::ChunkLeased { hold, .. } = &mut event {
            match &first {
                None => first = Some(hold.gpu_uuids.clone()),
                Some(devices) => hold.gpu_uuids.clone_from(devices),
            }
        }
        vec![event]
    });
    assert!(double.contains("which Some(LeaseId("), "{double}");
}

#[test]
fn an_attempt_that_does_not_rise_is_found() {
    let again = changed(|mut event| {
        if let Event::ChunkLeased { attempt, .. } = &mut event {
            *attempt = 1;
        }
        vec![event]
    });
    assert!(again.contains("was leased under attempt 1 after"), "{again}");
}

#[test]
fn a_fact_of_a_fenced_lease_is_found() {
    let fenced = changed(|event| {
        let Event::TaskStarted { lease, job, .. } = &event else { return vec![event] };
        vec![Event::LeaseFenced { lease: *lease, job: *job }, event]
    });
    assert!(fenced.contains("which was fenced"), "{fenced}");
}

#[test]
fn a_gap_in_the_log_and_a_report_that_is_taken_again_are_found() {
    let mut log = log();
    log.remove(4);
    let mut history = History::default();
    let found = log.iter().try_for_each(|record| history.observe(record, &Unseen)).unwrap_err();
    assert_eq!(found.0, "event 6 follows event 4");
    let again = changed(|event| {
        let report = matches!(event, Event::ReportTaken { .. });
        vec![event; if report { 2 } else { 1 }]
    });
    assert_eq!(again, "node 1: report 1 is taken after 1");
    let missing = changed(|event| {
        let first = matches!(event, Event::RoundDecided { round: 1, .. });
        vec![event; usize::from(!first)]
    });
    assert_eq!(missing, "round 2 follows 0");
}

#[test]
fn a_success_that_nobody_ran_is_found() {
    struct Nothing;
    impl Truth for Nothing {
        fn ran(&self, _: Try) -> bool {
            true
        }
        fn went_well(&self, _: Try) -> bool {
            false
        }
    }
    let mut history = History::default();
    let found = log().iter().try_for_each(|record| history.observe(record, &Nothing)).unwrap_err();
    assert_eq!(found.0, "1[0] ended ok in attempt 2 without an exit 0 of every rank");
}

#[test]
fn a_watcher_that_sees_the_past_or_more_after_the_end_is_found() {
    let mut watched = Watched::default();
    for (seq, ended) in [(3, 0), (7, 1), (7, 1), (9, 2)] {
        watched.saw(seq, ended, 2).unwrap();
    }
    assert!(watched.is_over() && watched.seq() == 9);
    assert!(watched.clone().saw(10, 2, 2).is_err(), "after the end");
    watched.resumes();
    assert!(watched.clone().saw(10, 1, 2).is_err(), "another end over another connection");
    watched.saw(9, 2, 2).unwrap();
    assert!(watched.clone().saw(9, 2, 2).is_err(), "and once more over the same");
    let mut watched = Watched::default();
    watched.saw(7, 1, 3).unwrap();
    assert!(watched.clone().saw(6, 1, 3).is_err(), "an older event");
    assert!(watched.saw(8, 0, 3).is_err(), "an end that was taken back");
}
