//! What a page costs: counted in what the databases say they read, never in time.

use std::{fs, path::Path};

use serde_json::Value;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row, SqliteConnection,
    sqlite::SqliteConnectOptions,
};

use crate::{
    harness::{Database, Server, Storage, postgres::Postgres, tools::workbench},
    operation::scenes::eventually,
    protocol::wire::{Berth, next},
};

/// The statements of the listings, as they stand in the source.
const LISTINGS: [&str; 3] = ["tags.rs", "repositories.rs", "referrers.rs"];
/// Repositories, and tags of one of them, in a large registry and in a small one.
const LARGE: (u32, u32) = (100_000, 1_000_000);
const SMALL: (u32, u32) = (10_000, 10_000);

/// Every SELECT of the listings, with a value for each of its parameters.
fn statements() -> Vec<String> {
    let mut found = Vec::new();
    for file in LISTINGS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/db").join(file);
        let text = fs::read_to_string(path).expect("the source is here");
        // No statement has a quotation mark in it.
        let literals = text.split('"').skip(1).step_by(2);
        let selects: Vec<_> = literals.filter(|literal| literal.trim_start().starts_with("SELECT")).collect();
        assert!(!selects.is_empty(), "{file} has no SELECT");
        found.extend(selects.into_iter().map(with_values));
    }
    assert_eq!(found.len(), 11, "a listing came or went: {found:#?}");
    found
}

fn with_values(sql: &str) -> String {
    let sql = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut sql = sql.replace("{list}", "'sha256:0004000', 'sha256:0004002'");
    for (column, value) in [
        ("LIMIT $", "1001"),
        ("repository_id = $", "1"),
        ("subject = $", "'sha256:subject'"),
        ("artifact_type = $", "'type/a'"),
        ("digest > $", "'sha256:0004000'"),
        ("digest <= $", "'sha256:0004500'"),
        ("digest = $", "'sha256:0004000'"),
        ("name > $", "''"),
        ("name = $", "'repository-0005555'"),
    ] {
        while let Some(at) = sql.find(column) {
            let at = at + column.len() - 1;
            sql.replace_range(at..at + 2, value);
        }
    }
    assert!(!sql.contains('$'), "{sql}");
    sql
}

#[tokio::test]
async fn every_listing_is_one_range_of_an_index_on_sqlite() {
    let mut server = Server::builder().on_disk().start().await;
    let mut connection = open(&mut server).await;
    fill(&mut connection, SMALL).await;

    for sql in statements() {
        let explain = format!("EXPLAIN QUERY PLAN {sql}");
        let rows = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut connection).await.expect("a plan");
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();

        // One step, which is a search: no scan, no sort (TEMP B-TREE), no second table.
        assert_eq!(plan.len(), 1, "{sql}: {plan:?}");
        assert!(plan[0].starts_with("SEARCH "), "{sql}: {plan:?}");
        // A page is chosen from an index alone; what is read of one that is chosen may be in the table.
        let by_key = sql.contains(" = 'repository") || sql.contains("digest IN");
        let is_chosen = by_key || sql.contains("digest <= ");
        assert!(
            is_chosen || plan[0].contains("COVERING INDEX") || plan[0].contains("PRIMARY KEY"),
            "{sql}: {plan:?}"
        );
        if let Some((_, column)) = sql.split_once("ORDER BY ") {
            let column = column.split(' ').next().expect("a column");
            let range = if by_key { format!("{column}=?") } else { format!("{column}>?") };
            assert!(plan[0].contains(&range), "{sql}: {plan:?}");
        }
    }
}

#[tokio::test]
async fn every_listing_reads_no_more_of_a_large_postgres_than_of_a_small_one() {
    let _bench = workbench!("postgres");
    let mut costs = Vec::new();
    for size in [SMALL, LARGE] {
        let (server, url) = postgres_server().await;
        let mut connection = PgConnection::connect(&url).await.expect("the database listens");
        fill_postgres(&mut connection, size).await;
        let mut pages = Vec::new();
        for sql in statements() {
            let explain = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING off, FORMAT json) {sql}");
            let rows =
                sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut connection).await.expect("a plan");
            let plan: sqlx::types::JsonValue = rows[0].get(0);
            let plan = &plan[0]["Plan"];
            assert_is_a_range(plan, &sql);
            pages.push(
                plan["Shared Hit Blocks"].as_u64().expect("a number")
                    + plan["Shared Read Blocks"].as_u64().expect("a number"),
            );
        }
        costs.push(pages);
        drop(server);
    }
    for (sql, (small, large)) in statements().iter().zip(costs[0].iter().zip(&costs[1])) {
        // An index of a hundred times as many rows is a level or two deeper.
        assert!(large <= &(small + 8), "{large} blocks instead of {small}: {sql}");
    }
}

/// Asserts that a plan, and all below it, reads a range of an index and throws nothing away.
fn assert_is_a_range(plan: &Value, sql: &str) {
    let kind = plan["Node Type"].as_str().expect("a node has a type");
    // A range that ends on both sides may be read in the order of the table, and put in its own then.
    let ends = sql.contains("digest <= ");
    let is_range = match kind {
        "Limit" | "Index Scan" | "Index Only Scan" => true,
        "Sort" | "Bitmap Heap Scan" | "Bitmap Index Scan" => ends,
        _ => false,
    };
    assert!(is_range, "{kind} for {sql}:\n{plan:#}");
    assert!(plan["Rows Removed by Filter"].as_u64().unwrap_or(0) == 0, "{sql}:\n{plan:#}");
    for inner in plan["Plans"].as_array().into_iter().flatten() {
        assert_is_a_range(inner, sql);
    }
}

#[tokio::test]
async fn listings_do_without_the_store() {
    let _bench = workbench!("postgres");
    for database in [Database::Sqlite, Database::Postgres] {
        // A scrub that begins while the objects are away would find them lost.
        let server = Server::builder().config("[scrub]\nenabled = false").database(database);
        let berth = Berth::of(server.storage(Storage::Filesystem).start().await);
        let image = berth.push_image("team/app", "v1", 1).await;
        let objects = berth.server.data().join("objects");
        fs::rename(&objects, objects.with_extension("away")).expect("the objects can be put away");

        for path in [
            "/v2/_catalog".to_owned(),
            "/v2/team/app/tags/list".to_owned(),
            format!("/v2/team/app/referrers/{}", image.digest),
            "/v2/team/app/manifests/v1".to_owned(),
        ] {
            for method in ["GET", "HEAD"] {
                berth.ask(method, &path).await.is(200);
            }
        }

        fs::rename(objects.with_extension("away"), &objects).expect("the objects can be put back");
        assert_eq!(berth.repository("team/app").pull("v1").await.contents.len(), 3);
    }
}

#[tokio::test]
async fn a_page_out_of_a_million_tags_is_a_page() {
    let mut server = Server::builder().on_disk().start().await;
    fill(&mut open(&mut server).await, LARGE).await;
    server.restart().await;
    let berth = Berth::of(server);
    for (path, key, last, first_after) in [
        ("/v2/repository-0000001/tags/list", "tags", "tag-0500000", "tag-0500001"),
        ("/v2/_catalog", "repositories", "repository-0050000", "repository-0050001"),
    ] {
        let answer = berth.ask("GET", &format!("{path}?n=1000&last={last}")).await;

        let page = answer.is(200).json();
        let names = page[key].as_array().expect("a list");
        assert_eq!((names.len(), &names[0]), (1000, &Value::from(first_after)));
        let link = next(&answer).expect("there are more");
        assert!(link.contains(&format!("last={}", names[999].as_str().expect("a text"))), "{link}");
    }
}

/// Ends the server, whose file the index is, and opens it without foreign keys: rows are made up
/// here by the million.
async fn open(server: &mut Server) -> SqliteConnection {
    server.kill();
    let file = server.data().join("berth.db");
    let options = SqliteConnectOptions::new().filename(file).foreign_keys(false);
    options.connect().await.expect("the index opens")
}

async fn postgres_server() -> (Server, String) {
    let url = Postgres::of_the_run().await.fresh_database().await;
    let server = Server::builder().index(&url).start().await;
    (server, url)
}

/// Statements that fill the tables of the listings from `numbers`, which counts to a million.
const FILL: [&str; 4] = [
    "INSERT INTO repositories (id, name, created_at)
     SELECT i, 'repository-' || substr(CAST(10000000 + i AS TEXT), 2), 0 FROM numbers WHERE i <= {repositories}",
    "INSERT INTO tags (repository_id, name, digest, tagged_at)
     SELECT 1, 'tag-' || substr(CAST(10000000 + i AS TEXT), 2), 'sha256:' || (i % 100), 0
     FROM numbers WHERE i <= {tags}",
    // Half of them of one subject, the others of one each.
    "INSERT INTO referrers (repository_id, subject, digest, artifact_type, descriptor_bytes, descriptor)
     SELECT 1, CASE i % 2 WHEN 0 THEN 'sha256:subject' ELSE 'sha256:subject-' || i END,
            'sha256:' || substr(CAST(10000000 + i AS TEXT), 2), 'type/a', 2, '{}'
     FROM numbers WHERE i <= {repositories}",
    // What the triggers do, where they are on.
    "INSERT INTO referrer_lists (repository_id, subject, version)
     SELECT DISTINCT 1, subject, 0 FROM referrers WHERE TRUE ON CONFLICT DO NOTHING",
];

fn filling((repositories, tags): (u32, u32), numbers: &str) -> Vec<String> {
    let statement = |sql: &&str| {
        let sql = sql.replace("{repositories}", &repositories.to_string());
        format!("WITH {numbers} {}", sql.replace("{tags}", &tags.to_string()))
    };
    FILL.iter().map(statement).collect()
}

async fn fill(connection: &mut SqliteConnection, size: (u32, u32)) {
    let numbers = "RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 1000000)";
    for sql in filling(size, numbers) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await.expect("the tables take rows");
    }
}

async fn fill_postgres(connection: &mut PgConnection, size: (u32, u32)) {
    let mut all = vec!["SET session_replication_role = replica".to_owned()];
    all.extend(filling(size, "numbers (i) AS (SELECT generate_series(1, 1000000))"));
    for sql in all {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await.expect("the tables take rows");
    }
    // An index answers alone where every page is known to be visible to all. As long as another
    // transaction is open, autovacuum's among them, a VACUUM cannot say that of all pages.
    eventually("all that was filled in is visible", async || {
        sqlx::raw_sql("VACUUM ANALYZE").execute(&mut *connection).await.expect("the tables are vacuumed");
        let hidden = "SELECT COUNT(*) FROM pg_class WHERE relname IN ('repositories', 'tags', 'referrers', 'referrer_lists')
                      AND relallvisible < relpages";
        let hidden: i64 = sqlx::query_scalar(hidden).fetch_one(&mut *connection).await.expect("a count");
        (hidden == 0).then_some(())
    })
    .await;
}
