//! Collects blobs that nothing needs: first a repository's hold on them, then the blobs themselves.
//!
//! The rows seen here are candidates, no more. What decides is the DELETE: it names the time the
//! candidate was seen to be idle since, which a pusher's HEAD changes, and the foreign key refuses
//! it while a manifest or another repository needs the row. So a push that runs at the same moment
//! either finds the blob and keeps it, or is told that it is not there.

use super::{BATCH, Context, JobError, Report};
use crate::db::{self, blobs, doomed_objects, manifests};

pub(super) async fn collect(
    context: &Context,
    total: &mut Report,
    progress: &mut (dyn FnMut(&Report) + Send),
) -> Result<(), JobError> {
    // A quarter more than promised: a confirmation younger than that is not written down again.
    let idle_for = context.collect_min_age.saturating_add(context.collect_min_age / 4);
    let before = context.clock.before(idle_for);
    loop {
        let links = blobs::idle_links(&context.db, before, BATCH).await?;
        let mut changed = 0;
        for link in &links {
            match collect_link(context, link, before).await? {
                Verdict::Collected => {
                    total.links_collected += 1;
                    changed += 1;
                }
                Verdict::Kept => changed += 1,
                Verdict::Untouched => {}
            }
        }
        progress(total);
        if changed == 0 {
            break;
        }
    }
    loop {
        let idle = blobs::idle_blobs(&context.db, before, BATCH).await?;
        let mut changed = 0;
        for blob in &idle {
            match collect_blob(context, blob).await? {
                Verdict::Collected => {
                    total.blobs_collected += 1;
                    total.bytes_collected += blob.size_bytes;
                    changed += 1;
                }
                Verdict::Kept => changed += 1,
                Verdict::Untouched => {}
            }
        }
        progress(total);
        if changed == 0 {
            return Ok(());
        }
    }
}

enum Verdict {
    Collected,
    /// Needed after all, and no candidate any more.
    Kept,
    /// Changed by somebody meanwhile.
    Untouched,
}

async fn collect_link(context: &Context, link: &blobs::Link, before: i64) -> Result<Verdict, JobError> {
    let mut tx = context.db.begin().await?;
    if link.needed {
        match manifests::blob_arrived(&mut tx, link.repository_id, &link.digest).await {
            Ok(_) => {}
            Err(error) if crossed(&error) => return Ok(Verdict::Untouched),
            Err(error) => return Err(error.into()),
        }
        let kept = blobs::keep_link(&mut tx, link).await?;
        fail::fail_point!("jobs::before_keep_link", |_| std::process::abort());
        tx.commit().await?;
        fail::fail_point!("jobs::link_kept", |_| std::process::abort());
        return Ok(if kept > 0 { Verdict::Kept } else { Verdict::Untouched });
    }
    // The blob before the hold on it, as a delete does. It was idle in the repository for long enough; it
    // need not wait as long again without one.
    blobs::set_idle(&mut tx, &link.digest, before).await?;
    match blobs::collect_link(&mut tx, link).await {
        Ok(0) => return Ok(Verdict::Untouched),
        Ok(_) => {}
        Err(error) if crossed(&error) => return Ok(Verdict::Untouched),
        Err(error) => return Err(error.into()),
    }
    fail::fail_point!("jobs::before_collect_link", |_| std::process::abort());
    tx.commit().await?;
    fail::fail_point!("jobs::link_collected", |_| std::process::abort());
    Ok(Verdict::Collected)
}

async fn collect_blob(context: &Context, blob: &blobs::Stored) -> Result<Verdict, JobError> {
    let mut tx = context.db.begin().await?;
    match blobs::collect_blob(&mut tx, blob).await {
        Ok(0) => return Ok(Verdict::Untouched),
        Ok(_) => {}
        Err(error) if crossed(&error) => {
            drop(tx);
            let mut tx = context.db.begin().await?;
            let kept = blobs::keep_blob(&mut tx, blob).await?;
            fail::fail_point!("jobs::before_keep_blob", |_| std::process::abort());
            tx.commit().await?;
            fail::fail_point!("jobs::blob_kept", |_| std::process::abort());
            return Ok(if kept > 0 { Verdict::Kept } else { Verdict::Untouched });
        }
        Err(error) => return Err(error.into()),
    }
    doomed_objects::insert(&mut tx, &blob.storage_key, None, context.clock.now()).await?;
    fail::fail_point!("jobs::before_collect_blob", |_| std::process::abort());
    tx.commit().await?;
    fail::fail_point!("jobs::blob_collected", |_| std::process::abort());
    Ok(Verdict::Collected)
}

/// A push needs it since the candidate was seen, or wants the same rows.
fn crossed(error: &db::Error) -> bool {
    error.is_crossed()
}
