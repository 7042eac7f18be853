//! The agent on real processes: a real supervisor, real tasks, and a small scheduler of our own on loopback.
//!
//! This executable is also the agent, its supervisor and its NVML child: started as `… agent …`, `… supervisor …` or
//! `… agent-nvml` it becomes that. Tests run one after the other, each with a state folder of its own, and each ends by
//! proving that nothing of it is left running.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks what it waits for")]

#[path = "agent/deaths.rs"]
mod deaths;
#[path = "agent/disk.rs"]
mod disk;
#[path = "agent/gpus.rs"]
mod gpus;
#[path = "agent/leases.rs"]
mod leases;
#[path = "agent/logs.rs"]
mod logs;
#[path = "agent/node.rs"]
mod node;
#[path = "agent/scheduler.rs"]
mod scheduler;
#[path = "agent/sessions.rs"]
mod sessions;
#[path = "agent/upgrade.rs"]
mod upgrade;

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// No test takes longer, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

type Test = (&'static str, fn());

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    match args.peek().and_then(|verb| verb.to_str()) {
        Some("supervisor") => return gangsaw_agent::supervisor::main(args.skip(1)),
        Some("agent-nvml") => return gangsaw_agent::nvml_child::main(args.skip(1).collect()),
        Some("agent") => return node::agent_main(),
        Some("say-progress") => return node::say_progress(),
        Some(_) | None => {}
    }
    let words: Vec<String> = args.map(|word| word.to_string_lossy().into_owned()).collect();
    let all: Vec<Test> =
        [leases::TESTS, sessions::TESTS, deaths::TESTS, disk::TESTS, logs::TESTS, gpus::TESTS, upgrade::TESTS].concat();
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let chosen: Vec<Test> = all.into_iter().filter(|(name, _)| wanted(name)).collect();
    if words.iter().any(|word| word == "--list") {
        for (name, _) in chosen {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    run(&chosen)
}

fn run(tests: &[Test]) -> ExitCode {
    let mut failed = Vec::new();
    for &(name, test) in tests {
        let (done, watch) = mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if watch.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("test {name} hangs");
                node::kill_everything_of_ours();
                std::process::exit(101);
            }
        });
        let started = Instant::now();
        let ok = catch_unwind(test).is_ok();
        drop(done);
        watchdog.join().unwrap();
        println!("test {name} ... {} ({} ms)", if ok { "ok" } else { "FAILED" }, started.elapsed().as_millis());
        if !ok {
            failed.push(name);
        }
    }
    println!("\ntest result: {} passed; {} failed", tests.len() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
