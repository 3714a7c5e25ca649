//! PostgreSQL: a pool, and the lock that lets replicas migrate one at a time.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::{Db, Result};

/// A request that finds no free connection for so long is answered 503.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn open(url: &str, max_connections: u32) -> Result<Db> {
    let options: PgConnectOptions = url.parse()?;
    let pool = PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options.application_name("berth"))
        .await?;
    Ok(Db::Postgres(pool))
}

/// sqlx takes an advisory lock for as long as it migrates.
pub(super) async fn migrate(pool: &PgPool) -> Result<()> {
    let mut migrator = sqlx::migrate!("migrations/postgres");
    migrator.set_ignore_missing(true);
    Ok(migrator.run(pool).await?)
}
