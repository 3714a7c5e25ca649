//! `berth token`: refresh tokens that are in use, and their end.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use super::{Listening, Source};
use crate::config::Config;
use crate::server::control::{self, Command, Reply};
use crate::server::{Binding, authorities, open, tokens};
use crate::tokens::Session;

/// List and end the tokens this registry gave.
///
/// Works beside a registry that runs on the same data folder, and alone. What is ended is refused
/// everywhere within 10 seconds.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    berth token list --identity user:alice\n  \
    berth token revoke --identity serviceaccount:prod/team-a/builder\n  \
    berth token revoke Hb3kVQp1m0…\n\n\
    Identities are written as in policies and in the audit log. Ending the tokens of an identity does not\n\
    keep it from getting new ones: that is for a rule with effect = \"deny\".")]
pub(super) struct TokenCommand {
    #[command(subcommand)]
    command: Sub,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// List refresh tokens: their ids, whose they are, from which program, and until when
    List {
        /// Only those of this identity
        #[arg(long)]
        identity: Option<String>,
        /// Print JSON, one object a line
        #[arg(long)]
        json: bool,
    },
    /// End a refresh token and what was made from it, or all tokens of an identity
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Revoke {
        /// The id of a refresh token, as `berth token list` shows it
        #[arg(group = "which")]
        id: Option<String>,
        /// All tokens of this identity, as user:alice
        #[arg(long, group = "which")]
        identity: Option<String>,
    },
}

impl TokenCommand {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let config = self.source.load(Listening::default())?;
        match self.command {
            Sub::List { identity, json } => list(&config, identity, json).await,
            Sub::Revoke { id: Some(id), .. } => match ask(&config, Command::RevokeSession { id }).await? {
                Reply::Revoked(0) => {
                    bail!("there is no refresh token of that id; `berth token list` shows them")
                }
                Reply::Revoked(_) => {
                    println!("ended the refresh token and what was made from it");
                    Ok(ExitCode::SUCCESS)
                }
                other => unexpected(&other),
            },
            Sub::Revoke { identity, .. } => {
                let identity = identity.unwrap_or_default();
                let parsed = berth_auth::Identity::parse(&identity).filter(|parsed| !parsed.is_anonymous());
                parsed.with_context(|| format!("{identity:?} is no identity; they look like user:alice"))?;
                match ask(&config, Command::RevokeIdentity { identity: identity.clone() }).await? {
                    Reply::Revoked(count) => {
                        println!("ended {count} refresh tokens and all access tokens of {identity}");
                        Ok(ExitCode::SUCCESS)
                    }
                    other => unexpected(&other),
                }
            }
        }
    }
}

async fn list(config: &Config, identity: Option<String>, json: bool) -> Result<ExitCode> {
    let mut last = String::new();
    if !json {
        println!("{:<32} {:<40} {:<25} {:<20} EXPIRES", "ID", "IDENTITY", "CLIENT", "USED");
    }
    loop {
        let command = Command::Sessions { identity: identity.clone(), last: last.clone() };
        let page = match ask(config, command).await? {
            Reply::Sessions(page) => page,
            other => return unexpected(&other),
        };
        let Some(end) = page.last() else { return Ok(ExitCode::SUCCESS) };
        last.clone_from(&end.id);
        for session in &page {
            if json {
                println!("{}", serde_json::to_string(session)?);
            } else {
                let Session { id, identity, client, used_at, expires_at, .. } = session;
                let (used, expires) = (moment(*used_at), moment(*expires_at));
                println!("{id:<32} {identity:<40} {client:<25} {used:<20} {expires}");
            }
        }
    }
}

/// Of the registry that runs on this data folder, or here if none does.
async fn ask(config: &Config, command: Command) -> Result<Reply> {
    if let Some(reply) =
        control::ask(&config.data, &command).await.context("asking the registry that runs")?
    {
        return Ok(reply);
    }
    let context = open(config, Binding::Check).await?;
    let tokens = tokens(config, &context, authorities(config)?).await?;
    let reply = control::execute(&tokens, command).await;
    context.db.close().await;
    Ok(reply?)
}

fn unexpected(reply: &Reply) -> Result<ExitCode> {
    match reply {
        Reply::Failed(reason) => bail!("{reason}"),
        other => bail!("the registry that runs answered something else: {other:?}"),
    }
}

fn moment(millis: i64) -> String {
    let since = std::time::Duration::from_millis(u64::try_from(millis).unwrap_or_default());
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
}
