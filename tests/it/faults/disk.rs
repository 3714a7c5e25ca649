//! A disk that does not keep what it took.

use reqwest::StatusCode;

use crate::{
    faults::wire::{Image, Way, Wire, blob},
    harness::{Server, content::sha256, http},
};

async fn ready(server: &Server) -> StatusCode {
    http().get(format!("{}/readyz", server.url())).send().await.expect("an answer").status()
}

#[tokio::test]
async fn nothing_is_written_to_an_index_that_the_disk_did_not_keep() {
    let mut server = Server::builder().on_disk().start().await;
    let (before, after) = (Image::new(1, [blob(1, 1_000)]), Image::new(2, [blob(2, 1_000)]));
    Wire::to(&server).push("team/app", "1", &before, Way::Docker, None).await.expect("push");
    // Two at the start, then one failure: the next sync would say that all is well, as the kernel does.
    server.restart_with(&[("FAILPOINTS", "db::sync=2*off->1*return->off")]).await;
    let wire = Wire::to(&server);

    for _ in 0..2 {
        let pushed = wire.push("team/app", "2", &after, Way::Containerd, None).await;
        let failure = format!("{:?}", pushed.expect_err("it is not durable"));
        assert!(failure.contains("503") && failure.contains("UNAVAILABLE"), "{failure}");
    }

    assert_eq!(ready(&server).await, StatusCode::SERVICE_UNAVAILABLE);
    wire.pull("team/app", "1", &before).await.expect("pulls go on");
    server.until_said("berth must be started again").await;

    server.restart_with(&[]).await;
    let wire = Wire::to(&server);
    assert_eq!(ready(&server).await, StatusCode::OK);
    wire.push("team/app", "2", &after, Way::Containerd, None).await.expect("push");
    for (tag, image) in [("1", &before), ("2", &after)] {
        wire.pull("team/app", tag, image).await.expect("pull");
    }
}

#[tokio::test]
async fn a_mount_of_what_is_there_is_answered_when_the_disk_has_all_that_was_seen() {
    let mut server = Server::builder().on_disk().start().await;
    let image = Image::new(1, [blob(1, 1_000)]);
    Wire::to(&server).push("team/app", "1", &image, Way::Docker, None).await.expect("push");
    server.restart_with(&[("FAILPOINTS", "db::sync=2*off->return")]).await;
    let wire = Wire::to(&server);

    // A session is committed and not synced; or a job of the server's own has met the disk before.
    let _ = wire.start("team/app").await;
    let mounted = wire.mount("team/app", &sha256(&image.blobs[0]), "team/app").await;

    let failure = format!("{:?}", mounted.expect_err("it is not durable"));
    assert!(failure.contains("503") && failure.contains("UNAVAILABLE"), "{failure}");
    assert_eq!(ready(&server).await, StatusCode::SERVICE_UNAVAILABLE);
}
