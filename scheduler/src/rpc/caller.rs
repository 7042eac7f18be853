//! Who a call comes from, once the door has looked: a person with a role, or a node's agent.
//!
//! The door puts a [`Caller`] into each admitted request's extensions, and takes what it finds there from nobody else.
//! A person's reach is already the one of the call: the rule's, or the whole cluster for operators and admins.
//!
//! Elsewhere: which call needs what is `rules`; finding the caller is `auth`; whose a job is, is decided in the core.

use std::sync::Arc;

use gangsaw_core::access::{Reach, Role};
use gangsaw_core::id::{Actor, NodeName, Tenant};
use gangsaw_core::input::{Input, Request};
use tonic::Code;

use super::ask;
use super::errors::Refusal;
use crate::tls::NodeCertificate;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Person(Person),
    /// A node's agent, for itself and nobody else.
    Agent(PeerNode),
}

impl Caller {
    /// Returns the caller's name, for what is written down.
    pub(crate) fn name(&self) -> &str {
        match self {
            Caller::Person(person) => person.actor.as_str(),
            Caller::Agent(node) => node.name.as_str(),
        }
    }
}

/// A person or a program of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Person {
    /// Who changes are recorded under.
    pub(crate) actor: Actor,
    /// Whose jobs and queues are meant.
    pub(crate) tenant: Tenant,
    pub(crate) role: Role,
    /// Operating system user that tasks run as.
    pub(crate) user: Arc<str>,
    /// Whose jobs this call may touch.
    pub(crate) reach: Reach,
}

impl Person {
    /// Returns whoever runs this scheduler, who holds its folder's token: an admin.
    pub(crate) fn of_this_process() -> Person {
        let uid = rustix::process::geteuid().as_raw();
        let name = user_name(uid);
        let known = Actor::new(&name).map(|actor| (actor, name));
        let (actor, user) = known.unwrap_or_else(|_| (Actor::of_user(uid), format!("uid-{uid}")));
        Person { actor, tenant: Tenant::default(), role: Role::Admin, user: user.into(), reach: Reach::Own }
    }

    /// Returns an input as this person's request.
    pub(crate) fn request(&self, input: Input) -> Result<Request, Refusal> {
        let (actor, tenant, request_id) = (self.actor.clone(), self.tenant.clone(), ask::request_id()?);
        Ok(Request { actor, tenant, reach: self.reach, request_id, input })
    }

    /// Makes the person's request about another tenant, if it names one.
    pub(crate) fn mean(&mut self, tenant: &str) -> Result<(), Refusal> {
        if !tenant.is_empty() {
            let bad = |error| ask::invalid("bad-name", format!("the tenant's name {error}"));
            self.tenant = Tenant::new(tenant).map_err(bad)?;
        }
        Ok(())
    }

    /// Says whether jobs and queues of a tenant are shown to this person.
    pub(crate) fn sees(&self, tenant: &str) -> bool {
        self.reach == Reach::Cluster || self.tenant.as_str() == tenant
    }

    /// Returns the operating system user a submit's tasks run as. Only an admin may name somebody else.
    pub(crate) fn runs_as(&self, claimed: String) -> String {
        let believed = self.role == Role::Admin && !claimed.is_empty();
        if believed { claimed } else { self.user.to_string() }
    }
}

/// Returns what this machine calls a user: by /etc/passwd, else `$USER`, else `uid-N`.
#[must_use]
pub fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    named(&passwd, uid).or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| format!("uid-{uid}"))
}

/// Returns the name of a user in the text of /etc/passwd.
fn named(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// A node, as the certificate of its connection names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerNode {
    pub(crate) name: NodeName,
    /// Made once in its agent's state folder.
    pub(crate) uuid: String,
    /// Which of its joins the certificate rests on; whether that still counts is asked of the state.
    pub(crate) join: u64,
}

impl PeerNode {
    /// Returns the node of a certificate. `None`: no node could be called that.
    pub(crate) fn of(certificate: &NodeCertificate) -> Option<PeerNode> {
        let name = NodeName::new(&certificate.name).ok()?;
        Some(PeerNode { name, uuid: certificate.uuid.clone(), join: certificate.join })
    }
}

/// Returns the person who calls.
pub(crate) fn person<T>(request: &tonic::Request<T>) -> Result<Person, Refusal> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Person(person)) => Ok(person.clone()),
        // The rules let no agent here.
        Some(Caller::Agent(_)) | None => Err(Refusal::invariant()),
    }
}

/// Refuses an agent that speaks for another node than its own. `uuid` is absent where the message has none.
pub(crate) fn speaks_for(caller: Option<&Caller>, name: &str, uuid: Option<&str>) -> Result<(), Refusal> {
    match caller {
        Some(Caller::Person(_)) => Ok(()),
        Some(Caller::Agent(node)) if node.name.as_str() == name && uuid.is_none_or(|uuid| node.uuid == uuid) => Ok(()),
        Some(Caller::Agent(node)) => {
            let message = format!("the certificate is node {}'s, and the message is {name}'s", node.name);
            Err(Refusal::new(Code::PermissionDenied, "another-node", message, "join this node with a token of its own"))
        }
        None => Err(Refusal::invariant()),
    }
}

#[cfg(test)]
mod tests {
    //! What a person and an agent may claim.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn person(role: Role, reach: Reach) -> Person {
        let (actor, tenant) = (Actor::new("ada").unwrap(), Tenant::new("lab").unwrap());
        Person { actor, tenant, role, user: "ada".into(), reach }
    }

    #[test]
    fn only_an_admin_may_name_another_user() {
        assert_eq!(person(Role::Operator, Reach::Cluster).runs_as("root".to_owned()), "ada");
        assert_eq!(person(Role::Admin, Reach::Cluster).runs_as("bob".to_owned()), "bob");
        assert_eq!(person(Role::Admin, Reach::Cluster).runs_as(String::new()), "ada");
    }

    #[test]
    fn another_tenants_things_are_shown_across_the_cluster_only() {
        let own = person(Role::Viewer, Reach::Tenant);
        assert!(own.sees("lab") && !own.sees("default"));
        assert!(person(Role::Operator, Reach::Cluster).sees("default"));
    }

    #[test]
    fn an_agent_speaks_for_its_own_node_only() {
        let agent = Caller::Agent(PeerNode { name: NodeName::new("n1").unwrap(), uuid: "u1".to_owned(), join: 1 });
        speaks_for(Some(&agent), "n1", Some("u1")).unwrap();
        speaks_for(Some(&agent), "n1", None).unwrap();
        for (name, uuid) in [("n2", Some("u1")), ("n1", Some("u2")), ("n2", None)] {
            let refusal = speaks_for(Some(&agent), name, uuid).unwrap_err();
            assert_eq!((refusal.code, refusal.reason.as_ref()), (Code::PermissionDenied, "another-node"));
        }
        assert_eq!(speaks_for(None, "n1", None).unwrap_err(), Refusal::invariant());
    }
}
