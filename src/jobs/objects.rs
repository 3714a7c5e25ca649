//! Deletes doomed objects: from the store first, so that a crash leaves a row and never an orphan.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::{BATCH, Context, JobError, Report};
use crate::db::doomed_objects::{self, Doomed};

/// How long an object rests that the store would not delete.
const RETRY_AFTER: Duration = Duration::from_mins(5);
/// Objects that are deleted at a time.
const AT_ONCE: usize = 16;

pub(super) async fn delete(
    context: &Context,
    total: &mut Report,
    progress: &mut (dyn FnMut(&Report) + Send),
) -> Result<(), JobError> {
    loop {
        let due = doomed_objects::due(&context.db, context.clock.now(), BATCH).await?;
        if due.is_empty() {
            return Ok(());
        }
        let mut gone = Vec::new();
        let mut kept = Vec::new();
        let mut deleting = stream::iter(due)
            .map(|Doomed { storage_key: key, multipart }| async move {
                let deleted = context.store.delete(&key, multipart.as_deref()).await;
                (key, deleted)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((key, deleted)) = deleting.next().await {
            match deleted {
                Ok(_) => gone.push(key),
                Err(error) => {
                    tracing::warn!(%key, %error, "could not delete object {key}; trying again later");
                    kept.push(key);
                }
            }
        }
        drop(deleting);
        fail::fail_point!("jobs::objects_deleted", |_| std::process::abort());
        let mut tx = context.db.begin().await?;
        for key in &gone {
            doomed_objects::remove(&mut tx, key).await?;
        }
        for key in &kept {
            doomed_objects::postpone(&mut tx, key, context.clock.after(RETRY_AFTER)).await?;
        }
        tx.commit().await?;
        fail::fail_point!("jobs::objects_forgotten", |_| std::process::abort());
        total.objects_deleted += gone.len() as u64;
        total.objects_failed += kept.len() as u64;
        progress(total);
    }
}
