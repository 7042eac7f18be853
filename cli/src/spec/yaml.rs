//! YAML and JSON become a [`Tree`].
//!
//! JSON is read by the YAML reader too, after serde_json has said that it is JSON: its spans are what faults need.
//! Alias bombs, deep nesting and endless anchors end at the reader's budgets, which are far above any real spec.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::read::Fault;
use super::tree::{Key, Number, Span, Tree, Value};

/// Nodes a spec may have after aliases are followed; 1,024 jobs of 64 keys need fewer.
const NODES_MAX: usize = 200_000;
/// Levels a spec may nest; the deepest real key is four down.
const DEPTH_MAX: usize = 64;
/// Bytes of scalars after aliases are followed; four times the largest file.
const SCALAR_BYTES_MAX: usize = 4 << 20;

/// A YAML value before its places are turned into spans.
enum Any {
    Null,
    Bool(bool),
    Whole(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Any>>),
    Map(Vec<(Spanned<String>, Spanned<Any>)>),
}

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Any, D::Error> {
        from.deserialize_any(AnyVisitor)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Any;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Any, E> {
        Ok(Any::Null)
    }

    fn visit_none<E>(self) -> Result<Any, E> {
        Ok(Any::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Any, E> {
        Ok(Any::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Any, E> {
        Ok(Any::Whole(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Any, E> {
        Ok(i64::try_from(value).map_or(Any::Float(value as f64), Any::Whole))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Any, E> {
        Ok(i64::try_from(value).map_or(Any::Float(value as f64), Any::Whole))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Any, E> {
        Ok(i64::try_from(value).map_or(Any::Float(value as f64), Any::Whole))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Any, E> {
        Ok(Any::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Any, E> {
        Ok(Any::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Any, E> {
        Ok(Any::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Any, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Any::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Any, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Any::Map(map))
    }
}

/// Reads YAML.
pub(crate) fn yaml(source: usize, text: &str) -> Result<Tree, Fault> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: NODES_MAX,
            max_events: NODES_MAX * 2,
            max_depth: DEPTH_MAX,
            max_total_scalar_bytes: SCALAR_BYTES_MAX,
            max_documents: 1,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: true,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Any>>(text, options) {
        Ok(root) => Ok(tree(source, text, root)),
        Err(error) => {
            let range = error.location().map_or(0..0, |at| place(text, &at));
            let message = error.without_snippet().to_string();
            Err(Fault {
                reason: "syntax".into(),
                span: Some(Span { source, range }),
                message: sentence(&message),
                hint: "a spec is one YAML map such as `run: python train.py`".into(),
            })
        }
    }
}

/// Reads JSON.
pub(crate) fn json(source: usize, text: &str) -> Result<Tree, Fault> {
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        let start: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
        let at = (start + error.column().saturating_sub(1)).min(text.len());
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        return Err(Fault {
            reason: "syntax".into(),
            span: Some(Span { source, range: at..at + 1 }),
            message: format!("this is not JSON: {message}"),
            hint: "a spec is one JSON object such as {\"run\": \"python train.py\"}".into(),
        });
    }
    yaml(source, text)
}

/// Cuts the reader's message down to what happened; the place is shown by the caret.
fn sentence(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.split(" at line ").next().unwrap_or_default();
    let line = line.split(", set DuplicateKeyPolicy").next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

/// Where a syntax error is; it may know only its line and column.
fn place(text: &str, at: &serde_saphyr::Location) -> std::ops::Range<usize> {
    if at.span().byte_offset().is_some_and(|at| at > 0) {
        return range(text, &at.span());
    }
    let number = |number: u64| usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
    let start: usize = text.split_inclusive('\n').take(number(at.line())).map(str::len).sum();
    let line = text[start..].lines().next().unwrap_or_default();
    let before: usize = line.chars().take(number(at.column())).map(char::len_utf8).sum();
    start + before..start + before
}

/// The bytes a YAML span covers.
fn range(text: &str, span: &serde_saphyr::Span) -> std::ops::Range<usize> {
    let start = span.byte_offset().map_or(0, |at| usize::try_from(at).unwrap_or(0)).min(text.len());
    let len = span.byte_len().map_or(0, |len| usize::try_from(len).unwrap_or(0));
    start..start.saturating_add(len).min(text.len())
}

/// Gives every value its span.
fn tree(source: usize, text: &str, from: Spanned<Any>) -> Tree {
    let at = range(text, &from.defined.span());
    let raw = text.get(at.clone()).unwrap_or_default().trim().to_owned();
    let value = match from.value {
        Any::Null => Value::Null,
        Any::Bool(value) => Value::Bool(value),
        Any::Whole(whole) => Value::Number(Number { whole: Some(whole), float: whole as f64, raw }),
        Any::Float(float) => Value::Number(Number { whole: None, float, raw }),
        Any::Text(value) => Value::Text(value),
        Any::List(items) => Value::List(items.into_iter().map(|item| tree(source, text, item)).collect()),
        Any::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let span = Span { source, range: range(text, &key.referenced.span()) };
                    (Key { text: key.value, span }, tree(source, text, value))
                })
                .collect(),
        ),
    };
    Tree { value, span: Span { source, range: range(text, &from.referenced.span()) } }
}
