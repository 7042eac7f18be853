//! What a spec says, before it means anything: a tree of values that remember where they were written.
//!
//! YAML, TOML, JSON, batch scripts, flags and environment variables all become this one tree, so one reader
//! (`job`) understands all of them, and a value from a flag lies over the same key from a file. Every value and every
//! key carries its [`Span`], which points into one of the [`Sources`]: a fault can always show the place.
//!
//! Neighbours: `yaml`, `toml_file`, `script` and `flags` make trees, `read` checks them, `render` shows the places.

use std::ops::Range;

/// A place in one of the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) source: usize,
    pub(crate) range: Range<usize>,
}

/// One text that values came from: a file, the command line, an environment variable.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// For people: the file as it was named, or `command line`.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Every text a spec was put together from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources(pub(crate) Vec<Source>);

impl Sources {
    /// Adds a text and returns the number spans name it by.
    pub(crate) fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> usize {
        self.0.push(Source { name: name.into(), text: text.into() });
        self.0.len() - 1
    }
}

/// A number as it was written and as it counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Number {
    /// Present when it is a whole number.
    pub(crate) whole: Option<i64>,
    pub(crate) float: f64,
    /// As it was written, for places that want text.
    pub(crate) raw: String,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(Key, Tree)>),
}

/// A key and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) span: Span,
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tree {
    pub(crate) value: Value,
    pub(crate) span: Span,
}

impl Tree {
    /// An empty map at `span`.
    pub(crate) fn empty(span: Span) -> Tree {
        Tree { value: Value::Map(Vec::new()), span }
    }

    /// Text at `span`.
    pub(crate) fn text(text: impl Into<String>, span: Span) -> Tree {
        Tree { value: Value::Text(text.into()), span }
    }

    /// The value of `key`, if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Tree> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, v)| v),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::List(_) => None,
        }
    }

    /// Removes and returns the value of `key`.
    pub(crate) fn take(&mut self, key: &str) -> Option<Tree> {
        let Value::Map(entries) = &mut self.value else { return None };
        let at = entries.iter().position(|(k, _)| k.text == key)?;
        Some(entries.remove(at).1)
    }

    /// Sets the value at a dotted path, making maps on the way; what was there is replaced.
    pub(crate) fn set(&mut self, path: &str, value: Tree) {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let Value::Map(entries) = &mut self.value else { return };
        let span = value.span.clone();
        let at = entries.iter().position(|(k, _)| k.text == first).unwrap_or_else(|| {
            entries.push((Key { text: first.to_owned(), span: span.clone() }, Tree::empty(span)));
            entries.len() - 1
        });
        match rest {
            None => entries[at].1 = value,
            Some(rest) => {
                if !matches!(entries[at].1.value, Value::Map(_)) {
                    entries[at].1 = Tree::empty(value.span.clone());
                }
                entries[at].1.set(rest, value);
            }
        }
    }

    /// Lays `over` on top of this tree: maps join key by key, anything else is replaced.
    pub(crate) fn overlay(&mut self, over: Tree) {
        match (&mut self.value, over.value) {
            (Value::Map(mine), Value::Map(theirs)) => {
                for (key, value) in theirs {
                    match mine.iter_mut().find(|(k, _)| k.text == key.text) {
                        Some((_, old)) => old.overlay(value),
                        None => mine.push((key, value)),
                    }
                }
            }
            (_, value) => *self = Tree { value, span: over.span },
        }
    }

    /// The place of a dotted path, or of the nearest thing above it that exists.
    ///
    /// List positions are written `jobs[1].name` or `after[0]`.
    pub(crate) fn place(&self, path: &str) -> Span {
        let mut here = self;
        let mut span = self.span.clone();
        for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
            let next = match (&here.value, step.strip_suffix(']').map(str::parse::<usize>)) {
                (Value::List(items), Some(Ok(at))) => items.get(at),
                (_, _) => here.get(step),
            };
            let Some(next) = next else { break };
            span = next.span.clone();
            here = next;
        }
        span
    }
}

/// A value's kind in words, for `expected …, found …`.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::Text(_) => "text",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
    }
}
