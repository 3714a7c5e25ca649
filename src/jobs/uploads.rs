//! Sweeps upload sessions that nobody went on with.

use super::{BATCH, Context, JobError, Report};
use crate::db::{doomed_objects, uploads};

pub(super) async fn expire(context: &Context) -> Result<Report, JobError> {
    let now = context.clock.now();
    let mut tx = context.db.begin().await?;
    let expired = uploads::expire(&mut tx, now, BATCH).await?;
    if expired.is_empty() {
        return Ok(Report::default());
    }
    for session in &expired {
        doomed_objects::insert(&mut tx, &session.storage_key, now).await?;
    }
    fail::fail_point!("jobs::before_expire", |_| std::process::abort());
    tx.commit().await?;
    fail::fail_point!("jobs::expired", |_| std::process::abort());
    Ok(Report { uploads_expired: expired.len() as u64, ..Report::default() })
}
