//! Tags of a repository, a page at a time.

use berth_auth::Pull;

use super::{Page, Permit, Registry, RegistryError};
use crate::db::{repositories, tags};

impl Registry {
    /// At most `limit` tags after `last`, in byte order.
    pub async fn tags(&self, permit: &Permit<Pull>, last: &str, limit: usize) -> Result<Page, RegistryError> {
        let repository = permit.resource();
        let unknown = || RegistryError::RepositoryUnknown(repository.to_string());
        let repository_id = repositories::find(&self.db, repository).await?.ok_or_else(unknown)?;
        let names = tags::page(&self.db, repository_id, last, Page::one_more(limit)).await?;
        Ok(Page::cut(names, limit))
    }
}
