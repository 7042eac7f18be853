//! The command line.

use crate::output::Format;
use crate::verbs::{
    agent, change, clean, logs, nodes, own, progress, ps, queue, quickstart, scheduler, show, store, submit, token,
    train, up, wait,
};

/// Schedules machine-learning jobs on machines with and without GPUs
#[derive(Debug, clap::Parser)]
#[command(name = "gangsaw", version, disable_help_subcommand = true, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags every verb has
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// Where the scheduler is; several schedulers of one cluster are separated by commas
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "GANGSAW_SERVER",
        hide_env_values = true,
        help_heading = "Global"
    )]
    pub(crate) server: Option<String>,
    /// How data is printed
    #[arg(long, global = true, value_enum, value_name = "FORMAT", help_heading = "Global")]
    pub(crate) output: Option<Format>,
}

/// What is asked for.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    Quickstart(quickstart::Args),
    Up(up::Args),
    Scheduler(scheduler::Args),
    Agent(agent::Args),
    Submit(submit::Args),
    /// Submit a job, show what it prints, and end as it ends
    Run(submit::Args),
    Ps(ps::Args),
    Show(show::Args),
    Logs(logs::Args),
    /// End what has not ended yet
    Cancel(change::Jobs),
    /// Keep pending elements from starting
    Hold(change::Jobs),
    /// Let held jobs start
    Release(change::Jobs),
    /// Put ended elements back in line; without indices, those that did not complete
    Retry(change::Jobs),
    /// Change a job that has not ended
    Update(change::Update),
    Wait(wait::Args),
    Nodes(nodes::Args),
    Queue(queue::Args),
    Progress(progress::Args),
    Clean(clean::Args),
    Fsck(store::Fsck),
    Backup(store::Backup),
    Restore(store::Restore),
    Train(train::Args),
    Token(token::Args),
    Config(own::ConfigArgs),
    /// Print a shell's completion script
    Completions(own::Completions),
}
