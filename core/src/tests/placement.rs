//! Where jobs go, in which order, and why they wait.

use super::world::*;
use crate::id::*;
use crate::input::*;
use crate::job::body::DeviceCode;
use crate::job::draft::*;

fn placed(w: &World, job: JobId) -> Vec<u32> {
    let lease = |id: &LeaseId| w.state.lease(*id).unwrap().node.0;
    w.state.job(job).unwrap().leases.iter().map(lease).collect()
}

#[test]
fn a_task_goes_to_the_tightest_node_and_leaves_gpus_free() {
    let mut w = World::with_nodes(&[(8, 1), (8, 0), (4, 0)]);
    let small = w.job(needing(1, 0));
    let large = w.job(needing(6, 0));
    let gpu = w.job(needing(1, 1));
    assert_eq!((placed(&w, small), placed(&w, large), placed(&w, gpu)), (vec![3], vec![2], vec![1]));
}

#[test]
fn higher_priority_goes_first_and_waiting_ages() {
    let mut w = World::with_nodes(&[(1, 0)]);
    w.job(sleep());
    let low = w.job(JobDraft { priority: Some(-5), ..sleep() });
    let high = w.at(240).job(JobDraft { priority: Some(0), ..sleep() });
    let higher = w.at(299).job(JobDraft { priority: Some(0), ..sleep() });
    let late = w.at(301).job(JobDraft { priority: Some(0), ..sleep() });
    let mut order = Vec::new();
    for lease in 1..=5 {
        w.report(1, &[(lease, ended(0, 0, 0))]);
        order.extend(w.state.leases().map(|lease| lease.job));
    }
    assert_eq!(order, [high, higher, low, late], "five points are five minutes");
}

#[test]
fn a_gpu_is_taken_if_one_is_free_now_and_the_cpu_otherwise() {
    let mut w = World::with_nodes(&[(8, 1)]);
    let auto = || {
        let gpu = DemandDraft { gpus: 1, ..DemandDraft::default() };
        JobDraft { demands: vec![gpu, DemandDraft::default()], ..sleep() }
    };
    let first = w.job(auto());
    let second = w.job(auto());
    let plain = w.job(sleep());
    let device = |job| w.state.job(job).unwrap().body.device.clone().unwrap();
    assert_eq!((device(first).gpu, device(first).code), (true, DeviceCode::DefaultRule));
    assert_eq!((device(second).gpu, device(second).code), (false, DeviceCode::DefaultRule));
    assert_eq!(device(second).detail, "no GPU was free that fits");
    assert_eq!((device(plain).gpu, device(plain).code), (false, DeviceCode::OnlyChoice));
    let mut w = World::with_nodes(&[(8, 0)]);
    let job = w.job(auto());
    assert_eq!(w.state.job(job).unwrap().body.device.as_ref().unwrap().detail, "no node has a GPU");
}

#[test]
fn a_large_job_is_not_starved_by_small_ones() {
    let mut w = World::with_nodes(&[(2, 0), (2, 0)]);
    let small: Vec<_> = (0..4).map(|_| w.job(needing(1, 0))).collect();
    let large = w.job(gang(4, 1));
    let behind = w.job(needing(1, 0));
    w.report(1, &[(1, ended(0, 0, 0))]);
    assert_eq!(w.reasons(behind), ["gang-reserved: what is free is kept for job 5, which is ahead"]);
    assert_eq!(w.reasons(large), ["insufficient-for-gang: needs room for 4 ranks together, and 1 fit now"]);
    w.report(1, &[(2, ended(0, 0, 0))]);
    w.report(2, &[(3, ended(0, 0, 0))]);
    assert_eq!(w.states(behind), "Pending {Pending: 1}");
    w.report(2, &[(4, ended(0, 0, 0))]);
    assert_eq!(w.states(large), "Running {Starting: 1}");
    assert!(small.iter().all(|job| w.states(*job) == "Completed {Completed: 1}"));
}

#[test]
fn later_jobs_start_in_what_the_first_does_not_need() {
    let mut w = World::with_nodes(&[(4, 1)]);
    w.job(needing(1, 1));
    let waits = w.job(needing(1, 1));
    let behind = w.job(needing(2, 0));
    let too_much = w.job(needing(1, 0));
    assert_eq!(w.reasons(waits), ["insufficient-gpus: needs 1 × GPU on one node, and at most 0 are free"]);
    assert_eq!(w.states(behind), "Running {Starting: 1}");
    assert_eq!(w.reasons(too_much), ["gang-reserved: what is free is kept for job 2, which is ahead"]);
}

#[test]
fn with_no_node_a_job_waits_and_starts_when_one_comes() {
    let mut w = World::new();
    let job = w.job(needing(64, 8));
    assert_eq!(w.reasons(job), ["no-nodes: no node is registered"]);
    w.hello(1, inventory(1, 64, 8), &[]);
    assert_eq!(w.states(job), "Running {Starting: 1}");
}

#[test]
fn reasons_name_the_first_shortage_with_numbers() {
    let mut w = World::with_nodes(&[(4, 2)]);
    w.job(JobDraft { priority: Some(9), ..needing(3, 1) });
    let cpus = w.job(needing(2, 0));
    let gpus = w.job(needing(1, 2));
    let memory =
        w.job(JobDraft { demands: vec![DemandDraft { memory_bytes: 64 << 30, ..DemandDraft::default() }], ..sleep() });
    assert_eq!(w.reasons(cpus), ["insufficient-cpus: needs 2 CPUs on one node, and at most 1 are free"]);
    assert_eq!(w.reasons(gpus), ["insufficient-gpus: needs 2 × GPU on one node, and at most 1 are free"]);
    assert_eq!(w.reasons(memory), ["gang-reserved: what is free is kept for job 2, which is ahead"]);
    w.send(Input::Cancel { job: cpus, elements: None });
    w.send(Input::Cancel { job: gpus, elements: None });
    assert_eq!(w.states(memory), "Running {Starting: 1}");
}

#[test]
fn a_withheld_device_is_not_given_and_a_model_is_matched_as_a_part_of_the_name() {
    let mut w = World::new();
    let mut owned = inventory(1, 8, 2);
    owned.devices[0].withheld = Some("foreign-process pid 7".into());
    w.hello(1, owned, &[]);
    let model = |gpu_model: &str| {
        let demand = DemandDraft { gpus: 1, gpu_model: gpu_model.into(), ..DemandDraft::default() };
        JobDraft { demands: vec![demand], ..sleep() }
    };
    let job = w.job(model("h200"));
    let lease = w.state.leases().next().unwrap();
    assert_eq!((lease.job, lease.ranks[0].gpu_uuids[0].as_str()), (job, "GPU-1-1"));
    let holder = w.state.device_holder(NodeId(1), &lease.ranks[0].gpu_uuids[0]).unwrap();
    assert_eq!((holder.job, holder.index, holder.rank), (job, 0, 0));
    let waits = w.job(model("H200"));
    assert_eq!(w.reasons(waits), ["insufficient-gpus: needs 1 × H200 on one node, and at most 0 are free"]);
}

#[test]
fn a_node_that_says_why_it_takes_no_work_gets_none_and_keeps_what_it_has() {
    let mut w = World::new();
    w.hello(1, inventory(1, 8, 0), &[]);
    let runs = w.job(needing(1, 0));
    let broken = crate::resources::Inventory { withheld: Some("cannot write to /x".into()), ..inventory(1, 8, 0) };
    w.send(Input::NodeInventory { node: NodeId(1), inventory: broken });
    let waits = w.job(needing(1, 0));
    assert_eq!(
        w.reasons(waits),
        ["nodes-withheld: 1 node(s) could run it and none of them takes work: cannot write to /x"]
    );
    assert_eq!(w.states(runs), "Running {Starting: 1}");
    w.send(Input::NodeInventory { node: NodeId(1), inventory: inventory(1, 8, 0) });
    assert_eq!(w.states(waits), "Running {Starting: 1}");
}

#[test]
fn each_alternative_that_could_not_start_says_why() {
    let mut w = World::with_nodes(&[(4, 1)]);
    w.job(needing(3, 1));
    let gpu = DemandDraft { gpus: 1, ..DemandDraft::default() };
    let cpu = DemandDraft { milli_cpus: 2_000, ..DemandDraft::default() };
    let job = w.job(JobDraft { demands: vec![gpu, cpu], ..sleep() });
    assert_eq!(
        w.reasons(job),
        [
            "insufficient-cpus: needs 2 CPUs on one node, and at most 1 are free",
            "insufficient-gpus: needs 1 × GPU on one node, and at most 0 are free",
        ]
    );
}

#[test]
fn only_a_model_that_no_node_ever_had_is_said_to_be_unknown() {
    let model = |name: &str, gpus| {
        let demand = DemandDraft { gpus, gpu_model: name.into(), ..DemandDraft::default() };
        JobDraft { demands: vec![demand], ..sleep() }
    };
    let mut w = World::new();
    let never = w.job(model("l4", 1));
    let many = w.job(model("h200", 4));
    let one = w.job(model("h200", 1));
    let cores = w.job(needing(64, 1));
    w.send(Input::Hold { job: one });
    w.hello(1, inventory(1, 8, 2), &[]);
    assert_eq!(w.reasons(never), ["no-such-gpu-model: no node ever had a GPU `l4`"]);
    assert_eq!(w.reasons(many), ["nodes-too-small: needs 4 × h200 on one node, and the largest node has 2"]);
    assert_eq!(w.reasons(cores), ["nodes-too-small: needs 64 CPUs on one node, and the largest node has 8"]);
    // Its GPUs fall off the bus: they were there.
    w.send(Input::NodeInventory { node: NodeId(1), inventory: inventory(1, 8, 0) });
    w.send(Input::Release { job: one });
    assert_eq!(w.reasons(one), ["gpus-gone: 1 node(s) had a h200 and none of them has one now"]);
    assert_eq!(w.reasons(never), ["no-such-gpu-model: no node ever had a GPU `l4`"]);
}
