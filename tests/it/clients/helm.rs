//! helm, whose charts are artifacts of two layers at most.

use std::fs;

use crate::harness::{
    Server, content,
    content::sha256,
    tools::{Workbench, workbench},
};

/// A packaged chart of some versions, with a file in it that does not compress.
async fn package(bench: &Workbench, version: &str) -> String {
    let chart = bench.folder().join("harbour");
    fs::create_dir_all(chart.join("templates")).expect("make the chart's folders");
    let text = format!("apiVersion: v2\nname: harbour\nversion: {version}\ndescription: a chart\n");
    fs::write(chart.join("Chart.yaml"), text).expect("write the chart");
    fs::write(chart.join("data"), content::bytes(90, 500_000)).expect("write the chart");
    bench.run("helm", &["package", &bench.path("harbour")]).await;
    bench.path(&format!("harbour-{version}.tgz"))
}

#[tokio::test]
async fn helm_pushes_charts_and_pulls_them_back() {
    let bench = workbench!("helm");
    let server = Server::start().await;
    let charts = format!("oci://{}/team/charts", server.host());
    // A tag cannot hold the `+` of a version: helm writes `_` instead.
    for (version, tag) in [("1.2.3", "1.2.3"), ("1.3.0+build.7", "1.3.0_build.7")] {
        let archive = package(&bench, version).await;
        let bytes = fs::read(&archive).expect("helm has written the archive");

        bench.run("helm", &["push", "--plain-http", &archive, &charts]).await;

        let held = server.repository("team/charts/harbour").pull(tag).await;
        let manifest = held.manifest();
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.cncf.helm.config.v1+json");
        assert_eq!(manifest["layers"][0]["digest"], sha256(&bytes));
        assert!(held.contents[&sha256(&bytes)] == bytes, "the layer is the archive");

        let folder = bench.path(tag);
        fs::create_dir(&folder).expect("make a folder");
        let chart = format!("{charts}/harbour");
        let pull = ["pull", "--plain-http", "--version", version, "--destination", &folder, &chart];
        bench.run("helm", &pull).await;
        let name = format!("{folder}/harbour-{version}.tgz");
        assert!(fs::read(name).expect("helm has pulled the archive") == bytes, "the archive came back");
    }

    // Without a version it asks for all tags and takes the newest.
    let show = ["show", "chart", "--plain-http", &format!("{charts}/harbour")];
    let shown = bench.run("helm", &show).await.text();
    assert!(shown.contains("version: 1.3.0+build.7"), "{shown}");
}

#[tokio::test]
async fn helm_pushes_and_pulls_the_provenance_of_a_chart() {
    let bench = workbench!("helm");
    let server = Server::start().await;
    let charts = format!("oci://{}/team/charts", server.host());
    let archive = package(&bench, "1.2.3").await;
    // helm carries it without a look inside.
    let provenance = content::bytes(91, 5_000);
    fs::write(format!("{archive}.prov"), &provenance).expect("write the provenance");

    bench.run("helm", &["push", "--plain-http", &archive, &charts]).await;
    let folder = bench.path("pulled");
    fs::create_dir(&folder).expect("make a folder");
    let chart = format!("{charts}/harbour");
    bench.run("helm", &["pull", "--plain-http", "--prov", "--destination", &folder, &chart]).await;

    let pulled =
        fs::read(format!("{folder}/harbour-1.2.3.tgz.prov")).expect("helm has pulled the provenance");
    assert!(pulled == provenance, "the provenance came back");
    let held = server.repository("team/charts/harbour").pull("1.2.3").await;
    assert!(held.contents[&sha256(&provenance)] == provenance, "the provenance is a layer");
}
