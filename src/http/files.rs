//! Bytes that go from a file to a connection without being read here.
//!
//! hyper frames a body and sends bytes; it knows no files. So the body gives it a stand-in of the right
//! length, and writes down which file's bytes it stands for. Below hyper the connection knows a stand-in
//! by where it lies in memory, and has the kernel send the file's bytes instead. The bytes of a
//! stand-in are zeros, and never leave the process: whatever does not fit ends the connection.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::registry::FileRange;

/// The longest stand-in. The longer, the fewer turns a download takes, and the longer others wait for one.
pub const LONGEST: usize = 512 * 1024;

/// What every stand-in is a part of. It is never written or read, so it takes no memory, only a place.
static PLACE: LazyLock<Box<[u8]>> = LazyLock::new(|| vec![0; LONGEST].into());

/// The bytes of files that one connection owes, in their order. The listener puts it beside each request
/// of a connection that can send files.
#[derive(Debug, Clone, Default)]
pub struct Files(Arc<Mutex<VecDeque<Owed>>>);

#[derive(Debug)]
struct Owed {
    /// What is still to be sent.
    rest: FileRange,
    sent: usize,
}

impl Files {
    /// Owes some bytes of a file; returns what stands for them in the body.
    pub fn stand_in(&self, range: FileRange) -> Bytes {
        let stand_in = Bytes::from_static(&PLACE[..range.size_bytes]);
        self.lock().push_back(Owed { rest: range, sent: 0 });
        stand_in
    }

    /// Whether a slice is a stand-in, or what is left of one.
    pub fn is_stand_in(slice: &[u8]) -> bool {
        !slice.is_empty() && PLACE.as_ptr_range().contains(&slice.as_ptr())
    }

    /// What a stand-in stands for. It must be what is left of the one that is next.
    pub fn behind(&self, stand_in: &[u8]) -> io::Result<FileRange> {
        let queue = self.lock();
        let owed = queue.front().ok_or_else(|| out_of_step("nothing is owed"))?;
        let left = &PLACE[owed.sent..owed.sent + owed.rest.size_bytes];
        if (left.as_ptr(), left.len()) != (stand_in.as_ptr(), stand_in.len()) {
            return Err(out_of_step("something else is owed"));
        }
        Ok(owed.rest.clone())
    }

    /// So many bytes of the file that is next were sent.
    pub fn sent(&self, length: usize) {
        let mut queue = self.lock();
        if let Some(owed) = queue.front_mut() {
            owed.sent += length;
            owed.rest.start_bytes += length as u64;
            owed.rest.size_bytes -= length;
            if owed.rest.size_bytes == 0 {
                queue.pop_front();
            }
        }
    }

    /// Makes sure that other bytes may be sent now: not in the middle of a file's.
    pub fn is_between(&self) -> io::Result<()> {
        match self.lock().front() {
            Some(owed) if owed.sent > 0 => Err(out_of_step("a file's bytes were not sent to their end")),
            _ => Ok(()),
        }
    }

    /// Makes sure that all is sent.
    pub fn is_settled(&self) -> io::Result<()> {
        if self.lock().is_empty() { Ok(()) } else { Err(out_of_step("a file's bytes were not sent")) }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Owed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn out_of_step(how: &str) -> io::Error {
    io::Error::other(format!("the connection and its answer are out of step: {how}"))
}
