//! The programs under load: where each is found, and what is said about its settings.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::backing::Group;

/// A server that can be measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum Kind {
    /// This repository's, as cargo built it for the benchmark
    Berth,
    /// Debian's package docker-registry (distribution 2)
    DockerRegistry,
    /// CNCF distribution 3
    Distribution,
    /// zot, if it is on PATH
    Zot,
    /// Angos, if it is on PATH
    Angos,
    /// Trow, if it is on PATH
    Trow,
    /// Another build of Berth, which `BERTH_BEFORE` names: only if asked for
    Before,
    /// Berth with its index in PostgreSQL
    Postgres,
    /// Two of those over one index and one store
    Replicas,
    /// Four of those
    FourReplicas,
    /// nginx, which sends a file: the limit of a pull
    Nginx,
}

impl Kind {
    /// The registries that are measured beside Berth wherever they are installed.
    pub const OPTIONAL: [Self; 3] = [Self::Zot, Self::Angos, Self::Trow];

    /// Those that are measured in a group if nothing else is said.
    pub fn usual(group: Group) -> Vec<Self> {
        match group {
            Group::Filesystem => {
                let always = [Self::Berth, Self::DockerRegistry, Self::Distribution];
                let found = Self::OPTIONAL.into_iter().filter(|kind| kind.program().is_ok());
                always.into_iter().chain(found).collect()
            }
            Group::Storage => vec![Self::Berth, Self::DockerRegistry, Self::Distribution],
            Group::Postgres | Group::PostgresStorage => vec![Self::Berth, Self::Postgres, Self::Replicas],
            Group::Replicas => vec![Self::Postgres, Self::Replicas, Self::FourReplicas],
            Group::Growth => vec![Self::Berth],
        }
    }

    /// Whether it is this repository's program.
    pub fn is_berth(self) -> bool {
        matches!(self, Self::Berth | Self::Before) || self.needs_postgres()
    }

    /// Whether it keeps its index in PostgreSQL.
    pub fn needs_postgres(self) -> bool {
        matches!(self, Self::Postgres | Self::Replicas | Self::FourReplicas)
    }

    /// Whether it is one of the two that share a layout on disk.
    pub fn is_distribution(self) -> bool {
        matches!(self, Self::DockerRegistry | Self::Distribution)
    }

    /// How many processes it is.
    pub fn replicas(self) -> usize {
        match self {
            Self::Replicas => 2,
            Self::FourReplicas => 4,
            _ => 1,
        }
    }

    /// The name of its column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Berth => "Berth",
            Self::DockerRegistry => "docker-registry",
            Self::Distribution => "distribution",
            Self::Zot => "zot",
            Self::Angos => "Angos",
            Self::Trow => "Trow",
            Self::Before => "before",
            Self::Postgres => "PostgreSQL",
            Self::Replicas => "PostgreSQL, 2 replicas",
            Self::FourReplicas => "PostgreSQL, 4 replicas",
            Self::Nginx => "nginx",
        }
    }

    /// How it was set up, in words.
    pub fn settings(self, group: Group) -> &'static str {
        match self {
            Self::Before => "another build of Berth, set up the same",
            Self::Berth if group.has_buckets() => {
                "`berth serve --listen 127.0.0.1:0 --data DIR`, logs at error level, `storage.kind = \"s3\"` \
                 with address, bucket and keys, otherwise its defaults: SQLite, parts of 8 MiB"
            }
            Self::Berth => {
                "`berth serve --listen 127.0.0.1:0 --data DIR`, logs at error level, otherwise its defaults: \
                 SQLite and the filesystem store"
            }
            Self::Postgres if group == Group::Replicas => {
                "`berth serve --listen 127.0.0.1:0 --data DIR` with `database.url`, logs at error level, otherwise \
                 its defaults; kept to a fifth of a core"
            }
            Self::Postgres => {
                "the same with `database.url`: PostgreSQL with its defaults on the same machine, which are as \
                 durable"
            }
            Self::Replicas => {
                "two such processes over one database and one store, half of the clients at each"
            }
            Self::FourReplicas => "four such processes, a quarter of the clients at each",
            Self::DockerRegistry if group.has_buckets() => {
                "s3 driver with address, bucket and keys, `v4auth: true` and `secure: false` (plain HTTP), \
                 `storage.redirect.disable: true`, so that pulls go through it as they do through Berth, \
                 `log.level: error`, access log off, `storage.cache.blobdescriptor: inmemory`, \
                 `storage.delete.enabled: true`, no authentication, otherwise defaults: parts of 10 MiB, \
                 copied in parts of 32 MiB"
            }
            Self::DockerRegistry => {
                "filesystem driver, `log.level: error`, access log off, `storage.cache.blobdescriptor: \
                 inmemory` (as in the packaged configuration), `storage.delete.enabled: true`, no \
                 authentication, otherwise defaults"
            }
            Self::Distribution => {
                "the same as docker-registry, and `OTEL_TRACES_EXPORTER=none`: by default it tells a collector \
                 of every request"
            }
            Self::Zot => "`storage.commit: true`, which syncs files, `log.level: error`, otherwise defaults",
            Self::Angos => {
                "filesystem stores with `sync_to_disk = true`, everybody may do everything, otherwise defaults"
            }
            Self::Trow => "`--data-dir` and `--port`, otherwise defaults; it has no setting that syncs",
            Self::Nginx => "one worker a core, `sendfile on`, one file: no registry, but the limit of a pull",
        }
    }

    /// What it calls its version.
    pub fn version(self) -> Result<String> {
        let program = self.program()?;
        let flag = if self == Self::Nginx { "-v" } else { "--version" };
        let output = Command::new(&program).arg(flag).output()?;
        let said = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&said);
        let mut words = text.split(|c: char| c.is_whitespace() || "\",/:=".contains(c));
        let is_version = |word: &&str| {
            let word = word.trim_start_matches('v');
            word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit())
        };
        let version = words.find(is_version).with_context(|| format!("{}: no version", self.name()))?;
        Ok(version.trim_start_matches('v').trim_end_matches("+unknown").to_owned())
    }

    /// Where its program is.
    pub fn program(self) -> Result<PathBuf> {
        let found = match self {
            Self::Berth | Self::Postgres | Self::Replicas | Self::FourReplicas => {
                Some(std::env::var_os("BERTH").unwrap_or_else(|| env!("CARGO_BIN_EXE_berth").into()).into())
            }
            Self::DockerRegistry => in_path("docker-registry"),
            Self::Before => std::env::var_os("BERTH_BEFORE").map(PathBuf::from),
            Self::Distribution => {
                Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/bin/registry"))
            }
            Self::Zot => in_path("zot"),
            Self::Angos => in_path("angos"),
            Self::Trow => in_path("trow"),
            Self::Nginx => in_path("nginx").or_else(|| Some(PathBuf::from("/usr/sbin/nginx"))),
        };
        found.filter(|program| program.is_file()).with_context(|| {
            format!(
                "{} is not installed: run scripts/install-bench-tools, or leave it out with --servers",
                self.name()
            )
        })
    }
}

/// A program that a shell would find.
pub fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}
