//! Reading a tree key by key, gathering every fault instead of stopping at the first.
//!
//! A [`Reader`]'s methods return a value or note a fault and return nothing; the caller goes on with what is left.
//! What was read counts only when [`Reader::faults`] is empty at the end.

use super::hint::nearest;
use super::tree::{Key, Span, Tree, Value, kind};
use super::units::Misread;

/// One thing that is wrong, where it is, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Stable, for programs: `unknown-key`, `wrong-type`, `bad-value`, …
    pub(crate) reason: String,
    /// Absent when it has no place in any source.
    pub(crate) span: Option<Span>,
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// Reads values and gathers faults.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) faults: Vec<Fault>,
}

impl Reader {
    /// Notes a fault.
    pub(crate) fn fault(&mut self, reason: &str, span: &Span, message: impl Into<String>, hint: impl Into<String>) {
        let (message, hint) = (message.into(), hint.into());
        self.faults.push(Fault { reason: reason.to_owned(), span: Some(span.clone()), message, hint });
    }

    /// Notes that a value is of the wrong type.
    pub(crate) fn wrong_type(&mut self, tree: &Tree, what: &str, wanted: &str, hint: impl Into<String>) {
        let found = kind(&tree.value);
        self.fault("wrong-type", &tree.span, format!("{what} must be {wanted}, and this is {found}"), hint);
    }

    /// The entries of a map whose keys must all be known; `hint` says how to write the map.
    pub(crate) fn map<'t>(&mut self, tree: &'t Tree, what: &str, known: &[&str], hint: &str) -> &'t [(Key, Tree)] {
        let entries = self.open_map(tree, what, hint);
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.text.as_str())) {
            let hint = match nearest(&key.text, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys: {}", known.join(", ")),
            };
            self.fault("unknown-key", &key.span, format!("{what} has no key `{}`", shown(&key.text)), hint);
        }
        entries
    }

    /// The entries of a map with any keys.
    pub(crate) fn open_map<'t>(&mut self, tree: &'t Tree, what: &str, hint: &str) -> &'t [(Key, Tree)] {
        match &tree.value {
            Value::Map(entries) => entries,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::List(_) => {
                self.wrong_type(tree, what, "a map", hint);
                &[]
            }
        }
    }

    /// Text.
    pub(crate) fn text(&mut self, tree: &Tree, what: &str, hint: &str) -> Option<String> {
        match &tree.value {
            Value::Text(text) if text.contains('\0') => {
                self.fault("bad-value", &tree.span, format!("{what} contains a NUL character"), hint);
                None
            }
            Value::Text(text) => Some(text.clone()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::List(_) | Value::Map(_) => {
                self.wrong_type(tree, what, "text", hint);
                None
            }
        }
    }

    /// Text, or a number or truth value as it was written.
    pub(crate) fn scalar(&mut self, tree: &Tree, what: &str, hint: &str) -> Option<String> {
        match &tree.value {
            Value::Number(number) => Some(number.raw.clone()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Text(_) | Value::Null | Value::List(_) | Value::Map(_) => self.text(tree, what, hint),
        }
    }

    /// A whole number within bounds.
    pub(crate) fn whole(&mut self, tree: &Tree, what: &str, bounds: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let wanted = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        let Value::Number(number) = &tree.value else {
            self.wrong_type(tree, what, &wanted, format!("for example `{}`", bounds.start().max(&1)));
            return None;
        };
        match number.whole {
            Some(whole) if bounds.contains(&whole) => Some(whole),
            Some(_) | None => {
                let message = format!("{what} must be {wanted}, and this is {}", shown(&number.raw));
                self.fault(
                    "bad-value",
                    &tree.span,
                    message,
                    format!("choose from {} to {}", bounds.start(), bounds.end()),
                );
                None
            }
        }
    }

    /// True or false.
    pub(crate) fn truth(&mut self, tree: &Tree, what: &str) -> Option<bool> {
        match &tree.value {
            Value::Bool(value) => Some(*value),
            Value::Null | Value::Number(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => {
                self.wrong_type(tree, what, "true or false", "write `true` or `false`");
                None
            }
        }
    }

    /// An amount in the form `parse` understands.
    pub(crate) fn amount<T>(
        &mut self,
        tree: &Tree,
        what: &str,
        parse: impl FnOnce(&str) -> Result<T, Misread>,
    ) -> Option<T> {
        let text = match &tree.value {
            Value::Number(number) => number.raw.as_str(),
            Value::Text(text) => text.as_str(),
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => {
                let hint = parse("").err().map_or_else(String::new, |misread| misread.hint);
                self.wrong_type(tree, what, "an amount", hint);
                return None;
            }
        };
        match parse(text) {
            Ok(amount) => Some(amount),
            Err(misread) => {
                self.fault("bad-value", &tree.span, format!("{what}: {}", shown(&misread.message)), misread.hint);
                None
            }
        }
    }

    /// One of several words.
    pub(crate) fn choice<'c>(&mut self, tree: &Tree, what: &str, words: &[&'c str]) -> Option<&'c str> {
        let all = words.join(", ");
        let text = self.text(tree, what, &format!("choose from {all}"))?;
        if let Some(word) = words.iter().find(|word| **word == text) {
            return Some(word);
        }
        let hint = match nearest(&text, words.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("choose from {all}"),
        };
        self.fault("bad-value", &tree.span, format!("{what} cannot be `{}`", shown(&text)), hint);
        None
    }
}

/// The items of a list; a single value stands for a list of itself.
pub(crate) fn items(tree: &Tree) -> &[Tree] {
    match &tree.value {
        Value::List(items) => items,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Map(_) => std::slice::from_ref(tree),
    }
}

/// Another's words as they are shown within a sentence: harmless, and not longer than a line.
pub(crate) fn shown(text: &str) -> String {
    const LONG: usize = 100;
    let mut out: String = harmless(text).chars().take(LONG).collect();
    if text.chars().count() > LONG {
        out.push('…');
    }
    out
}

/// Text without control characters: nothing a terminal would obey.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
}
