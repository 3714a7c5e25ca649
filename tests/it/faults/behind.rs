//! Behind the server's back: its index and its objects as they are, and the invariants they keep.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, SqliteConnection, postgres::PgConnectOptions,
    sqlite::SqliteConnectOptions,
};

use crate::harness::{Server, process, server::berth};

/// The index of a server, which may be running or not.
pub enum Index {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// Where a storage key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Upload,
    Blob { digest: String, size_bytes: u64 },
    Doomed,
}

impl Index {
    pub async fn of(server: &Server) -> Self {
        let config = fs::read_to_string(server.config()).unwrap_or_default();
        let url = config.lines().find_map(|line| line.strip_prefix("url = \"")?.strip_suffix('"'));
        if let Some(url) = url {
            let options: PgConnectOptions = url.parse().expect("the harness writes a URL");
            Self::Postgres(options.connect().await.expect("connect to PostgreSQL"))
        } else {
            let options = SqliteConnectOptions::new().filename(server.data().join("berth.db"));
            Self::Sqlite(options.connect().await.expect("open the SQLite file"))
        }
    }

    /// The first column of every row.
    pub async fn texts(&mut self, sql: &'static str) -> Vec<String> {
        match self {
            Self::Sqlite(on) => sqlx::query_scalar(sql).fetch_all(on).await,
            Self::Postgres(on) => sqlx::query_scalar(sql).fetch_all(on).await,
        }
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The first column of every row.
    pub async fn bytes(&mut self, sql: &'static str) -> Vec<Vec<u8>> {
        match self {
            Self::Sqlite(on) => sqlx::query_scalar(sql).fetch_all(on).await,
            Self::Postgres(on) => sqlx::query_scalar(sql).fetch_all(on).await,
        }
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub async fn execute(&mut self, sql: &'static str) {
        match self {
            Self::Sqlite(on) => sqlx::query(sql).execute(on).await.map(drop),
            Self::Postgres(on) => sqlx::query(sql).execute(on).await.map(drop),
        }
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub async fn close(self) {
        match self {
            Self::Sqlite(on) => on.close().await,
            Self::Postgres(on) => on.close().await,
        }
        .expect("close the index");
    }

    /// Every storage key the index knows, of one moment. One in two places is a failure.
    pub async fn places(&mut self) -> BTreeMap<String, Place> {
        let sql = "SELECT 'upload ' || storage_key FROM uploads
                   UNION ALL SELECT 'writer ' || writer FROM uploads WHERE writer_until > 0
                   UNION ALL SELECT 'blob ' || storage_key || ' ' || digest || ' ' || size_bytes FROM blobs
                   UNION ALL SELECT 'doomed ' || storage_key FROM doomed_objects";
        let mut places = BTreeMap::new();
        for row in self.texts(sql).await {
            let words: Vec<&str> = row.split(' ').collect();
            let place = match words[0] {
                "upload" | "writer" => Place::Upload,
                "blob" => {
                    Place::Blob { digest: words[2].to_owned(), size_bytes: words[3].parse().expect("a size") }
                }
                _ => Place::Doomed,
            };
            // What a writer has put may be what its session stands on.
            let is_writers = words[0] == "writer";
            if let Some(other) = places.insert(words[1].to_owned(), place)
                && !(is_writers && other == Place::Upload)
            {
                panic!("key {} is in two places: {other:?} and {row}", words[1]);
            }
        }
        places
    }

    /// Two days go by, for everything that waits.
    pub async fn two_days_go_by(&mut self) {
        for sql in [
            "UPDATE uploads SET expires_at = expires_at - 172800000, writer_until = writer_until - 172800000",
            "UPDATE doomed_objects SET not_before = not_before - 172800000",
            "UPDATE blobs SET idle_since = idle_since - 172800000 WHERE idle_since IS NOT NULL",
            "UPDATE repository_blobs SET idle_since = idle_since - 172800000 WHERE idle_since IS NOT NULL",
        ] {
            self.execute(sql).await;
        }
    }
}

/// Checks what holds at any moment, even in the middle of a request, and between two lives of a
/// server: a key is in one place; no object is without a row; no blob is without its object.
pub async fn assert_invariants(server: &Server) {
    assert_invariants_but_for(server, None).await;
}

/// As [`assert_invariants`], but for one blob whose object the test has taken away.
pub async fn assert_invariants_but_for(server: &Server, lost: Option<&str>) {
    let mut index = Index::of(server).await;
    // The store first: a key is written down before its first byte is stored.
    let objects = server.objects().list().await;
    let places = index.places().await;
    for key in objects.keys().filter(|key| !places.contains_key(*key)) {
        assert!(server.objects().size(key).await.is_none(), "object {key} has no row");
    }
    for (key, place) in &places {
        let Place::Blob { digest, size_bytes } = place else { continue };
        let size = server.objects().size(key).await;
        if size != Some(*size_bytes) && lost != Some(digest) {
            let now = index.places().await;
            assert_ne!(
                now.get(key),
                Some(place),
                "blob {digest} has {size_bytes} bytes, its object {size:?}"
            );
        }
    }
    index.close().await;
}

/// Lets a stopped server's time go by, collects, and checks that the blobs of `alive` are there and
/// nothing else is: no session, no doomed row, no file.
pub async fn assert_only_these_are_left(server: &Server, alive: &BTreeSet<String>) {
    let mut index = Index::of(server).await;
    index.two_days_go_by().await;
    index.close().await;
    process::run(command(server, &["gc"])).await;
    let mut index = Index::of(server).await;
    let places = index.places().await;
    index.close().await;
    let mut found = BTreeSet::new();
    for (key, place) in &places {
        let Place::Blob { digest, size_bytes } = place else { panic!("{key} is left over: {place:?}") };
        assert_eq!(server.objects().size(key).await, Some(*size_bytes), "the object of {digest}");
        found.insert(digest.clone());
    }
    assert_eq!(&found, alive, "the blobs that are left, and those that should be");
    let keys: Vec<_> = places.keys().cloned().collect();
    let left: Vec<_> = server.objects().list().await.into_keys().collect();
    assert_eq!(left, keys, "the objects that are left");
    assert_eq!(server.objects().open_multiparts().await, 0, "multipart uploads that are left open");
    assert_clean(server).await;
}

/// Checks a stopped server with `berth fsck`, byte by byte.
pub async fn assert_clean(server: &Server) {
    let said = process::run(command(server, &["fsck", "--verify"])).await.text();
    assert!(said.contains(": 0 problems"), "{said}");
}

/// One of berth's other commands on a server's data.
pub fn command(server: &Server, arguments: &[&str]) -> Command {
    let mut command = berth();
    command.args(arguments).arg("--data").arg(server.data());
    if server.config().is_file() {
        command.arg("--config").arg(server.config());
    }
    command
}
