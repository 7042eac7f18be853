//! Every refusal, as one status: code, stable reason, sentence, hint, and all faults of a submit.
//!
//! The details are `google.rpc.Status` as every gRPC library reads it; its two messages are small and written out here.
//!
//! Elsewhere: showing them with carets is the command line's.

use std::borrow::Cow;
use std::collections::HashMap;

use gangsaw_core::access::Role;
use gangsaw_core::effect::{self, RefusalKind};
use gangsaw_proto::jobs::v1::{SubmitFault, SubmitFaults};
use prost::Message;
use tonic::{Code, Status};

/// Domain of every reason.
const DOMAIN: &str = "gangsaw";
/// Bytes of details that go into a header: peers refuse header lists above 16 KiB, and base64 takes a third more.
const DETAILS_BYTES_MAX: usize = 6 * 1024;

/// A refusal before it is a status.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) reason: Cow<'static, str>,
    pub(crate) message: String,
    pub(crate) hint: Cow<'static, str>,
    pub(crate) faults: Vec<SubmitFault>,
}

impl Refusal {
    /// Returns a refusal without faults.
    pub(crate) fn new(
        code: Code,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
        hint: impl Into<Cow<'static, str>>,
    ) -> Refusal {
        Refusal { code, reason: reason.into(), message: message.into(), hint: hint.into(), faults: Vec::new() }
    }

    pub(crate) fn unauthenticated() -> Refusal {
        let hint = "set GANGSAW_TOKEN, or run as the user whose credentials folder holds this scheduler's token";
        Refusal::new(Code::Unauthenticated, "unauthenticated", "this scheduler does not know the token", hint)
    }

    /// Returns the refusal of a caller whose role is too small.
    pub(crate) fn role(has: Role, least: Role) -> Refusal {
        let message = format!("this needs the role {}, and the token's is {}", least.word(), has.word());
        let hint = "ask somebody with that role, or for a token with it";
        Refusal::new(Code::PermissionDenied, "role-too-small", message, hint)
    }

    pub(crate) fn void_certificate(name: &str) -> Refusal {
        let message =
            format!("the certificate of node {name} does not count any more: it joined again, or was forgotten");
        Refusal::new(Code::PermissionDenied, "void-certificate", message, "join this node with a new token")
    }

    pub(crate) fn not_a_person() -> Refusal {
        let message = "a node's certificate runs its agent, and this is for people";
        Refusal::new(Code::PermissionDenied, "not-a-person", message, "use a token of your own")
    }

    pub(crate) fn no_such_call() -> Refusal {
        let hint = "client and scheduler may be of different versions";
        Refusal::new(Code::Unimplemented, "no-such-call", "this scheduler does not serve that", hint)
    }

    /// Returns the reason where a label needs one that lives as long as the process.
    pub(crate) fn label(&self) -> &'static str {
        match self.reason {
            Cow::Borrowed(reason) => reason,
            Cow::Owned(_) => "other",
        }
    }

    pub(crate) fn busy() -> Refusal {
        let message = "the scheduler has as many requests waiting as it accepts";
        Refusal::new(Code::ResourceExhausted, "busy", message, "try again in a second")
    }

    pub(crate) fn stopping() -> Refusal {
        Refusal::new(Code::Unavailable, "stopping", "the scheduler is stopping", "try again when it is back")
    }

    /// Another scheduler leads; `leader` is its address, if it is known.
    pub(crate) fn standby(leader: &str) -> Refusal {
        let message = match leader {
            "" => "this scheduler stands by, and none leads yet".to_owned(),
            leader => format!("this scheduler stands by; the one at {leader} leads"),
        };
        Refusal::new(
            Code::Unavailable,
            "standby",
            message,
            "name every scheduler: --server http://A:7461,http://B:7461",
        )
    }

    pub(crate) fn disk_full() -> Refusal {
        let message = "the scheduler's disk is almost full, and it takes nothing new until there is room";
        Refusal::new(
            Code::ResourceExhausted,
            "disk-full",
            message,
            "free space where its state folder is; it recovers alone",
        )
    }

    pub(crate) fn invariant() -> Refusal {
        let message = "the scheduler met a fault of its own while deciding this, and changed nothing";
        Refusal::new(Code::Internal, "invariant", message, "please report it with `refused-inputs` of the state folder")
    }

    pub(crate) fn late_hello() -> Refusal {
        let message = "the node has said Hello on a newer stream";
        Refusal::new(Code::Aborted, "late-hello", message, "")
    }

    pub(crate) fn version_skew(agent: &str) -> Refusal {
        let own = env!("CARGO_PKG_VERSION");
        let message =
            format!("the agent is version {agent} and the scheduler {own}; they may be one minor version apart");
        Refusal::new(
            Code::FailedPrecondition,
            "version-skew",
            message,
            "upgrade the older one, a minor version at a time",
        )
    }

    pub(crate) fn missing(field: &'static str) -> Refusal {
        Refusal::new(Code::InvalidArgument, "missing-field", format!("the request lacks `{field}`"), "")
    }
}

/// Every fault of a submit, the first one's reason speaking for all.
impl From<Vec<effect::SubmitFault>> for Refusal {
    fn from(faults: Vec<effect::SubmitFault>) -> Refusal {
        let first = faults.first().map(|first| first.fault.clone());
        let (reason, message, hint) = match first {
            Some(fault) if faults.len() == 1 => (fault.reason, fault.message, fault.hint),
            Some(fault) => (fault.reason, format!("{}, and {} more", fault.message, faults.len() - 1), fault.hint),
            None => ("bad-spec", "the jobs cannot be stored".to_owned(), String::new()),
        };
        let mut refusal = Refusal::new(Code::InvalidArgument, reason, message, hint);
        refusal.faults = faults.into_iter().map(wire_fault).collect();
        refusal
    }
}

fn wire_fault(fault: effect::SubmitFault) -> SubmitFault {
    SubmitFault {
        job: fault.job,
        path: fault.fault.path,
        reason: fault.fault.reason.to_owned(),
        message: fault.fault.message,
        hint: fault.fault.hint,
    }
}

impl From<effect::Refusal> for Refusal {
    fn from(refusal: effect::Refusal) -> Refusal {
        let code = match refusal.kind {
            RefusalKind::Invalid => Code::InvalidArgument,
            RefusalKind::NotFound => Code::NotFound,
            RefusalKind::AlreadyExists => Code::AlreadyExists,
            RefusalKind::Precondition => Code::FailedPrecondition,
            RefusalKind::Denied => Code::PermissionDenied,
            RefusalKind::Exhausted => Code::ResourceExhausted,
        };
        Refusal::new(code, refusal.reason, refusal.message, refusal.hint)
    }
}

/// A `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// A `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(map = "string, string", tag = "3")]
    metadata: HashMap<String, String>,
}

fn any(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

/// The one place where a refusal becomes a status.
impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let mut metadata = HashMap::new();
        if !refusal.hint.is_empty() {
            metadata.insert("hint".to_owned(), refusal.hint.into_owned());
        }
        let info = ErrorInfo { reason: refusal.reason.into_owned(), domain: DOMAIN.to_owned(), metadata };
        let mut details = vec![any("google.rpc.ErrorInfo", &info)];
        let faults = fitting(refusal.faults);
        if !faults.faults.is_empty() {
            details.push(any("gangsaw.jobs.v1.SubmitFaults", &faults));
        }
        let message = refusal.message;
        let status = RpcStatus { code: refusal.code as i32, message: message.clone(), details };
        Status::with_details(refusal.code, message, status.encode_to_vec().into())
    }
}

/// Keeps the first faults that fit, for a status travels in a header.
fn fitting(faults: Vec<SubmitFault>) -> SubmitFaults {
    let mut bytes = 0;
    let fits = |fault: &SubmitFault| {
        bytes += fault.encoded_len() + 4;
        bytes <= DETAILS_BYTES_MAX
    };
    SubmitFaults { faults: faults.into_iter().take_while(fits).collect() }
}

#[cfg(test)]
mod tests;
