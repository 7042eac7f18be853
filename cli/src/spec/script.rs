//! Batch scripts: a program whose leading comments carry flags.
//!
//! ```text
//! #!/bin/bash
//! #GANGSAW --gpus 2 --time-limit 2h
//! python train.py
//! ```
//!
//! The script's text is what runs, not its path: editing the file after the submit changes nothing.

use super::flags::{JobFlags, Line, Token};
use super::read::Fault;
use super::tree::{Span, Tree, Value};

/// What begins a line of flags.
const MARK: &str = "#GANGSAW";
/// Interpreters that take a program's text after `-c`.
const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh", "python", "python3"];

/// A command line of nothing but job flags.
#[derive(Debug, clap::Parser)]
#[command(name = "#GANGSAW", no_binary_name = true, disable_help_flag = true)]
struct Directive {
    #[command(flatten)]
    flags: JobFlags,
}

/// Reads a batch script: its flags, what runs, and what it exports.
pub(crate) fn script(
    source: usize,
    text: &str,
    path: &str,
    args: &[String],
    faults: &mut Vec<Fault>,
) -> (Tree, Option<String>) {
    let tokens = directives(source, text, faults);
    let line = Line { source, tokens: &tokens };
    let whole = Span { source, range: 0..text.find('\n').unwrap_or(text.len()) };
    let words: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    let (mut tree, export) = match <Directive as clap::Parser>::try_parse_from(&words) {
        Ok(directive) => (directive.flags.tree(&line, faults), directive.flags.export),
        Err(error) => {
            faults.push(misused(source, &tokens, &error));
            (Tree::empty(whole.clone()), None)
        }
    };
    tree.span = whole.clone();
    if let Some(program) = interpreter(text, &whole, faults) {
        let words =
            program.into_iter().chain(["-c".into(), text.to_owned(), path.to_owned()]).chain(args.iter().cloned());
        let items = words.map(|word| Tree::text(word, whole.clone())).collect();
        tree.set("run", Tree { value: Value::List(items), span: whole });
    }
    (tree, export)
}

/// The words of every `#GANGSAW` line above the first command.
fn directives(source: usize, text: &str, faults: &mut Vec<Fault>) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut commands_begun = false;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if let Some(rest) = trimmed.strip_prefix(MARK).filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t'])) {
            let start = at + line.find(MARK).unwrap_or(0) + MARK.len();
            if commands_begun {
                faults.push(Fault {
                    reason: "misplaced".into(),
                    span: Some(Span { source, range: start - MARK.len()..start + rest.trim_end().len() }),
                    message: format!("this `{MARK}` line comes after the first command"),
                    hint: "move it above the first command".into(),
                });
            } else {
                words(source, text, start..start + rest.len(), &mut tokens, faults);
            }
        } else if !trimmed.is_empty() && !trimmed.starts_with('#') {
            commands_begun = true;
        }
        at += line.len();
    }
    tokens
}

/// Splits one line as a shell would: blanks divide, quotes join, a backslash takes the next character as it is.
fn words(source: usize, text: &str, within: std::ops::Range<usize>, tokens: &mut Vec<Token>, faults: &mut Vec<Fault>) {
    let mut word: Option<Token> = None;
    let mut quote: Option<(char, usize)> = None;
    let mut chars = text[within.clone()].char_indices().map(|(at, c)| (within.start + at, c));
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            tokens.extend(word.take());
            continue;
        }
        if quote.is_none() && c == '#' && word.is_none() {
            break;
        }
        let word = word.get_or_insert_with(|| Token { text: String::new(), range: at..at });
        word.range.end = at + c.len_utf8();
        match quote {
            Some((open, _)) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some((c, at)),
            Some(('"', _)) | None if c == '\\' => {
                if let Some((at, c)) = chars.next() {
                    word.text.push(c);
                    word.range.end = at + c.len_utf8();
                }
            }
            Some(_) | None => word.text.push(c),
        }
    }
    tokens.extend(word);
    if let Some((open, at)) = quote {
        faults.push(Fault {
            reason: "syntax".into(),
            span: Some(Span { source, range: at..at + 1 }),
            message: "this quote is not closed on its line".into(),
            hint: format!("add the closing {open}"),
        });
    }
}

/// What clap refused, in its place.
fn misused(source: usize, tokens: &[Token], error: &clap::Error) -> Fault {
    use clap::error::{ContextKind, ContextValue};
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        Some(_) | None => None,
    };
    let wrong = text(ContextKind::InvalidArg).unwrap_or_default();
    let flag = wrong.split([' ', '=']).next().unwrap_or_default();
    let place = tokens.iter().find(|token| !flag.is_empty() && token.text.split('=').next() == Some(flag));
    let line = Line { source, tokens };
    let message = error.to_string();
    let message = message.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let hint = match text(ContextKind::SuggestedArg) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "the flags are those of `gangsaw submit`".into(),
    };
    let range = place.map_or_else(|| line.whole(), |token| token.range.clone());
    Fault { reason: "unknown-flag".into(), span: Some(Span { source, range }), message, hint }
}

/// The program that runs the script, from its first line; `/bin/sh` without one.
fn interpreter(text: &str, whole: &Span, faults: &mut Vec<Fault>) -> Option<Vec<String>> {
    let Some(line) = text.strip_prefix("#!").and_then(|rest| rest.lines().next()) else {
        return Some(vec!["/bin/sh".into()]);
    };
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let program = match words.as_slice() {
        [env, rest @ ..] if env.ends_with("/env") => rest.iter().find(|word| !word.starts_with('-')),
        words => words.first(),
    };
    let name = program.and_then(|program| program.rsplit('/').next()).unwrap_or_default();
    if SHELLS.contains(&name) {
        return Some(words);
    }
    faults.push(Fault {
        reason: "unknown-interpreter".into(),
        span: Some(whole.clone()),
        message: format!("a batch script runs under one of {}, and this one asks for `{name}`", SHELLS.join(", ")),
        hint: "write a YAML spec with `run: [interpreter, /path/to/script]`".into(),
    });
    None
}
