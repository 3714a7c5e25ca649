//! The official conformance program of the distribution specification, with everything it can
//! test switched on: nothing may fail, nothing may be skipped.

use std::{collections::BTreeMap, fs};

use crate::harness::{
    Database, Server,
    process::{PATIENCE, Process},
    tools::{Workbench, workbench},
};

/// What a whole run counts, in the version that scripts/install-test-tools takes. Fewer would mean
/// that a part of it was left out unnoticed.
const WHOLE_RUN: u32 = 1_032;

const APIS: [&str; 16] = [
    "PING",
    "PULL",
    "PUSH",
    "BLOBS_ATOMIC",
    "BLOBS_DELETE",
    "BLOBS_DIGEST_HEADER",
    "BLOBS_MOUNT_ANONYMOUS",
    "BLOBS_UPLOAD_CANCEL",
    "MANIFESTS_ATOMIC",
    "MANIFESTS_DELETE",
    "MANIFESTS_DIGEST_HEADER",
    "MANIFESTS_TAG_PARAM",
    "TAGS_ATOMIC",
    "TAGS_DELETE",
    "TAGS_LIST",
    "REFERRER",
];

const DATA: [&str; 15] = [
    "IMAGE",
    "INDEX",
    "INDEX_LIST",
    "SPARSE",
    "ARTIFACT",
    "SUBJECT",
    "SUBJECT_MISSING",
    "ARTIFACT_LIST",
    "SUBJECT_LIST",
    "DATA_FIELD",
    "NONDISTRIBUTABLE",
    "CUSTOM_FIELDS",
    "NO_LAYERS",
    "EMPTY_BLOB",
    "SHA512",
];

#[tokio::test]
async fn the_conformance_program_finds_nothing_over_sqlite() {
    let bench = workbench!("conformance");
    assert_conformance(&bench, Database::Sqlite).await;
}

#[tokio::test]
async fn the_conformance_program_finds_nothing_over_postgresql() {
    let bench = workbench!("conformance", "postgres");
    assert_conformance(&bench, Database::Postgres).await;
}

async fn assert_conformance(bench: &Workbench, database: Database) {
    // The program's sparse images name layers that it never pushes.
    let sparse = "[[repositories]]\nmatch = \"conformance/**\"\nallow_sparse = true";
    let server = Server::builder().config(sparse).database(database).start().await;
    let results = bench.path("results");
    let mut command = bench.command("conformance", &[]);
    command.env("OCI_REGISTRY", server.host()).env("OCI_TLS", "disabled").env("OCI_VERSION", "dev");
    command.env("OCI_REPO1", "conformance/repo1").env("OCI_REPO2", "conformance/repo2");
    command.env("OCI_RESULTS_DIR", &results);
    command.envs(APIS.map(|name| (format!("OCI_API_{name}"), "true")));
    command.envs(DATA.map(|name| (format!("OCI_DATA_{name}"), "true")));

    let mut program = Process::start(command);
    program.end(PATIENCE).await;

    let report = fs::read_to_string(format!("{results}/junit.xml"))
        .unwrap_or_else(|error| panic!("no report: {error}, the program said:\n{}", program.said()));
    let counts = counts(&report);
    println!("conformance over {database:?}: {counts:?}");
    // A count of zero is left out of the report.
    let bad: u32 =
        ["failures", "errors", "skipped", "disabled"].iter().filter_map(|name| counts.get(*name)).sum();
    assert_eq!(bad, 0, "{counts:?}, not passed:\n{}", not_passed(&report));
    assert_eq!(counts["tests"], WHOLE_RUN, "{counts:?}, which is not a whole run");
}

/// The numbers in the attributes of the report's test suite.
fn counts(report: &str) -> BTreeMap<&str, u32> {
    let suite = report.split_once("<testsuite ").expect("the report has a test suite").1;
    let suite = suite.split_once('>').expect("an element ends").0;
    let pairs = suite.split("\" ").filter_map(|attribute| attribute.split_once("=\""));
    pairs.filter_map(|(name, value)| Some((name, value.trim_end_matches('"').parse().ok()?))).collect()
}

/// What the report says on each test that did not pass.
fn not_passed(report: &str) -> String {
    let cases = report.split("<testcase ").skip(1).filter(|case| !case.contains(" status=\"passed\""));
    let lines = cases.map(|case| {
        let name = case.split('"').nth(1).unwrap_or_default();
        let output = case.split_once("<system-out>").map_or("", |(_, output)| output);
        let output = output.split_once("</system-out>").map_or("", |(output, _)| output);
        format!("{name}: {output}\n")
    });
    lines.collect()
}
