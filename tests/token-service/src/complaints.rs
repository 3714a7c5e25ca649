//! What a stand-in was sent and should not have been.

use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
pub(crate) struct Complaints(Arc<Mutex<Vec<String>>>);

impl Complaints {
    pub(crate) fn add(&self, complaint: impl Into<String>) {
        self.0.lock().expect("no holder panics").push(complaint.into());
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no holder panics"))
    }

    /// Fails the test that heard none of them.
    pub(crate) fn settle(&self) {
        let left = self.take();
        assert!(left.is_empty() || std::thread::panicking(), "nobody took these complaints: {left:#?}");
    }
}
