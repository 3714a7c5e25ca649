//! A program that a test runs, with all it has said.
//!
//! Its output is read by threads, not tasks, so that it may be shared between tests, each of
//! which has a runtime of its own.

use std::{
    io::Read,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time};

/// How long a test waits for a program before it gives up: ample, for two busy cores.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// How long a program that is told to stop may take on the way out of a test.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(20);

/// How often a program that is to end is looked at.
const TICK: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Said {
    stdout: Vec<u8>,
    /// Both streams, in the order in which they arrived.
    all: Vec<u8>,
    open_streams: usize,
}

/// A running program. It is stopped when this value is dropped.
pub struct Process {
    line: String,
    child: Child,
    said: watch::Receiver<Said>,
}

/// What a program that ended well has written to its standard output.
pub struct Answer {
    /// The output as it is.
    pub stdout: Vec<u8>,
}

impl Answer {
    /// The output as text, without white space at its ends.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// The output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }
}

impl Process {
    /// Starts a program and listens to it.
    pub fn start(mut command: Command) -> Self {
        let line = line(&command);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
        let (said, receiver) = watch::channel(Said { open_streams: 2, ..Said::default() });
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        listen(stdout, said.clone(), true);
        listen(stderr, said, false);
        Self { line, child, said: receiver }
    }

    /// The number the kernel gave it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything said so far, on both streams.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.borrow().all).into_owned()
    }

    /// Waits until `find` finds something in what was said.
    pub async fn until<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let mut said = self.said.clone();
        let waiting = async {
            loop {
                let (found, is_over) = {
                    let now = said.borrow_and_update();
                    (find(&String::from_utf8_lossy(&now.all)), now.open_streams == 0)
                };
                if found.is_some() || is_over || said.changed().await.is_err() {
                    return found;
                }
            }
        };
        let found = time::timeout(PATIENCE, waiting).await;
        let found = found.unwrap_or_else(|_| {
            panic!("{} took too long until {what}, it said:\n{}", self.line, self.said())
        });
        found.unwrap_or_else(|| panic!("{} ended before {what}, it said:\n{}", self.line, self.said()))
    }

    /// Waits until the program ends by itself.
    pub async fn end(&mut self, patience: Duration) -> ExitStatus {
        let until = Instant::now() + patience;
        let mut said = self.said.clone();
        loop {
            // Ends with the last process that holds the streams, which may be a child's child.
            let silence = said.wait_for(|said| said.open_streams == 0);
            let is_silent = time::timeout(TICK, silence).await.is_ok();
            if let Some(status) = self.child.try_wait().expect("wait for a child") {
                let _ = time::timeout(TICK * 20, said.wait_for(|said| said.open_streams == 0)).await;
                return status;
            }
            assert!(
                Instant::now() < until,
                "{} did not end in {patience:?}, it said:\n{}",
                self.line,
                self.said()
            );
            if is_silent {
                time::sleep(TICK / 10).await;
            }
        }
    }

    /// Asks the program to end (SIGTERM) and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.end(PATIENCE).await
    }

    /// Ends the program at once (SIGKILL).
    pub fn kill(&mut self) -> ExitStatus {
        let _ = self.child.kill();
        self.child.wait().expect("wait for a child")
    }

    /// Sends a signal by its name, for example `TERM`.
    pub fn signal(&mut self, name: &str) {
        // A process that was waited for is gone, and its number may be another's.
        if self.child.try_wait().expect("wait for a child").is_none() {
            let script = format!("kill -{name} {}", self.pid());
            let _ = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal("TERM");
        let until = Instant::now() + PATIENCE_AT_THE_END;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                self.kill();
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn listen(mut stream: impl Read + Send + 'static, said: watch::Sender<Said>, is_stdout: bool) {
    thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            said.send_modify(|said| {
                said.all.extend_from_slice(&buffer[..count]);
                if is_stdout {
                    said.stdout.extend_from_slice(&buffer[..count]);
                }
            });
        }
        said.send_modify(|said| said.open_streams -= 1);
    });
}

/// Runs a command to its end. A test whose command fails, fails.
pub async fn run(command: Command) -> Answer {
    let mut process = Process::start(command);
    let status = process.end(PATIENCE).await;
    assert!(
        status.success(),
        "{} ended with {}, it said:\n{}",
        process.line,
        outcome(status),
        process.said()
    );
    let stdout = process.said.borrow().stdout.clone();
    Answer { stdout }
}

/// Runs a command that must fail, for what it says.
pub async fn run_and_fail(command: Command) -> String {
    let mut process = Process::start(command);
    let status = process.end(PATIENCE).await;
    assert!(!status.success(), "{} was to fail, it said:\n{}", process.line, process.said());
    process.said()
}

/// A command as one would type it, without its environment.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn outcome(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("code {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => status.to_string(),
    }
}
