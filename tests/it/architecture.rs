//! The arrows of the house, read from its `use` lines.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which room may use which, besides itself. A room that is not listed is a mistake.
const ARROWS: [(&str, &[&str]); 12] = [
    ("cli", &["server", "config", "telemetry", "jobs", "tokens", "db", "oci", "clock", "berth_auth"]),
    (
        "server",
        &[
            "http",
            "jobs",
            "registry",
            "tokens",
            "db",
            "config",
            "clock",
            "telemetry",
            "berth_storage",
            "berth_auth",
        ],
    ),
    ("http", &["registry", "tokens", "oci", "telemetry", "berth_auth", "berth_storage", "db"]),
    ("jobs", &["db", "clock", "telemetry", "berth_storage"]),
    ("registry", &["db", "oci", "clock", "telemetry", "berth_storage", "berth_auth"]),
    ("tokens", &["db", "clock", "berth_auth"]),
    ("db", &["oci", "berth_storage"]),
    ("config", &["db", "berth_auth"]),
    ("oci", &["berth_storage"]),
    ("clock", &[]),
    ("telemetry", &["berth_storage"]),
    ("main", &["cli"]),
];

/// What may be used only of a room, where all of it would be too much.
const ONLY: [(&str, &str, &[&str]); 9] = [
    // Digests are the spec's vocabulary, and a store's trouble has a status; bytes go by the registry.
    ("http", "berth_storage", &["Algorithm", "Digest", "DigestError", "StoreError"]),
    ("http", "telemetry", &["Metrics", "audit"]),
    ("registry", "telemetry", &["Metrics", "FoundBy"]),
    // A store counts its reads itself.
    ("telemetry", "berth_storage", &["Reads", "Store"]),
    ("jobs", "telemetry", &["Metrics", "FoundBy"]),
    // Only to give trouble in the index its status.
    ("http", "db", &["Error"]),
    ("config", "db", &["Location"]),
    ("cli", "db", &["Db"]),
    ("oci", "berth_storage", &["Algorithm", "Digest", "DigestError"]),
];

/// Crates that belong to one room, or to few.
const CRATES: [(&str, &[&str]); 7] = [
    ("sqlx", &["db"]),
    ("axum", &["http", "server"]),
    ("hyper", &["http", "server"]),
    ("clap", &["cli", "main"]),
    ("toml", &["config", "cli"]),
    ("anyhow", &["cli"]),
    // A blocking client, for people at a terminal.
    ("berth_credential_helper", &["cli"]),
];

/// What runs beside the server, and starts in milliseconds.
const SMALL: [&str; 3] = ["auth/token-client", "auth/credential-provider", "auth/credential-helper"];

#[test]
fn a_room_uses_only_the_rooms_its_arrows_point_at() {
    let mut wrong = Vec::new();
    for (room, file, text) in sources() {
        let arrows = ARROWS.iter().find(|(name, _)| *name == room);
        let Some((_, allowed)) = arrows else {
            wrong.push(format!("{file}: no room is called {room}"));
            continue;
        };
        for used in uses(&room, &text) {
            if !allowed.contains(&used.room.as_str()) && used.room != room {
                wrong.push(format!("{file}: {room} uses {}", used.room));
            }
            let only = ONLY.iter().find(|(from, to, _)| *from == room && *to == used.room);
            if let Some((_, _, names)) = only
                && !used.names.iter().all(|name| names.contains(&name.as_str()))
            {
                wrong.push(format!("{file}: {room} uses {:?} of {}", used.names, used.room));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_crate_stays_in_its_rooms() {
    let mut wrong = Vec::new();
    for (room, file, text) in sources() {
        for (name, rooms) in CRATES {
            let mentioned = code(&text).any(|line| line.contains(&format!("{name}::")));
            if mentioned && !rooms.contains(&room.as_str()) {
                wrong.push(format!("{file}: {name} does not belong in {room}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn storage_and_auth_know_neither_each_other_nor_the_server() {
    for (folder, other) in [("storage/src", "berth_auth"), ("auth/src", "berth_storage")] {
        for file in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.contains(other), "{} names {other}", file.display());
            assert!(!code(&text).any(|line| line.contains("berth::")), "{} names berth", file.display());
        }
    }
}

#[test]
fn the_small_programs_depend_on_nothing_of_the_server() {
    for folder in SMALL {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let ours = manifest.lines().filter_map(|line| line.strip_prefix("berth-")?.split_once(" = "));
        for (name, _) in ours {
            assert!(
                ["token-client", "test-token-service"].contains(&name),
                "{folder} depends on berth-{name}"
            );
        }
        for heavy in ["tokio", "clap", "hyper", "reqwest"] {
            assert!(!manifest.contains(heavy), "{folder} depends on {heavy}");
        }
    }
}

#[test]
fn both_databases_have_the_same_migrations() {
    let names = |database: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root().join("migrations").join(database)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert!(!names("sqlite").is_empty());
    assert_eq!(names("sqlite"), names("postgres"));
}

#[test]
fn the_configuration_reference_is_the_one_the_program_writes() {
    let written = fs::read_to_string(root().join("docs/reference/configuration.md")).unwrap();
    let answer = crate::harness::server::berth().args(["config", "reference"]).output().unwrap();
    assert_eq!(
        written,
        String::from_utf8(answer.stdout).unwrap(),
        "run `berth config reference > docs/reference/configuration.md`"
    );
}

#[test]
fn every_module_says_what_lives_in_it() {
    for folder in ["src", "storage/src", "auth/src", "tests/it", "benches"].into_iter().chain(SMALL) {
        for file in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(
                text.starts_with("//!") || text.starts_with("// "),
                "{} opens without //!",
                file.display()
            );
        }
    }
}

struct Use {
    room: String,
    names: Vec<String>,
}

/// The rooms and crates of ours that a file names, in `use` lines and in paths.
fn uses(room: &str, text: &str) -> Vec<Use> {
    let mut found = Vec::new();
    for prefix in ["crate::", "berth_storage::", "berth_auth::", "berth::"] {
        for line in statements(text) {
            for (at, _) in line.match_indices(prefix) {
                let boundary = line[..at].chars().next_back();
                if boundary.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == '$') {
                    continue;
                }
                let rest = &line[at + prefix.len()..];
                let rest = match prefix {
                    "crate::" | "berth::" => rest.to_owned(),
                    _ => format!("{}::{rest}", prefix.trim_end_matches("::")),
                };
                found.extend(split(&rest));
            }
        }
    }
    found.retain(|used| used.room != room);
    found
}

/// `db::{self, blobs}` is the room db and the names self and blobs.
fn split(path: &str) -> Vec<Use> {
    if let Some(list) = path.strip_prefix('{') {
        let list = list.split('}').next().unwrap_or_default();
        return list.split(',').flat_map(|one| split(one.trim())).collect();
    }
    let word =
        |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let room = word(path);
    let rest = path[room.len()..].strip_prefix("::").unwrap_or_default();
    let names = match rest.strip_prefix('{') {
        Some(list) => {
            list.split('}').next().unwrap_or_default().split(',').map(|one| word(one.trim())).collect()
        }
        None => vec![word(rest)],
    };
    let names = names.into_iter().filter(|name: &String| !name.is_empty() && name != "self").collect();
    if room.is_empty() { Vec::new() } else { vec![Use { room, names }] }
}

/// Lines of code, `use` statements joined to one, without comments and without unit tests.
fn statements(text: &str) -> Vec<String> {
    let mut whole: Vec<String> = Vec::new();
    let mut open = false;
    for line in code(text) {
        match whole.last_mut() {
            Some(last) if open => last.push_str(line.trim()),
            _ => whole.push(line.trim().to_owned()),
        }
        let begins = line.trim_start().trim_start_matches("pub ").starts_with("use ");
        open = (open || begins) && !line.trim_end().ends_with(';');
    }
    whole
}

fn code(text: &str) -> impl Iterator<Item = &str> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

fn sources() -> Vec<(String, String, String)> {
    let src = root().join("src");
    let files = rust_files(&src).into_iter().filter(|file| !file.ends_with("src/lib.rs"));
    files
        .map(|file| {
            let below = file.strip_prefix(&src).unwrap();
            let room = below.components().next().unwrap().as_os_str().to_str().unwrap();
            let text = fs::read_to_string(&file).unwrap();
            (room.trim_end_matches(".rs").to_owned(), below.display().to_string(), text)
        })
        .collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
