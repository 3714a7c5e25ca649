//! Rules, users and robots as whoever writes them meets them, and the guide that explains them.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::{
    harness::{run::folder, server::berth},
    operation::scenes::{Ended, run},
};

const RULES: &str = r#"
[[auth.rule]]
name = "own"
identities = ["serviceaccount:*/*/*"]
repositories = ["${namespace}/**"]
actions = ["pull", "create"]

[[auth.rule]]
name = "near"
identities = ["node:prod/*"]
repositories = ["**"]
actions = ["pull"]
networks = ["10.0.0.0/8"]
"#;

/// Runs `berth` in a folder of its own with these files.
async fn with(files: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let place = folder("policy");
    for (name, text) in files {
        let path = place.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
        fs::write(path, text).expect("write the file");
    }
    let mut command = berth();
    command.args(arguments).current_dir(place.path());
    if place.path().join("berth.toml").exists() {
        command.env("BERTH_CONFIG", "berth.toml");
    }
    run(command).await
}

async fn explained(files: &[(&str, &str)], arguments: &str) -> Ended {
    with(files, &[&["policy", "explain"][..], &arguments.split(' ').collect::<Vec<_>>()].concat()).await
}

#[tokio::test]
async fn an_answer_names_the_rule_and_is_the_exit_code() {
    let pod = "--identity serviceaccount:prod/team-a/app --repository team-a/app";
    let yes = explained(&[("berth.toml", RULES)], &format!("{pod} --action pull")).await;
    assert_eq!(yes.code, Some(0), "{}", yes.said);
    assert!(yes.said.contains("may pull team-a/app: rule \"own\" allows it"), "{}", yes.said);
    let no = explained(&[("berth.toml", RULES)], &format!("{pod} --action push")).await;
    assert_eq!(no.code, Some(1), "{}", no.said);
    assert!(
        no.said.contains("may create team-a/app") && no.said.contains("may not overwrite"),
        "{}",
        no.said
    );

    let node = "--identity node:prod/worker-1 --action pull --repository a --json --client";
    for (client, allowed) in [("10.1.2.3", true), ("11.1.2.3", false)] {
        let answer = explained(&[("berth.toml", RULES)], &format!("{node} {client}")).await;
        let json: Value = serde_json::from_str(&answer.said).unwrap_or_else(|_| panic!("{}", answer.said));
        assert_eq!((&json[0]["allowed"], &json[0]["client"]), (&allowed.into(), &client.into()), "{json}");
        assert_eq!(json[0]["rules"][1]["outcome"], if allowed { "matches" } else { "network" }, "{json}");
    }
    let open = explained(&[], "--identity anonymous --action * --repository a").await;
    assert!(open.code == Some(0) && open.said.contains("open to everyone"), "{}", open.said);
    assert!(open.said.contains("no configuration was named"), "{}", open.said);
}

#[tokio::test]
async fn what_is_asked_must_make_sense() {
    for (arguments, said) in [
        ("--identity alice --action pull --repository a", "KIND:NAME"),
        ("--identity user:alice --action read --repository a", "is no action"),
        ("--identity user:alice --action pull --repository A", "--repository"),
        ("--identity serviceaccount:a/b --action pull --repository a", "CLUSTER/NAMESPACE/NAME"),
        ("--identity user:alice --action pull --repository a --attribute x", "NAME=VALUE"),
        ("--identity group:dev --action pull --repository a", "--group dev"),
        ("--identity user:* --action pull --repository a", "no pattern"),
    ] {
        let answer = explained(&[("berth.toml", RULES)], arguments).await;
        assert!(answer.code == Some(2) && answer.said.contains(said), "{arguments}: {}", answer.said);
    }
}

#[tokio::test]
async fn who_cannot_be_there_is_said() {
    let hash = "sha256:3c1bb0cd5d67dddc02fae50bf56d3a3a4cbc7204d5e4b6d1f54f1e3d3a4b5c6d";
    let whole = format!(
        "{RULES}[[auth.robot]]\nname = \"ci\"\nsecrets = [{{ hash = \"{hash}\" }}]\n\
         [[auth.cluster]]\nname = \"dev\"\nissuer = \"https://dev.test\"\naudience = \"registry.test\"\n"
    );
    for (identity, said) in [
        ("robot:cd", "there is no robot cd, so nobody can be robot:cd"),
        ("node:prod/a", "no [[auth.cluster]] is called prod, so nobody can be node:prod/a"),
    ] {
        let asked = format!("--identity {identity} --action pull --repository a");
        let answer = explained(&[("berth.toml", &whole)], &asked).await;
        assert!(answer.code == Some(1) && answer.said.contains(said), "{}", answer.said);
        let answer = explained(&[("berth.toml", RULES)], &asked).await;
        assert!(!answer.said.contains("nobody can be"), "{}", answer.said);
    }
    let asked = "--identity robot:ci --action pull --repository a";
    assert!(!explained(&[("berth.toml", &whole)], asked).await.said.contains("nobody can be"));
    let check = with(&[("berth.toml", &whole)], &["policy", "check"]).await;
    let said =
        "rule \"near\": \"node:prod/*\" in identities matches nobody: no [[auth.cluster]] is called prod";
    assert!(check.code == Some(0) && check.said.contains(said), "{}", check.said);

    let check = with(&[("berth.toml", RULES)], &["policy", "check", "berth.toml"]).await;
    assert!(check.code == Some(1) && check.said.contains("there is --config berth.toml"), "{}", check.said);
    let check = with(&[("rules/a.txt", "")], &["policy", "check", "rules"]).await;
    assert!(check.code == Some(0) && check.said.contains("rules: there is no *.toml file"), "{}", check.said);
    let user = with(&[], &["user", "hash", "alice smith"]).await;
    assert!(user.code == Some(2) && user.said.contains("the name of a user has"), "{}", user.said);
}

#[tokio::test]
async fn a_check_reads_configuration_and_folder_and_says_where_it_hurts() {
    let main = format!("[auth]\npolicy_folder = \"rules\"\n{RULES}");
    let odd = "\n[[rule]]\nname = \"odd\"\nidentities = [\"*\"]\nrepositories = [\"${namespce}/**\"]\nactions = [\"pull\"]\n";
    let check = ["policy", "check"];
    let good = with(&[("berth.toml", &main), ("rules/a.toml", odd)], &check).await;
    assert_eq!(good.code, Some(0), "{}", good.said);
    assert!(good.said.contains("rules/a.toml, line 2: rule \"odd\": "), "{}", good.said);
    assert!(good.said.contains("namespce") && good.said.contains("good: 3 rules"), "{}", good.said);

    let again = odd.replace("odd", "own");
    let bad = with(&[("berth.toml", &main), ("rules/a.toml", &again)], &check).await;
    assert_eq!(bad.code, Some(1), "{}", bad.said);
    assert!(
        bad.said.contains("in rules/a.toml, line 2, column 1: rule \"own\": another rule"),
        "{}",
        bad.said
    );

    let wrong = RULES.replace("node:prod/*", "nod:prod/*");
    let bad = with(&[("berth.toml", &wrong)], &check).await;
    assert_eq!(bad.code, Some(1), "{}", bad.said);
    assert!(
        bad.said.contains("in berth.toml, line 8, column 1: rule \"near\": identities: "),
        "{}",
        bad.said
    );
    let bad = with(&[("berth.toml", &wrong)], &["config", "check"]).await;
    assert!(bad.code == Some(2) && bad.said.contains("in berth.toml, line 8"), "{}", bad.said);

    let paths = with(&[("a.toml", odd), ("b/b.toml", &again)], &["policy", "check", "a.toml", "b"]).await;
    assert!(paths.code == Some(0) && paths.said.contains("good: 2 rules"), "{}", paths.said);
    let nowhere = with(&[], &["policy", "check", "nowhere.toml"]).await;
    assert!(nowhere.code == Some(1) && nowhere.said.contains("cannot read nowhere.toml"), "{}", nowhere.said);
    assert_eq!(nowhere.said.matches("No such file").count(), 1, "{}", nowhere.said);
}

#[tokio::test]
async fn the_blocks_that_are_printed_are_taken() {
    let hash = |password: &'static str| {
        let mut command = berth();
        command.args(["user", "hash", "bob"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start berth");
        std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), password.as_bytes())
            .expect("write");
        let output = child.wait_with_output().expect("wait for berth");
        (output.status.success(), String::from_utf8(output.stdout).expect("text"))
    };
    let (good, user) = hash("geheim\n");
    assert!(
        good && user.contains("name = \"bob\"") && user.contains("$argon2id$") && !user.contains("geheim")
    );
    assert!(!hash("").0, "no password is none");

    let output = berth().args(["robot", "new", "ci", "--expires", "90d"]).output().expect("run berth");
    let (robot, said) =
        (String::from_utf8(output.stdout).expect("text"), String::from_utf8(output.stderr).expect("text"));
    let key = said.lines().last().expect("the key");
    assert!(key.starts_with("berth_robot_") && key.len() == "berth_robot_".len() + 43, "{said}");
    assert!(!robot.contains(key) && robot.contains("expires = 20"), "{robot}");
    let book = format!("{user}\n{robot}");
    let checked = with(&[("a.toml", &book)], &["policy", "check", "a.toml"]).await;
    assert!(checked.said.contains("good: 0 rules, 1 users, 1 robots"), "{}", checked.said);

    let bad = with(&[], &["robot", "new", "robot$ci"]).await;
    assert!(bad.code == Some(2) && bad.said.contains("a-z 0-9"), "{}", bad.said);
}

#[tokio::test]
async fn a_password_hash_is_never_shown() {
    let user = "[[auth.user]]\nname = \"alice\"\npassword_hash = \"$argon2id$v=19$m=8,t=1,p=1$c29tZSBzYWx0$geheim\"\n";
    for arguments in [["config", "show"], ["config", "check"], ["policy", "check"]] {
        let ended = with(&[("berth.toml", user)], &arguments).await;
        assert!(!ended.said.contains("geheim"), "{}", ended.said);
    }
}

/// The blocks of the guide: their kind, and what is in them.
fn blocks(guide: &str) -> Vec<(&str, String)> {
    let mut blocks: Vec<(&str, String)> = Vec::new();
    let mut inside = false;
    for line in guide.lines() {
        match line.strip_prefix("```") {
            Some(_) if inside => inside = false,
            Some(kind) => {
                inside = true;
                blocks.push((kind, String::new()));
            }
            None if inside => {
                let (_, text) = blocks.last_mut().expect("a block was begun");
                text.push_str(line);
                text.push('\n');
            }
            None => {}
        }
    }
    blocks
}

#[tokio::test]
async fn the_guide_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guides/policy.md");
    let guide = fs::read_to_string(path).expect("read the guide");
    let mut configuration = String::new();
    let (mut checked, mut asked) = (0, 0);
    for (kind, text) in blocks(&guide) {
        match kind {
            "toml" if text.contains("[[auth.") => {
                let ended = with(&[("berth.toml", &text)], &["policy", "check"]).await;
                assert_eq!(ended.code, Some(0), "{text}\n{}", ended.said);
                configuration = text;
                checked += 1;
            }
            "toml" => {
                let ended = with(&[("a.toml", &text)], &["policy", "check", "a.toml"]).await;
                assert_eq!(ended.code, Some(0), "{text}\n{}", ended.said);
                checked += 1;
            }
            "console" => {
                for part in text.split("$ berth ").skip(1) {
                    let (command, answer) = part.split_once('\n').expect("an answer");
                    let arguments: Vec<&str> = command.split(' ').collect();
                    let ended = with(&[("berth.toml", &configuration)], &arguments).await;
                    assert_eq!(ended.said.trim(), answer.trim(), "{command}");
                    asked += 1;
                }
            }
            other => panic!("nobody tries a block of {other:?}"),
        }
    }
    assert_eq!((checked, asked), (4, 4));
}
