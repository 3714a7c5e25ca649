//! Requests that are made before and only sent in the run, with what each must be answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use serde::Deserialize;

use super::{Load, Play, Stage, fill, push};
use crate::Plan;
use crate::client::{Answer, Connection, request_bytes};
use crate::flows::{self, Pusher};
use crate::images::{Blob, Image};
use crate::measure::{Tally, Worker, drive};
use crate::servers::{AUDIENCE, Identities};

/// What the body of an answer must be.
#[derive(Clone)]
pub enum Body {
    /// Whatever it is.
    Any,
    /// Exactly this.
    Exactly(Bytes),
    /// So long, or announced to be by a HEAD.
    Length(usize),
    /// A text that begins so.
    Begins(&'static str),
}

/// A request and what is right as an answer.
pub struct Question {
    pub request: Vec<u8>,
    pub status: u16,
    pub digest: Option<String>,
    pub body: Body,
}

impl Question {
    /// Fails unless the answer is right.
    pub fn check(&self, answer: Answer<'_>) -> Result<()> {
        let mut answer = answer.require(self.status)?;
        if let Some(digest) = &self.digest {
            answer = answer.require_digest(digest)?;
        }
        match &self.body {
            Body::Any => {}
            Body::Exactly(bytes) => {
                answer.require_body(bytes)?;
            }
            Body::Length(size_bytes) => {
                answer.require_length(*size_bytes)?;
            }
            Body::Begins(text) => {
                ensure!(
                    answer.body.starts_with(text.as_bytes()),
                    "an answer that does not begin with {text}"
                );
            }
        }
        Ok(())
    }
}

/// Questions that are asked again and again.
pub struct Questions {
    questions: Arc<[Question]>,
    remark: Option<String>,
}

impl Questions {
    pub fn new(questions: Vec<Question>, remark: Option<String>) -> Self {
        Self { questions: questions.into(), remark }
    }
}

#[async_trait]
impl Play for Questions {
    async fn run(&mut self, stage: &mut Stage, lasting: Duration) -> Result<Tally> {
        ask(stage, &self.questions, lasting).await
    }

    fn remark(&self) -> Option<String> {
        self.remark.clone()
    }
}

/// Asks questions in turn, the first again after the last.
pub async fn ask(stage: &Stage, questions: &Arc<[Question]>, lasting: Duration) -> Result<Tally> {
    drive_questions(stage, questions, lasting, true).await
}

/// Asks questions in turn; a run ends with the last one.
pub async fn ask_once(stage: &Stage, questions: &Arc<[Question]>, lasting: Duration) -> Result<Tally> {
    drive_questions(stage, questions, lasting, false).await
}

async fn drive_questions(
    stage: &Stage,
    questions: &Arc<[Question]>,
    lasting: Duration,
    again: bool,
) -> Result<Tally> {
    let next = Arc::new(AtomicUsize::new(0));
    let work = |worker| ask_in_turn(worker, Arc::clone(questions), Arc::clone(&next), again);
    drive(&stage.server.addresses, stage.clients, lasting, work).await
}

async fn ask_in_turn(
    mut worker: Worker,
    questions: Arc<[Question]>,
    next: Arc<AtomicUsize>,
    again: bool,
) -> Result<u64> {
    let mut answered = 0;
    while worker.goes_on() {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= questions.len() && !again {
            break;
        }
        let question = &questions[index % questions.len()];
        question.check(worker.connection.ask(&question.request).await?)?;
        answered += 1;
    }
    Ok(answered)
}

/// Manifests of images, pushed before or, where there are to be many, filled in.
pub async fn manifests(load: Load, stage: &mut Stage, plan: &Plan) -> Result<Questions> {
    let with_identities = load.has_identities();
    let images = if let Some(count) = plan.images {
        fill::images(stage, count).await?
    } else {
        let images = stage.factory.images(plan.prepared);
        let robot = with_identities.then(Identities::robot);
        push::push_prepared(&stage.server, &images, robot.as_deref()).await?;
        images
    };
    let address = stage.server.address();
    let bearers = match load {
        Load::ManifestGetToken | Load::ManifestHeadToken => bearers(address, &images).await?,
        _ => BTreeMap::new(),
    };
    let password = matches!(load, Load::ManifestGetPassword).then(Identities::person);
    let is_head = matches!(load, Load::ManifestHeadTag | Load::ManifestHeadDigest | Load::ManifestHeadToken);
    let by_digest = matches!(load, Load::ManifestGetDigest | Load::ManifestHeadDigest);
    let question = |image: &Image| {
        let reference = if by_digest { &image.manifest.digest } else { &image.tag };
        let path = flows::manifest_path(&image.repository, reference);
        let authorization = bearers.get(&image.repository).or(password.as_ref());
        manifest(address, is_head, &path, &image.manifest, authorization.map(String::as_str))
    };
    Ok(Questions::new(images.iter().map(question).collect::<Result<_>>()?, None))
}

/// A question for one manifest.
pub fn manifest(
    address: SocketAddr,
    is_head: bool,
    path: &str,
    manifest: &Blob,
    authorization: Option<&str>,
) -> Result<Question> {
    let method = if is_head { Method::HEAD } else { Method::GET };
    let body =
        if is_head { Body::Length(manifest.bytes.len()) } else { Body::Exactly(manifest.bytes.clone()) };
    Ok(Question {
        request: request_bytes(address, &method, path, authorization)?,
        status: 200,
        digest: Some(manifest.digest.clone()),
        body,
    })
}

#[derive(Deserialize)]
struct Granted {
    token: String,
}

/// A token for each repository of some images, as clients ask for one for what they pull.
async fn bearers(address: SocketAddr, images: &[Image]) -> Result<BTreeMap<String, String>> {
    let mut connection = Connection::open(address).await?;
    let mut bearers = BTreeMap::new();
    for Image { repository, .. } in images {
        if bearers.contains_key(repository) {
            continue;
        }
        let path = format!("/token?service={AUDIENCE}&scope=repository:{repository}:pull");
        let request = request_bytes(address, &Method::GET, &path, Some(&Identities::person()))?;
        let granted: Granted = serde_json::from_slice(connection.ask(&request).await?.require(200)?.body)?;
        bearers.insert(repository.clone(), format!("Bearer {}", granted.token));
    }
    Ok(bearers)
}

/// HEAD of blobs that are there, or not.
pub async fn blobs(are_there: bool, stage: &mut Stage, count: usize) -> Result<Questions> {
    let images = stage.factory.images(count);
    push::push_prepared(&stage.server, &images, None).await?;
    let address = stage.server.address();
    let mut questions = Vec::new();
    for image in &images {
        for blob in &image.blobs {
            let other = Blob::new(stage.factory.noise(16));
            let digest = if are_there { &blob.digest } else { &other.digest };
            let path = flows::blob_path(&image.repository, digest);
            questions.push(Question {
                request: request_bytes(address, &Method::HEAD, &path, None)?,
                status: if are_there { 200 } else { 404 },
                digest: are_there.then(|| blob.digest.clone()),
                body: if are_there { Body::Length(blob.bytes.len()) } else { Body::Any },
            });
        }
    }
    Ok(Questions::new(questions, None))
}

/// Pushes blobs of a few bytes into a repository.
pub async fn push_blobs(stage: &mut Stage, repository: &str, count: usize) -> Result<Vec<Blob>> {
    let mut connection = Connection::open(stage.server.address()).await?;
    let mut blobs = Vec::new();
    for _ in 0..count {
        let blob = Blob::new(stage.factory.noise(64));
        flows::push_blob(&mut connection, repository, &blob, Pusher::Containerd)
            .await
            .with_context(|| format!("blob {}", blobs.len()))?;
        blobs.push(blob);
    }
    Ok(blobs)
}
