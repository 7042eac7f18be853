//! Notices: owed from a job's end on, tried a few times, and settled once.

use expect_test::expect;

use super::world::*;
use crate::id::JobId;
use crate::input::Input;
use crate::job::draft::JobDraft;
use crate::job::notice::{NoticeStanding, Posted};
use crate::job::spec::JobSpec;
use crate::time::Time;

fn telling() -> JobDraft {
    JobDraft { notify: "http://there/hook".into(), ..sleep() }
}

fn failed(again: bool) -> Posted {
    Posted::Failed { again, why: "it answered 500".into() }
}

/// A world in which a job with a notice has just ended.
fn ended_world() -> (World, JobId) {
    let mut w = World::with_nodes(&[(2, 0)]);
    let job = w.at(1).job(telling());
    assert_eq!(w.state.notices().count(), 0, "nothing is owed before the end");
    w.at(2).report(1, &[(1, ended(0, 0, 3))]);
    (w, job)
}

fn tell(w: &mut World, job: JobId, posted: Posted) {
    let ended_at = w.state.job(job).unwrap().body.ended_at.unwrap_or(Time(1));
    w.send(Input::Notice { job, ended_at, posted });
}

#[test]
fn a_notice_is_owed_from_the_end_of_its_job_until_it_is_sent() {
    let (mut w, job) = ended_world();
    assert_eq!(w.state.notices().collect::<Vec<_>>(), [(Time(2_000), job)]);
    tell(&mut w, job, Posted::Taken);
    assert_eq!(w.state.notices().count(), 0);
    tell(&mut w, job, Posted::Taken);
    expect!["2.000s told of 1 in 1"].assert_eq(&notices(&mut w));
}

/// The events about notices.
fn notices(w: &mut World) -> String {
    let told = w.told();
    told.lines().filter(|line| line.contains("told") || line.contains("tells")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_notice_is_tried_five_times_further_and_further_apart() {
    let (mut w, job) = ended_world();
    for second in [3, 4, 14, 74, 700, 2_000] {
        tell(w.at(second), job, failed(true));
    }
    assert_eq!(w.state.notices().count(), 0);
    expect![[r#"
        3.000s told nobody of 1 in 1: it answered 500; again at 4.000s
        4.000s told nobody of 1 in 2: it answered 500; again at 14.000s
        14.000s told nobody of 1 in 3: it answered 500; again at 74.000s
        74.000s told nobody of 1 in 4: it answered 500; again at 674.000s
        700.000s tells nobody of 1 after 5: it answered 500"#]]
    .assert_eq(&notices(&mut w));
}

#[test]
fn a_refusal_that_will_not_change_gives_up_at_once() {
    let (mut w, job) = ended_world();
    tell(&mut w, job, failed(false));
    assert_eq!(w.state.job(job).unwrap().body.notice.as_ref().unwrap().standing, NoticeStanding::GivenUp);
}

#[test]
fn a_job_that_ends_again_owes_again_and_an_old_result_does_not_count() {
    let (mut w, job) = ended_world();
    let first_end = w.state.job(job).unwrap().body.ended_at.unwrap();
    tell(&mut w, job, Posted::Taken);
    w.at(5).send(Input::Retry { job, elements: None });
    assert_eq!(w.state.notices().count(), 0);
    w.at(6).report(1, &[(2, ended(0, 0, 0))]);
    w.send(Input::Notice { job, ended_at: first_end, posted: Posted::Taken });
    assert_eq!(w.state.notices().collect::<Vec<_>>(), [(Time(6_000), job)]);
}

#[test]
fn urls_that_name_no_host_are_refused() {
    let reason = |url: &str| {
        let spec = JobSpec::try_from(JobDraft { notify: url.into(), ..sleep() });
        spec.err().map(|faults| (faults.0[0].path.clone(), faults.0[0].reason))
    };
    for good in ["http://h", "https://h:8443/a?b=c#d", "http://[::1]:80/"] {
        assert_eq!(reason(good), None, "{good}");
    }
    let long = format!("http://h/{}", "x".repeat(2_048));
    for bad in ["ftp://h/", "h/", "http://", "http:///x", "http://:80/", "http://a b/", "http://u:p@h/", "x", &long] {
        assert_eq!(reason(bad), Some(("notify".into(), "bad-url")), "{bad}");
    }
}
