//! What HTTP/2 leaves to the server: a client may ask and not read, or stay and not ask.
//!
//! In HTTP/1.1 the socket says that a client does not read. In HTTP/2 the socket stays writable while
//! a stream is out of window, and what its answer holds would be held for as long as the client likes.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

/// What is handed to the connection in one go. It takes a piece once there is window for its first byte,
/// and then holds all of it.
const PIECE_BYTES: usize = 16 * 1024;

/// The streams of one connection.
#[derive(Clone)]
pub(super) struct Streams(Arc<Mutex<Inner>>);

struct Inner {
    next: u64,
    /// Streams that somebody works on; with an answer, once there is one.
    live: HashMap<u64, Option<Arc<Answer>>>,
    /// When the last of them ended.
    ended: Instant,
}

/// A stream somebody works on.
pub(super) struct Stream {
    id: u64,
    streams: Streams,
}

/// A body that is being read, or should be.
struct Answer(Mutex<Sending>);

struct Sending {
    /// Gone once it was cut.
    body: Option<Body>,
    /// Of the last frame, what has not been handed over.
    rest: Bytes,
    moved: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner { next: 0, live: HashMap::new(), ended: Instant::now() })))
    }
}

impl Streams {
    /// A request has come.
    pub(super) fn open(&self) -> Stream {
        let mut inner = lock(&self.0);
        let id = inner.next;
        inner.next += 1;
        inner.live.insert(id, None);
        Stream { id, streams: self.clone() }
    }

    /// Returns once there has been no stream for `unused`. Until then it cuts those whose answer is not
    /// read for `idle`.
    pub(super) async fn unused(&self, unused: Duration, idle: Duration) {
        loop {
            let now = Instant::now();
            let mut cut = Vec::new();
            let wake = {
                let mut inner = lock(&self.0);
                let Inner { live, ended, .. } = &mut *inner;
                live.retain(|_, answer| {
                    let stuck = answer.take_if(|answer| now >= lock(&answer.0).moved + idle);
                    let stays = stuck.is_none();
                    cut.extend(stuck);
                    stays
                });
                if !cut.is_empty() {
                    *ended = now;
                }
                let next_stuck = live.values().flatten().map(|answer| lock(&answer.0).moved + idle).min();
                match next_stuck {
                    Some(at) => at,
                    None if live.is_empty() && now >= *ended + unused => return,
                    None if live.is_empty() => *ended + unused,
                    None => now + unused.min(idle),
                }
            };
            for answer in cut {
                let mut sending = lock(&answer.0);
                (sending.body, sending.rest) = (None, Bytes::new());
            }
            // A stream that comes meanwhile is stuck no earlier than this.
            sleep_until(wake.min(now + idle)).await;
        }
    }
}

impl Stream {
    /// The answer, for the connection to send.
    pub(super) fn send(self, body: Body) -> Body {
        let sending = Sending { body: Some(body), rest: Bytes::new(), moved: Instant::now() };
        let answer = Arc::new(Answer(Mutex::new(sending)));
        if let Some(entry) = lock(&self.streams.0).live.get_mut(&self.id) {
            *entry = Some(Arc::clone(&answer));
        }
        Body::new(Watched { answer, _stream: self })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = lock(&self.streams.0);
        if inner.live.remove(&self.id).is_some() {
            inner.ended = Instant::now();
        }
    }
}

struct Watched {
    answer: Arc<Answer>,
    _stream: Stream,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut sending = lock(&self.answer.0);
        let Sending { body, rest, moved } = &mut *sending;
        let Some(body) = body else {
            return Poll::Ready(Some(Err(axum::Error::new("the client did not read for too long"))));
        };
        *moved = Instant::now();
        if rest.is_empty() {
            match std::task::ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => *rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        let size = rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(rest.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        let sending = lock(&self.answer.0);
        sending.rest.is_empty() && sending.body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let sending = lock(&self.answer.0);
        let hint = sending.body.as_ref().map(Body::size_hint).unwrap_or_default();
        match hint.exact() {
            Some(exact) => SizeHint::with_exact(exact + sending.rest.len() as u64),
            None => hint,
        }
    }
}
