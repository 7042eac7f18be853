//! Processes that are stopped and go on: the cable is well, and one end of it stands still.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cluster::{eventually, is_alive, kill};
use crate::wire::{Net, Side, until_dead};

/// A time that is the fault itself: so long something stands still.
fn stands_still(time: Duration) {
    let since = Instant::now();
    eventually("the time of the fault", || (since.elapsed() > time).then_some(()));
}

#[test]
fn an_agent_stopped_for_a_while_is_not_lost_and_one_stopped_for_long_is_fenced_when_it_wakes() {
    let Some(mut net) = Net::new() else { return };
    net.agent(Side::Far, "far");
    let (gate, wait) = net.gate("gate");
    let spec = net.place.file("job.yaml", &format!("run: |\n  {wait}\n  exit 7\nlost_after: 2s\n"));
    let job = net.json(&["submit", spec.to_str().unwrap()])["job_id"].as_u64().unwrap();
    let first = net.until_running(job, 1);
    net.agent(Side::Near, "near");
    let agent = u64::from(net.agents[0].child.id());

    kill(agent, Signal::STOP);
    stands_still(Duration::from_secs(5));
    kill(agent, Signal::CONT);
    assert_eq!(net.until_running(job, 1), first, "five seconds are nothing");

    kill(agent, Signal::STOP);
    let second = net.until_running(job, 2);
    assert!(is_alive(first), "the supervisor is not stopped, and nobody kills for silence");
    kill(agent, Signal::CONT);
    until_dead(first);
    assert!(is_alive(second));
    std::fs::write(gate, "").unwrap();
    let shown = net.until(job, "FAILED")["tasks"][0].clone();
    assert_eq!((&shown["exit_code"], &shown["attempt"], &shown["node"]), (&7.into(), &2.into(), &"near".into()));
}

#[test]
fn a_scheduler_that_stood_still_for_longer_than_lost_after_blames_no_node() {
    let Some(mut net) = Net::new() else { return };
    net.agent(Side::Far, "far");
    let (gate, wait) = net.gate("gate");
    let spec = net.place.file("job.yaml", &format!("run: |\n  {wait}\n  exit 7\nlost_after: 2s\n"));
    let job = net.json(&["submit", spec.to_str().unwrap()])["job_id"].as_u64().unwrap();
    let pid = net.until_running(job, 1);
    let scheduler = u64::from(net.scheduler.child.id());
    kill(scheduler, Signal::STOP);
    // A time to live and lost_after, all of it the scheduler's own absence.
    stands_still(Duration::from_secs(35));
    kill(scheduler, Signal::CONT);
    net.until_connected("far", true);
    let later = net.submit(&["--cpus", "0.1", "--", "true"]);
    net.until(later, "COMPLETED");
    assert_eq!(net.until_running(job, 1), pid);
    std::fs::write(gate, "").unwrap();
    let shown = net.until(job, "FAILED")["tasks"][0].clone();
    assert_eq!((&shown["exit_code"], &shown["attempt"]), (&7.into(), &1.into()));
}
