//! Looks at single rows: those that come while others are on their way go together, in one statement (decision 0019).
//!
//! A round trip costs PostgreSQL and this process far more than finding a row. Alone, a look waits for nobody; where a
//! thousand nodes pull an image, they share a few statements.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, FromRow, PgConnection, PgPool, Row as _};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::db::{Error, Result};

/// How many statements are on their way at a time. More would each take fewer looks along.
const TURNS: usize = 1;
/// How long a look waits for the one before it. Where statements take longer, as on a long way or from a cold disk, more
/// are on their way at a time, as many as there are connections.
const PATIENCE: Duration = Duration::from_millis(5);
/// How many looks one statement takes along at most, so that what it answers does not take much memory.
const TOGETHER: usize = 64;

/// What was found of a row, by everyone who looks for it.
type Found = std::result::Result<Option<Arc<PgRow>>, Arc<Error>>;
/// What rows are looked for by.
type By = (String, String);
/// Those who look for each row.
type Together = HashMap<By, Vec<oneshot::Sender<Found>>>;

/// The looks of this process.
#[derive(Debug)]
pub struct Looks {
    pool: PgPool,
    waiting: Mutex<HashMap<&'static str, Waiting>>,
    turns: Arc<Semaphore>,
    /// A statement is there for many, and goes on where the one who began it hangs up.
    tasks: TaskTracker,
}

/// Looks that wait for a statement, in the order in which they came.
#[derive(Debug, Default)]
struct Waiting {
    /// How many have been taken along.
    taken: u64,
    looks: VecDeque<Look>,
}

#[derive(Debug)]
struct Look {
    by: By,
    found: oneshot::Sender<Found>,
}

impl Looks {
    pub(super) fn new(pool: PgPool) -> Self {
        let turns = Arc::new(Semaphore::new(TURNS));
        Self { pool, waiting: Mutex::default(), turns, tasks: TaskTracker::new() }
    }

    /// The row a statement finds by two texts, `$1` and `$2`; it finds one at most. What was committed before is seen.
    pub(in crate::db) async fn find<R>(&self, sql: &'static str, by: (&str, &str)) -> Result<Option<R>>
    where
        R: for<'r> FromRow<'r, PgRow>,
    {
        let (number, mut found) = self.ask(sql, by);
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut found => break answer,
                turn = timeout(PATIENCE, Arc::clone(&self.turns).acquire_owned()) => {
                    let (together, has_gone) = self.take(sql, number);
                    let is_alone = has_gone && together.values().map(Vec::len).sum::<usize>() == 1;
                    if is_alone {
                        // Another thread would have to wake up first, and nobody else waits for it.
                        look(&self.pool, sql, together).await;
                    } else if together.is_empty() {
                        drop(turn);
                    } else {
                        let pool = self.pool.clone();
                        self.tasks.spawn(async move {
                            look(&pool, sql, together).await;
                            drop(turn);
                        });
                    }
                    if has_gone {
                        break found.await;
                    }
                }
            }
        };
        let row = answer.map_err(|_| sqlx::Error::WorkerCrashed)?.map_err(Error::Shared)?;
        Ok(row.map(|row| R::from_row(&row)).transpose()?)
    }

    /// Returns once no statement is on its way.
    pub(in crate::db) async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Adds a look to those that wait; the answer is its number.
    fn ask(&self, sql: &'static str, (one, other): (&str, &str)) -> (u64, oneshot::Receiver<Found>) {
        let (sender, found) = oneshot::channel();
        let look = Look { by: (one.to_owned(), other.to_owned()), found: sender };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = waiting.entry(sql).or_default();
        waiting.looks.push_back(look);
        (waiting.taken + waiting.looks.len() as u64, found)
    }

    /// Takes along the first of those that wait for a statement, unless the one of this number has gone; and whether it
    /// has gone now.
    fn take(&self, sql: &'static str, number: u64) -> (Together, bool) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = waiting.entry(sql).or_default();
        let mut together = Together::new();
        if number > waiting.taken {
            let mut count = 0;
            while count < TOGETHER
                && let Some(look) = waiting.looks.pop_front()
            {
                waiting.taken += 1;
                if !look.found.is_closed() {
                    together.entry(look.by).or_default().push(look.found);
                    count += 1;
                }
            }
        }
        (together, number <= waiting.taken)
    }
}

/// Looks for some, and tells each of them.
async fn look(pool: &PgPool, sql: &'static str, together: Together) {
    let (by, everyone): (Vec<_>, Vec<_>) = together.into_iter().unzip();
    let found = retrying(pool, sql, &by).await.map_err(Arc::new);
    for (index, all) in everyone.into_iter().enumerate() {
        let answer = match &found {
            Ok(rows) => Ok(rows.get(&index).cloned()),
            Err(error) => Err(Arc::clone(error)),
        };
        for one in all {
            // Who has gone needs none.
            let _ = one.send(answer.clone());
        }
    }
}

/// Looks again where the connection had ended, as all that were idle have where PostgreSQL was started anew: many
/// wait for this answer.
async fn retrying(pool: &PgPool, sql: &'static str, by: &[By]) -> Result<HashMap<usize, Arc<PgRow>>> {
    let mut connections_left = pool.size();
    loop {
        let mut connection = pool.acquire().await?;
        match fetch(&mut connection, sql, by).await {
            Err(error) if has_ended(&error) && connections_left > 0 => connections_left -= 1,
            outcome => return outcome,
        }
    }
}

/// Whether a connection cannot be used any more.
fn has_ended(error: &Error) -> bool {
    // PostgreSQL's: connection exception, admin_shutdown, crash_shutdown, cannot_connect_now.
    let is_end = |code: &str| code.starts_with("08") || code.starts_with("57P0");
    matches!(error, Error::Sql(sqlx::Error::Io(_))) || error.code().as_deref().is_some_and(is_end)
}

/// The rows that were found, by the place of what they were looked for by.
async fn fetch(on: &mut PgConnection, sql: &'static str, by: &[By]) -> Result<HashMap<usize, Arc<PgRow>>> {
    if let [(one, other)] = by {
        let row = sqlx::query(sql).bind(one).bind(other).fetch_optional(on).await?;
        return Ok(row.map(|row| (0, Arc::new(row))).into_iter().collect());
    }
    // LIMIT makes it look for each by itself, by index, whatever the planner thinks of how many they are. It does not
    // see how many where an array comes from a SELECT: with another number each time it would plan each time anew,
    // which takes longer than to look.
    let one = sql.replace("$1", "look.one").replace("$2", "look.other");
    let all = format!(
        "SELECT found.*, look.number
         FROM unnest((SELECT $1::text[]), (SELECT $2::text[])) WITH ORDINALITY AS look (one, other, number)
         CROSS JOIN LATERAL ({one} LIMIT 1) AS found"
    );
    let (ones, others): (Vec<&str>, Vec<&str>) =
        by.iter().map(|(one, other)| (one.as_str(), other.as_str())).unzip();
    let rows = sqlx::query(AssertSqlSafe(all)).bind(ones).bind(others).fetch_all(on).await?;
    let numbered = rows.into_iter().map(|row| {
        let number: i64 = row.try_get("number")?;
        Ok((usize::try_from(number - 1).unwrap_or(usize::MAX), Arc::new(row)))
    });
    numbered.collect()
}
