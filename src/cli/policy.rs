//! `berth policy`: looks rules over, and says what they decide.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use berth_auth::book::Book;
use berth_auth::{Explanation, Identity, Kind, Permissions, Policy, Question, Vouchers};
use clap::{Args, Subcommand};

use super::{Listening, Source, said_once};
use crate::clock::Clock;
use crate::config::Config;

/// Look rules over, or say what they decide
#[derive(Debug, Args)]
pub(super) struct PolicyCommand {
    #[command(flatten)]
    source: Source,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say what is wrong with rules, users and robots, and what is odd
    ///
    /// Reads these files and folders, or else the configuration and its `auth.policy_folder`. Exit code 0
    /// if all of it is good, whatever is odd; 1 if something is wrong.
    Check {
        /// Files with `[[rule]]`, `[[user]]` and `[[robot]]`, or folders of such `*.toml` files
        #[arg(value_name = "FILE|FOLDER")]
        paths: Vec<PathBuf>,
    },
    /// Say whether somebody may do something, and what each rule has to say
    ///
    /// The configuration is read as `berth serve` reads it, with its `auth.policy_folder`. The attributes that
    /// follow from a name are filled in: cluster, namespace and serviceaccount of a service account,
    /// cluster and node of a node. Users and robots have those of the configuration. Exit code 0 if the
    /// answer is yes, 1 if it is no.
    Explain(Explain),
}

#[derive(Debug, Args)]
struct Explain {
    /// Who: `anonymous`, `user:alice`, `robot:ci`, `serviceaccount:CLUSTER/NAMESPACE/NAME`, …
    #[arg(long, value_name = "IDENTITY", value_parser = identity)]
    identity: Identity,
    /// A group they are in
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// An attribute they have
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
    /// What for: pull, push (create and overwrite), create, overwrite, delete or *
    #[arg(long, value_name = "ACTION", value_parser = str::parse::<Permissions>)]
    action: Permissions,
    /// On which repository
    #[arg(long, value_name = "NAME")]
    repository: String,
    /// From which address
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// Print a list of answers, one for each action, as JSON
    #[arg(long)]
    json: bool,
}

fn identity(text: &str) -> Result<Identity, String> {
    if let Some(group) = text.strip_prefix("group:") {
        return Err(format!("a group is nobody; say who is in it, and --group {group}"));
    }
    if text.contains('*') {
        return Err("it is one identity, and no pattern".to_owned());
    }
    let kinds: Vec<_> = Kind::ALL.iter().skip(1).map(|kind| kind.as_str()).collect();
    Identity::parse(text)
        .ok_or_else(|| format!("it is anonymous or KIND:NAME, KIND being {}", kinds.join(", ")))
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl PolicyCommand {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self.what {
            What::Check { paths } => Ok(check(&self.source, &paths).unwrap_or_else(|error| {
                eprintln!("{}", said_once(&error));
                ExitCode::FAILURE
            })),
            What::Explain(explain) => {
                if self.source.config.is_none() {
                    eprintln!("note: no configuration was named; --config FILE, or BERTH_CONFIG, does");
                }
                explain.run(&self.source.load(Listening::default())?)
            }
        }
    }
}

fn check(source: &Source, paths: &[PathBuf]) -> Result<ExitCode> {
    let (book, vouchers) = if paths.is_empty() {
        let config = source.load(Listening::default())?;
        (book_of(&config)?, Some(vouchers(&config)))
    } else {
        let mut chapters = Vec::new();
        for path in paths {
            let found = Book::chapters(path).map_err(|error| match what_is(path) {
                Some(what) => anyhow!("{error}; {what}"),
                None => error.into(),
            })?;
            if found.is_empty() {
                println!("{}: there is no *.toml file in it", path.display());
            }
            chapters.extend(found);
        }
        (Book::of(&chapters)?, None)
    };
    let remarks = book.lint(vouchers.as_ref());
    for remark in &remarks {
        match book.place_of_rule(remark.index) {
            Some((file, Some(place))) => print!("{}, line {}: ", file.display(), place.line),
            Some((file, None)) => print!("{}: ", file.display()),
            None => {}
        }
        println!("rule {:?}: {}", remark.rule, remark.text);
    }
    let (rules, users, robots) =
        (book.policy.rules().count(), book.users.iter().count(), book.robots.iter().count());
    println!("good: {rules} rules, {users} users, {robots} robots; {} warnings", remarks.len());
    Ok(ExitCode::SUCCESS)
}

/// What a file is that cannot be read as rules, where that helps.
fn what_is(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let table: toml::Table = toml::from_str(&text).ok()?;
    table.contains_key("auth").then(|| format!("for a configuration there is --config {}", path.display()))
}

fn vouchers(config: &Config) -> Vouchers {
    Vouchers {
        clusters: config.auth.cluster.iter().map(|cluster| cluster.name.clone()).collect(),
        issuers: config.auth.issuer.iter().map(|issuer| issuer.name.clone()).collect(),
    }
}

fn book_of(config: &Config) -> Result<Book> {
    Ok(Book::read(config.auth.chapter(), config.auth.policy_folder.as_deref())?)
}

impl Explain {
    fn run(self, config: &Config) -> Result<ExitCode> {
        let Self { identity, groups, attributes, action, repository, client, json } = self;
        repository
            .parse::<crate::oci::RepositoryName>()
            .with_context(|| format!("--repository {repository:?}"))?;
        let book = book_of(config)?;
        if let Some(doubt) = doubt(&identity, &book, config) {
            eprintln!("note: {doubt}");
        }
        let mut identity = known(identity, &book)?;
        identity.groups.extend(groups);
        identity.attributes.extend(attributes);
        let open = Policy::open();
        let policy = if config.auth.is_empty() { &open } else { &book.policy };
        let question =
            Question { identity: &identity, repository: &repository, client, now: Clock::System.now() };
        let answers: Vec<Explanation> =
            action.iter().map(|action| policy.explain(&question, action)).collect();
        if json {
            println!("{}", serde_json::to_string_pretty(&answers)?);
        } else {
            for answer in &answers {
                println!("{answer}");
            }
        }
        let all = answers.iter().all(|answer| answer.allowed);
        Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Why nobody can be this identity, unless the configuration is a part of one, which has none of the kind.
fn doubt(identity: &Identity, book: &Book, config: &Config) -> Option<String> {
    let (kind, name) = (identity.kind(), identity.name());
    let is_whole = match kind {
        Kind::User => book.users.iter().next().is_some(),
        Kind::Robot => book.robots.iter().next().is_some(),
        Kind::ServiceAccount | Kind::Node => !config.auth.cluster.is_empty(),
        Kind::Oidc => !config.auth.issuer.is_empty(),
        Kind::Anonymous | Kind::Certificate => false,
    };
    let missing = match kind {
        Kind::User if book.users.find(name).is_none() => Some(format!("there is no user {name}")),
        Kind::Robot if book.robots.find(name).is_none() => Some(format!("there is no robot {name}")),
        _ => vouchers(config).missing(kind, name),
    };
    missing.filter(|_| is_whole).map(|missing| format!("{missing}, so nobody can be {identity}"))
}

/// The identity with what follows from its name, or is written of it.
fn known(identity: Identity, book: &Book) -> Result<Identity> {
    let name = identity.name().to_owned();
    let parts: Vec<&str> = name.split('/').collect();
    let user = book.users.iter().find(|user| user.name == name);
    let robot = book.robots.iter().find(|robot| robot.name == name);
    let written = match (identity.kind(), parts.as_slice()) {
        (Kind::ServiceAccount, [cluster, namespace, account]) => {
            return Ok(identity
                .with("cluster", *cluster)
                .with("namespace", *namespace)
                .with("serviceaccount", *account));
        }
        (Kind::Node, [cluster, node]) => return Ok(identity.with("cluster", *cluster).with("node", *node)),
        (Kind::ServiceAccount, _) => bail!("a service account is serviceaccount:CLUSTER/NAMESPACE/NAME"),
        (Kind::Node, _) => bail!("a node is node:CLUSTER/NAME"),
        (Kind::User, _) => user.map(|user| (&user.groups, &user.attributes)),
        (Kind::Robot, _) => robot.map(|robot| (&robot.groups, &robot.attributes)),
        (Kind::Anonymous | Kind::Oidc | Kind::Certificate, _) => None,
    };
    let mut identity = identity;
    if let Some((groups, attributes)) = written {
        identity.groups.clone_from(groups);
        identity.attributes.clone_from(attributes);
    }
    Ok(identity)
}
