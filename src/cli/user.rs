//! `berth user`: people with a password here.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use berth_auth::users;
use clap::{Args, Subcommand};

/// Make what the configuration has of people
#[derive(Debug, Args)]
pub(super) struct UserCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Hash a password and print the `[[user]]` block for it
    ///
    /// The password is asked for on a terminal, or is the first line of the standard input.
    Hash {
        /// The name of the user
        #[arg(default_value = "alice")]
        name: String,
    },
}

impl UserCommand {
    pub(super) fn run(self) -> Result<ExitCode> {
        let What::Hash { name } = self.what;
        users::check_name(&name).map_err(anyhow::Error::msg)?;
        let hash = users::hash(&password()?)?;
        println!("[[user]]\nname = {}\npassword_hash = {}", text(&name), text(&hash));
        Ok(ExitCode::SUCCESS)
    }
}

/// A text as TOML writes it.
fn text(text: &str) -> toml::Value {
    toml::Value::String(text.to_owned())
}

fn password() -> Result<String> {
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).context("cannot read the password")?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let ask = |prompt: &str| rpassword::prompt_password(prompt).context("cannot read the password");
    let password = ask("Password: ")?;
    ensure!(ask("Once more: ")? == password, "the two are not the same");
    Ok(password)
}
