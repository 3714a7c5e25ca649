//! Requests that are worked on to their end, whether or not somebody still waits for the answer.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::response::Response;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio_util::task::TaskTracker;

use super::error::HttpError;

/// Work on a request. Dropped before its end, it goes on as a task: a client that hangs up does not
/// stop half way what it began.
pub(super) struct Whole {
    work: Option<BoxFuture<'static, Response>>,
    tasks: TaskTracker,
}

impl Whole {
    /// Nothing happens before this is polled. A panic becomes the answer for it.
    pub(super) fn new(
        work: impl Future<Output = Response> + Send + 'static,
        request_id: String,
        tasks: TaskTracker,
    ) -> Self {
        // Not in an `async` block, which would have room for it twice.
        let work = AssertUnwindSafe(work).catch_unwind().map(move |outcome| {
            outcome.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<&str>().map(ToString::to_string);
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                HttpError::Panicked(text.unwrap_or_default()).into_response(&request_id)
            })
        });
        Self { work: Some(work.boxed()), tasks }
    }
}

impl Future for Whole {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response> {
        let work = self.work.as_mut().expect("a future is not polled after its end");
        let response = std::task::ready!(work.as_mut().poll(context));
        self.work = None;
        Poll::Ready(response)
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.tasks.spawn(work);
        }
    }
}
