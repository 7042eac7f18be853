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
    Caller::Agent(PeerNode { name: NodeName::new("n1").unwrap(), uuid: "u1".to_owned() })
}

#[test]
fn each_rule_admits_its_role_and_those_above_and_nobody_else() {
    for (path, rule) in RULES {
        for role in Role::ALL {
            let came_to = allowed(*rule, person(role));
            let least = match *rule {
                Rule::Open => Role::Viewer,
                Rule::Person(least, _) => least,
                Rule::Node => Role::Admin,
            };
            assert_eq!(came_to.is_ok(), role >= least, "{path} for {}", role.word());
        }
        assert_eq!(allowed(*rule, agent()).is_ok(), matches!(rule, Rule::Node | Rule::Open), "{path} for an agent");
    }
}

#[test]
fn the_reach_is_the_rules_below_operator_and_the_cluster_from_there() {
    let reach = |role, rule| match allowed(rule, person(role)).unwrap() {
        Caller::Person(person) => person.reach,
        Caller::Agent(_) => panic!("a person went in"),
    };
    for at in [Reach::Own, Reach::Tenant] {
        let rule = Rule::Person(Role::Viewer, at);
        assert_eq!([Role::Viewer, Role::Submitter].map(|role| reach(role, rule)), [at, at]);
        assert_eq!([Role::Operator, Role::Admin].map(|role| reach(role, rule)), [Reach::Cluster; 2]);
    }
}

fn gate() -> Gate {
    let dir = tempfile::tempdir().unwrap();
    let Caller::Person(owner) = person(Role::Admin) else { unreachable!() };
    Gate { folder: (Token::of_folder(dir.path()).unwrap(), owner), metrics: Arc::default() }
}

fn call(path: &str) -> Request {
    Request::builder().uri(path).body(axum::body::Body::empty()).unwrap()
}

#[test]
fn a_certificate_admits_an_agent_and_a_wrong_token_beside_it_does_not() {
    let gate = gate();
    let attach = "/gangsaw.node.v1.NodeService/Attach";
    let Caller::Agent(node) = agent() else { unreachable!() };
    let mut request = call(attach);
    assert_eq!(gate.admitted(&request).unwrap_err().reason, "unauthenticated");
    request.extensions_mut().insert(node.clone());
    assert_eq!(gate.admitted(&request).unwrap(), Some(agent()));
    request.headers_mut().insert(header::AUTHORIZATION, "Bearer 00".parse().unwrap());
    assert_eq!(gate.admitted(&request).unwrap_err().reason, "unauthenticated");
    let mut cancel = call("/gangsaw.jobs.v1.JobsService/Cancel");
    cancel.extensions_mut().insert(node);
    assert_eq!(gate.admitted(&cancel).unwrap_err().reason, "not-a-person");
}

#[test]
fn a_path_without_a_rule_is_denied_even_to_an_admin() {
    let gate = gate();
    let mut request = call("/gangsaw.jobs.v1.JobsService/NoSuch");
    assert_eq!(gate.admitted(&request).unwrap_err().reason, "unauthenticated");
    let token = format!("bearer {}", gate.folder.0.secret());
    request.headers_mut().insert(header::AUTHORIZATION, token.parse().unwrap());
    assert_eq!(gate.admitted(&request).unwrap_err().reason, "no-such-call");
}
