//! One row, from the one kind of store to the other: whole numbers, texts and bytes, or nothing.

use rusqlite::types::Value;
use tokio_postgres::Error;
use tokio_postgres::types::{ToSql, Type};

/// Reads what a file would hold of a database's row.
pub(super) fn cells(row: &tokio_postgres::Row) -> Result<Vec<Value>, Error> {
    let cell = |(at, column): (usize, &tokio_postgres::Column)| {
        let value = match *column.type_() {
            Type::INT4 => row.try_get::<_, Option<i32>>(at)?.map(|number| Value::Integer(number.into())),
            Type::TEXT => row.try_get::<_, Option<String>>(at)?.map(Value::Text),
            Type::BYTEA => row.try_get::<_, Option<Vec<u8>>>(at)?.map(Value::Blob),
            // There is no other, or this refuses it.
            _ => row.try_get::<_, Option<i64>>(at)?.map(Value::Integer),
        };
        Ok(value.unwrap_or(Value::Null))
    };
    row.columns().iter().enumerate().map(cell).collect()
}

/// Reads what a database's columns of these types would hold of a file's row.
pub(super) fn values(row: &rusqlite::Row<'_>, types: &[Type]) -> rusqlite::Result<Vec<Box<dyn ToSql + Sync>>> {
    let value = |(at, wanted): (usize, &Type)| -> rusqlite::Result<Box<dyn ToSql + Sync>> {
        Ok(match *wanted {
            Type::INT4 => Box::new(row.get::<_, Option<i32>>(at)?),
            Type::TEXT => Box::new(row.get::<_, Option<String>>(at)?),
            Type::BYTEA => Box::new(row.get::<_, Option<Vec<u8>>>(at)?),
            _ => Box::new(row.get::<_, Option<i64>>(at)?),
        })
    };
    types.iter().enumerate().map(value).collect()
}
