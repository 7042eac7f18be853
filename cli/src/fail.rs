//! What went wrong, for a person and for a script: a stable reason, a sentence, a hint, an exit code.
//!
//! This is the one place that knows exit codes. A gRPC refusal carries its reason and hint in `ErrorInfo`, and a
//! refused submit its faults in `SubmitFaults`; both are taken out of the status here.

use std::collections::HashMap;

use gangsaw_proto::jobs::v1::SubmitFaults;
use prost::Message as _;

use crate::spec::read::harmless;

/// Bad input: nothing was changed.
pub(crate) const BAD_INPUT: u8 = 2;
/// The scheduler does not answer.
pub(crate) const UNREACHABLE: u8 = 69;
/// Something is at fault that is neither the input nor the connection nor the store.
pub(crate) const SOFTWARE: u8 = 1;
/// The store failed or is full.
pub(crate) const STORE: u8 = 74;
/// The reader of our output has gone, as a shell reports SIGPIPE.
pub(crate) const NO_READER: u8 = 141;

/// Some of the logs that were asked for lie on a node that does not answer now.
pub(crate) const NODE_UNREACHABLE: &str = "node-unreachable";

/// Why a verb did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A reason, a sentence and a hint.
    Plain(Plain),
    /// Faults already rendered with their places.
    Rendered {
        text: String,
        /// For tests and programs; all of it is bad input.
        exit: u8,
    },
    /// Somebody closed our output; there is nobody to tell.
    NoReader,
}

/// A failure in words.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) reason: String,
    pub(crate) sentence: String,
    pub(crate) hint: String,
    pub(crate) exit: u8,
}

/// A failure with a reason, a sentence, a hint and an exit code.
pub(crate) fn failure(reason: &str, sentence: impl Into<String>, hint: impl Into<String>, exit: u8) -> Failure {
    Failure::Plain(Plain { reason: reason.to_owned(), sentence: sentence.into(), hint: hint.into(), exit })
}

/// A failure of the input.
pub(crate) fn bad_input(reason: &str, sentence: impl Into<String>, hint: impl Into<String>) -> Failure {
    failure(reason, sentence, hint, BAD_INPUT)
}

impl Failure {
    /// What people read on stderr.
    pub(crate) fn text(&self) -> String {
        match self {
            Failure::Plain(plain) => {
                let mut text = format!("error[{}]: {}\n", plain.reason, harmless(&plain.sentence));
                if !plain.hint.is_empty() {
                    text.push_str(&format!("  hint: {}\n", harmless(&plain.hint)));
                }
                text
            }
            Failure::Rendered { text, .. } => text.clone(),
            Failure::NoReader => String::new(),
        }
    }

    /// The process's exit code.
    pub(crate) fn exit(&self) -> u8 {
        match self {
            Failure::Plain(plain) => plain.exit,
            Failure::Rendered { exit, .. } => *exit,
            Failure::NoReader => NO_READER,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Failure::NoReader;
        }
        failure("io", error.to_string(), "", SOFTWARE)
    }
}

/// `google.rpc.Status`, as `grpc-status-details-bin` carries it.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(map = "string, string", tag = "3")]
    metadata: HashMap<String, String>,
}

/// The detail whose type's name ends with `name`.
fn detail<M: prost::Message + Default>(status: &tonic::Status, name: &str) -> Option<M> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let found = details.iter().find(|any| any.type_url.rsplit('/').next() == Some(name))?;
    M::decode(found.value.as_slice()).ok()
}

/// The faults of a refused submit.
pub(crate) fn submit_faults(status: &tonic::Status) -> Option<SubmitFaults> {
    detail(status, "gangsaw.jobs.v1.SubmitFaults")
}

/// The reason a scheduler gave; none when the connection failed.
pub(crate) fn reason(status: &tonic::Status) -> Option<String> {
    Some(detail::<ErrorInfo>(status, "google.rpc.ErrorInfo")?.reason)
}

/// True when the scheduler could not be reached, went away, is too busy or misses a node, so that asking again may help.
pub(crate) fn may_pass(status: &tonic::Status) -> bool {
    match reason(status) {
        Some(reason) => ["stopping", "standby", "busy", NODE_UNREACHABLE].contains(&reason.as_str()),
        None => is_unreachable(status),
    }
}

/// True when no scheduler said this.
fn is_unreachable(status: &tonic::Status) -> bool {
    if reason(status).is_some() {
        return false;
    }
    let broken = [tonic::Code::Unknown, tonic::Code::Internal, tonic::Code::Cancelled].contains(&status.code());
    status.code() == tonic::Code::Unavailable || broken && std::error::Error::source(status).is_some()
}

/// Turns a refusal into a failure.
pub(crate) fn refused(status: &tonic::Status, address: &str) -> Failure {
    if is_unreachable(status) {
        return unreachable(address, &deepest(status));
    }
    let info = detail::<ErrorInfo>(status, "google.rpc.ErrorInfo").unwrap_or_default();
    let (fallback, exit) = by_code(status.code());
    let reason = if info.reason.is_empty() { fallback } else { info.reason.as_str() };
    let exit = if ["disk-full", "store-failed", "store"].contains(&reason) { STORE } else { exit };
    let mut hint = info.metadata.get("hint").cloned().unwrap_or_default();
    if hint.is_empty() && status.code() == tonic::Code::Unauthenticated {
        hint = "set GANGSAW_TOKEN, or run as the user who started the scheduler".into();
    }
    failure(reason, status.message(), hint, exit)
}

/// Nobody answers at the address.
pub(crate) fn unreachable(address: &str, why: &str) -> Failure {
    let hint = "start one with `gangsaw up`, or say where it is with --server or GANGSAW_SERVER";
    failure("scheduler-unreachable", format!("no scheduler answers at {address}: {why}"), hint, UNREACHABLE)
}

/// The innermost cause: what the operating system said.
fn deepest(status: &tonic::Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if std::ptr::addr_eq(cause, status as &dyn std::error::Error) {
        status.message().to_owned()
    } else {
        cause.to_string()
    }
}

/// The reason and exit code of a refusal that names none.
fn by_code(code: tonic::Code) -> (&'static str, u8) {
    match code {
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => ("bad-input", BAD_INPUT),
        tonic::Code::FailedPrecondition | tonic::Code::AlreadyExists => ("conflict", BAD_INPUT),
        tonic::Code::NotFound => ("not-found", BAD_INPUT),
        tonic::Code::Unauthenticated => ("unauthenticated", BAD_INPUT),
        tonic::Code::PermissionDenied => ("permission-denied", BAD_INPUT),
        tonic::Code::ResourceExhausted => ("full", SOFTWARE),
        tonic::Code::Unimplemented => ("unsupported", SOFTWARE),
        tonic::Code::DataLoss => ("store", STORE),
        tonic::Code::Ok
        | tonic::Code::Cancelled
        | tonic::Code::Unknown
        | tonic::Code::DeadlineExceeded
        | tonic::Code::Aborted
        | tonic::Code::Internal
        | tonic::Code::Unavailable => ("scheduler-failed", SOFTWARE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_reason_and_hint() {
        let info = ErrorInfo {
            reason: "never-fits".into(),
            domain: "gangsaw".into(),
            metadata: HashMap::from([("hint".to_owned(), "ask for less".to_owned())]),
        };
        let any = prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(),
            value: info.encode_to_vec(),
        };
        let details = RpcStatus { code: 9, message: String::new(), details: vec![any] }.encode_to_vec();
        let status = tonic::Status::with_details(tonic::Code::FailedPrecondition, "too\nbig", details.into());
        let failure = refused(&status, "http://x");
        assert_eq!(failure.text(), "error[never-fits]: too\\nbig\n  hint: ask for less\n");
        assert_eq!(failure.exit(), BAD_INPUT);
    }

    #[test]
    fn a_silent_scheduler_is_unreachable() {
        let failure = refused(&tonic::Status::unavailable("transport error"), "http://127.0.0.1:1");
        assert_eq!(failure.exit(), UNREACHABLE);
    }
}
