//! What a caller may do: a role says how much, and a call's reach says to whose jobs.
//!
//! The door knows the caller and the rule of the call; it puts a reach into the request. Whose a job is lies in the
//! state, so whether the reach covers it is decided here, in the same step as the change itself.
//!
//! Invariants:
//! - A job beyond the caller's tenant is as unknown as one that never was, so that numbers tell nothing.
//! - Nothing is allowed by default: a request carries the least reach that its rule and role give.
//!
//! Elsewhere: the rule of each call and who a token belongs to are the scheduler's.

use crate::id::{Actor, Tenant};

/// How much a person may do. Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Looks at the jobs of one tenant.
    Viewer,
    /// Submits jobs, and changes those it submitted.
    Submitter,
    /// Changes anybody's jobs, of every tenant.
    Operator,
    /// Changes nodes, queues and tokens, too.
    Admin,
}

impl Role {
    /// Every role, least first.
    pub const ALL: [Role; 4] = [Role::Viewer, Role::Submitter, Role::Operator, Role::Admin];

    /// Returns the role's word.
    pub fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Submitter => "submitter",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

/// Whose jobs a request may touch. Each reaches what those before it reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// Those of the same actor, within the tenant.
    Own,
    /// Those of the tenant.
    Tenant,
    /// All.
    Cluster,
}

/// How a job stands to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The caller may do it.
    Within,
    /// The caller may look at the job, and not do this.
    AnotherPersons,
    /// For this caller there is no such job.
    Unknown,
}

impl Reach {
    /// Says how a thing of `owner` in `tenant` stands to a caller with this reach.
    pub fn covers(self, caller: (&Tenant, &Actor), (tenant, owner): (&Tenant, &Actor)) -> Standing {
        let same_tenant = caller.0 == tenant;
        match self {
            Reach::Cluster => Standing::Within,
            Reach::Tenant if same_tenant => Standing::Within,
            Reach::Own if same_tenant && caller.1 == owner => Standing::Within,
            Reach::Own if same_tenant => Standing::AnotherPersons,
            Reach::Own | Reach::Tenant => Standing::Unknown,
        }
    }
}
