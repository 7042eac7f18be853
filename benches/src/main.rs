//! Numbers: what the real executable delivers on this machine, beside the floor the machine sets.
//!
//! Every measurement starts a cluster of its own on loopback in a temporary folder, measures from outside (a client's
//! clock, a task's first instruction, `/proc`, the file system), and ends what it started. These machines are shared
//! and noisy, so each table carries the floor measured in the same run: quote ratios.
//!
//! Elsewhere: what was measured, with date and machine, is `docs/performance.md`.

mod array;
mod cluster;
mod failover;
mod fleet;
mod floor;
mod kills;
mod latency;
mod load;
mod mixed;
mod place;
mod postgres;
mod process;
mod relay;
mod restart;
mod submits;
mod swarm;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Measures gangsaw on this machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The executable to measure. Default: `gangsaw` beside this one.
    #[arg(long, env = "GANGSAW")]
    gangsaw: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// What the machine itself can do: fdatasync, and spawn + wait of `true`.
    Floor,
    /// Submit to process start, and submit to seen done, one job at a time on an idle cluster.
    Latency {
        /// Jobs measured, after a tenth as many to warm up.
        #[arg(long, default_value_t = 300)]
        jobs: usize,
    },
    /// One array of `true` on one agent: tasks per second, disk afterwards, each index exactly once.
    Array {
        #[arg(long, default_value_t = 100_000)]
        elements: u32,
    },
    /// One queued array that nothing runs: growth of the scheduler's memory.
    Queued {
        #[arg(long, default_value_t = 1_000_000)]
        elements: u32,
    },
    /// One array on many nodes without processes: the scheduler's rate, processor time, memory and log.
    Swarm {
        #[command(flatten)]
        shape: swarm::Shape,
        #[arg(long, default_value_t = 1_000_000)]
        elements: u32,
    },
    /// Single jobs of 64 shapes on nodes with GPUs: decisions on the whole path, and how long a submit waits meanwhile.
    Mixed {
        /// 32 nodes with 64 cores and 8 GPUs are what peers were measured on.
        #[command(flatten)]
        shape: swarm::Shape,
        /// Jobs queued at a time.
        #[arg(long, default_value_t = 2_000)]
        jobs: u64,
        /// How many such queues, each when the one before has ended.
        #[arg(long, default_value_t = 10)]
        rounds: u64,
    },
    /// What the door takes: submits wide, in batches, at a pace, and by command.
    Submits {
        /// Single submits measured.
        #[arg(long, default_value_t = 100_000)]
        calls: u64,
        /// `gangsaw submit` commands measured.
        #[arg(long, default_value_t = 500)]
        commands: u64,
    },
    /// What queued single jobs weigh, and how long a restart with them takes.
    Jobs {
        #[arg(long, default_value_t = 100_000)]
        jobs: u64,
        /// Seconds before they are weighed.
        #[arg(long, default_value_t = 60)]
        idle_s: u64,
    },
    /// Single jobs that run until so many events are logged, then a restart with more jobs queued.
    Events {
        #[command(flatten)]
        shape: swarm::Shape,
        #[arg(long, default_value_t = 1_000_000)]
        events: u64,
        #[arg(long, default_value_t = 100_000)]
        jobs: u64,
    },
    /// A fleet without work: its cost, and its return after kill -9.
    Fleet {
        #[command(flatten)]
        shape: swarm::Shape,
        /// Seconds it is watched for.
        #[arg(long, default_value_t = 60)]
        steady_s: u64,
    },
    /// kill -9 of the scheduler under load, round after round: what was acknowledged must be there.
    Kills {
        #[arg(long, default_value_t = 200)]
        rounds: u32,
    },
    /// Several schedulers on one PostgreSQL: from the leader's fault to the first acknowledgement of another.
    Failover {
        /// Faults of each kind.
        #[arg(long, default_value_t = 10)]
        rounds: usize,
        /// Schedulers.
        #[arg(long, default_value_t = 3)]
        members: usize,
    },
    /// What placement costs in the core alone: mixed shapes, gangs, 10,000 nodes, an array of 1,000,000.
    Place {
        /// Only scenes whose name contains this.
        only: Option<String>,
    },
    /// Used by the latency measurement as its task: sends the time of its first instruction.
    #[command(hide = true)]
    Stamp { socket: PathBuf },
}

fn main() -> anyhow::Result<()> {
    // The stamp is a task: it must say the time before anything else happens.
    let mut raw = std::env::args_os().skip(1);
    if raw.next().is_some_and(|verb| verb == "stamp") {
        return latency::stamp(&PathBuf::from(raw.next().context("stamp needs a socket")?));
    }
    let arguments = Arguments::parse();
    let gangsaw = match arguments.gangsaw {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("gangsaw"),
    };
    anyhow::ensure!(gangsaw.exists(), "{} is not there; build it or name it with --gangsaw", gangsaw.display());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    match arguments.what {
        What::Floor => floor::print(&std::env::temp_dir()),
        What::Latency { jobs } => runtime.block_on(latency::run(&gangsaw, jobs)),
        What::Array { elements } => runtime.block_on(array::run(&gangsaw, elements)),
        What::Queued { elements } => runtime.block_on(array::queued(&gangsaw, elements)),
        What::Swarm { shape, elements } => runtime.block_on(swarm::array(&gangsaw, &shape, elements)),
        What::Mixed { shape, jobs, rounds } => runtime.block_on(mixed::run(&gangsaw, &shape, jobs, rounds)),
        What::Submits { calls, commands } => runtime.block_on(submits::run(&gangsaw, calls, commands)),
        What::Jobs { jobs, idle_s } => runtime.block_on(restart::jobs(&gangsaw, jobs, Duration::from_secs(idle_s))),
        What::Events { shape, events, jobs } => runtime.block_on(restart::events(&gangsaw, &shape, events, jobs)),
        What::Fleet { shape, steady_s } => {
            runtime.block_on(fleet::run(&gangsaw, &shape, Duration::from_secs(steady_s)))
        }
        What::Kills { rounds } => runtime.block_on(kills::run(&gangsaw, rounds)),
        What::Failover { rounds, members } => runtime.block_on(failover::run(&gangsaw, rounds, members)),
        What::Place { only } => place::run(only.as_deref()),
        What::Stamp { socket } => latency::stamp(&socket),
    }
}
