//! HTTP/2: what a client asks for and does not read, and a connection that nobody uses.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use crate::harness::{Server, content, process::PATIENCE};

/// A connection whose streams take 64 KiB before they must be read.
async fn connect(server: &Server) -> (SendRequest<Empty<Bytes>>, JoinSet<hyper::Result<()>>) {
    let stream = TcpStream::connect(server.host()).await.expect("connect");
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(16 * 1024 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    (sender, driver)
}

async fn get(sender: &mut SendRequest<Empty<Bytes>>, server: &Server, path: &str) -> Incoming {
    let request = Request::get(format!("{}/v2/team/app/{path}", server.url())).body(Empty::new());
    let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    answer.into_body()
}

#[tokio::test]
async fn an_answer_nobody_reads_is_cut_and_its_neighbours_are_not() {
    let config = "[http]\nidle_timeout = \"1s\"\n[limits]\nmanifest_memory = \"16MiB\"";
    let server = Server::builder().config(config).start().await;
    let repository = server.repository("team/app");
    let blob = content::bytes(1, 3_000_000);
    let digest = repository.push_blob(&blob).await;
    let annotation = "x".repeat(3_900_000);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{{"a":"{annotation}"}}}}"#
    );
    let put = crate::harness::http().put(repository.url("manifests/large"));
    let put = put.header("content-type", "application/vnd.oci.image.index.v1+json").body(manifest.clone());
    assert_eq!(put.send().await.expect("PUT a manifest").status(), StatusCode::CREATED);
    let (mut sender, mut connection) = connect(&server).await;
    let unread = get(&mut sender, &server, &format!("blobs/{digest}")).await;
    let mut unread_too = Vec::new();
    for _ in 0..4 {
        unread_too.push(get(&mut sender, &server, "manifests/large").await);
    }

    // So many are not in the way of this one, though all of them are more than the memory there is for manifests.
    let read = get(&mut sender, &server, "manifests/large").await;

    let read = timeout(PATIENCE, read.collect()).await.expect("in time").expect("whole").to_bytes();
    assert!(read == manifest.as_bytes());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let answer = timeout(PATIENCE, unread.collect()).await.expect("in time");
    assert!(answer.is_err(), "an answer that was cut does not look whole");
    let neighbour = get(&mut sender, &server, &format!("blobs/{digest}")).await;
    assert!(neighbour.collect().await.expect("whole").to_bytes() == blob);
    assert!(connection.try_join_next().is_none(), "the connection stays");
}

#[tokio::test]
async fn a_connection_nobody_uses_is_closed() {
    let server = Server::builder().config("[http]\nheader_timeout = \"2s\"").start().await;
    let digest = server.repository("team/app").push_blob(&content::bytes(1, 1_000)).await;
    let (mut sender, mut connection) = connect(&server).await;
    let begun = Instant::now();
    // While it is used it stays.
    while begun.elapsed() < Duration::from_secs(4) {
        get(&mut sender, &server, &format!("blobs/{digest}")).await.collect().await.expect("whole");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    let ended = timeout(PATIENCE, connection.join_next()).await.expect("the server closes it");

    assert!(matches!(ended, Some(Ok(Ok(())))), "it is closed in good order: {ended:?}");
}

#[tokio::test]
async fn an_answer_that_is_read_slowly_is_whole() {
    let server = Server::builder().config("[http]\nidle_timeout = \"2s\"").start().await;
    let blob = content::bytes(1, 400_000);
    let digest = server.repository("team/app").push_blob(&blob).await;
    let (mut sender, _connection) = connect(&server).await;
    let mut answer = get(&mut sender, &server, &format!("blobs/{digest}")).await;
    let mut read = Vec::new();
    // Longer than nothing may move.
    while let Some(frame) = answer.frame().await {
        read.extend_from_slice(frame.expect("it goes on").data_ref().expect("no trailers"));
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert!(read == blob);
}
