//! TOML becomes a [`Tree`]; all of its syntax faults come at once.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::read::Fault;
use super::tree::{Key, Number, Span, Tree, Value};

/// Reads TOML, or says everything that is wrong with its syntax.
pub(crate) fn toml(source: usize, text: &str) -> Result<Tree, Vec<Fault>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors
            .iter()
            .map(|error| Fault {
                reason: "syntax".into(),
                span: error.span().map(|range| Span { source, range }),
                message: error.message().lines().collect::<Vec<_>>().join("; "),
                hint: "a spec is a TOML table such as `run = \"python train.py\"`".into(),
            })
            .collect());
    }
    let span = Span { source, range: table.span() };
    Ok(Tree { value: entries(source, text, table.into_inner()), span })
}

/// Turns a table into a map.
fn entries(source: usize, text: &str, table: DeTable<'_>) -> Value {
    let mut map: Vec<(Key, Tree)> = table
        .into_iter()
        .map(|(key, value)| {
            let span = Span { source, range: key.span() };
            (Key { text: key.into_inner().into_owned(), span }, tree(source, text, value))
        })
        .collect();
    map.sort_by_key(|(key, _)| key.span.range.start);
    Value::Map(map)
}

/// Gives a value its span.
fn tree(source: usize, text: &str, from: Spanned<DeValue<'_>>) -> Tree {
    let range = from.span();
    let raw = text.get(range.clone()).unwrap_or_default().to_owned();
    let value = match from.into_inner() {
        DeValue::String(value) => Value::Text(value.into_owned()),
        DeValue::Integer(value) => {
            let whole = i64::from_str_radix(value.as_str(), value.radix()).ok();
            Value::Number(Number { whole, float: whole.map_or(f64::MAX, |whole| whole as f64), raw })
        }
        DeValue::Float(value) => {
            Value::Number(Number { whole: None, float: value.as_str().parse().unwrap_or(f64::NAN), raw })
        }
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(value) => Value::Text(value.to_string()),
        DeValue::Array(items) => Value::List(items.into_iter().map(|item| tree(source, text, item)).collect()),
        DeValue::Table(table) => entries(source, text, table),
    };
    Tree { value, span: Span { source, range } }
}
