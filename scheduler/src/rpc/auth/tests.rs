//! Every rule against every caller.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use gangsaw_core::id::{Actor, NodeName, Tenant};

use super::*;
use crate::rpc::rules::RULES;

fn person(role: Role) -> Caller {
    let (actor, tenant) = (Actor::new("ada").unwrap(), Tenant::default());
    Caller::Person(Person { actor, tenant, role, user: "ada".into(), reach: Reach::Own })
}

fn agent() -> Caller {
    Caller::Agent(PeerNode { name: NodeName::new("n1").unwrap(), uuid: "u1".to_owned(), join: 1 })
}

#[test]
fn each_rule_admits_its_role_and_those_above_and_nobody_else() {
    for (path, rule) in RULES {
        for role in Role::ALL {
            let came_to = allow(*rule, &mut person(role));
            let least = match *rule {
                Rule::Open | Rule::JoinToken => Role::Viewer,
                Rule::Person(least, _) => least,
                Rule::Node => Role::Admin,
            };
            assert_eq!(came_to.is_ok(), role >= least, "{path} for {}", role.word());
        }
        assert_eq!(allow(*rule, &mut agent()).is_ok(), !matches!(rule, Rule::Person(..)), "{path} for an agent");
    }
}

#[test]
fn the_reach_is_the_rules_below_operator_and_the_cluster_from_there() {
    let reach = |role, rule| {
        let mut caller = person(role);
        allow(rule, &mut caller).unwrap();
        let Caller::Person(person) = caller else { unreachable!() };
        person.reach
    };
    for at in [Reach::Own, Reach::Tenant] {
        let rule = Rule::Person(Role::Viewer, at);
        assert_eq!([Role::Viewer, Role::Submitter].map(|role| reach(role, rule)), [at, at]);
        assert_eq!([Role::Operator, Role::Admin].map(|role| reach(role, rule)), [Reach::Cluster; 2]);
    }
}

fn gate(dir: &std::path::Path) -> Gate {
    let Caller::Person(owner) = person(Role::Admin) else { unreachable!() };
    let engine = crate::engine::for_tests(dir);
    let folder = (Token::of_folder(dir).unwrap(), owner);
    Gate { folder, engine, metrics: Arc::default(), said: LogRate::default() }
}

fn call(path: &str) -> Request {
    http::Request::builder().uri(path).body(Body::empty()).unwrap()
}

fn reason(gate: &Gate, request: &Request, node: Option<&PeerNode>) -> String {
    gate.admitted(request, node.cloned()).map(|_| ()).unwrap_err().refusal.reason.into_owned()
}

#[test]
fn a_certificate_admits_an_agent_and_a_wrong_token_beside_it_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let gate = gate(dir.path());
    let attach = "/gangsaw.node.v1.NodeService/Attach";
    let Caller::Agent(node) = agent() else { unreachable!() };
    let mut request = call(attach);
    assert_eq!(reason(&gate, &request, None), "unauthenticated");
    let (caller, _) = gate.admitted(&request, Some(node.clone())).unwrap().unwrap();
    assert_eq!(caller, agent());
    request.headers_mut().insert(header::AUTHORIZATION, "Bearer 00".parse().unwrap());
    assert_eq!(reason(&gate, &request, Some(&node)), "unauthenticated");
    let cancel = call("/gangsaw.jobs.v1.JobsService/Cancel");
    assert_eq!(reason(&gate, &cancel, Some(&node)), "not-a-person");
}

#[test]
fn a_path_without_a_rule_is_denied_even_to_an_admin() {
    let dir = tempfile::tempdir().unwrap();
    let gate = gate(dir.path());
    let mut request = call("/gangsaw.jobs.v1.JobsService/NoSuch");
    assert_eq!(reason(&gate, &request, None), "unauthenticated");
    let token = format!("bearer {}", gate.folder.0.secret());
    request.headers_mut().insert(header::AUTHORIZATION, token.parse().unwrap());
    assert_eq!(reason(&gate, &request, None), "no-such-call");
}

#[test]
fn a_flood_of_denials_is_counted_and_mostly_not_written_down() {
    let rate = LogRate::default();
    let lines = |second| (0..1_000).filter(|_| rate.allows(second)).count();
    assert_eq!([lines(7), lines(7), lines(8)], [10, 0, 10]);
}
