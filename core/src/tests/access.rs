//! Whose jobs a request reaches: one's own, the tenant's, everybody's; and the life of a token.

use super::world::*;
use crate::access::{Reach, Role};
use crate::decide::decide;
use crate::effect::{Effect, RefusalKind, Reply, Step};
use crate::event::{Event, TokenEvent};
use crate::id::*;
use crate::input::*;
use crate::job::draft::{DependencyDraft, JobDraft, JobRefDraft};
use crate::job::spec::{DependencyKind, JobSpec};
use crate::time::{Millis, Time};
use crate::token::{ApiToken, TOKENS_MAX, TokenDraft, Tokens};

/// Returns a request of `actor` of `tenant`.
fn asking(actor: &str, tenant: &str, reach: Reach, input: Input) -> Request {
    let (actor, tenant) = (Actor::new(actor).unwrap(), Tenant::new(tenant).unwrap());
    Request { actor, tenant, reach, request_id: RequestId::new("r7").unwrap(), input }
}

fn submit(key: &str, after: Option<u64>) -> Input {
    let on = |job| DependencyDraft { kind: Some(DependencyKind::Ok), job: Some(JobRefDraft::Id(job)) };
    let after = after.into_iter().map(on).collect();
    let draft = JobDraft { after, ..sleep() };
    let jobs = vec![JobSpec::try_from(draft).unwrap()];
    Input::Submit(Submit { key: IdempotencyKey::new(key).unwrap(), user: "ada".into(), jobs })
}

fn reply(step: &Step) -> &Reply {
    let [Effect::Reply { reply, .. }, ..] = &step.effects[..] else { panic!("{step:?}") };
    reply
}

fn reason(step: &Step) -> &'static str {
    if let Reply::Faults(faults) = reply(step) {
        return faults[0].fault.reason;
    }
    let Reply::Refused(refusal) = reply(step) else { panic!("{step:?}") };
    refusal.reason
}

/// Every change of a job that a person may ask for.
fn changes(job: JobId) -> Vec<Input> {
    vec![
        Input::Cancel { job, elements: None },
        Input::Hold { job },
        Input::Release { job },
        Input::Retry { job, elements: None },
        Input::Update { job, priority: Some(5), queue: None, time_limit: None },
    ]
}

/// A world in which ada of the lab submitted job 1.
fn with_adas_job() -> (World, JobId) {
    let mut w = World::with_nodes(&[(1, 0)]);
    let step = decide(&w.state, w.now, &asking("ada", "lab", Reach::Own, submit("k", None)));
    let Reply::Submitted { jobs, .. } = reply(&step) else { panic!("{step:?}") };
    let job = jobs[0];
    w.take(step);
    (w, job)
}

#[test]
fn a_job_is_changed_by_whoever_submitted_it_and_by_those_with_reach() {
    let (w, job) = with_adas_job();
    let decided = |actor, tenant, reach, input| decide(&w.state, w.now, &asking(actor, tenant, reach, input));
    for input in changes(job) {
        for (actor, tenant, reach) in
            [("ada", "lab", Reach::Own), ("eve", "lab", Reach::Tenant), ("eve", "other", Reach::Cluster)]
        {
            let step = decided(actor, tenant, reach, input.clone());
            assert!(!matches!(reply(&step), Reply::Refused(_)), "{actor} of {tenant}: {step:?}");
        }
        let step = decided("eve", "lab", Reach::Own, input.clone());
        assert!(step.events.is_empty());
        let Reply::Refused(refusal) = reply(&step) else { panic!("{step:?}") };
        assert_eq!((refusal.kind, refusal.reason), (RefusalKind::Denied, "not-your-job"));
        assert_eq!(refusal.message, "job 1 was submitted by ada");
        // The same name in another tenant is another person.
        for (actor, reach) in [("ada", Reach::Own), ("eve", Reach::Own), ("eve", Reach::Tenant)] {
            let step = decided(actor, "other", reach, input.clone());
            assert!(step.events.is_empty());
            assert_eq!(reason(&step), "unknown-job", "as unknown as one that never was");
        }
    }
}

#[test]
fn a_change_says_who_asked_and_with_which_request() {
    let (w, job) = with_adas_job();
    let step = decide(&w.state, w.now, &asking("olga", "ops", Reach::Cluster, Input::Cancel { job, elements: None }));
    let [Event::JobCancelled { by, .. }] = &step.events[..] else { panic!("{step:?}") };
    assert_eq!((by.actor.as_str(), by.request_id.to_string().as_str()), ("olga", "r7"));
}

#[test]
fn a_dependency_may_be_on_anybodys_job_of_the_tenant_and_on_no_other() {
    let (w, _) = with_adas_job();
    let decided = |tenant, input| decide(&w.state, w.now, &asking("eve", tenant, Reach::Own, input));
    assert!(matches!(reply(&decided("lab", submit("e1", Some(1)))), Reply::Submitted { .. }));
    assert_eq!(reason(&decided("other", submit("e2", Some(1)))), "unknown-job");
}

#[test]
fn keys_and_queues_of_tenants_are_apart() {
    let (mut w, _) = with_adas_job();
    let decided = |w: &World, tenant, input| decide(&w.state, w.now, &asking("ada", tenant, Reach::Own, input));
    let Reply::Submitted { repeated, .. } = *reply(&decided(&w, "other", submit("k", None))) else { panic!() };
    assert!(!repeated, "the same key of another tenant is another key");
    let Reply::Submitted { repeated, .. } = *reply(&decided(&w, "lab", submit("k", None))) else { panic!() };
    assert!(repeated);
    let name = QueueName::default();
    let full = Input::SetQueue { name, running_max: Change::Keep, queued_max: Change::Set(0), gpus_max: Change::Keep };
    let step = decided(&w, "lab", full);
    w.take(step);
    assert_eq!(reason(&decided(&w, "lab", submit("k2", None))), "queue-full");
    assert!(matches!(reply(&decided(&w, "other", submit("k2", None))), Reply::Submitted { .. }));
}

fn draft(life: Option<u64>) -> TokenDraft {
    let (actor, user) = (Actor::new("bob").unwrap(), "bob".to_owned());
    TokenDraft { actor, role: Role::Submitter, user, digest: [7; 32], life: life.map(Millis::seconds) }
}

fn made(w: &mut World, draft: TokenDraft) -> TokenId {
    let step = decide(&w.state, w.now, &asking("root", "lab", Reach::Cluster, Input::CreateToken(draft)));
    let Reply::TokenCreated(token) = reply(&step) else { panic!("{step:?}") };
    let id = token.id;
    w.take(step);
    id
}

#[test]
fn a_token_says_who_made_it_and_whose_it_is() {
    let mut w = World::new();
    let id = made(&mut w, draft(Some(60)));
    let token = w.state.tokens().get(id).unwrap();
    assert_eq!((token.actor.as_str(), token.tenant.as_str(), token.made_by.as_str()), ("bob", "lab", "root"));
    assert_eq!((token.role, token.expires_at), (Role::Submitter, Some(Time(60_000))));
    let Some(Event::Token(TokenEvent::Created { by, .. })) = w.log.last().map(|record| &record.event) else { panic!() };
    assert_eq!((by.actor.as_str(), by.request_id.to_string().as_str()), ("root", "r7"));
}

#[test]
fn a_token_that_comes_twice_in_a_snapshot_ends_as_the_later_says() {
    let mut w = World::new();
    let id = made(&mut w, draft(Some(60)));
    let first = w.state.tokens().get(id).unwrap().clone();
    let later = ApiToken { expires_at: None, ..first.clone() };
    let next = TokenId(id.0 + 1);
    assert_eq!(Tokens::restored(next, [first, later.clone()]), Tokens::restored(next, [later]));
}

#[test]
fn a_token_expires_by_itself_and_a_revoked_one_is_gone_at_once() {
    let mut w = World::new();
    let (short, long, endless) =
        (made(&mut w, draft(Some(60))), made(&mut w, draft(Some(90))), made(&mut w, draft(None)));
    assert_eq!(w.state.next_wake(), Some(Time(60_000)));
    w.at(59).tick();
    assert_eq!(w.state.tokens().len(), 3);
    w.at(60).tick();
    assert!(w.state.tokens().get(short).is_none() && w.state.tokens().get(long).is_some());
    let revoke = |w: &World, token| {
        decide(&w.state, w.now, &asking("root", "lab", Reach::Cluster, Input::RevokeToken { token }))
    };
    let step = revoke(&w, endless);
    w.take(step);
    assert!(w.state.tokens().get(endless).is_none());
    assert_eq!(reason(&revoke(&w, endless)), "unknown-token");
    assert_eq!(w.state.next_wake(), Some(Time(90_000)));
}

#[test]
fn a_tokens_number_is_never_used_again_not_even_after_a_snapshot() {
    let mut w = World::new();
    let first = made(&mut w, draft(None));
    let step = decide(&w.state, w.now, &asking("root", "lab", Reach::Cluster, Input::RevokeToken { token: first }));
    w.take(step);
    let mut restored = crate::state::State::new();
    for event in crate::apply::snapshot_events(&w.state) {
        crate::apply::apply(&mut restored, w.now, &event);
    }
    w.state = restored;
    assert_eq!(made(&mut w, draft(None)), TokenId(2));
}

#[test]
fn a_token_that_makes_no_sense_is_refused_and_there_are_only_so_many() {
    let mut w = World::new();
    let decided =
        |w: &World, draft| decide(&w.state, w.now, &asking("root", "lab", Reach::Cluster, Input::CreateToken(draft)));
    for user in ["", "a:b", "../x", "bell\u{7}", &"x".repeat(65)] {
        assert_eq!(reason(&decided(&w, TokenDraft { user: user.into(), ..draft(None) })), "bad-name", "{user}");
    }
    for life in [0, 3_651 * 86_400] {
        assert_eq!(reason(&decided(&w, draft(Some(life)))), "out-of-range");
    }
    for _ in 0..TOKENS_MAX {
        let step = decided(&w, draft(None));
        step.events.iter().for_each(|event| crate::apply::apply(&mut w.state, w.now, event));
    }
    assert_eq!(reason(&decided(&w, draft(None))), "too-many-tokens");
}
