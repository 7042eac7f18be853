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

/// What is asked for. The flags of a verb are put together only once it is named: a short command would spend a fifth
/// of its instructions on those of all the others. So what `--help` says of a verb stands here, not at its flags.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum Verb {
    /// Train a small model here, from nothing, and leave nothing running
    Quickstart(quickstart::Args),
    /// Run scheduler and agent here until Ctrl-C
    Up(up::Args),
    /// Run the scheduler alone, or make its certificates
    Scheduler(scheduler::Args),
    /// Run this node's agent
    Agent(agent::Args),
    /// Store a job and print its number
    Submit(submit::Args),
    /// Submit a job, show what it prints, and end as it ends
    Run(submit::Args),
    /// List jobs, newest first
    Ps(ps::Args),
    /// Show one job and its tasks
    Show(show::Args),
    /// Print what tasks wrote; their stderr goes to stderr
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
    /// Wait until jobs have ended; the exit code is theirs
    Wait(wait::Args),
    /// List nodes, or change one
    Nodes(nodes::Args),
    /// List queues, or set a queue's limits
    Queue(queue::Args),
    /// Tell how far a running task is
    Progress(progress::Args),
    /// Remove what jobs that ended long ago left on this machine
    Clean(clean::Args),
    /// Check the scheduler's store: every checksum, the snapshot, and the tables people read
    Fsck(store::Fsck),
    /// Copy the scheduler's store into a new folder, while it works
    Backup(store::Backup),
    /// Make a new state folder of a backup
    Restore(store::Restore),
    /// Train a built-in recipe here, or evaluate a trained model
    Train(train::Args),
    /// Print this scheduler's token, or make, list and revoke tokens for people and programs
    Token(token::Args),
    /// Print what is in force and where it comes from, or pin a scheduler's authority
    Config(own::ConfigArgs),
    /// Print a shell's completion script
    Completions(own::Completions),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn help_says_what_every_verb_is_for_and_its_flags_wait_until_it_is_named() {
        let verbs = |command: &clap::Command| -> Vec<(String, Option<String>, usize)> {
            let verbs = command.get_subcommands();
            let about = |verb: &clap::Command| verb.get_about().map(ToString::to_string);
            verbs.map(|verb| (verb.get_name().to_owned(), about(verb), verb.get_arguments().count())).collect()
        };
        let mut command = Cli::command();
        let named = verbs(&command);
        command.build();
        let built = verbs(&command);
        assert!(named.iter().all(|(_, about, flags)| about.is_some() && *flags == 0), "{named:?}");
        let told = |verbs: Vec<(String, Option<String>, usize)>| -> Vec<_> {
            verbs.into_iter().map(|(name, about, _)| (name, about)).collect()
        };
        assert!(built.iter().all(|(_, _, flags)| *flags > 0), "{built:?}");
        assert_eq!(told(named), told(built), "a doc at a verb's flags speaks over the verb's own");
    }
}
