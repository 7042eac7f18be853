//! The config file: `$XDG_CONFIG_HOME/gangsaw/config.toml`.
//!
//! ```toml
//! server = "http://127.0.0.1:7461"   # where the scheduler is
//! output = "table"                   # table, json or jsonl
//!
//! [submit]                           # what every job has unless its spec or a flag says otherwise
//! queue = "default"
//! priority = 0
//! time_limit = "2h"
//! ```
//!
//! It is checked whole before anything else happens; every fault is told at once, with its place.

use std::path::PathBuf;

use clap::ValueEnum as _;

use crate::client::config_home;
use crate::fail::{BAD_INPUT, Failure, bad_input};
use crate::output::{Format, colour_on_stderr};
use crate::spec::read::Reader;
use crate::spec::tree::{Source, Sources, Tree};
use crate::spec::{SPEC_BYTES_MAX, job, render, toml_file, units};

/// What the file says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config {
    /// Where the file is, when there is one.
    pub(crate) path: Option<PathBuf>,
    pub(crate) server: Option<String>,
    pub(crate) output: Option<Format>,
    /// Spec keys every submit begins with, and the text they stand in.
    pub(crate) submit: Option<(Source, Tree)>,
}

/// Where the file would be.
pub(crate) fn path() -> Option<PathBuf> {
    Some(config_home()?.join("config.toml"))
}

/// Reads the file, if there is one.
pub(crate) fn read() -> Result<Config, Failure> {
    let Some(path) = path() else { return Ok(Config::default()) };
    let found = match std::fs::metadata(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
        Err(error) => return Err(bad_input("config", format!("{}: {error}", path.display()), "check its permissions")),
    };
    if found.len() > SPEC_BYTES_MAX {
        let sentence = format!("{} has {} bytes", path.display(), found.len());
        return Err(bad_input("config", sentence, "a config file has a handful of lines"));
    }
    let text = std::fs::read_to_string(&path)
        .map_err(|error| bad_input("config", format!("{}: {error}", path.display()), "it must be UTF-8 text"))?;
    let mut sources = Sources::default();
    let source = sources.add(path.display().to_string(), text.clone());
    let mut r = Reader::default();
    let config = match toml_file::toml(source, &text) {
        Ok(tree) => parse(&mut r, &tree, &sources.0[source]),
        Err(faults) => {
            r.faults = faults;
            Config::default()
        }
    };
    if r.faults.is_empty() {
        return Ok(Config { path: Some(path), ..config });
    }
    let text = render::render(&sources, &r.faults, colour_on_stderr());
    Err(Failure::Rendered { text, exit: BAD_INPUT })
}

/// Checks every key.
fn parse(r: &mut Reader, tree: &Tree, source: &Source) -> Config {
    r.map(tree, "the config", &["server", "output", "submit"], "write `server = \"http://127.0.0.1:7461\"`");
    let server = tree.get("server").and_then(|server| r.text(server, "`server`", "write http://127.0.0.1:7461"));
    let output = tree.get("output").and_then(|output| r.choice(output, "`output`", &["table", "json", "jsonl"]));
    let submit = tree.get("submit");
    if let Some(submit) = submit {
        r.map(submit, "`submit`", &["queue", "priority", "time_limit"], "write a table `[submit]`");
        if let Some(queue) = submit.get("queue") {
            job::name(r, queue, "`queue`");
        }
        if let Some(priority) = submit.get("priority") {
            r.whole(priority, "`priority`", -1000..=1000);
        }
        if let Some(limit) = submit.get("time_limit") {
            r.amount(limit, "`time_limit`", units::duration);
        }
    }
    Config {
        path: None,
        server,
        output: output.and_then(|output| Format::from_str(output, true).ok()),
        submit: submit.map(|submit| (source.clone(), submit.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_the_config_is_told_at_once() {
        let text = "serve = \"x\"\noutput = \"xml\"\n[submit]\npriority = 5000\ntime_limit = \"soon\"\n";
        let mut r = Reader::default();
        let mut sources = Sources::default();
        let source = sources.add("config.toml", text);
        let tree = toml_file::toml(source, text).expect("the syntax is good");
        parse(&mut r, &tree, &sources.0[source]);
        let reasons: Vec<&str> = r.faults.iter().map(|fault| fault.reason.as_str()).collect();
        assert_eq!(reasons, ["unknown-key", "bad-value", "bad-value", "bad-value"]);
    }
}
