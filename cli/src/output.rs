//! Output in three forms: a table for people, one JSON document, or JSON lines.
//!
//! Data goes to stdout, notes and progress to stderr. Every JSON object at the top has `schema_version`; fields are
//! only ever added under one version.

use std::io::Write as _;

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use serde_json::{Value, json};

use crate::fail::Failure;

/// Version of every JSON shape that is printed.
pub(crate) const SCHEMA_VERSION: u64 = 1;

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// One document
    Json,
    /// One object a line
    Jsonl,
}

impl Format {
    /// True when a person reads.
    pub(crate) fn is_table(self) -> bool {
        match self {
            Format::Table => true,
            Format::Json | Format::Jsonl => false,
        }
    }
}

/// Writes text to stdout.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes a note to stderr; nobody minds when it is lost.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints one object; a person gets `text` instead.
pub(crate) fn object(format: Format, mut value: Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
    stamp(&mut value);
    match format {
        Format::Table => print(&text()),
        Format::Json => print(&format!("{value:#}\n")),
        Format::Jsonl => print(&format!("{value}\n")),
    }
}

/// Prints a list under its name, or one item a line; a person gets a table.
pub(crate) fn list(
    format: Format,
    name: &str,
    items: Vec<Value>,
    table: impl FnOnce() -> Table,
) -> Result<(), Failure> {
    match format {
        Format::Table => print(&format!("{}\n", trimmed(&table()))),
        Format::Json => {
            let mut document = json!({ name: items });
            stamp(&mut document);
            print(&format!("{document:#}\n"))
        }
        Format::Jsonl => {
            for mut item in items {
                stamp(&mut item);
                print(&format!("{item}\n"))?;
            }
            Ok(())
        }
    }
}

/// Puts the version first.
fn stamp(value: &mut Value) {
    if let Value::Object(fields) = value {
        let rest = std::mem::take(fields);
        fields.insert("schema_version".into(), SCHEMA_VERSION.into());
        fields.extend(rest);
    }
}

/// An empty table with a header, as wide as the terminal.
pub(crate) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !colour_on_stdout() {
        table.force_no_tty();
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(columns.iter().map(|column| Cell::new(column).add_attribute(Attribute::Bold)));
    table
}

/// A table's text without blanks at the ends of lines.
pub(crate) fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// True when stdout is a terminal that wants colour.
fn colour_on_stdout() -> bool {
    colour_on(&std::io::stdout())
}

/// True when stderr is a terminal that wants colour.
pub(crate) fn colour_on_stderr() -> bool {
    colour_on(&std::io::stderr())
}

/// True when a stream is a terminal and NO_COLOR is not set.
fn colour_on(stream: &impl std::io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The name under which a variable's value is not shown.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_uppercase();
    ["TOKEN", "KEY", "SECRET", "PASSWORD"].iter().any(|word| name.contains(word))
}
