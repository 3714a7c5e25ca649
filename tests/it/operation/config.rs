//! The configuration as a user meets it: `berth config`, the file, the variables, the help.

use std::fs;

use crate::{
    harness::{run::folder, server::berth},
    operation::scenes::{Ended, run},
};

/// Runs `berth` in a folder of its own, with a file there and variables.
async fn with(file: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let place = folder("config");
    let mut command = berth();
    if !file.is_empty() {
        fs::write(place.path().join("berth.toml"), file).expect("write the configuration");
        command.env("BERTH_CONFIG", "berth.toml");
    }
    command.args(arguments).envs(variables.iter().copied()).current_dir(place.path());
    let ended = run(command).await;
    assert!(!place.path().join("berth-data").exists(), "looking makes nothing");
    ended
}

async fn shown(file: &str, variables: &[(&str, &str)], arguments: &[&str]) -> toml::Table {
    let ended = with(file, variables, &[&["config", "show"], arguments].concat()).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    ended.said.parse().unwrap_or_else(|error| panic!("{error} in {}", ended.said))
}

/// What `berth config check` says of something it refuses.
async fn refused(file: &str, variables: &[(&str, &str)]) -> String {
    let ended = with(file, variables, &["config", "check"]).await;
    assert_eq!(ended.code, Some(2), "{file:?} {variables:?}: {}", ended.said);
    ended.said
}

#[tokio::test]
async fn what_is_shown_can_be_read_back() {
    let ended = with("", &[], &["config", "show"]).await;
    assert_eq!(ended.code, Some(0));
    let again = shown(&ended.said, &[], &[]).await;
    assert_eq!(again, ended.said.parse::<toml::Table>().expect("TOML"));
    assert_eq!(again["http"]["listen"].as_str(), Some("127.0.0.1:5000"));
}

#[tokio::test]
async fn a_good_configuration_is_said_to_be_good() {
    let ended =
        with("[gc]\nmin_age = \"7d\"\n[[repositories]]\nmatch = \"mirror/**\"", &[], &["config", "check"])
            .await;
    assert_eq!((ended.code, ended.said.trim()), (Some(0), "the configuration is good"));
}

#[tokio::test]
async fn flags_win_over_variables_and_variables_over_the_file() {
    let file =
        "data = \"/file\"\n[http]\nlisten = \"127.0.0.1:1\"\nidle_timeout = \"5s\"\n[gc]\nmin_age = \"5h\"";
    let variables =
        [("BERTH_DATA", "/variable"), ("BERTH_HTTP__LISTEN", "127.0.0.1:2"), ("BERTH_GC__MIN_AGE", "6h")];

    let all = shown(file, &variables, &["--listen", "127.0.0.1:3", "--data", "/flag"]).await;
    assert_eq!((all["data"].as_str(), all["http"]["listen"].as_str()), (Some("/flag"), Some("127.0.0.1:3")));
    let two = shown(file, &variables, &[]).await;
    assert_eq!(
        (two["data"].as_str(), two["http"]["listen"].as_str()),
        (Some("/variable"), Some("127.0.0.1:2"))
    );
    assert_eq!(two["gc"]["min_age"].as_str(), Some("6h"));
    assert_eq!(two["http"]["idle_timeout"].as_str(), Some("5s"));
    let one = shown(file, &[], &[]).await;
    assert_eq!((one["data"].as_str(), one["http"]["listen"].as_str()), (Some("/file"), Some("127.0.0.1:1")));
}

#[tokio::test]
async fn a_variable_may_be_a_text_a_number_or_a_truth() {
    let variables = [
        ("BERTH_LIMITS__PAGE", "50"),
        ("BERTH_LIMITS__UPLOAD_MEMORY", "64MiB"),
        ("BERTH_HTTP__ALLOW_ANONYMOUS", "true"),
        ("BERTH_HTTP__LISTEN", "0.0.0.0:5000"),
        ("BERTH_LOG__FORMAT", "json"),
        ("BERTH_STORAGE__PATH", "2024"),
    ];
    let shown = shown("", &variables, &[]).await;
    assert_eq!(shown["limits"]["page"].as_integer(), Some(50));
    assert_eq!(shown["limits"]["upload_memory"].as_str(), Some("64MiB"));
    assert_eq!(shown["http"]["allow_anonymous"].as_bool(), Some(true));
    assert_eq!(shown["log"]["format"].as_str(), Some("json"));
    assert_eq!(shown["storage"]["path"].as_str(), Some("2024"), "a name may look like a number");
}

#[tokio::test]
async fn an_unknown_key_is_refused_with_its_line_and_column() {
    let said = refused("[gc]\nmin_age = \"1h\"\nmax_age = \"2h\"\n", &[]).await;
    for part in ["berth.toml", "line 3, column 1", "max_age"] {
        assert!(said.contains(part), "{said}");
    }
    let said = refused("[http]\nlisten = \"127.0.0.1:1\"\n\n[tls]\ncert = \"x\"\n", &[]).await;
    assert!(said.contains("line 4") && said.contains("tls"), "{said}");
}

#[tokio::test]
async fn a_message_says_each_thing_once() {
    let said = refused("[gc]\nmax_age = \"2h\"\n", &[]).await;
    assert_eq!(said.matches("max_age").count(), 1, "{said}");
}

#[tokio::test]
async fn a_file_that_is_no_toml_is_refused_with_its_line_and_column() {
    let said = refused("[gc]\nmin_age = 1h\n", &[]).await;
    assert!(said.contains("line 2, column") && said.contains("berth.toml"), "{said}");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let ended = with("", &[], &["config", "check", "--config", "elsewhere.toml"]).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.said.contains("cannot read elsewhere.toml"), "{}", ended.said);
}

#[tokio::test]
async fn a_variable_that_is_no_setting_is_refused_by_its_name() {
    for name in ["BERTH_GC__MAX_AGE", "BERTH_GCMINAGE", "BERTH_GC__MIN_AGE__MORE", "BERTH_GC", "BERTH_"] {
        let said = refused("", &[(name, "2h")]).await;
        assert!(said.contains(name), "{said}");
    }
}

#[tokio::test]
async fn a_bad_value_is_refused_by_the_name_of_its_setting() {
    let cases = [
        ("[gc]\nmin_age = \"a day\"", "a day"),
        ("[gc]\nmin_age = 5", "with its unit"),
        ("[gc]\nmin_age = \"-5s\"", "-5s"),
        ("[gc]\ninterval = \"0s\"", "gc.interval"),
        ("[http]\nidle_timeout = \"0s\"", "http.idle_timeout"),
        ("[http]\nheader_timeout = \"0s\"", "http.header_timeout"),
        ("[uploads]\nttl = \"0s\"", "uploads.ttl"),
        ("[limits]\nupload_memory = \"much\"", "much"),
        ("[limits]\nupload_memory = -1", "negative"),
        ("[limits]\nupload_memory = \"1KiB\"", "limits.upload_memory"),
        ("[limits]\nmanifest_bytes = \"5MiB\"", "limits.manifest_bytes"),
        ("[limits]\nmanifest_memory = \"4MiB\"", "limits.manifest_memory"),
        ("[limits]\npage = 0", "limits.page"),
        ("[limits]\nconnections = 0", "limits.connections"),
        ("[limits]\nheader_bytes = \"1KiB\"", "limits.header_bytes"),
        ("[limits]\ntags_per_push = 9", "limits.tags_per_push"),
        ("[limits]\nreferrers_page_bytes = 1", "limits.referrers_page_bytes"),
        ("[database]\nmax_connections = 0", "database.max_connections"),
        ("[database]\nurl = \"mysql://there\"", "postgres://"),
        ("[database]\nurl = \"\"", "empty"),
        ("[http]\nlisten = \"localhost\"", "listen: "),
        ("[log]\nformat = \"xml\"", "xml"),
        ("[log]\nlevel = \"info,berth=lots\"", "log.level"),
        ("[log]\nlevel = \"inof\"", "log.level"),
        ("[storage]\nkind = \"tape\"", "tape"),
        ("[[repositories]]\nmatch = \"a{b\"", "repositories.match"),
        ("[[repositories]]\nmatch = \"a\"\nwarning = \"two\\nlines\"", "repositories.warning"),
        ("[[repositories]]\nallow_sparse = true", "match"),
    ];
    for (file, name) in cases {
        let said = refused(file, &[]).await;
        assert!(said.contains(name), "{file:?}: {said}");
    }
    let said = refused("", &[("BERTH_GC__MIN_AGE", "soon")]).await;
    assert!(said.contains("BERTH_GC__MIN_AGE") && said.contains("soon"), "{said}");
}

#[tokio::test]
async fn a_database_url_may_be_in_a_file_of_its_own() {
    let place = folder("secret");
    let secret = place.path().join("url");
    fs::write(&secret, "postgres://berth:geheim@db/berth\n").expect("write the secret");
    let file = format!("[database]\nurl_file = \"{}\"", secret.display());
    let shown = shown(&file, &[], &[]).await;
    assert_eq!(shown["database"]["url"].as_str(), Some("***"));

    let said = refused(&format!("{file}\nurl = \"postgres://other\""), &[]).await;
    assert!(said.contains("url_file"), "{said}");
    let said = refused("[database]\nurl_file = \"/nowhere/url\"", &[]).await;
    assert!(said.contains("/nowhere/url"), "{said}");
    fs::write(&secret, "\n").expect("empty the secret");
    let said = refused(&file, &[]).await;
    assert!(said.contains("url_file") || said.contains("url"), "{said}");
}

#[tokio::test]
async fn a_secret_is_never_shown() {
    let url = "postgres://berth:geheim@db/berth";
    let good = format!("[database]\nurl = \"{url}\"");
    let ended = with(&good, &[], &["config", "show"]).await;
    assert!(ended.said.contains("***") && !ended.said.contains("geheim"), "{}", ended.said);
    let ended = with("", &[("BERTH_DATABASE__URL", url)], &["config", "show"]).await;
    assert!(ended.said.contains("***") && !ended.said.contains("geheim"), "{}", ended.said);
    // Nor by a message that shows the line it stumbled over.
    for file in [
        format!("[database]\nulr = \"{url}\""),
        format!("[database]\nurl = \"{url}"),
        format!("[database]\nurl = [\"{url}\"]"),
        format!("[database]\nurl = \"{url}\" and more"),
    ] {
        let said = refused(&file, &[]).await;
        assert!(!said.contains("geheim"), "{said}");
        assert!(said.contains("line "), "{said}");
    }
    let said = refused("", &[("BERTH_DATABASE__ULR", url)]).await;
    assert!(!said.contains("geheim") && said.contains("BERTH_DATABASE__ULR"), "{said}");
}

#[tokio::test]
async fn every_subcommand_has_help_worth_reading() {
    let pages = [
        (&["--help"][..], &["./berth-data", "127.0.0.1:5000", "serve", "fsck"][..]),
        (
            &["serve", "--help"],
            &["SIGTERM", "--allow-anonymous", "BERTH_LISTEN", "BERTH_CONFIG", "127.0.0.1:5000"],
        ),
        (&["config", "--help"], &["show", "check"]),
        (&["config", "show", "--help"], &["BERTH_* variables", "--config"]),
        (&["config", "check", "--help"], &["what is wrong", "--config"]),
        (&["policy", "check", "--help"], &["auth.policy_folder", "Exit code 0", "FILE|FOLDER"]),
        (&["policy", "explain", "--help"], &["--identity", "--json", "Exit code 0", "--config"]),
        (&["user", "hash", "--help"], &["standard input", "[[user]]"]),
        (&["robot", "new", "--help"], &["standard error", "--expires", "[[robot]]"]),
        (&["migrate", "--help"], &["rolling update", "killed"]),
        (&["gc", "--help"], &["gc.min_age", "--min-age", "stop `berth serve`"]),
        (&["fsck", "--help"], &["Exit code 0", "--verify", "--repair", "--rebuild", "stop `berth serve`"]),
    ];
    for (arguments, parts) in pages {
        let ended = with("", &[], arguments).await;
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        let said = ended.said.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in parts {
            assert!(said.contains(part), "{arguments:?} does not say {part:?}: {said}");
        }
    }
}

#[tokio::test]
async fn a_flag_nobody_knows_is_refused() {
    let ended = with("", &[], &["serve", "--lisen", "127.0.0.1:1"]).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.said.contains("--listen"), "it says what was meant: {}", ended.said);
}
