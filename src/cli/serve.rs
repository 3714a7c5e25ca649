//! `berth serve`: runs the registry.

use std::future::Future;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Listening, Source};
use crate::config::LogFormat;
use crate::server::{Server, ServerError};
use crate::telemetry;

/// Run the registry.
///
/// Without configuration it listens on 127.0.0.1:5000 and keeps everything in ./berth-data. It ends
/// on SIGTERM or Ctrl-C: not ready at once, running transfers finish, a second Ctrl-C ends it now.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    listening: Listening,
}

impl Serve {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let config = self.source.load(self.listening)?;
        telemetry::start(&config.log.level, config.log.format == LogFormat::Json)?;
        raise_file_limit();
        let stop = signals()?;
        let server = Server::bind(config).await?;
        greet(&server);
        server.run(stop).await;
        tracing::info!("drained");
        Ok(ExitCode::SUCCESS)
    }
}

/// Ends at the first signal; the second ends the process.
fn signals() -> Result<impl Future<Output = ()>, ServerError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServerError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServerError::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {
                // Whoever presses Ctrl-C twice means it.
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                    if let Ok(runtime) = runtime
                        && runtime.block_on(interrupt.recv()).is_some()
                    {
                        std::process::exit(130);
                    }
                });
            }
        }
    })
}

/// A thousand connections need more files than many systems give at first.
fn raise_file_limit() {
    const ENOUGH: u64 = 65_536;
    if let Err(error) = rlimit::increase_nofile_limit(ENOUGH) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
}

/// Says where everything is, and how to begin.
fn greet(server: &Server) {
    let (address, scheme) = (server.address(), server.scheme());
    let (index, objects) = server.places();
    let absolute =
        |path: String| std::path::absolute(Path::new(&path)).map_or(path, |path| path.display().to_string());
    // A bucket has an address.
    let objects = if objects.contains("://") { objects } else { absolute(objects) };
    let index = if index == "PostgreSQL" { index } else { absolute(index) };
    let metrics = match server.watch_address() {
        Some((scheme, address)) => format!("  metrics  {scheme}://{address}/metrics\n"),
        None => String::new(),
    };
    let host = server.host();
    let login = if server.knows_identities() { format!("docker login {host}\n  ") } else { String::new() };
    let text = format!(
        "Berth is listening on {scheme}://{address}\n\n  \
           index    {index}\n  \
           objects  {objects}\n{metrics}\n\
         Push a first image:\n\n  \
           {login}docker pull busybox\n  \
           docker tag busybox {host}/busybox\n  \
           docker push {host}/busybox\n\n"
    );
    // Nobody may be reading.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
