//! A chunked upload against a model of it: whatever the splits, cuts and replays, server and model
//! agree after every step, and the blob has the model's bytes.
//!
//! `BERTH_TEST_CASES` says how many uploads are tried on each database.

use std::time::Duration;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::{io::AsyncWriteExt, runtime::Runtime, time::sleep};

use crate::{
    harness::{
        Database, Server,
        content::{bytes, sha256},
        tools::workbench,
    },
    protocol::wire::{Answer, Berth, chunked, read_answer, with_digest},
};

const CASES: u32 = 40;
const CHUNK_MAX: usize = 300 * 1024;

/// What a client does to an upload. Sizes are in bytes.
#[derive(Clone, Debug)]
enum Step {
    /// Sends bytes and says nothing of them.
    Stream(usize),
    /// Sends bytes and their number.
    Send(usize),
    /// Sends bytes, their number and their place.
    Place(usize),
    /// Sends bytes for a place that is not the end, by so much.
    Misplace(usize, i64),
    /// Sends the last chunk once more.
    Replay,
    /// Announces bytes, and hangs up after part of them.
    Cut { announced: usize, sent: usize },
    /// As `Cut`, with a body that has no length.
    CutStream(usize),
    /// Ends the upload with a digest that is not that of the bytes.
    FinishWrongly(usize),
    /// Gives the upload up and begins another.
    Cancel,
}

/// How the upload ends.
#[derive(Clone, Debug)]
enum End {
    Empty,
    Last(usize),
    PlacedLast(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let size = || prop_oneof![1 => Just(0), 1 => Just(1), 2 => 0..2000_usize, 4 => 0..=CHUNK_MAX];
    prop_oneof![
        4 => size().prop_map(Step::Stream),
        4 => size().prop_map(Step::Send),
        4 => size().prop_map(Step::Place),
        2 => (1..=2000_usize, prop_oneof![-3000..0_i64, 1..3000_i64]).prop_map(|(size, by)| Step::Misplace(size, by)),
        2 => Just(Step::Replay),
        4 => (1..=CHUNK_MAX)
            .prop_flat_map(|announced| (Just(announced), 0..announced))
            .prop_map(|(announced, sent)| Step::Cut { announced, sent }),
        2 => size().prop_map(Step::CutStream),
        2 => size().prop_map(Step::FinishWrongly),
        1 => Just(Step::Cancel),
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        Just(End::Empty),
        (0..=CHUNK_MAX).prop_map(End::Last),
        (1..=CHUNK_MAX).prop_map(End::PlacedLast)
    ]
}

#[test]
fn a_chunked_upload_agrees_with_its_model_on_sqlite() {
    check(Database::Sqlite);
}

#[test]
fn a_chunked_upload_agrees_with_its_model_on_postgres() {
    let _bench = workbench!("postgres");
    check(Database::Postgres);
}

fn check(database: Database) {
    let cases = std::env::var("BERTH_TEST_CASES").map_or(CASES, |text| text.parse().expect("a number"));
    let runtime = Runtime::new().expect("a runtime starts");
    let berth = runtime.block_on(async { Berth::of(Server::builder().database(database).start().await) });
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let uploads = (any::<u64>(), prop::collection::vec(step(), 0..12), end());
    let outcome = TestRunner::new(config).run(&uploads, |(seed, steps, end)| {
        runtime.block_on(async {
            let mut upload = Upload::begin(&berth, seed).await;
            for step in steps {
                upload.take(step).await;
                upload.agrees().await;
            }
            upload.end(end).await;
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}\n{}", berth.server.said());
    }
    drop(berth);
}

/// The model: what the server must have kept.
struct Upload<'a> {
    berth: &'a Berth,
    location: String,
    kept: Vec<u8>,
    last: Vec<u8>,
    seed: u64,
}

impl<'a> Upload<'a> {
    async fn begin(berth: &'a Berth, seed: u64) -> Self {
        let location = berth.begin("team/app").await;
        Self { berth, location, kept: Vec::new(), last: Vec::new(), seed }
    }

    async fn take(&mut self, step: Step) {
        let at = self.kept.len();
        match step {
            Step::Stream(size) => {
                let chunk = self.fresh(size);
                self.patch(&[], chunked(&chunk)).await.is(202).stands_at(at + size);
                self.keep(chunk);
            }
            Step::Send(size) => {
                let chunk = self.fresh(size);
                self.patch(&[], chunk.clone()).await.is(202).stands_at(at + size);
                self.keep(chunk);
            }
            // An empty chunk has no place.
            Step::Place(0) => {}
            Step::Place(size) => {
                let chunk = self.fresh(size);
                let answer = self.patch(&[("content-range", &place(at, size))], chunk.clone()).await;
                answer.is(202).stands_at(at + size);
                self.keep(chunk);
            }
            Step::Misplace(size, by) => {
                let start = at.saturating_add_signed(by.try_into().expect("it is small"));
                if start != at {
                    let chunk = self.fresh(size);
                    let answer = self.patch(&[("content-range", &place(start, size))], chunk).await;
                    answer.is_refused(416, "BLOB_UPLOAD_INVALID").stands_at(at);
                }
            }
            Step::Replay => {
                let last = self.last.clone();
                if !last.is_empty() {
                    let range = place(at - last.len(), last.len());
                    let answer = self.patch(&[("content-range", &range)], last).await;
                    answer.is_refused(416, "BLOB_UPLOAD_INVALID").stands_at(at);
                }
            }
            Step::Cut { announced, sent } => {
                let chunk = self.fresh(announced);
                self.cut(&format!("Content-Length: {announced}\r\n\r\n"), &chunk[..sent]).await;
            }
            Step::CutStream(sent) => {
                let chunk = self.fresh(sent);
                self.cut(&format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", sent + 1), &chunk).await;
            }
            Step::FinishWrongly(size) => {
                let chunk = self.fresh(size);
                let path = with_digest(&self.location, &sha256(b"wrong"));
                // What came with the wrong digest may be what is wrong: none of it is kept.
                self.berth.send("PUT", &path, &[], chunk).await.is_refused(400, "DIGEST_INVALID");
            }
            Step::Cancel => {
                self.berth.ask("DELETE", &self.location).await.is(204);
                self.berth.ask("GET", &self.location).await.is_refused(404, "BLOB_UPLOAD_UNKNOWN");
                *self = Self::begin(self.berth, self.seed).await;
            }
        }
    }

    /// Sends part of a body and closes the half of the connection that sends.
    async fn cut(&mut self, head: &str, sent: &[u8]) {
        let before = self.kept.len();
        let mut connection = self.berth.connect().await;
        let request = format!("PATCH {} HTTP/1.1\r\nHost: berth\r\n{head}", self.location);
        connection.write_all(request.as_bytes()).await.expect("the server reads");
        connection.write_all(sent).await.expect("the server reads");
        connection.shutdown().await.expect("half of a connection closes");
        read_answer(&mut connection).await.is_refused(400, "BLOB_UPLOAD_INVALID");
        let kept = self.offset().await;
        assert!(
            (before..=before + sent.len()).contains(&kept),
            "{kept} after {} bytes more than {before}",
            sent.len()
        );
        self.keep(sent[..kept - before].to_vec());
    }

    async fn end(self, end: End) {
        let at = self.kept.len();
        let (chunk, range) = match end {
            End::Empty => (Vec::new(), None),
            End::Last(size) => (self.fresh(size), None),
            End::PlacedLast(size) => (self.fresh(size), Some(place(at, size))),
        };
        let content = [self.kept.as_slice(), &chunk].concat();
        let digest = sha256(&content);
        let headers: Vec<_> = range.iter().map(|range| ("content-range", range.as_str())).collect();
        let path = with_digest(&self.location, &digest);

        let finished = self.berth.send("PUT", &path, &headers, chunk).await;

        assert_eq!(finished.is(201).header("docker-content-digest"), digest);
        assert!(self.berth.repository("team/app").blob(&digest).await == content, "the bytes differ");
        self.berth.ask("GET", &self.location).await.is_refused(404, "BLOB_UPLOAD_UNKNOWN");
    }

    async fn agrees(&self) {
        let status = self.berth.ask("GET", &self.location).await;
        status.is(204).stands_at(self.kept.len());
        assert_eq!(status.header("location"), self.location);
    }

    /// How many bytes the server has, once the writer before has let go of the session.
    async fn offset(&self) -> usize {
        for _ in 0..500 {
            let answer = self.patch(&[("content-range", "900000000-900000000")], "x").await;
            if answer.status == 416 {
                let (_, last) = answer.header("range").split_once('-').expect("a range");
                let last: usize = last.parse().expect("a number");
                // `0-0` stands for one byte and for none.
                let none = last == 0 && self.kept.is_empty() && !self.has_one_byte().await;
                return if none { 0 } else { last + 1 };
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("the session stays busy");
    }

    async fn has_one_byte(&self) -> bool {
        let answer = self.patch(&[("content-range", "1-1")], chunked(b"")).await;
        // Refused for its length if it is in order, and for its place otherwise.
        answer.status == 400
    }

    async fn patch(&self, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Answer {
        self.berth.send("PATCH", &self.location, headers, body).await
    }

    /// Bytes that differ wherever in the upload they stand.
    fn fresh(&self, size: usize) -> Vec<u8> {
        bytes(self.seed.wrapping_add(self.kept.len() as u64), size)
    }

    fn keep(&mut self, chunk: Vec<u8>) {
        self.kept.extend_from_slice(&chunk);
        self.last = chunk;
    }
}

fn place(start: usize, size: usize) -> String {
    format!("{start}-{}", start + size - 1)
}
