//! The control socket: how `berth token` speaks to a registry that runs, on the same machine.
//!
//! A SQLite index is used by one process at a time, so whoever wants something of it asks that process.
//! The socket is in the data folder, and whoever may open it may read that folder.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::db;
use crate::telemetry::audit;
use crate::tokens::{Session, Tokens};

/// A command is short.
const COMMAND_BYTES: u64 = 16 * 1024;
/// Whoever connects says what they want at once.
const PATIENCE: Duration = Duration::from_secs(30);
/// Sessions on one page.
const PAGE: i64 = 1_000;

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Refresh tokens after `last`, of one identity where one is given.
    Sessions {
        /// Whose.
        identity: Option<String>,
        /// After which.
        last: String,
    },
    /// End one refresh token.
    RevokeSession {
        /// Which.
        id: String,
    },
    /// End all that an identity was given.
    RevokeIdentity {
        /// Whose.
        identity: String,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// A page of refresh tokens; an empty one is the last.
    Sessions(Vec<Session>),
    /// So many refresh tokens were ended.
    Revoked(u64),
    /// It could not be done.
    Failed(String),
}

/// Where the socket of a data folder is.
pub fn path(data: &Path) -> PathBuf {
    data.join("control.sock")
}

/// Does what is asked for, here.
pub async fn execute(tokens: &Tokens, command: Command) -> Result<Reply, db::Error> {
    let from = audit::From { client: None, request_id: "control" };
    Ok(match command {
        Command::Sessions { identity, last } => {
            Reply::Sessions(tokens.sessions(identity.as_deref(), &last, PAGE).await?)
        }
        Command::RevokeSession { id } => {
            let subject = tokens.revoke_session(&id).await?;
            if let Some(subject) = &subject {
                audit::revoked(subject, Some(&id), from);
            }
            Reply::Revoked(subject.is_some().into())
        }
        Command::RevokeIdentity { identity } => {
            let ended = tokens.revoke_identity(&identity).await?;
            audit::revoked(&identity, None, from);
            Reply::Revoked(ended)
        }
    })
}

/// Asks a registry that runs; nothing if none does.
pub async fn ask(data: &Path, command: &Command) -> io::Result<Option<Reply>> {
    let mut stream = match UnixStream::connect(path(data)).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut line = serde_json::to_vec(command)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.map_err(io::Error::other)??;
    Ok(Some(serde_json::from_slice(&answer)?))
}

/// Listens until `stop`. Without a socket everything else works.
pub(super) async fn serve(tokens: Tokens, data: PathBuf, stop: CancellationToken) {
    let path = path(&data);
    let listener = match listen(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no control socket; `berth token` cannot reach this process");
            return;
        }
    };
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else { continue };
        // One after the other: there are few.
        if let Err(error) =
            timeout(PATIENCE, answer(&tokens, stream)).await.unwrap_or_else(|late| Err(late.into()))
        {
            tracing::debug!(%error, "a command broke off");
        }
    }
    let _ = fs::remove_file(&path);
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    // With PostgreSQL and a bucket there may be nothing in the data folder, and no folder.
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // One that was left behind: the index is ours alone, or the folder is this replica's own.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn answer(tokens: &Tokens, mut stream: UnixStream) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(COMMAND_BYTES)).read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        Ok(command) => {
            execute(tokens, command).await.unwrap_or_else(|error| Reply::Failed(error.to_string()))
        }
        Err(error) => Reply::Failed(format!("no command: {error}")),
    };
    stream.write_all(&serde_json::to_vec(&reply)?).await?;
    stream.shutdown().await
}
