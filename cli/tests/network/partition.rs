//! The cable is cut, both ways or one way, shorter and longer than a job's `lost_after`.

use std::process::Stdio;

use crate::cluster::{eventually, is_alive, out, start_ticks};
use crate::wire::{Net, Side, until_dead};

/// A task that writes a complete checkpoint and then waits for its gate.
fn with_checkpoint(wait: &str) -> String {
    format!(
        "mkdir $GANGSAW_CHECKPOINT_DIR/step-3 && echo weights > $GANGSAW_CHECKPOINT_DIR/step-3/model && \
         echo {{}} > $GANGSAW_CHECKPOINT_DIR/step-3/manifest.json; {wait}"
    )
}

#[test]
fn a_cut_within_lost_after_kills_nothing_and_everything_is_told_afterwards_without_a_gap() {
    let Some(mut net) = Net::new() else { return };
    net.agent(Side::Far, "far");
    let (opened, wait) = net.gate("opened");
    let (later, wait_later) = net.gate("later");
    let ends = net.submit(&["--cpus", "0.1", "--", "sh", "-c", &format!("{wait}; exit 5")]);
    let lives = net.submit(&["--cpus", "0.1", "--", "sh", "-c", &format!("{wait_later}; exit 6")]);
    let numbers = format!("echo first; {wait}; for i in 1 2 3 4 5 6 7 8; do echo $i; done; {wait_later}; echo last");
    let mut run = net.command(&["run", "--cpus", "0.1", "--", "sh", "-c", &numbers]);
    let run = run.stdout(Stdio::piped()).spawn().unwrap();
    let (ending, living) = (net.until_running(ends, 1), net.until_running(lives, 1));
    eventually("the job that is watched", || {
        net.json(&["ps"])["jobs"].as_array().filter(|jobs| jobs.len() == 3).map(drop)
    });
    let watched = net.until_running(3, 1);
    let ticks = start_ticks(living);

    net.wire.cut();
    std::fs::write(&opened, "").unwrap();
    until_dead(ending);
    net.until_connected("far", false);
    let shown = net.task(ends);
    assert_eq!((&shown["state"], &shown["attempt"]), (&"RUNNING".into(), &1.into()), "{shown}");
    assert!(is_alive(living) && is_alive(watched), "silence kills nothing");

    net.wire.heal();
    net.until_connected("far", true);
    let shown = net.until(ends, "FAILED")["tasks"][0].clone();
    assert_eq!((&shown["exit_code"], &shown["attempt"]), (&5.into(), &1.into()));
    assert_eq!((net.until_running(lives, 1), start_ticks(living)), (living, ticks));
    std::fs::write(&later, "").unwrap();
    let shown = net.until(lives, "FAILED")["tasks"][0].clone();
    assert_eq!((&shown["exit_code"], &shown["attempt"]), (&6.into(), &1.into()));
    let ran = run.wait_with_output().unwrap();
    assert_eq!((out(&ran).as_str(), ran.status.code()), ("first\n1\n2\n3\n4\n5\n6\n7\n8\nlast\n", Some(0)));
}

#[test]
fn a_cut_beyond_lost_after_moves_the_task_and_the_returning_attempt_is_fenced() {
    let Some(mut net) = Net::new() else { return };
    net.agent(Side::Far, "far");
    let (gate, wait) = net.gate("gate");
    let spec = net.place.file("job.yaml", &format!("run: |\n  {}\n  exit 7\nlost_after: 2s\n", with_checkpoint(&wait)));
    let value = net.json(&["submit", spec.to_str().unwrap()]);
    let job = value["job_id"].as_u64().unwrap();
    let first = net.until_running(job, 1);
    net.agent(Side::Near, "near");

    net.wire.cut();
    let second = net.until_running(job, 2);
    assert_eq!(net.task(job)["node"], "near");
    assert!(is_alive(first), "nobody can tell it, and nobody kills it");

    net.wire.heal();
    until_dead(first);
    net.until_connected("far", true);
    assert!(is_alive(second), "the attempt that counts goes on");
    let model = net.place.path().join(format!("far/agent/attempts/{job}/0.0-1/checkpoints/step-3/model"));
    assert_eq!(std::fs::read_to_string(model).unwrap(), "weights\n", "the fenced attempt's checkpoint can be read");
    std::fs::write(gate, "").unwrap();
    let shown = net.until(job, "FAILED")["tasks"][0].clone();
    assert_eq!((&shown["exit_code"], &shown["attempt"], &shown["node"]), (&7.into(), &2.into(), &"near".into()));
}

/// One direction alone: what the scheduler says arrives and nothing comes back, or the other way round.
fn one_way(deaf: Side) {
    let Some(mut net) = Net::new() else { return };
    net.agent(Side::Far, "far");
    let (opened, wait) = net.gate("opened");
    let (later, wait_later) = net.gate("later");
    let ends = net.submit(&["--cpus", "0.1", "--", "sh", "-c", &format!("{wait}; exit 5")]);
    let lives = net.submit(&["--cpus", "0.1", "--", "sh", "-c", &format!("{wait_later}; exit 6")]);
    let (ending, living) = (net.until_running(ends, 1), net.until_running(lives, 1));
    net.wire.arriving(deaf, &["-j", "DROP"]);
    std::fs::write(&opened, "").unwrap();
    until_dead(ending);
    net.until_connected("far", false);
    let waits = net.submit(&["--cpus", "0.1", "--", "true"]);
    assert!(is_alive(living));
    net.wire.heal();
    net.until_connected("far", true);
    net.until(waits, "COMPLETED");
    std::fs::write(&later, "").unwrap();
    for (job, code) in [(ends, 5), (lives, 6)] {
        let shown = net.until(job, "FAILED")["tasks"][0].clone();
        assert_eq!((&shown["exit_code"], &shown["attempt"]), (&code.into(), &1.into()), "{shown}");
    }
}

#[test]
fn a_scheduler_that_hears_nothing_gets_everything_later() {
    one_way(Side::Near);
}

#[test]
fn an_agent_that_hears_nothing_dials_again_and_tells_everything() {
    one_way(Side::Far);
}
