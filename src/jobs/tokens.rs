//! Forgets refresh tokens and revocations whose time is over.

use super::{Context, JobError};
use crate::db::{refresh_tokens, revocations};

pub(super) async fn expire(context: &Context) -> Result<(), JobError> {
    let now = context.clock.now();
    let mut tx = context.db.begin().await?;
    refresh_tokens::expire(&mut tx, now).await?;
    revocations::expire(&mut tx, now).await?;
    Ok(tx.commit().await?)
}
