//! The habits: `cargo xtask check` is all of CI but the tests.
//!
//! Each habit is one module with one function that returns the faults it found, as lines that name a place. Nothing
//! is mended here, and nothing stops at the first fault.
//!
//! Elsewhere: what the rules mean is `STYLE.md`; the arrows are drawn in `ARCHITECTURE.md`.

mod arrows;
mod cargo;
mod protos;
mod sizes;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask check [fmt|clippy|protos|sizes|arrows]...";

/// What one habit found wrong, one line a fault.
type Faults = Vec<String>;

/// One habit: reads the workspace at a path and returns what is wrong.
type Habit = fn(&Path) -> anyhow::Result<Faults>;

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(("check", wanted)) = arguments.split_first().map(|(verb, rest)| (verb.as_str(), rest)) else {
        eprintln!("{USAGE}");
        return Ok(ExitCode::from(2));
    };
    let root = workspace_root();
    let habits: [(&str, Habit); 5] = [
        ("fmt", cargo::fmt),
        ("protos", protos::check),
        ("sizes", sizes::check),
        ("arrows", arrows::check),
        ("clippy", cargo::clippy),
    ];
    if let Some(unknown) = wanted.iter().find(|name| habits.iter().all(|(habit, _)| habit != name)) {
        eprintln!("error: no habit is called `{unknown}`\n{USAGE}");
        return Ok(ExitCode::from(2));
    }
    let mut faults = 0;
    for (name, check) in habits {
        if !wanted.is_empty() && !wanted.iter().any(|each| each == name) {
            continue;
        }
        let found = check(&root)?;
        println!("{name}: {}", if found.is_empty() { "ok".to_owned() } else { format!("{} faults", found.len()) });
        found.iter().for_each(|fault| println!("  {fault}"));
        faults += found.len();
    }
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the folder of the workspace this executable was built from.
fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}
