//! Content by the hundred thousand, which no client pushes in a time that is worth it: written straight into
//! the SQLite index of a Berth that does not run, or into the folders of a distribution.
//!
//! What is made up here is whole as far as the load reads it, and no further.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqliteConnection};

use super::{Stage, push};
use crate::images::{Blob, Image};
use crate::servers::{Kind, Server};

/// Counts from 1 as far as it is asked to.
const NUMBERS: &str =
    "WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {count})";
/// Rows of one INSERT, and INSERTs of one transaction.
const ROWS: usize = 250;
const BATCHES: usize = 200;
/// Repositories that many images are spread over.
const REPOSITORIES: usize = 100;
/// Of many images, those that are asked for.
const ASKED: usize = 1024;

/// The repository that has the tags, and the subject that has the referrers.
pub const REPOSITORY: &str = "bench/repository-0000001";
pub const SUBJECT: &str = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

/// The name of a tag.
pub fn tag(number: usize) -> String {
    format!("tag-{number:07}")
}

/// The name of a repository.
pub fn repository(number: usize) -> String {
    format!("bench/repository-{number:07}")
}

/// Fills in tags of one repository.
pub async fn tags(stage: &mut Stage, count: usize) -> Result<()> {
    let server = &mut stage.server;
    if server.kind.is_distribution() {
        let tags = folder(server, REPOSITORY).join("_manifests/tags");
        for number in 1..=count {
            let current = tags.join(tag(number)).join("current");
            fs::create_dir_all(&current)?;
            fs::write(current.join("link"), SUBJECT)?;
        }
        return Ok(());
    }
    statements(
        server,
        &[
            &one_repository(),
            &format!(
                "{} INSERT INTO tags (repository_id, name, digest, tagged_at)
                 SELECT 1, printf('tag-%07d', i), printf('sha256:%064x', i % 100), 0 FROM numbers",
                numbers(count)
            ),
        ],
    )
    .await
}

/// Fills in repositories.
pub async fn repositories(stage: &mut Stage, count: usize) -> Result<()> {
    let server = &mut stage.server;
    if server.kind.is_distribution() {
        for number in 1..=count {
            // It is this folder that makes a repository one, of 2 and of 3.
            let inner = if server.kind == Kind::DockerRegistry { "_layers" } else { "_manifests" };
            fs::create_dir_all(folder(server, &repository(number)).join(inner))?;
        }
        return Ok(());
    }
    let sql = format!(
        "{} INSERT INTO repositories (id, name, created_at)
         SELECT i, printf('bench/repository-%07d', i), 0 FROM numbers",
        numbers(count)
    );
    statements(server, &[&sql]).await
}

/// Fills in referrers of one subject, of the size that signatures have.
pub async fn referrers(stage: &mut Stage, count: usize) -> Result<()> {
    let sql = format!(
        "{numbers}, descriptors (i, digest, descriptor) AS (
             SELECT i, printf('sha256:%064x', i),
                    '{{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"size\":712,\"digest\":\"'
                    || printf('sha256:%064x', i)
                    || '\",\"artifactType\":\"application/vnd.dev.cosign.artifact.sig.v1+json\"}}'
             FROM numbers)
         INSERT INTO referrers
             (repository_id, subject, digest, artifact_type, descriptor_bytes, descriptor)
         SELECT 1, '{SUBJECT}', digest, 'application/vnd.dev.cosign.artifact.sig.v1+json',
                LENGTH(descriptor), descriptor
         FROM descriptors",
        numbers = numbers(count)
    );
    statements(&mut stage.server, &[&one_repository(), &sql]).await
}

/// Fills in images that differ in their manifests, which are whole; returns some of them.
pub async fn images(stage: &mut Stage, count: usize) -> Result<Vec<Image>> {
    let base = stage.factory.image();
    push::push_prepared(&stage.server, std::slice::from_ref(&base), None).await?;
    let server = &mut stage.server;
    let mut connection = open(server).await?;
    let config = &base.blobs[base.blobs.len() - 1].digest;
    let sql = format!(
        "{} INSERT INTO repositories (id, name, created_at)
         SELECT 1000 + i, printf('many/app-%04d', i), 0 FROM numbers",
        numbers(REPOSITORIES)
    );
    execute(&mut connection, &sql).await?;
    let sql = "INSERT INTO repository_blobs (repository_id, digest, linked_at)
         SELECT r.id, rb.digest, 0 FROM repositories r CROSS JOIN repository_blobs rb WHERE r.id > 1000";
    execute(&mut connection, sql).await?;

    let manifest = std::str::from_utf8(&base.manifest.bytes)?;
    let manifest = manifest.strip_suffix('}').context("a manifest is an object")?;
    let mut asked = Vec::new();
    for batch in (0..count).step_by(ROWS) {
        if (batch / ROWS).is_multiple_of(BATCHES) {
            let first = if batch == 0 { "BEGIN" } else { "COMMIT; BEGIN" };
            execute(&mut connection, first).await?;
        }
        let (mut manifests, mut tags, mut blobs) = (String::new(), String::new(), String::new());
        for number in batch..(batch + ROWS).min(count) {
            let bytes = format!("{manifest},\"annotations\":{{\"number\":\"{number}\"}}}}");
            let blob = Blob::new(Bytes::from(bytes));
            // The numbers of one repository are not in a row.
            let (id, place, digest) = (number + 1000, number % REPOSITORIES + 1, &blob.digest);
            let repository_id = place + 1000;
            let comma = if number == batch { "" } else { "," };
            let (size_bytes, content) = (blob.bytes.len(), hex::encode(&blob.bytes));
            let media_type = crate::images::MANIFEST_TYPE;
            write!(
                manifests,
                "{comma}({id},{repository_id},'{digest}','{media_type}',{size_bytes},0,X'{content}')"
            )?;
            write!(tags, "{comma}({repository_id},'{}','{digest}',0)", tag(number))?;
            write!(blobs, "{comma}({id},{repository_id},'{config}')")?;
            if number.is_multiple_of(count.div_ceil(ASKED)) {
                let repository = format!("many/app-{place:04}");
                asked.push(Image { repository, tag: tag(number), blobs: base.blobs.clone(), manifest: blob });
            }
        }
        let sql = format!(
            "INSERT INTO manifests (id, repository_id, digest, media_type, size_bytes, pushed_at, content)
             VALUES {manifests};
             INSERT INTO tags (repository_id, name, digest, tagged_at) VALUES {tags};
             INSERT INTO manifest_blobs (manifest_id, repository_id, digest) VALUES {blobs}"
        );
        execute(&mut connection, &sql).await?;
    }
    execute(&mut connection, "COMMIT").await?;
    close(connection, server).await?;
    Ok(asked)
}

fn numbers(count: usize) -> String {
    NUMBERS.replace("{count}", &count.to_string())
}

fn one_repository() -> String {
    format!("INSERT INTO repositories (id, name, created_at) VALUES (1, '{REPOSITORY}', 0)")
}

fn folder(server: &Server, repository: &str) -> std::path::PathBuf {
    server.data().join("docker/registry/v2/repositories").join(repository)
}

async fn statements(server: &mut Server, statements: &[&str]) -> Result<()> {
    let mut connection = open(server).await?;
    for sql in statements {
        execute(&mut connection, sql).await?;
    }
    close(connection, server).await
}

/// Ends the server, whose file the index is, and opens it without foreign keys.
async fn open(server: &mut Server) -> Result<SqliteConnection> {
    ensure!(server.kind.is_berth() && !server.kind.needs_postgres(), "only SQLite is filled");
    server.stop();
    let options = SqliteConnectOptions::new()
        .filename(server.data().join("berth.db"))
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Off)
        .pragma("cache_size", "-400000")
        .foreign_keys(false);
    Ok(options.connect().await?)
}

async fn execute(connection: &mut SqliteConnection, sql: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await?;
    Ok(())
}

/// Starts the server over what was filled in.
async fn close(mut connection: SqliteConnection, server: &mut Server) -> Result<()> {
    execute(&mut connection, "ANALYZE").await?;
    execute(&mut connection, "PRAGMA wal_checkpoint(TRUNCATE)").await?;
    connection.close().await?;
    server.settle()?;
    server.launch().await
}
