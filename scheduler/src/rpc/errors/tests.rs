//! A status carries what a client needs to show a refusal.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

#[test]
fn a_refusal_carries_reason_hint_and_all_faults() {
    let fault = SubmitFault {
        job: 1,
        path: "resources.gpus".into(),
        reason: "never-fits".into(),
        message: "job needs 12 × h200".into(),
        hint: "ask for at most 8".into(),
    };
    let mut refusal = Refusal::new(Code::InvalidArgument, "never-fits", "job needs 12 × h200", "ask for at most 8");
    refusal.faults = vec![fault.clone(), fault.clone()];
    let status = Status::from(refusal);
    assert_eq!(status.code(), Code::InvalidArgument);
    let rpc = RpcStatus::decode(status.details()).unwrap();
    assert_eq!(rpc.code, 3);
    assert_eq!(rpc.details[0].type_url, "type.googleapis.com/google.rpc.ErrorInfo");
    let info = ErrorInfo::decode(rpc.details[0].value.as_slice()).unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("never-fits", "gangsaw"));
    assert_eq!(info.metadata["hint"], "ask for at most 8");
    let faults = SubmitFaults::decode(rpc.details[1].value.as_slice()).unwrap();
    assert_eq!(faults.faults, [fault.clone(), fault]);
}

#[test]
fn faults_beyond_what_a_header_carries_are_left_out() {
    let fault = SubmitFault { message: "x".repeat(500), ..SubmitFault::default() };
    let mut refusal = Refusal::new(Code::InvalidArgument, "bad-spec", "many", "");
    refusal.faults = vec![fault; 1000];
    assert!(Status::from(refusal).details().len() < 8 * 1024);
}
