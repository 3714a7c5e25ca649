//! Statements, run on the thread that asks.

use std::ops::Range;

use rusqlite::types::{FromSql, Type};
use rusqlite::{CachedStatement, Connection, MAIN_DB, Row, ToSql};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

use super::Readers;
use crate::db::{Error, Result};

/// Where a statement runs.
#[derive(Debug)]
pub enum On<'a> {
    /// On one of the connections that read.
    Reader(&'a Readers),
    /// Within a transaction.
    Writer(&'a mut Connection),
}

/// What is bound to a statement: the first to `$1`, and so on.
pub type Bound<'a> = &'a [&'a dyn ToSql];

/// A column whose values are large. Its table has numbered rows.
#[derive(Debug, Clone, Copy)]
pub struct Large<'a> {
    /// The table.
    pub table: &'a str,
    /// The column.
    pub column: &'a str,
}

/// Something that a row holds.
pub trait FromRow: Sized {
    /// Reads it.
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self>;
}

impl On<'_> {
    /// Runs a statement; the answer is how many rows it changed.
    pub fn execute(self, sql: &str, bound: Bound<'_>) -> Result<u64> {
        self.on(|connection| Ok(bind(connection, sql, bound)?.raw_execute()? as u64))
    }

    /// The first row, if there is one.
    pub fn fetch_optional<T: FromRow>(self, sql: &str, bound: Bound<'_>) -> Result<Option<T>> {
        self.on(|connection| first(connection, sql, bound))
    }

    /// The only row.
    pub fn fetch_one<T: FromRow>(self, sql: &str, bound: Bound<'_>) -> Result<T> {
        // It is not one that is looked up, but a sum over many.
        let row = in_place(|| self.fetch_optional(sql, bound))?;
        row.ok_or_else(|| Error::Sqlite(rusqlite::Error::QueryReturnedNoRows))
    }

    /// All rows. Who asks for thousands asks for some at a time: they are read on the thread of the request.
    pub fn fetch_all<T: FromRow>(self, sql: &str, bound: Bound<'_>) -> Result<Vec<T>> {
        self.on(|connection| bind(connection, sql, bound)?.raw_query().mapped(T::from_row).collect())
    }

    /// Writes a value of megabytes into a column of the row whose number a statement returns, which it
    /// has as many zeros: bound to a statement, it would be in memory three times.
    pub fn write_large(self, at: Large<'_>, sql: &str, bound: Bound<'_>, content: &[u8]) -> Result<()> {
        in_place(|| {
            self.on(|connection| {
                let Some((row,)) = first::<(i64,)>(connection, sql, bound)? else { return Ok(()) };
                let mut blob = connection.blob_open(MAIN_DB, at.table, at.column, row, false)?;
                blob.write_all_at(content, 0)?;
                blob.close()
            })
        })
    }

    /// Reads a range of such a value, as far as it is there, of the row whose number a statement returns.
    pub fn read_large(
        self,
        at: Large<'_>,
        sql: &str,
        bound: Bound<'_>,
        range: Range<usize>,
    ) -> Result<Option<Vec<u8>>> {
        in_place(|| {
            self.on(|connection| {
                // Of one moment, as in a transaction: the row may be about to go.
                let alone = connection.is_autocommit();
                let _moment = alone.then(|| connection.unchecked_transaction()).transpose()?;
                let Some((row,)) = first::<(i64,)>(connection, sql, bound)? else { return Ok(None) };
                let blob = connection.blob_open(MAIN_DB, at.table, at.column, row, true)?;
                let start = range.start.min(blob.len());
                let mut content = vec![0; range.end.min(blob.len()).saturating_sub(start)];
                blob.read_at_exact(&mut content, start)?;
                blob.close()?;
                Ok(Some(content))
            })
        })
    }

    fn on<T>(self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        match self {
            Self::Reader(readers) => readers.with(work),
            Self::Writer(connection) => Ok(work(connection)?),
        }
    }
}

fn first<T: FromRow>(connection: &Connection, sql: &str, bound: Bound<'_>) -> rusqlite::Result<Option<T>> {
    let mut statement = bind(connection, sql, bound)?;
    statement.raw_query().next()?.map(T::from_row).transpose()
}

/// A statement that is ready to run. SQLite numbers `$1` and `$2` in the order in which they come; both
/// databases shall read them as numbers.
fn bind<'c>(
    connection: &'c Connection,
    sql: &str,
    bound: Bound<'_>,
) -> rusqlite::Result<CachedStatement<'c>> {
    let mut statement = connection.prepare_cached(sql)?;
    for index in 1..=statement.parameter_count() {
        let name = statement.parameter_name(index).unwrap_or_default();
        let number: Option<usize> = name.strip_prefix('$').and_then(|number| number.parse().ok());
        let value = number.and_then(|number| bound.get(number.checked_sub(1)?));
        let value = value.ok_or_else(|| rusqlite::Error::InvalidParameterName(name.to_owned()))?;
        statement.raw_bind_parameter(index, value)?;
    }
    Ok(statement)
}

/// Runs what may take a while where it holds no other request up.
fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        _ => work(),
    }
}

/// A column as it is.
pub fn plain<T: FromSql>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    row.get(index)
}

/// A column of text that must be more than text.
pub fn parsed<T>(row: &Row<'_>, index: usize) -> rusqlite::Result<T>
where
    T: TryFrom<String, Error: std::error::Error + Send + Sync + 'static>,
{
    let text: String = row.get(index)?;
    T::try_from(text).map_err(|error| unreadable(index, Type::Text, error))
}

/// A column that counts.
pub fn count(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(index)?;
    u64::try_from(number).map_err(|error| unreadable(index, Type::Integer, error))
}

fn unreadable(
    index: usize,
    kind: Type,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, kind, Box::new(error))
}

/// The place of the next column of a struct. Every statement lists them in the struct's order; to look for each
/// by its name would take longer than to read it.
pub fn place(row: &Row<'_>, next: &mut usize, name: &str) -> usize {
    let index = *next;
    debug_assert_eq!(row.as_ref().column_name(index), Ok(name), "a statement has another order");
    *next += 1;
    index
}

/// Says how each column of a struct is read, in the order of the statements.
macro_rules! columns_of {
    ($row:ident { $($column:ident: $read:ident),+ $(,)? }) => {
        impl $crate::db::sqlite::FromRow for $row {
            fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
                let mut next = 0;
                let mut place = |name| $crate::db::sqlite::place(row, &mut next, name);
                Ok(Self { $($column: $crate::db::sqlite::$read(row, place(stringify!($column)))?),+ })
            }
        }
    };
}
pub(crate) use columns_of;

macro_rules! tuples {
    ($(($($column:ident $index:tt),+)),+) => {$(
        impl<$($column: FromSql),+> FromRow for ($($column,)+) {
            fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
                Ok(($(row.get::<_, $column>($index)?,)+))
            }
        }
    )+};
}
tuples!((A 0), (A 0, B 1), (A 0, B 1, C 2), (A 0, B 1, C 2, D 3));
