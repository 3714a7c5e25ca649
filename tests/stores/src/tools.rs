//! Programs that a test needs, and what it does when one is missing.
//!
//! Such a test says by name that it skips. With `CI=true` it fails instead, so that nothing is
//! skipped unnoticed.

use std::{env, io::Write as _, path::PathBuf};

/// Where scripts/install-test-tools puts what is not a Debian package.
const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/test-tools/bin");

/// Returns from the test, after saying so, where one of the named programs is missing.
#[macro_export]
macro_rules! require {
    ($($tool:literal),+ $(,)?) => {
        fn here() {}
        for name in [$($tool),+] {
            if $crate::tools::tool(name).is_none() {
                $crate::tools::skip(std::any::type_name_of_val(&here), name);
                return;
            }
        }
    };
}

/// Finds a program: a built one, else the system's.
pub fn tool(name: &str) -> Option<PathBuf> {
    search_path().map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The folders in which [`tool`] looks, in order.
pub fn search_path() -> impl Iterator<Item = PathBuf> {
    // Before the path: some machines have another docker client there than Debian's.
    let first = [BUILT, "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    first.into_iter().chain(env::split_paths(&path).collect::<Vec<_>>())
}

/// Says that a test skips; fails where nothing may be skipped. The place is the type name of a
/// function inside of the test.
pub fn skip(place: &str, missing: &str) {
    // `it::clients::skopeo::name_of_the_test::{{closure}}::here`
    let test = place.trim_end_matches("::here").trim_end_matches("::{{closure}}");
    let test = test.split_once("::").map_or(test, |(_, test)| test);
    let message = format!("SKIPPED {test}: {missing} is missing (scripts/install-test-tools)");
    assert!(env::var("CI").as_deref() != Ok("true"), "{message}");
    // Not eprintln, whose text the test runner keeps to itself when a test passes.
    let _ = writeln!(std::io::stderr(), "{message}");
}
