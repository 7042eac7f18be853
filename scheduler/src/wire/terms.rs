//! Enums that mean the same on the wire, in the log and in the core.

use gangsaw_core::access::Role;
use gangsaw_core::job::record::{ElementState, EndState, Outcome};
use gangsaw_core::job::spec::DependencyKind;
use gangsaw_core::lease::RevokeReason;
use gangsaw_core::node::NodeMode;
use gangsaw_proto::jobs::v1::dependency::Kind;
use gangsaw_proto::node::v1::revoke::Reason;
use gangsaw_proto::{admin, jobs};

use super::Malformed;

/// Returns the state as jobs.v1 has it.
pub(crate) fn state(state: ElementState) -> jobs::v1::State {
    use jobs::v1::State;
    match state {
        ElementState::Pending => State::Pending,
        ElementState::Held => State::Held,
        ElementState::Starting => State::Starting,
        ElementState::Running => State::Running,
        ElementState::Completing => State::Completing,
        ElementState::Completed => State::Completed,
        ElementState::Failed => State::Failed,
        ElementState::Cancelled => State::Cancelled,
        ElementState::Timeout => State::Timeout,
        ElementState::OutOfMemory => State::OutOfMemory,
        ElementState::NodeFail => State::NodeFail,
    }
}

/// Returns the word metrics use for a state.
pub(crate) fn state_word(state: ElementState) -> &'static str {
    match state {
        ElementState::Pending => "pending",
        ElementState::Held => "held",
        ElementState::Starting => "starting",
        ElementState::Running => "running",
        ElementState::Completing => "completing",
        ElementState::Completed => "completed",
        ElementState::Failed => "failed",
        ElementState::Cancelled => "cancelled",
        ElementState::Timeout => "timeout",
        ElementState::OutOfMemory => "out_of_memory",
        ElementState::NodeFail => "node_fail",
    }
}

/// Returns the word people read for a state.
pub(crate) fn state_name(state: ElementState) -> &'static str {
    match state {
        ElementState::Pending => "PENDING",
        ElementState::Held => "HELD",
        ElementState::Starting => "STARTING",
        ElementState::Running => "RUNNING",
        ElementState::Completing => "COMPLETING",
        ElementState::Completed => "COMPLETED",
        ElementState::Failed => "FAILED",
        ElementState::Cancelled => "CANCELLED",
        ElementState::Timeout => "TIMEOUT",
        ElementState::OutOfMemory => "OUT_OF_MEMORY",
        ElementState::NodeFail => "NODE_FAIL",
    }
}

/// Says whether elements in `state` have ended.
pub(crate) fn is_ended(state: ElementState) -> bool {
    match state {
        ElementState::Pending
        | ElementState::Held
        | ElementState::Starting
        | ElementState::Running
        | ElementState::Completing => false,
        ElementState::Completed
        | ElementState::Failed
        | ElementState::Cancelled
        | ElementState::Timeout
        | ElementState::OutOfMemory
        | ElementState::NodeFail => true,
    }
}

/// Reads a terminal state.
pub(crate) fn end_state(number: i32) -> Result<EndState, Malformed> {
    use jobs::v1::State;
    match State::try_from(number) {
        Ok(State::Completed) => Ok(EndState::Completed),
        Ok(State::Failed) => Ok(EndState::Failed),
        Ok(State::Cancelled) => Ok(EndState::Cancelled),
        Ok(State::Timeout) => Ok(EndState::Timeout),
        Ok(State::OutOfMemory) => Ok(EndState::OutOfMemory),
        Ok(State::NodeFail) => Ok(EndState::NodeFail),
        Ok(
            State::Unspecified | State::Pending | State::Held | State::Starting | State::Running | State::Completing,
        )
        | Err(_) => Err(Malformed("state")),
    }
}

/// Returns the outcome as jobs.v1 has it.
pub(crate) fn outcome(outcome: Outcome) -> jobs::v1::Outcome {
    match outcome {
        Outcome::Ok => jobs::v1::Outcome::Ok,
        Outcome::Failed => jobs::v1::Outcome::Failed,
        Outcome::Oom => jobs::v1::Outcome::Oom,
        Outcome::Timeout => jobs::v1::Outcome::Timeout,
        Outcome::Preempted => jobs::v1::Outcome::Preempted,
        Outcome::Infra => jobs::v1::Outcome::Infra,
        Outcome::Cancelled => jobs::v1::Outcome::Cancelled,
        Outcome::Fenced => jobs::v1::Outcome::Fenced,
    }
}

/// Reads an outcome; unspecified is none.
pub(crate) fn outcome_from(number: i32) -> Result<Option<Outcome>, Malformed> {
    use jobs::v1::Outcome as Wire;
    Ok(Some(match Wire::try_from(number).map_err(|_| Malformed("outcome"))? {
        Wire::Unspecified => return Ok(None),
        Wire::Ok => Outcome::Ok,
        Wire::Failed => Outcome::Failed,
        Wire::Oom => Outcome::Oom,
        Wire::Timeout => Outcome::Timeout,
        Wire::Preempted => Outcome::Preempted,
        Wire::Infra => Outcome::Infra,
        Wire::Cancelled => Outcome::Cancelled,
        Wire::Fenced => Outcome::Fenced,
    }))
}

/// Returns the mode as admin.v1 has it.
pub(crate) fn mode(mode: NodeMode) -> admin::v1::NodeMode {
    match mode {
        NodeMode::Active => admin::v1::NodeMode::Active,
        NodeMode::Cordoned => admin::v1::NodeMode::Cordoned,
        NodeMode::Draining => admin::v1::NodeMode::Draining,
    }
}

/// Reads a mode; unspecified is none.
pub(crate) fn mode_from(number: i32) -> Option<NodeMode> {
    match admin::v1::NodeMode::try_from(number) {
        Ok(admin::v1::NodeMode::Active) => Some(NodeMode::Active),
        Ok(admin::v1::NodeMode::Cordoned) => Some(NodeMode::Cordoned),
        Ok(admin::v1::NodeMode::Draining) => Some(NodeMode::Draining),
        Ok(admin::v1::NodeMode::Unspecified) | Err(_) => None,
    }
}

/// Returns a role.
pub(crate) fn role(role: Role) -> admin::v1::Role {
    match role {
        Role::Viewer => admin::v1::Role::Viewer,
        Role::Submitter => admin::v1::Role::Submitter,
        Role::Operator => admin::v1::Role::Operator,
        Role::Admin => admin::v1::Role::Admin,
    }
}

/// Reads a role; unspecified is none.
pub(crate) fn role_from(number: i32) -> Option<Role> {
    match admin::v1::Role::try_from(number) {
        Ok(admin::v1::Role::Viewer) => Some(Role::Viewer),
        Ok(admin::v1::Role::Submitter) => Some(Role::Submitter),
        Ok(admin::v1::Role::Operator) => Some(Role::Operator),
        Ok(admin::v1::Role::Admin) => Some(Role::Admin),
        Ok(admin::v1::Role::Unspecified) | Err(_) => None,
    }
}

/// Returns the reason as node.v1 has it.
pub(crate) fn revoke_reason(reason: RevokeReason) -> Reason {
    match reason {
        RevokeReason::Cancelled => Reason::Cancelled,
        RevokeReason::Fenced => Reason::Fenced,
        RevokeReason::Gang => Reason::Gang,
        RevokeReason::Preempted => Reason::Preempted,
    }
}

/// Reads a stored reason.
pub(crate) fn revoke_reason_from(number: i32) -> Result<RevokeReason, Malformed> {
    match Reason::try_from(number) {
        Ok(Reason::Cancelled) => Ok(RevokeReason::Cancelled),
        Ok(Reason::Fenced) => Ok(RevokeReason::Fenced),
        Ok(Reason::Gang) => Ok(RevokeReason::Gang),
        Ok(Reason::Preempted) => Ok(RevokeReason::Preempted),
        Ok(Reason::Unspecified) | Err(_) => Err(Malformed("reason")),
    }
}

/// Returns the kind as jobs.v1 has it.
pub(crate) fn kind(kind: DependencyKind) -> Kind {
    match kind {
        DependencyKind::Ok => Kind::Ok,
        DependencyKind::Any => Kind::Any,
        DependencyKind::Failed => Kind::Failed,
    }
}

/// Reads a kind; unspecified is none.
pub(crate) fn kind_from(number: i32) -> Option<DependencyKind> {
    match Kind::try_from(number) {
        Ok(Kind::Ok) => Some(DependencyKind::Ok),
        Ok(Kind::Any) => Some(DependencyKind::Any),
        Ok(Kind::Failed) => Some(DependencyKind::Failed),
        Ok(Kind::Unspecified) | Err(_) => None,
    }
}
