//! The loads: what each is called, what it counts, and by whom it is played.
//!
//! A load is prepared at a fresh server as a [`Play`], which is then run in rounds.

mod ask;
mod fill;
mod half_open;
mod large;
mod lists;
mod mount;
mod push;
mod starts;
mod tokens;

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use clap::ValueEnum;

use crate::Plan;
use crate::backing::Group;
use crate::flows::Pusher;
use crate::images::Factory;
use crate::measure::Tally;
use crate::servers::{Kind, Server};

/// A load.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum Load {
    /// Small images, pushed as docker does by one client
    PushSmall1,
    /// Small images, pushed as docker does by 8 clients
    PushSmall8,
    /// Small images, pushed as docker does by 64 clients
    PushSmall64,
    /// Small images, pushed as containerd does by 8 clients
    PushContainerd,
    /// One large layer in one PATCH, as docker does
    PushLarge,
    /// One large layer in one PUT, as containerd does
    PushLargePut,
    /// One huge layer, pushed as docker does, once
    PushHuge,
    /// Eight layers at once, each an eighth of a large one, in a PATCH each
    PushEight,
    /// Eight layers at once, each an eighth of a large one, in a PUT each
    PushEightPut,
    /// One large layer, pulled by one client
    PullLarge1,
    /// One large layer, pulled by 4 clients at once
    PullLarge4,
    /// One large layer, pulled by 16 clients at once
    PullLarge16,
    /// Manifests by tag
    ManifestGetTag,
    /// Manifests by tag, HEAD
    ManifestHeadTag,
    /// Manifests by digest
    ManifestGetDigest,
    /// Manifests by digest, HEAD
    ManifestHeadDigest,
    /// Manifests by tag, with a bearer token
    ManifestGetToken,
    /// Manifests by tag, HEAD, with a bearer token
    ManifestHeadToken,
    /// Manifests by tag, with a user and a password
    ManifestGetPassword,
    /// Access tokens for tokens of service accounts
    TokenServiceAccount,
    /// Access tokens for a user and a password
    TokenPassword,
    /// Blobs that are there, HEAD
    BlobHead,
    /// Blobs that are not there, HEAD
    BlobHeadMiss,
    /// Mounts of blobs into repositories that do not have them
    Mount,
    /// Mounts of blobs into a repository that has them already
    MountAgain,
    /// Small images: manifest by tag, config, three layers
    PullImages,
    /// One small image, pulled by 1,000 clients
    Nodes,
    /// Small images, each pushed, looked for, pulled and listed, by 8 clients
    Lives,
    /// A page of 100 tags from the middle of 10,000
    TagPages,
    /// A page of 100 tags from the middle of 1,000,000
    TagPagesMillion,
    /// A page of 100 repositories from the middle of 100,000
    Catalog,
    /// The first page of 10,000 referrers
    Referrers,
    /// All pages of all referrers
    ReferrersAll,
    /// Manifests by tag, beside 1,000 uploads that stay silent
    HalfOpen,
    /// A start with nothing
    Start,
    /// A start with 1,000,000 manifests
    StartMillion,
}

/// What a load counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Images,
    Mebibytes,
    Requests,
    Starts,
}

use Load::{
    BlobHead, BlobHeadMiss, Catalog, HalfOpen, Lives, ManifestGetDigest, ManifestGetPassword, ManifestGetTag,
    ManifestGetToken, ManifestHeadDigest, ManifestHeadTag, ManifestHeadToken, Mount, MountAgain, Nodes,
    PullImages, PullLarge1, PullLarge4, PullLarge16, PushContainerd, PushEight, PushEightPut, PushHuge,
    PushLarge, PushLargePut, PushSmall1, PushSmall8, PushSmall64, Referrers, ReferrersAll, Start,
    StartMillion, TagPages, TagPagesMillion, TokenPassword, TokenServiceAccount,
};

impl Load {
    /// What is run in a group if nothing else is said.
    pub fn usual(group: Group) -> Vec<Self> {
        match group {
            Group::Filesystem => {
                let not = [PushHuge, ReferrersAll, Lives];
                Self::value_variants().iter().copied().filter(|load| !not.contains(load)).collect()
            }
            Group::Storage => vec![PushLarge, PushHuge, PushEight, PullLarge1],
            Group::Postgres => {
                vec![PushSmall1, PushSmall8, PushSmall64, ManifestGetTag, ManifestHeadTag, Mount, PullImages]
            }
            Group::Replicas => vec![PushSmall8, ManifestGetTag, ManifestHeadTag, Mount, PullImages],
            Group::PostgresStorage => vec![PushSmall8, PushLarge, ManifestGetTag, PullImages, PullLarge1],
            Group::Growth => {
                vec![
                    ManifestGetTag,
                    PushSmall1,
                    TagPages,
                    Catalog,
                    ReferrersAll,
                    PushLarge,
                    PushLargePut,
                    PullLarge1,
                    StartMillion,
                ]
            }
        }
    }

    /// What it is called in the table.
    pub fn title(self) -> &'static str {
        match self {
            PushSmall1 => "push of small images, 1 client",
            PushSmall8 => "push of small images, 8 clients",
            PushSmall64 => "push of small images, 64 clients",
            PushContainerd => "push of small images, 8 clients, as containerd",
            PushLarge => "push of a large layer, PATCH",
            PushLargePut => "push of a large layer, PUT",
            PushHuge => "push of a huge layer",
            PushEight => "push of 8 layers at once, PATCH",
            PushEightPut => "push of 8 layers at once, PUT",
            PullLarge1 => "pull of a large layer, 1 client",
            PullLarge4 => "pull of a large layer, 4 clients",
            PullLarge16 => "pull of a large layer, 16 clients",
            ManifestGetTag => "manifest GET by tag",
            ManifestHeadTag => "manifest HEAD by tag",
            ManifestGetDigest => "manifest GET by digest",
            ManifestHeadDigest => "manifest HEAD by digest",
            ManifestGetToken => "manifest GET by tag, bearer token",
            ManifestHeadToken => "manifest HEAD by tag, bearer token",
            ManifestGetPassword => "manifest GET by tag, password",
            TokenServiceAccount => "token for a service account",
            TokenPassword => "token for a password",
            BlobHead => "blob HEAD, there",
            BlobHeadMiss => "blob HEAD, not there",
            Mount => "mount of a blob, new",
            MountAgain => "mount of a blob, there already",
            PullImages => "pull of small images",
            Nodes => "pull of a small image, 1,000 nodes",
            Lives => "lives of small images, 8 clients",
            TagPages => "page of tags",
            TagPagesMillion => "page of tags, a hundred times as many",
            Catalog => "page of repositories, 4 clients",
            Referrers => "page of referrers",
            ReferrersAll => "all pages of referrers",
            HalfOpen => "manifest GET by tag, 1,000 silent uploads",
            Start => "start",
            StartMillion => "start with many manifests",
        }
    }

    /// What it counts.
    pub fn unit(self) -> Unit {
        match self {
            PushSmall1 | PushSmall8 | PushSmall64 | PushContainerd | PullImages | Nodes | Lives => {
                Unit::Images
            }
            PushLarge | PushLargePut | PushHuge | PushEight | PushEightPut | PullLarge1 | PullLarge4
            | PullLarge16 => Unit::Mebibytes,
            Start | StartMillion => Unit::Starts,
            _ => Unit::Requests,
        }
    }

    /// How many rounds it is given.
    pub fn rounds(self, plan: &Plan) -> u32 {
        // What takes minutes, at some servers, is not worth more.
        if self == PushHuge { 1 } else { plan.rounds }
    }

    /// Whether a server is set up for it, and can be prepared in a time that is worth it.
    pub fn is_played_by(self, kind: Kind) -> bool {
        let by_files_or_rows = kind.is_distribution() || kind.is_berth();
        match kind {
            Kind::Nginx => return matches!(self, PullLarge1 | PullLarge4 | PullLarge16),
            Kind::Postgres | Kind::Replicas | Kind::FourReplicas => {
                // Two replicas are asked what grows with replicas.
                let sqlite_only =
                    [TagPages, TagPagesMillion, Catalog, Referrers, ReferrersAll, Start, StartMillion];
                return !sqlite_only.contains(&self);
            }
            _ => {}
        }
        match self {
            ManifestGetToken | ManifestHeadToken | ManifestGetPassword | TokenServiceAccount
            | TokenPassword | TagPagesMillion | StartMillion | Lives => kind.is_berth(),
            Catalog => by_files_or_rows,
            Referrers | ReferrersAll => !kind.is_distribution(),
            _ => true,
        }
    }

    /// Whether the server knows who asks.
    pub fn has_identities(self) -> bool {
        matches!(
            self,
            ManifestGetToken | ManifestHeadToken | ManifestGetPassword | TokenServiceAccount | TokenPassword
        )
    }

    /// The load that is the same but for one thing.
    pub fn compared_with(self) -> Option<Self> {
        match self {
            ManifestGetToken | ManifestGetPassword | HalfOpen => Some(ManifestGetTag),
            ManifestHeadToken => Some(ManifestHeadTag),
            Nodes => Some(PullImages),
            TagPagesMillion => Some(TagPages),
            StartMillion => Some(Start),
            _ => None,
        }
    }

    /// Whether it writes files.
    pub fn writes(self) -> bool {
        matches!(
            self,
            PushSmall1
                | PushSmall8
                | PushSmall64
                | PushContainerd
                | PushLarge
                | PushLargePut
                | PushHuge
                | PushEight
                | PushEightPut
                | Mount
        )
    }

    /// Whether bytes come out.
    pub fn is_pull(self) -> bool {
        matches!(self, PullLarge1 | PullLarge4 | PullLarge16)
    }

    /// How its bytes go in, where they do.
    pub fn pusher(self) -> Pusher {
        match self {
            PushContainerd | PushLargePut | PushEightPut => Pusher::Containerd,
            _ => Pusher::Docker,
        }
    }

    /// How many clients it has.
    pub fn clients(self, plan: &Plan) -> usize {
        match self {
            PushSmall1 | PushLarge | PushLargePut | PushHuge | PullLarge1 | Start | StartMillion => 1,
            PullLarge4 => 4,
            PushSmall8 | PushContainerd | Lives | PushEight | PushEightPut => 8,
            PullLarge16 => 16,
            PushSmall64 => 64,
            Nodes => plan.nodes,
            // Some walk a tree of folders for each page.
            Catalog => plan.concurrency.min(4),
            _ => plan.concurrency,
        }
    }
}

/// What a load does at a server that was prepared for it.
#[async_trait]
pub trait Play: Send {
    /// Makes what a run of `share` of a round sends: hashing has no place in the run itself.
    async fn stock(&mut self, _stage: &mut Stage, _share: f64) -> Result<()> {
        Ok(())
    }

    /// Runs the load for about so long.
    async fn run(&mut self, stage: &mut Stage, lasting: Duration) -> Result<Tally>;

    /// Reads back what the last run left, where the run itself could not check it.
    async fn check(&mut self, _stage: &mut Stage) -> Result<()> {
        Ok(())
    }

    /// What a reader has to know about this server's figures, if anything.
    fn remark(&self) -> Option<String> {
        None
    }
}

/// Where a load is played.
pub struct Stage {
    pub server: Server,
    pub clients: usize,
    /// How long a round lasts.
    pub lasting: Duration,
    pub factory: Factory,
}

/// A load at a server that is prepared for it.
pub struct Scene {
    pub load: Load,
    pub stage: Stage,
    content: Box<dyn Play>,
}

impl Scene {
    /// Fills the server and makes ready what the clients will ask.
    pub async fn prepare(load: Load, server: Server, plan: &Plan) -> Result<Self> {
        let clients = load.clients(plan);
        let mut stage = Stage { server, clients, lasting: plan.lasting, factory: Factory::default() };
        let content: Box<dyn Play> = match load {
            PushSmall1 | PushSmall8 | PushSmall64 | PushContainerd | Lives => {
                Box::new(push::Images::prepare(load, &mut stage, plan).await?)
            }
            PushLarge | PushLargePut => Box::new(large::Push::new(load.pusher(), 1, plan.large_bytes)),
            PushHuge => Box::new(large::Push::new(load.pusher(), 1, plan.huge_bytes)),
            PushEight | PushEightPut => Box::new(large::Push::new(load.pusher(), 8, plan.large_bytes / 8)),
            PullLarge1 | PullLarge4 | PullLarge16 => {
                Box::new(large::Pull::prepare(&mut stage, plan.large_bytes).await?)
            }
            ManifestGetTag | ManifestHeadTag | ManifestGetDigest | ManifestHeadDigest | ManifestGetToken
            | ManifestHeadToken | ManifestGetPassword => {
                Box::new(ask::manifests(load, &mut stage, plan).await?)
            }
            BlobHead | BlobHeadMiss => {
                Box::new(ask::blobs(load == BlobHead, &mut stage, plan.prepared).await?)
            }
            TokenServiceAccount | TokenPassword => {
                Box::new(tokens::prepare(load == TokenServiceAccount, &stage)?)
            }
            Mount | MountAgain => Box::new(mount::Mounts::prepare(load == Mount, &mut stage, plan).await?),
            PullImages => Box::new(push::Pulls::prepare(&mut stage, plan.prepared).await?),
            Nodes => Box::new(push::Pulls::prepare(&mut stage, 1).await?),
            TagPages => Box::new(lists::tags(&mut stage, plan.tags).await?),
            TagPagesMillion => Box::new(lists::tags(&mut stage, plan.many_tags).await?),
            Catalog => Box::new(lists::catalog(&mut stage, plan.repositories).await?),
            Referrers | ReferrersAll => {
                Box::new(lists::Referrers::prepare(&mut stage, plan.referrers, load == ReferrersAll).await?)
            }
            HalfOpen => Box::new(half_open::HalfOpen::prepare(&mut stage, plan).await?),
            Start => Box::new(starts::Starts),
            StartMillion => Box::new(starts::Starts::filled(&mut stage, plan.manifests).await?),
        };
        Ok(Self { load, stage, content })
    }

    /// See [`Play::stock`].
    pub async fn stock(&mut self, share: f64) -> Result<()> {
        self.content.stock(&mut self.stage, share).await
    }

    /// Runs the load for `share` of a round.
    pub async fn run(&mut self, share: f64) -> Result<Tally> {
        let lasting = self.stage.lasting.mul_f64(share);
        self.content.run(&mut self.stage, lasting).await
    }

    /// See [`Play::check`].
    pub async fn check(&mut self) -> Result<()> {
        self.content.check(&mut self.stage).await
    }

    /// See [`Play::remark`].
    pub fn remark(&self) -> Option<String> {
        self.content.remark()
    }
}
