//! The harness, tested: a test is worth what it stands on.

use std::fs;

use super::{
    Database, Server, content,
    postgres::Postgres,
    process::{self, Process},
    run,
    tools::workbench,
};

#[tokio::test]
async fn a_server_that_is_killed_comes_back_with_its_data() {
    let mut server = Server::start().await;
    let bytes = content::bytes(1, 100_000);
    let digest = server.repository("team/app").push_blob(&bytes).await;

    server.restart().await;

    assert_eq!(server.repository("team/app").blob(&digest).await, bytes);
    assert!(server.rss_bytes() > 0 && server.rss_bytes() <= server.peak_rss_bytes());
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_ends_well() {
    let mut server = Server::start().await;
    server.until_said(server.host()).await;

    assert!(server.terminate().await.success(), "{}", server.said());
}

#[tokio::test]
async fn a_server_that_gets_a_signal_is_seen_to_end() {
    let mut server = Server::start().await;

    server.signal("KILL");

    assert!(!server.end().await.success());
}

#[tokio::test]
async fn a_server_is_started_with_its_arguments_and_its_environment() {
    let mut server =
        Server::builder().config("# nothing").arg("--allow-anonymous").env("HARBOUR", "one").start().await;
    let started_with = |server: &Server, file: &str, entry: &str| {
        let list =
            fs::read_to_string(format!("/proc/{}/{file}", server.pid())).expect("the server is running");
        list.split('\0').any(|line| line == entry)
    };
    assert!(started_with(&server, "cmdline", server.config().to_str().expect("a plain path")));
    assert!(started_with(&server, "cmdline", server.data().to_str().expect("a plain path")));
    assert!(started_with(&server, "cmdline", "--allow-anonymous"));
    assert!(started_with(&server, "environ", "HARBOUR=one"));

    server.restart_with(&[("HARBOUR", "two")]).await;

    assert!(started_with(&server, "cmdline", "--allow-anonymous"));
    assert!(started_with(&server, "environ", "HARBOUR=two"));
}

#[tokio::test]
async fn every_database_of_the_run_is_empty_and_sorts_as_a_language_does() {
    let _bench = workbench!("postgres");
    let cluster = Postgres::of_the_run().await;
    let [first, second] = [cluster.fresh_database().await, cluster.fresh_database().await];
    assert_ne!(first, second);

    cluster.query(&first, "CREATE TABLE names (name TEXT)").await;
    cluster.query(&first, "INSERT INTO names VALUES ('a'), ('B'), ('c')").await;

    let ordered = "SELECT string_agg(name, '' ORDER BY name) FROM names";
    assert_eq!(cluster.query(&first, ordered).await, "aBc");
    let bytewise = "SELECT string_agg(name, '' ORDER BY name COLLATE \"C\") FROM names";
    assert_eq!(cluster.query(&first, bytewise).await, "Bac");
    assert_eq!(
        cluster.query(&second, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await,
        "0"
    );
}

#[tokio::test]
async fn a_program_that_fails_is_heard() {
    let mut command = run::command("sh");
    command.args(["-c", "echo to stdout; echo to stderr >&2; exit 3"]);
    let said = process::run_and_fail(command).await;
    assert!(said.contains("to stdout") && said.contains("to stderr"), "{said}");
}

#[tokio::test]
async fn a_program_that_is_told_to_end_ends() {
    let mut command = run::command("sleep");
    command.arg("600");
    let mut process = Process::start(command);
    assert!(!process.terminate().await.success());
}

#[test]
fn content_is_the_same_for_the_same_seed() {
    assert_eq!(content::bytes(1, 1_001)[..1_000], content::bytes(1, 1_000));
    assert_ne!(content::bytes(1, 1_000), content::bytes(2, 1_000));
    let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(content::sha256(b""), empty);
}

#[tokio::test]
async fn a_server_keeps_its_index_in_either_database() {
    let _bench = workbench!("postgres");
    for database in [Database::Sqlite, Database::Postgres] {
        let server = Server::builder().database(database).start().await;
        let digest = server.repository("team/app").push_blob(b"hello").await;
        assert_eq!(server.repository("team/app").blob(&digest).await, b"hello");
    }
}
