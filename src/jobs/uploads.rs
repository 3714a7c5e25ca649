//! Sweeps upload sessions that nobody went on with.

use super::{BATCH, Context, JobError, Report};
use crate::db::{doomed_objects, uploads};

/// Takes every session from its writer, and dooms what the writer left.
pub(super) async fn release(context: &Context) -> Result<(), JobError> {
    let now = context.clock.now();
    let mut tx = context.db.begin().await?;
    if context.store.writes_aside() {
        for session in uploads::written(&mut tx).await? {
            if let Some((key, multipart)) = session.writers_place() {
                doomed_objects::insert(&mut tx, &key, multipart.as_deref(), now).await?;
            }
        }
    }
    uploads::release_all(&mut tx).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn expire(context: &Context) -> Result<Report, JobError> {
    let now = context.clock.now();
    if !uploads::any_expired(&context.db, now).await? {
        return Ok(Report::default());
    }
    let mut tx = context.db.begin().await?;
    let expired = uploads::expire(&mut tx, now, BATCH).await?;
    for session in &expired {
        let places =
            [Some(session.place()), session.writers_place().filter(|_| context.store.writes_aside())];
        for (key, multipart) in places.into_iter().flatten() {
            doomed_objects::insert(&mut tx, &key, multipart.as_deref(), now).await?;
        }
    }
    fail::fail_point!("jobs::before_expire", |_| std::process::abort());
    tx.commit().await?;
    fail::fail_point!("jobs::expired", |_| std::process::abort());
    Ok(Report { uploads_expired: expired.len() as u64, ..Report::default() })
}
