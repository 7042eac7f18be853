//! The supervisor on real processes: what it promises, and what happens when it, its agent or its tasks are killed.
//!
//! This executable is also the supervisor: started as `… supervisor …` it runs `supervisor::main`, in a process with a
//! single thread, as in production. Tests run one after the other, each with a state folder of its own, and each ends
//! by proving that nothing of it is left running.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "supervisor/death.rs"]
mod death;
#[path = "supervisor/gangs.rs"]
mod gangs;
#[path = "supervisor/leases.rs"]
mod leases;
#[path = "supervisor/limits.rs"]
mod limits;
#[path = "supervisor/logs.rs"]
mod logs;
#[path = "supervisor/node.rs"]
mod node;

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// No test takes longer, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

type Test = (&'static str, fn());

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.peek().is_some_and(|verb| verb == "supervisor") {
        return gangsaw_agent::supervisor::main(args.skip(1));
    }
    let words: Vec<String> = args.map(|word| word.to_string_lossy().into_owned()).collect();
    let all: Vec<Test> = [leases::TESTS, limits::TESTS, death::TESTS, logs::TESTS, gangs::TESTS].concat();
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
                node::kill_all();
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
