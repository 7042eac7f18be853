//! The `gangsaw` executable.
//!
//! `main` sends the supervisor to its own small main before anything large is touched, because it must stay small and
//! outlives everything else; every other verb goes through `args`. Client verbs run on one thread: they start in
//! milliseconds.
//!
//! Neighbours: `spec` reads jobs, `client` talks to the scheduler, `ending` knows exit codes, `output` prints.

mod args;
mod client;
mod config;
mod ending;
mod fail;
mod follow;
mod output;
mod part;
mod selector;
mod session;
mod spec;
mod verbs;
mod words;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Cli, Verb};
use fail::{BAD_INPUT, Failure};
use session::Session;
use verbs::{
    agent, change, clean, logs, nodes, own, progress, ps, queue, quickstart, run, scheduler, show, submit, token,
    train, up, wait,
};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // Verbs of our own processes, which must start small and take no part in what follows.
    match args.next().as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("supervisor") => return gangsaw_agent::supervisor::main(args),
        Some("agent-nvml") => return gangsaw_agent::nvml_child::main(args.collect()),
        Some(_) | None => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    match dispatch(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output::note(failure.text().trim_end());
            ExitCode::from(failure.exit())
        }
    }
}

/// Says what is wrong with the command line; help and version are no faults.
fn misused(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return match output::print(&error.to_string()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => ExitCode::from(failure.exit()),
        };
    }
    let text = error.to_string();
    let text = text.replacen("error: ", "error[usage]: ", 1).replace("\n  tip: ", "\n  hint: ");
    output::note(text.trim_end());
    ExitCode::from(BAD_INPUT)
}

/// Runs the verb and returns the exit code.
fn dispatch(cli: &Cli) -> Result<u8, Failure> {
    if let Verb::Train(args) = &cli.verb {
        // A task of a job: no config of its user's may stop it.
        return train::run(cli.global.output.unwrap_or_default(), args);
    }
    let config = config::read()?;
    let format = cli.global.output.or(config.output).unwrap_or_default();
    let session = Session { format, server: cli.global.server.clone(), config };
    runtime(&cli.verb)?.block_on(verb(&session, &cli.verb))
}

/// Daemons get a thread a core and a log; everything else runs on this thread.
fn runtime(verb: &Verb) -> std::io::Result<tokio::runtime::Runtime> {
    if !matches!(verb, Verb::Scheduler(_) | Verb::Agent(_)) {
        return tokio::runtime::Builder::new_current_thread().enable_all().build();
    }
    let wanted = std::env::var("GANGSAW_LOG").unwrap_or_else(|_| "info".into());
    let filter = tracing_subscriber::EnvFilter::new(wanted);
    let coloured = output::colour_on_stderr();
    // A log on a full disk loses lines; it must not cost the daemon its life.
    let log = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    log.with_ansi(coloured).with_writer(std::io::stderr).init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Runs any verb but `train`.
async fn verb(session: &Session, verb: &Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Quickstart(args) => quickstart::run(session.format, args).await,
        Verb::Up(args) => up::run(session.format, args).await,
        Verb::Scheduler(args) => scheduler::run(session.format, args).await,
        Verb::Agent(args) => agent::run(session, args).await,
        Verb::Submit(args) => submit::run(session, args).await,
        Verb::Run(args) => run::run(session, args).await,
        Verb::Ps(args) => ps::run(session, args).await,
        Verb::Show(args) => show::run(session, args).await,
        Verb::Logs(args) => logs::run(session, args).await,
        Verb::Cancel(args) => change::cancel(session, args).await,
        Verb::Hold(args) => change::hold(session, args).await,
        Verb::Release(args) => change::release(session, args).await,
        Verb::Retry(args) => change::retry(session, args).await,
        Verb::Update(args) => change::update(session, args).await,
        Verb::Wait(args) => wait::run(session, args).await,
        Verb::Nodes(args) => nodes::run(session, args).await,
        Verb::Queue(args) => queue::run(session, args).await,
        Verb::Clean(args) => clean::run(session, args).await,
        Verb::Progress(args) => progress::run(args),
        Verb::Train(args) => train::run(session.format, args),
        Verb::Token(args) => token::run(session, args).await,
        Verb::Config(args) => own::config(session, args).await,
        Verb::Completions(args) => own::completions(args, Cli::command()),
    }
}

/// A hint for a word that is not among the known ones.
fn hint_of<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match spec::hint::nearest(word, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("choose from {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    }
}
