//! The repositories of the registry, a page at a time.

use berth_auth::{Everything, List};

use super::{Registry, RegistryError};
use crate::db::repositories;

/// Some names in byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The names.
    pub names: Vec<String>,
    /// Whether there are more behind the last of them.
    pub more: bool,
}

impl Page {
    /// What to ask the index for, to know whether there is another page.
    pub(super) fn one_more(limit: usize) -> i64 {
        i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1)
    }

    pub(super) fn cut(mut names: Vec<String>, limit: usize) -> Self {
        let more = names.len() > limit;
        names.truncate(limit);
        Self { names, more }
    }
}

impl Registry {
    /// At most `limit` repositories after `last`, in byte order.
    pub async fn repositories(
        &self,
        _permit: &berth_auth::Permit<List, Everything>,
        last: &str,
        limit: usize,
    ) -> Result<Page, RegistryError> {
        let names = repositories::page(&self.db, last, Page::one_more(limit)).await?;
        Ok(Page::cut(names, limit))
    }
}
