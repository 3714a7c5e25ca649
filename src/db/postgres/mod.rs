//! PostgreSQL: a pool, looks that go together, and the lock that lets replicas migrate one at a time.

mod looks;

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgPool};

pub use self::looks::Looks;
use super::{Db, Result};

/// A request that finds no free connection for so long is answered 503.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that worked a moment ago is not asked whether it does.
const UNTESTED: Duration = Duration::from_secs(1);

pub(super) async fn open(url: &str, max_connections: u32) -> Result<Db> {
    let options: PgConnectOptions = url.parse()?;
    let pool = PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // Asking a connection whether it still works is a round trip, as much as most queries.
        .test_before_acquire(false)
        .before_acquire(|connection, life| {
            Box::pin(async move {
                if life.idle_for >= UNTESTED {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_with(options.application_name("berth"))
        .await?;
    let looks = Arc::new(Looks::new(pool.clone()));
    Ok(Db::Postgres { pool, looks })
}

/// sqlx takes an advisory lock for as long as it migrates.
pub(super) async fn migrate(pool: &PgPool) -> Result<()> {
    let mut migrator = sqlx::migrate!("migrations/postgres");
    migrator.set_ignore_missing(true);
    Ok(migrator.run(pool).await?)
}
