//! Who is let in.

use crate::apply::{apply, snapshot_events};
use crate::decide::decide;
use crate::effect::{Effect, Reply};
use crate::event::Event;
use crate::id::{Actor, NodeName, RequestId, Tenant};
use crate::input::{Input, Request};
use crate::join::{Hash, JOIN_TOKEN_KEPT, JOIN_TTL_MAX, JoinEvent, JoinInput};
use crate::state::State;
use crate::time::{Millis, Time};

const SECRET: Hash = [1; 32];
const KEY: Hash = [2; 32];

/// Decides and folds; returns the answer.
fn ask(state: &mut State, at: u64, input: JoinInput) -> Reply {
    let request = Request {
        actor: Actor::new("ada").unwrap(),
        tenant: Tenant::default(),
        reach: crate::access::Reach::Cluster,
        request_id: RequestId::new("r").unwrap(),
        input: Input::Join(input),
    };
    let step = decide(state, Time(at), &request);
    step.events.iter().for_each(|event| apply(state, Time(at), event));
    let Some(Effect::Reply { reply, .. }) = step.effects.into_iter().next() else { panic!("no answer") };
    reply
}

fn create(state: &mut State, uses: u32) -> Reply {
    ask(state, 0, JoinInput::Create { hash: SECRET, uses, ttl: Millis(1_000) })
}

fn join_with(state: &mut State, at: u64, hash: Hash, (name, uuid, key_hash): (&str, &str, Hash)) -> Reply {
    let (name, uuid) = (NodeName::new(name).unwrap(), uuid.to_owned());
    ask(state, at, JoinInput::Join { token: 1, hash, name, uuid, key_hash })
}

fn join(state: &mut State, at: u64, name: &str, uuid: &str) -> Reply {
    join_with(state, at, SECRET, (name, uuid, KEY))
}

fn reason(reply: Reply) -> &'static str {
    let Reply::Refused(refusal) = reply else { panic!("not refused: {reply:?}") };
    refusal.reason
}

#[test]
fn a_token_lets_in_as_many_as_it_says_and_one_machine_once() {
    let mut state = State::new();
    assert_eq!(create(&mut state, 2), Reply::JoinToken { token: 1, expires: Time(1_000) });
    assert_eq!(join(&mut state, 1, "a", "ua"), Reply::Joined { join: 1 });
    assert_eq!(join(&mut state, 2, "a", "ua"), Reply::Joined { join: 1 }, "the answer was lost, and it asks again");
    assert_eq!(join(&mut state, 3, "b", "ub"), Reply::Joined { join: 2 });
    assert_eq!(reason(join(&mut state, 4, "c", "uc")), "join-token-used-up");
    assert_eq!(join(&mut state, 5, "b", "ub"), Reply::Joined { join: 2 }, "also when it is used up");
    assert_eq!(reason(join_with(&mut state, 6, SECRET, ("b", "ub", [9; 32]))), "join-token-used-up", "another key");
    assert!(state.joins().holds("a", "ua", 1) && state.joins().holds("b", "ub", 2));
    assert!(
        !state.joins().holds("a", "ub", 1) && !state.joins().holds("a", "ua", 2) && !state.joins().holds("c", "uc", 3)
    );
}

#[test]
fn a_wrong_secret_a_revoked_and_an_expired_token_let_nobody_in() {
    let mut state = State::new();
    create(&mut state, 5);
    assert_eq!(reason(join_with(&mut state, 1, [3; 32], ("a", "ua", KEY))), "join-token-unknown");
    assert_eq!(join(&mut state, 999, "a", "ua"), Reply::Joined { join: 1 });
    assert_eq!(reason(join(&mut state, 1_000, "b", "ub")), "join-token-expired");
    assert_eq!(reason(join(&mut state, 1_000, "a", "ua")), "join-token-expired", "asking again is no way round");
    assert_eq!(ask(&mut state, 1_000, JoinInput::Revoke { token: 1 }), Reply::Done);
    assert_eq!(reason(join(&mut state, 1_000, "b", "ub")), "join-token-revoked");
    assert_eq!(reason(ask(&mut state, 1_000, JoinInput::Revoke { token: 2 })), "unknown-token");
}

#[test]
fn a_name_is_one_machines_and_a_machine_has_one_name() {
    let mut state = State::new();
    create(&mut state, 9);
    join(&mut state, 1, "a", "ua");
    assert_eq!(reason(join(&mut state, 2, "a", "other")), "node-name-taken");
    assert_eq!(reason(join(&mut state, 2, "b", "ua")), "node-renamed");
    assert_eq!(join_with(&mut state, 3, SECRET, ("a", "ua", [7; 32])), Reply::Joined { join: 2 });
    assert!(!state.joins().holds("a", "ua", 1), "joining again voids what was signed before");
}

#[test]
fn limits_are_told_and_ended_tokens_go_after_a_while() {
    let mut state = State::new();
    for (uses, ttl) in [(0, Millis(1)), (100_001, Millis(1)), (1, Millis(0)), (1, Millis(JOIN_TTL_MAX.0 + 1))] {
        assert_eq!(reason(ask(&mut state, 0, JoinInput::Create { hash: SECRET, uses, ttl })), "out-of-range");
    }
    create(&mut state, 1);
    let later = 1_000 + JOIN_TOKEN_KEPT.0;
    ask(&mut state, later - 1, JoinInput::Create { hash: SECRET, uses: 1, ttl: Millis(1) });
    assert_eq!(state.joins().tokens().count(), 2);
    ask(&mut state, later, JoinInput::Create { hash: SECRET, uses: 1, ttl: Millis(1) });
    assert_eq!(state.joins().tokens().map(|token| token.id).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_snapshot_keeps_who_was_let_in_and_gives_no_number_twice() {
    let mut state = State::new();
    create(&mut state, 3);
    join(&mut state, 1, "a", "ua");
    let mut restored = State::new();
    snapshot_events(&state).iter().for_each(|event| apply(&mut restored, state.now(), event));
    assert_eq!(restored.joins(), state.joins());
    let forgotten = Event::Join(JoinEvent::MemberForgotten {
        by: crate::event::By { actor: Actor::new("ada").unwrap(), request_id: RequestId::new("r").unwrap() },
        name: NodeName::new("a").unwrap(),
    });
    apply(&mut restored, Time(2), &forgotten);
    assert!(!restored.joins().holds("a", "ua", 1));
    assert_eq!(join_with(&mut restored, 3, SECRET, ("a", "ua", [7; 32])), Reply::Joined { join: 2 });
}
