//! A connection without TLS, which can have the kernel send a file's bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BufMut as _;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::io::poll_read_buf;

use crate::http::Files;
use crate::registry::FileRange;

/// Read in one go at most. hyper keeps a buffer for each connection, also while its client is silent, and
/// doubles it whenever a read fills it: this way it ends at 64 KiB. TLS hands out a record or two at a time.
const READ_BYTES: usize = 64 * 1024 - 1;

/// Sends the bytes it is given, and for a stand-in ([`Files`]) the file's.
pub(super) struct FileStream {
    stream: TcpStream,
    files: Files,
    /// What left the page cache while the client did not read is read again, on a thread that may block.
    loading: Option<JoinHandle<io::Result<()>>>,
}

impl FileStream {
    pub(super) fn new(stream: TcpStream, files: Files) -> Self {
        Self { stream, files, loading: None }
    }

    fn poll_send_file(&mut self, context: &mut Context<'_>, stand_in: &[u8]) -> Poll<io::Result<usize>> {
        let range = self.files.behind(stand_in)?;
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            if let Some(loading) = &mut self.loading {
                let loaded = ready!(Pin::new(loading).poll(context));
                self.loading = None;
                loaded.unwrap_or_else(|panic| Err(io::Error::other(panic)))?;
            } else if !range.is_cached() {
                let range = range.clone();
                self.loading = Some(spawn_blocking(move || range.load()));
                continue;
            }
            let sending = || send_file(&self.stream, &range);
            match self.stream.try_io(Interest::WRITABLE, sending) {
                // hyper would take it for a closed connection, and say so.
                Ok(0) => {
                    let ended = "a file ended before its bytes were sent";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, ended)));
                }
                Ok(sent) => {
                    self.files.sent(sent);
                    return Poll::Ready(Ok(sent));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn send_file(stream: &TcpStream, range: &FileRange) -> io::Result<usize> {
    let mut at = range.start_bytes;
    Ok(rustix::fs::sendfile(stream, &range.file, Some(&mut at), range.size_bytes)?)
}

/// Nowhere else is a file's place in the page cache known, so nobody comes here.
#[cfg(not(target_os = "linux"))]
fn send_file(_: &TcpStream, _: &FileRange) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

impl AsyncRead for FileStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = Pin::new(&mut self.stream);
        poll_read_buf(stream, context, &mut buffer.limit(READ_BYTES)).map_ok(drop)
    }
}

impl AsyncWrite for FileStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().position(|slice| Files::is_stand_in(slice)).unwrap_or(slices.len());
        let (before, from) = slices.split_at(first);
        match from.first() {
            Some(stand_in) if before.iter().all(|slice| slice.is_empty()) => {
                self.poll_send_file(context, stand_in)
            }
            // What stands before a stand-in goes first; the rest comes back with the next call.
            _ => {
                self.files.is_between()?;
                Pin::new(&mut self.stream).poll_write_vectored(context, before)
            }
        }
    }

    /// Always: otherwise hyper would copy stand-ins, and the copies are no stand-ins.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper flushes when it holds nothing more to be written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.files.is_settled()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;
    use tokio_io_timeout::TimeoutStream;

    use super::*;
    use crate::registry::FileRange;

    struct Scene {
        stream: FileStream,
        client: TcpStream,
        files: Files,
        file: Arc<File>,
        bytes: Vec<u8>,
    }

    /// Both ends of a connection, and a file of 300,000 bytes.
    async fn scene() -> Scene {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let files = Files::default();
        let stream = FileStream::new(listener.accept().await.unwrap().0, files.clone());
        let bytes: Vec<u8> = (0..300_000_u32).map(|at| u8::try_from(at / 100 % 250 + 1).unwrap()).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        Scene { stream, client, files, file: Arc::new(file), bytes }
    }

    impl Scene {
        fn stand_in(&self, start_bytes: u64, size_bytes: usize) -> bytes::Bytes {
            self.files.stand_in(FileRange { file: Arc::clone(&self.file), start_bytes, size_bytes })
        }

        /// What the client receives until the connection ends.
        async fn received(self) -> Vec<u8> {
            let Self { stream, mut client, .. } = self;
            drop(stream);
            let mut received = Vec::new();
            // A connection that is reset has ended too.
            let _ = timeout(Duration::from_secs(10), client.read_to_end(&mut received)).await.unwrap();
            received
        }
    }

    /// Writes as hyper does.
    async fn write_all(stream: &mut FileStream, mut slices: Vec<&[u8]>) -> io::Result<()> {
        while !slices.is_empty() {
            let vector: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
            let mut sent = stream.write_vectored(&vector).await?;
            while let Some(first) = slices.first_mut() {
                let taken = sent.min(first.len());
                *first = &first[taken..];
                sent -= taken;
                if !first.is_empty() {
                    break;
                }
                slices.remove(0);
            }
        }
        stream.flush().await
    }

    #[tokio::test]
    async fn bytes_and_files_arrive_in_their_order() {
        let mut scene = scene().await;
        let (first, second) = (scene.stand_in(1_000, 200_000), scene.stand_in(0, 10));
        let slices = vec![b"head".as_slice(), &first, b"between", b"", &second, b"end"];
        let bytes = &scene.bytes;
        let wanted = [b"head", &bytes[1_000..201_000], b"between", &bytes[..10], b"end"].concat();

        write_all(&mut scene.stream, slices).await.unwrap();

        assert!(scene.received().await == wanted);
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_gets_every_byte_once() {
        let mut scene = scene().await;
        // More than both ends of a connection hold.
        let stand_ins: Vec<_> = (0..100).map(|_| scene.stand_in(0, 300_000)).collect();
        let slices = stand_ins.iter().map(|stand_in| &stand_in[..]).collect();
        let mut received = Vec::new();
        let reading = async {
            while received.len() < 30_000_000 {
                let mut some = vec![0; 70_001];
                let read = scene.client.read(&mut some).await.unwrap();
                received.extend_from_slice(&some[..read]);
                tokio::task::yield_now().await;
            }
        };

        let (written, ()) = tokio::join!(write_all(&mut scene.stream, slices), reading);

        written.unwrap();
        assert!(received.chunks(300_000).all(|part| part == scene.bytes));
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_given_up() {
        let Scene { stream, client: _client, files, file, .. } = scene().await;
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(Duration::from_millis(100)));
        let mut stream = Box::pin(stream);
        let sending = async {
            loop {
                let range = FileRange { file: Arc::clone(&file), start_bytes: 0, size_bytes: 300_000 };
                let stand_in = files.stand_in(range);
                let mut left = &stand_in[..];
                while !left.is_empty() {
                    match stream.write(left).await {
                        Ok(sent) => left = &left[sent..],
                        Err(error) => return error,
                    }
                }
            }
        };

        let error = timeout(Duration::from_secs(10), sending).await.unwrap();

        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_stand_in_that_is_not_owed_is_not_sent() {
        // One too many, the wrong one, one that begins late, one that is cut.
        let cases: [fn(&Scene) -> bytes::Bytes; 4] = [
            |scene| {
                let stand_in = scene.stand_in(0, 100);
                scene.files.sent(100);
                stand_in
            },
            |scene| {
                scene.stand_in(0, 100);
                scene.stand_in(0, 200)
            },
            |scene| scene.stand_in(0, 100).slice(10..),
            |scene| scene.stand_in(0, 100).slice(..90),
        ];
        for (number, case) in cases.into_iter().enumerate() {
            let mut scene = scene().await;
            let stand_in = case(&scene);

            let written = write_all(&mut scene.stream, vec![b"head", &stand_in]).await;

            assert!(written.is_err(), "case {number}");
            assert_eq!(scene.received().await, b"head", "case {number}");
        }
    }

    #[tokio::test]
    async fn what_does_not_come_to_its_end_ends_the_connection() {
        let mut half = scene().await;
        half.stand_in(0, 100);
        half.files.sent(50);
        assert!(half.stream.write(b"next").await.is_err(), "bytes in the middle of a file");

        let mut left = scene().await;
        left.stand_in(0, 100);
        assert!(write_all(&mut left.stream, vec![b"zeros that were copied"]).await.is_err());
    }

    #[tokio::test]
    async fn what_left_the_page_cache_is_read_where_it_holds_nobody_up() {
        let mut scene = scene().await;
        let (stand_in, wanted) = (scene.stand_in(0, 300_000), scene.bytes.clone());
        scene.file.sync_all().unwrap();
        rustix::fs::fadvise(&scene.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        {
            let mut write = std::pin::pin!(scene.stream.write(&stand_in));
            let first = std::future::poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await;
            assert!(first.is_pending(), "the disk was waited for here");
        }

        write_all(&mut scene.stream, vec![&stand_in]).await.unwrap();

        assert!(scene.received().await == wanted);
    }

    #[tokio::test]
    async fn a_file_that_is_too_short_ends_the_connection() {
        let mut scene = scene().await;
        let stand_in = scene.stand_in(200_000, 150_000);

        let written = write_all(&mut scene.stream, vec![&stand_in]).await;

        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let wanted = scene.bytes[200_000..].to_vec();
        assert!(scene.received().await == wanted);
    }
}
