//! The kubelet's credential provider for Berth.
//!
//! The kubelet starts this program for an image it has no credential for, writes a request to its
//! standard input, and takes the answer from its standard output (KEP-2133, KEP-4412). What it writes to
//! standard error ends up in the kubelet's log, so nothing secret is ever there.

mod flags;
mod image;
mod kubelet;
mod provide;

use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::time::Instant;

use berth_token_client::Clock;

use crate::flags::{Command, Flags};
use crate::kubelet::Request;

/// A request is a token, an image and some annotations: the API server caps all of them far below this.
const REQUEST_LIMIT_BYTES: u64 = 1024 * 1024;

fn main() -> ExitCode {
    let started = Instant::now();
    let flags = match Flags::read(std::env::args_os(), |name| std::env::var(name).ok()) {
        Ok(Command::Provide(flags)) => flags,
        Ok(Command::Say(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return failed(&error),
    };
    let timeout = flags.timeout;
    // The time limit holds for what cannot be interrupted too: a name that does not resolve, and a
    // standard input that nobody closes.
    std::thread::spawn(move || {
        std::thread::sleep(timeout.saturating_sub(started.elapsed()));
        eprintln!("berth-credential-provider: no credential within {} s", timeout.as_secs_f64());
        std::process::exit(1);
    });
    match answer(&flags, started) {
        Ok(answer) => {
            let mut out = std::io::stdout().lock();
            match out.write_all(answer.as_bytes()).and_then(|()| out.flush()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failed(&error),
            }
        }
        Err(error) => failed(&*error),
    }
}

fn answer(flags: &Flags, started: Instant) -> Result<String, Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(REQUEST_LIMIT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > REQUEST_LIMIT_BYTES {
        return Err("the request is larger than 1 MiB".into());
    }
    let request = Request::parse(&bytes)?;
    // The last tenth is for saying what went wrong.
    let until = started + flags.timeout.mul_f64(0.9);
    let answer = provide::provide(flags, &request, until, &Clock::System)?;
    Ok(serde_json::to_string(&answer)? + "\n")
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("berth-credential-provider: {error}");
    ExitCode::FAILURE
}
