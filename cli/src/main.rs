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
use verbs::{change, clean, logs, nodes, own, progress, ps, queue, quickstart, run, show, submit, train, up, wait};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    match dispatch(cli) {
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
fn dispatch(cli: Cli) -> Result<u8, Failure> {
    if let Verb::Train(args) = &cli.verb {
        // A task of a job: no config of its user's may stop it.
        return train::run(cli.global.output.unwrap_or_default(), args);
    }
    let config = config::read()?;
    let format = cli.global.output.or(config.output).unwrap_or_default();
    let session = Session { format, server: cli.global.server, config };
    let session = &session;
    match &cli.verb {
        Verb::Progress(args) => return progress::run(args),
        Verb::Token => return own::print_token(session),
        Verb::Config => return own::print_config(session),
        Verb::Completions(args) => return own::completions(args, Cli::command()),
        Verb::Quickstart(_)
        | Verb::Up(_)
        | Verb::Submit(_)
        | Verb::Run(_)
        | Verb::Ps(_)
        | Verb::Show(_)
        | Verb::Logs(_)
        | Verb::Cancel(_)
        | Verb::Hold(_)
        | Verb::Release(_)
        | Verb::Retry(_)
        | Verb::Update(_)
        | Verb::Wait(_)
        | Verb::Nodes(_)
        | Verb::Queue(_)
        | Verb::Clean(_)
        | Verb::Train(_) => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match &cli.verb {
            Verb::Quickstart(args) => quickstart::run(format, args).await,
            Verb::Up(args) => up::run(format, args).await,
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
            Verb::Clean(args) => clean::run(session, args).await,
            Verb::Queue(args) => queue::run(session, args).await,
            Verb::Progress(_) | Verb::Token | Verb::Config | Verb::Completions(_) | Verb::Train(_) => Ok(0),
        }
    })
}

/// A hint for a word that is not among the known ones.
fn hint_of<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match spec::hint::nearest(word, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("choose from {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    }
}
