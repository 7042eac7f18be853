//! Who may call what: one rule per path, and none means no.
//!
//! A test walks the descriptor set, so a new RPC without a rule does not pass.

/// What a caller must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Nothing: says only whether the scheduler lives.
    Open,
    /// The state folder's token.
    Token,
}

/// Every path that is served.
pub(crate) const RULES: &[(&str, Rule)] = &[
    ("/gangsaw.jobs.v1.JobsService/Submit", Rule::Token),
    ("/gangsaw.jobs.v1.JobsService/GetJob", Rule::Token),
    ("/gangsaw.jobs.v1.JobsService/ListJobs", Rule::Token),
    ("/gangsaw.jobs.v1.JobsService/Cancel", Rule::Token),
    ("/gangsaw.jobs.v1.JobsService/Hold", Rule::Token),
    ("/gangsaw.jobs.v1.JobsService/Release", Rule::Token),
    ("/gangsaw.jobs.v1.JobsService/Retry", Rule::Token),
    ("/gangsaw.jobs.v1.JobsService/Update", Rule::Token),
    ("/gangsaw.jobs.v1.JobsService/Watch", Rule::Token),
    ("/gangsaw.jobs.v1.JobsService/ReadLogs", Rule::Token),
    ("/gangsaw.admin.v1.AdminService/ListNodes", Rule::Token),
    ("/gangsaw.admin.v1.AdminService/SetNode", Rule::Token),
    ("/gangsaw.admin.v1.AdminService/ForgetNode", Rule::Token),
    ("/gangsaw.admin.v1.AdminService/ListQueues", Rule::Token),
    ("/gangsaw.admin.v1.AdminService/SetQueue", Rule::Token),
    ("/gangsaw.admin.v1.AdminService/ListTenants", Rule::Token),
    ("/gangsaw.admin.v1.AdminService/SetTenant", Rule::Token),
    ("/gangsaw.admin.v1.AdminService/GetServer", Rule::Token),
    ("/gangsaw.node.v1.NodeService/Attach", Rule::Token),
    ("/gangsaw.node.v1.NodeService/ServeLogs", Rule::Token),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rule::Token),
    ("/grpc.health.v1.Health/Check", Rule::Open),
    ("/grpc.health.v1.Health/List", Rule::Open),
    ("/grpc.health.v1.Health/Watch", Rule::Open),
    ("/metrics", Rule::Token),
    ("/healthz", Rule::Open),
];

/// Returns the rule of `path`. A path without one is not served, and asks for the token before it says so.
pub(crate) fn rule(path: &str) -> Rule {
    RULES.iter().find(|(known, _)| *known == path).map_or(Rule::Token, |(_, rule)| *rule)
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
        assert!(described.len() >= 18, "{described:?}");
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
        assert_eq!(rule("/anything/else"), Rule::Token);
    }
}
