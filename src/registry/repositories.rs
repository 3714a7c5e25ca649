//! The repositories of the registry, a page at a time.

use berth_auth::{Everything, List};

use super::{Registry, RegistryError};
use crate::db::repositories;

/// Names that are looked at in one go, and how often, for one page.
const LOOK: usize = 1_000;
const LOOKS: usize = 10;

/// Some names in byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The names.
    pub names: Vec<String>,
    /// Where the next page begins.
    pub last: String,
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
        let last = names.last().cloned().unwrap_or_default();
        Self { names, last, more }
    }
}

impl Registry {
    /// At most `limit` repositories after `last` in byte order, of those that `shows`.
    ///
    /// Whoever may see few of many gets shorter pages, and a link as long as there may be more.
    pub async fn repositories(
        &self,
        _permit: &berth_auth::Permit<List, Everything>,
        last: &str,
        limit: usize,
        shows: impl Fn(&str) -> bool,
    ) -> Result<Page, RegistryError> {
        let mut page = Page { names: Vec::new(), last: last.to_owned(), more: limit > 0 };
        for _ in 0..LOOKS {
            if !page.more || page.names.len() >= limit {
                break;
            }
            let wanted = limit.clamp(1, LOOK);
            let found =
                Page::cut(repositories::page(&self.db, &page.last, Page::one_more(wanted)).await?, wanted);
            page.more = found.more;
            for name in found.names {
                if page.names.len() == limit {
                    page.more = true;
                    break;
                }
                page.last.clone_from(&name);
                if shows(&name) {
                    page.names.push(name);
                }
            }
        }
        Ok(page)
    }
}
