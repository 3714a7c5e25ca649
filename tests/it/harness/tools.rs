//! Real clients, and what a test does when one is missing.
//!
//! Such a test says by name that it skips. With `CI=true` it fails instead, so that nothing is
//! skipped unnoticed.

use std::{env, path::Path, process::Command};

use berth_test_stores::tools::{search_path, skip, tool};
use tempfile::TempDir;

use super::{
    postgres::Postgres,
    process::{self, Answer, Process},
    run,
};

/// The tools a test needs, and a folder of its own that they take for home.
pub struct Workbench {
    folder: TempDir,
}

/// A workbench with the named tools. Where one of them is missing, the test returns here.
macro_rules! workbench {
    ($($tool:literal),+ $(,)?) => {{
        fn here() {}
        match $crate::harness::tools::Workbench::with(&[$($tool),+], std::any::type_name_of_val(&here)) {
            Some(workbench) => workbench,
            None => return,
        }
    }};
}
pub(crate) use workbench;

impl Workbench {
    /// None, after saying so, where a tool is missing. `root` is the right to do as root does.
    pub fn with(tools: &[&str], place: &str) -> Option<Self> {
        for &name in tools {
            let is_there = match name {
                "root" => is_root(),
                "postgres" => Postgres::is_installed(),
                _ => tool(name).is_some(),
            };
            if !is_there {
                skip(place, name);
                return None;
            }
        }
        Some(Self { folder: run::folder("bench") })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The path of a file or folder of this workbench.
    pub fn path(&self, name: &str) -> String {
        self.folder().join(name).to_str().expect("temporary folders have plain names").to_owned()
    }

    /// A command that sees nothing of the user who runs the tests.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let program = tool(name).unwrap_or_else(|| panic!("{name} is not among the test's tools"));
        let path = env::join_paths(search_path()).expect("a search path has no colons");
        let mut command = run::command(program);
        command.args(arguments).current_dir(self.folder()).env("PATH", path);
        // Large blobs go to /var/tmp without TMPDIR, where nobody would remove them.
        command.env("HOME", self.folder()).env("TMPDIR", self.folder());
        for name in ["DOCKER_CONFIG", "DOCKER_HOST", "REGISTRY_AUTH_FILE", "KUBECONFIG"] {
            command.env_remove(name);
        }
        for name in ["CONFIG_HOME", "CACHE_HOME", "DATA_HOME", "STATE_HOME", "RUNTIME_DIR"] {
            command.env_remove(format!("XDG_{name}"));
        }
        command
    }

    /// Runs a tool to its end. A test whose tool fails, fails, and shows what the tool said.
    pub async fn run(&self, name: &str, arguments: &[&str]) -> Answer {
        process::run(self.command(name, arguments)).await
    }

    /// Runs a tool that must fail, for what it says.
    pub async fn run_and_fail(&self, name: &str, arguments: &[&str]) -> String {
        process::run_and_fail(self.command(name, arguments)).await
    }

    /// Starts a tool that goes on running.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Process {
        Process::start(self.command(name, arguments))
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
