//! Who may call what: one rule per path, and none means no.
//!
//! A rule names the least role and, for those below operator, whose jobs the call may touch. Operators and admins reach
//! every tenant's. A test walks the descriptor set, so a new RPC without a rule does not pass, and is not served.

use gangsaw_core::access::{Reach, Role};

/// What a caller must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Nothing: says only whether the scheduler lives.
    Open,
    /// A person of at least this role, who below operator reaches this far.
    Person(Role, Reach),
    /// A node's agent, or an admin in its place.
    Node,
}

/// Looks at the tenant's jobs, and at what the whole cluster shares.
const LOOK: Rule = Rule::Person(Role::Viewer, Reach::Tenant);
/// Submits, and changes what the caller submitted.
const OWN: Rule = Rule::Person(Role::Submitter, Reach::Own);
/// Changes the cluster.
const ADMIN: Rule = Rule::Person(Role::Admin, Reach::Cluster);

/// Every path that is served.
pub(crate) const RULES: &[(&str, Rule)] = &[
    ("/gangsaw.jobs.v1.JobsService/Submit", OWN),
    ("/gangsaw.jobs.v1.JobsService/GetJob", LOOK),
    ("/gangsaw.jobs.v1.JobsService/ListJobs", LOOK),
    ("/gangsaw.jobs.v1.JobsService/Cancel", OWN),
    ("/gangsaw.jobs.v1.JobsService/Hold", OWN),
    ("/gangsaw.jobs.v1.JobsService/Release", OWN),
    ("/gangsaw.jobs.v1.JobsService/Retry", OWN),
    ("/gangsaw.jobs.v1.JobsService/Update", OWN),
    ("/gangsaw.jobs.v1.JobsService/Watch", LOOK),
    ("/gangsaw.jobs.v1.JobsService/ReadLogs", LOOK),
    ("/gangsaw.admin.v1.AdminService/ListNodes", LOOK),
    ("/gangsaw.admin.v1.AdminService/SetNode", ADMIN),
    ("/gangsaw.admin.v1.AdminService/ForgetNode", ADMIN),
    ("/gangsaw.admin.v1.AdminService/ListQueues", LOOK),
    ("/gangsaw.admin.v1.AdminService/SetQueue", ADMIN),
    ("/gangsaw.admin.v1.AdminService/CreateToken", ADMIN),
    ("/gangsaw.admin.v1.AdminService/ListTokens", ADMIN),
    ("/gangsaw.admin.v1.AdminService/RevokeToken", ADMIN),
    ("/gangsaw.admin.v1.AdminService/ListTenants", Rule::Person(Role::Operator, Reach::Cluster)),
    ("/gangsaw.admin.v1.AdminService/SetTenant", ADMIN),
    ("/gangsaw.admin.v1.AdminService/GetServer", LOOK),
    ("/gangsaw.node.v1.NodeService/Attach", Rule::Node),
    ("/gangsaw.node.v1.NodeService/ServeLogs", Rule::Node),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", LOOK),
    ("/grpc.health.v1.Health/Check", Rule::Open),
    ("/grpc.health.v1.Health/List", Rule::Open),
    ("/grpc.health.v1.Health/Watch", Rule::Open),
    ("/metrics", LOOK),
    ("/healthz", Rule::Open),
];

/// Returns the rule of `path`. A path without one is not served.
pub(crate) fn rule(path: &str) -> Option<Rule> {
    RULES.iter().find(|(known, _)| *known == path).map(|(_, rule)| *rule)
}

#[cfg(test)]
mod tests {
    //! Every RPC of the descriptor set has a rule, and every rule an RPC.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::collections::BTreeSet;

    use prost::Message;

    use super::*;

    fn described() -> BTreeSet<String> {
        let set = prost_types::FileDescriptorSet::decode(gangsaw_proto::DESCRIPTORS).unwrap();
        let mut paths = BTreeSet::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    paths.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        paths
    }

    #[test]
    fn every_rpc_has_exactly_one_rule() {
        let described = described();
        assert!(described.len() >= 21, "{described:?}");
        for path in &described {
            assert_eq!(RULES.iter().filter(|(known, _)| known == path).count(), 1, "{path}");
        }
        let ours = RULES.iter().filter(|(path, _)| path.starts_with("/gangsaw.")).map(|(path, _)| (*path).to_owned());
        assert_eq!(ours.collect::<BTreeSet<_>>(), described);
    }

    #[test]
    fn only_health_is_open() {
        let open: Vec<_> = RULES.iter().filter(|(_, rule)| *rule == Rule::Open).map(|(path, _)| *path).collect();
        assert!(open.iter().all(|path| path.starts_with("/grpc.health.v1.Health/") || *path == "/healthz"), "{open:?}");
        assert_eq!(rule("/anything/else"), None);
    }
}
