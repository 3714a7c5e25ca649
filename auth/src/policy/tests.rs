//! Rules against questions: by example, and against a model that takes no short cut.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::Kind;

fn rules(text: &str) -> Vec<Rule> {
    #[derive(serde::Deserialize)]
    struct File {
        rule: Vec<Rule>,
    }
    toml::from_str::<File>(text).unwrap().rule
}

fn policy(text: &str) -> Policy {
    Policy::new(rules(text)).unwrap()
}

/// One rule that allows everything of these repositories to these identities.
fn one(identities: &[&str], repositories: &[&str]) -> Result<Policy, PolicyError> {
    Policy::new(vec![rule("one", Effect::Allow, identities, repositories, &["*"])])
}

fn rule(name: &str, effect: Effect, who: &[&str], repositories: &[&str], actions: &[&str]) -> Rule {
    let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    Rule {
        name: name.to_owned(),
        effect,
        identities: owned(who),
        repositories: owned(repositories),
        actions: owned(actions),
        networks: Vec::new(),
        when: None,
    }
}

fn asks<'a>(identity: &'a Identity, repository: &'a str) -> Question<'a> {
    Question { identity, repository, client: None, now: 0 }
}

fn may(policy: &Policy, identity: &str, repository: &str) -> String {
    let identity = Identity::parse(identity).unwrap();
    policy.allowed(&asks(&identity, repository)).to_string()
}

fn pod(namespace: &str) -> Identity {
    Identity::new(Kind::ServiceAccount, format!("prod/{namespace}/app")).with("namespace", namespace)
}

#[test]
fn what_no_rule_allows_is_refused() {
    let none = Policy::new(Vec::new()).unwrap();
    assert!(!none.is_open());
    assert_eq!(may(&none, "user:alice", "team/app"), "nothing");
    let some = one(&["user:alice"], &["team/**"]).unwrap();
    assert_eq!(may(&some, "user:alice", "team/app"), "pull, push, delete");
    assert_eq!(may(&some, "user:alice", "other/app"), "nothing");
    assert_eq!(may(&some, "user:bob", "team/app"), "nothing");
    assert_eq!(may(&some, "robot:alice", "team/app"), "nothing");
    assert_eq!(may(&Policy::open(), "anonymous", "team/app"), "pull, push, delete");
}

#[test]
fn a_deny_wins_wherever_it_stands() {
    let allow = rule("allow", Effect::Allow, &["*"], &["**"], &["*"]);
    let deny = rule("deny", Effect::Deny, &["group:interns"], &["prod/**"], &["push", "delete"]);
    let intern = {
        let mut intern = Identity::new(Kind::User, "eve");
        intern.groups = vec!["interns".into()];
        intern
    };
    for order in [[allow.clone(), deny.clone()], [deny, allow]] {
        let policy = Policy::new(order.to_vec()).unwrap();
        assert_eq!(policy.allowed(&asks(&intern, "prod/app")).to_string(), "pull");
        assert_eq!(policy.allowed(&asks(&intern, "test/app")), Permissions::ALL);
        let question = asks(&intern, "prod/app");
        assert_eq!(policy.refusal(&question, Permissions::PUSH), "rule \"deny\" denies it");
        assert_eq!(policy.refusal(&question, Permissions::PULL), "");
    }
}

#[test]
fn anonymous_is_only_who_a_rule_names_in_words() {
    for identities in [&["*"][..], &["**"], &["user:*", "robot:**", "oidc:**"], &["group:*", "group:**"]] {
        assert_eq!(may(&one(identities, &["**"]).unwrap(), "anonymous", "a"), "nothing", "{identities:?}");
    }
    assert_eq!(may(&one(&["anonymous"], &["**"]).unwrap(), "anonymous", "a"), "pull, push, delete");
    assert_eq!(may(&one(&["anonymous"], &["**"]).unwrap(), "user:alice", "a"), "nothing");
    // Even one with groups, which there should not be.
    let mut nobody = Identity::anonymous();
    nobody.groups = vec!["platform".into()];
    let platform = one(&["group:platform"], &["**"]).unwrap();
    assert!(platform.allowed(&asks(&nobody, "a")).is_empty());
}

#[test]
fn a_star_stays_in_its_part_and_two_do_not() {
    let cases = [
        ("team/*", "team/a", true),
        ("team/*", "team/a/b", false),
        ("team/*", "team", false),
        ("team/**", "team/a", true),
        ("team/**", "team/a/b", true),
        ("team/**", "team", false),
        ("team/**", "teams/a", false),
        ("**", "a", true),
        ("**", "a/b/c", true),
        ("*", "a", true),
        ("*", "a/b", false),
        ("**/app", "app", true),
        ("**/app", "a/b/app", true),
        ("**/app", "a/b/app/c", false),
        ("**/app", "myapp", false),
        ("a/**/z", "a/z", true),
        ("a/**/z", "a/b/c/z", true),
        ("a/**/z", "a/b/c", false),
        ("**/a/**/b", "x/a/b/a/c/b", true),
        ("**/a/**", "a", false),
        ("app-*", "app-", true),
        ("app-*-x", "app-a-x-b-x", true),
        ("*-x", "a-x", true),
        ("*a*b*", "xaxbx", true),
        ("*a*b*", "xbxax", false),
        ("a", "a", true),
        ("a", "ab", false),
        ("ab", "a", false),
        ("a/b", "a", false),
        ("a", "a/b", false),
    ];
    for (pattern, repository, expected) in cases {
        let said = may(&one(&["*"], &[pattern]).unwrap(), "user:alice", repository);
        assert_eq!(said != "nothing", expected, "{pattern} {repository}");
    }
}

#[test]
fn names_of_identities_are_matched_part_by_part() {
    let cases = [
        ("serviceaccount:*/team-a/*", "serviceaccount:prod/team-a/app", true),
        ("serviceaccount:*/team-a/*", "serviceaccount:prod/team-b/app", false),
        ("serviceaccount:*/team-a/*", "serviceaccount:prod/x/team-a/app", false),
        ("serviceaccount:**", "serviceaccount:prod/team-b/app", true),
        ("node:prod/*", "node:prod/worker-1", true),
        ("oidc:github/**", "oidc:github/repo:acme/app:ref:refs/heads/main", true),
        (
            "oidc:github/repo:acme/*:ref:refs/heads/main",
            "oidc:github/repo:acme/app:ref:refs/heads/main",
            true,
        ),
        (
            "oidc:github/repo:acme/*:ref:refs/heads/main",
            "oidc:github/repo:evil/app:ref:refs/heads/main",
            false,
        ),
        ("certificate:spiffe://td/**", "certificate:spiffe://td/ns/x", true),
        ("certificate:spiffe://td/**", "certificate:spiffe://other/ns/x", false),
        ("user:al*", "user:alice", true),
        ("user:[a]*", "user:alice", false),
        ("*", "serviceaccount:prod/team-a/app", true),
    ];
    for (pattern, identity, expected) in cases {
        let said = may(&one(&[pattern], &["**"]).unwrap(), identity, "a");
        assert_eq!(said != "nothing", expected, "{pattern} {identity}");
    }
}

#[test]
fn an_attribute_takes_its_place_as_the_text_it_is() {
    let own = one(&["serviceaccount:**"], &["${namespace}/**"]).unwrap();
    let may = |value: &str, repository: &str| !own.allowed(&asks(&pod(value), repository)).is_empty();
    assert!(may("team-a", "team-a/app"));
    assert!(!may("team-a", "team-b/app"));
    assert!(!may("team-a", "team-a"));
    assert!(may("acme/app", "acme/app/base"), "a path is one");
    assert!(!may("acme/app", "acme/other"));
    for trick in [
        "*",
        "**",
        "",
        "/",
        "..",
        "a/..",
        "team-a/",
        "/team-a",
        "{team-a,b}",
        "[a-z]",
        "?",
        "${name}",
        "A",
        "a b",
        "a//b",
        "a\n",
    ] {
        for repository in ["team-a/app", "a/app", "b/app", "a/b/app", "app"] {
            assert!(!may(trick, repository), "{trick:?} {repository}");
        }
    }
    let nobody = Identity::new(Kind::ServiceAccount, "prod/team-a/app");
    assert!(own.allowed(&asks(&nobody, "team-a/app")).is_empty(), "no attribute, no match");
    // Within a part a value stays within it.
    let part = one(&["*"], &["team-${namespace}/app"]).unwrap();
    assert!(!part.allowed(&asks(&pod("a"), "team-a/app")).is_empty());
    assert!(part.allowed(&asks(&pod("a/b"), "team-a/b/app")).is_empty());
    // Nor does it become one by what stands beside it.
    let beside = one(&["*"], &["team${namespace}/app"]).unwrap();
    for (value, repository) in [("", "team/app"), ("-x", "team-x/app"), ("__b", "team__b/app")] {
        assert!(beside.allowed(&asks(&pod(value), repository)).is_empty(), "{value:?}");
    }
}

#[test]
fn networks_narrow_a_rule() {
    let inside = policy(
        "[[rule]]\nname='in'\nidentities=['*']\nrepositories=['**']\nactions=['*']\nnetworks=['10.0.0.0/8', 'fd00::1']",
    );
    let alice = Identity::new(Kind::User, "alice");
    let from = |address: Option<&str>| {
        let client = address.map(|address| address.parse::<IpAddr>().unwrap());
        !inside.allowed(&Question { client, ..asks(&alice, "a") }).is_empty()
    };
    assert!(from(Some("10.1.2.3")) && from(Some("::ffff:10.1.2.3")) && from(Some("fd00::1")));
    assert!(!from(Some("11.1.2.3")) && !from(Some("fd00::2")));
    assert!(!from(None), "an address nobody knows is in no network");

    let outside = policy(
        "[[rule]]\nname='all'\nidentities=['*']\nrepositories=['**']\nactions=['*']\n\
         [[rule]]\nname='not from there'\neffect='deny'\nidentities=['*']\nrepositories=['**']\nactions=['*']\nnetworks=['10.0.0.0/8']",
    );
    assert!(outside.allowed(&asks(&alice, "a")).is_empty(), "nor outside one that is shut out");
}

#[test]
fn conditions_see_the_question() {
    let mut identity = pod("team-a").with("environment", "production");
    identity.groups = vec!["ops".into(), "dev".into()];
    let client = Some("10.1.2.3".parse().unwrap());
    // 2026-11-26T22:36:00Z, a Thursday.
    let question = Question { client, now: 1_795_732_560_000, ..asks(&identity, "team-a/app") };
    let holds = |when: &str| {
        let mut rule = rule("when", Effect::Allow, &["*"], &["**"], &["*"]);
        rule.when = Some(when.to_owned());
        let policy = Policy::new(vec![rule]).unwrap_or_else(|error| panic!("{when}: {error}"));
        policy.allowed(&question).to_string()
    };
    for yes in [
        "attributes.environment == 'production'",
        "attributes['environment'] in ['staging', 'production']",
        "has(attributes.environment) && !has(attributes.other)",
        "kind == 'serviceaccount' && identity == 'serviceaccount:prod/team-a/app'",
        "'ops' in groups",
        "groups.exists(group, group.startsWith('op'))",
        "repository.startsWith(attributes.namespace + '/')",
        "repository.matches('^team-[a-z]+/app$')",
        "client == '10.1.2.3'",
        "now.getHours() == 22 && now.getDayOfWeek() == 4",
        "now < timestamp('2027-01-01T00:00:00Z')",
        "size(groups) == 2",
    ] {
        assert_eq!(holds(yes), "pull, push, delete", "{yes}");
    }
    for no in ["attributes.environment == 'test'", "false", "client == null", "!('ops' in groups)"] {
        assert_eq!(holds(no), "nothing", "{no}");
    }
    assert_eq!(holds("action == 'pull'"), "pull");
    assert_eq!(holds("action in ['create', 'delete']"), "create, delete");
}

#[test]
fn a_condition_that_cannot_be_evaluated_allows_nothing_and_denies() {
    let alice = Identity::new(Kind::User, "alice");
    for when in ["attributes.environment == 'production'", "1 / size(groups) > 0", "size(groups)"] {
        let mut allow = rule("allow", Effect::Allow, &["*"], &["**"], &["*"]);
        allow.when = Some(when.to_owned());
        let policy = Policy::new(vec![allow.clone()]).unwrap();
        assert!(policy.allowed(&asks(&alice, "a")).is_empty(), "{when}");
        let explained = policy.explain(&asks(&alice, "a"), Permission::Pull);
        assert_eq!(explained.rules[0].outcome, Outcome::Error, "{explained}");

        let deny = Rule { name: "deny".into(), effect: Effect::Deny, ..allow };
        let policy = Policy::new(vec![rule("all", Effect::Allow, &["*"], &["**"], &["*"]), deny]).unwrap();
        assert!(policy.allowed(&asks(&alice, "a")).is_empty(), "{when}");
        let explained = policy.explain(&asks(&alice, "a"), Permission::Pull);
        assert_eq!(explained.decided_by.as_deref(), Some("deny"), "{explained}");
    }
}

#[test]
fn a_condition_is_bounded_when_it_is_read() {
    let deep = format!("{}true{}", "(".repeat(900), ")".repeat(900));
    let long = format!("'{}' == ''", "a".repeat(2_000));
    let many = vec!["1"; 400].join("+") + " == 1";
    let cases = [
        ("groups.all(a, groups.all(b, groups.exists(c, a + b == c)))", "none in another"),
        ("groups.map(a, a).map(a, a).map(a, a).map(a, a).map(a, a) == groups", "at most 4"),
        (&long, "2000 bytes"),
        (&many, "more than 300"),
        (&deep, "when: "),
        ("idenity == 'x'", "no variable idenity"),
        ("groups.exists(group, grop == 'x')", "no variable grop"),
        ("open('x')", "no function open"),
        ("identity ==", "column"),
        ("", "when: "),
    ];
    for (when, said) in cases {
        let mut rule = rule("when", Effect::Allow, &["*"], &["**"], &["*"]);
        rule.when = Some(when.to_owned());
        let error = Policy::new(vec![rule]).unwrap_err().to_string();
        assert!(error.contains(said), "{when:.60}: {error}");
    }
}

#[test]
fn a_rule_that_means_nothing_is_refused_by_name() {
    let good = || rule("one", Effect::Allow, &["*"], &["**"], &["*"]);
    let owned = |text: &str| vec![text.to_owned()];
    let cases = [
        (Rule { name: String::new(), ..good() }, "name of a rule"),
        (Rule { name: "a\nb".into(), ..good() }, "name of a rule"),
        (Rule { identities: vec![], ..good() }, "identities is empty"),
        (Rule { repositories: vec![], ..good() }, "repositories is empty"),
        (Rule { actions: vec![], ..good() }, "actions is empty"),
        (Rule { actions: owned("read"), ..good() }, "\"read\" is no action"),
        (Rule { identities: owned("alice"), ..good() }, "KIND:NAME"),
        (Rule { identities: owned("serviceaccout:*"), ..good() }, "KIND:NAME"),
        (Rule { identities: owned("anonymous:x"), ..good() }, "KIND:NAME"),
        (Rule { identities: owned("user:"), ..good() }, "1 to 512 bytes"),
        (Rule { identities: owned("user:${name}"), ..good() }, "is for repositories"),
        (Rule { repositories: owned("Team/**"), ..good() }, "'T'"),
        (Rule { repositories: owned("{a,b}/**"), ..good() }, "'{'"),
        (Rule { repositories: owned("/a"), ..good() }, "empty part"),
        (Rule { repositories: owned("a//b"), ..good() }, "empty part"),
        (Rule { repositories: owned("a**"), ..good() }, "whole parts"),
        (Rule { repositories: owned("${a"), ..good() }, "never closed"),
        (Rule { repositories: owned("${}"), ..good() }, "no name of an attribute"),
    ];
    for (rule, said) in cases {
        let error = Policy::new(vec![rule.clone()]).unwrap_err().to_string();
        assert!(error.contains(said), "{rule:?}: {error}");
    }
    let error = Policy::new(vec![good(), good()]).unwrap_err();
    assert!(error.index == 1 && error.to_string().contains("the same name"), "{error}");
}

#[test]
fn an_explanation_says_what_does_not_match() {
    let policy = policy(
        "[[rule]]\nname='own'\nidentities=['serviceaccount:**']\nrepositories=['${namespace}/**']\nactions=['pull']\n\
         [[rule]]\nname='others'\nidentities=['user:*']\nrepositories=['**']\nactions=['pull']\n\
         [[rule]]\nname='repo'\nidentities=['**']\nrepositories=['${repository_owner}/**']\nactions=['pull']\n\
         [[rule]]\nname='push'\nidentities=['**']\nrepositories=['**']\nactions=['push']\n\
         [[rule]]\nname='near'\nidentities=['**']\nrepositories=['**']\nactions=['pull']\nnetworks=['10.0.0.0/8']\n\
         [[rule]]\nname='when'\nidentities=['**']\nrepositories=['**']\nactions=['pull']\nwhen='kind == \"node\"'",
    );
    let text = policy.explain(&asks(&pod("team-a"), "team-b/app"), Permission::Pull).to_string();
    assert_eq!(
        text,
        "serviceaccount:prod/team-a/app may not pull team-b/app: no rule allows it\n  \
         allow \"own\": it is about the repositories ${namespace}/** (here team-a/**)\n  \
         allow \"others\": it is about the identities user:*\n  \
         allow \"repo\": it is about the repositories ${repository_owner}/** (there is no attribute repository_owner)\n  \
         allow \"push\": it is about the actions push\n  \
         allow \"near\": it is about clients in 10.0.0.0/8\n  \
         allow \"when\": its condition is false: kind == \"node\""
    );
    let text = policy.explain(&asks(&pod("team-a"), "team-a/app"), Permission::Pull).to_string();
    assert!(
        text.starts_with("serviceaccount:prod/team-a/app may pull team-a/app: rule \"own\" allows it\n"),
        "{text}"
    );
}

#[test]
fn a_permit_holds_what_policy_and_token_both_say() {
    use crate::{Delete, Everything, List, Pull, Push};
    let policy = policy(
        "[[rule]]\nname='ci'\nidentities=['robot:ci']\nrepositories=['team/**']\nactions=['create', 'delete']\n\
         [[rule]]\nname='all'\nidentities=['user:alice']\nrepositories=['team/**']\nactions=['*']",
    );
    let (ci, alice) = (Identity::new(Kind::Robot, "ci"), Identity::new(Kind::User, "alice"));
    let caller = |identity| Caller { identity, client: None, now: 0 };
    let all = Permissions::ALL;

    let push = policy.permit::<Push, _>(&caller(&ci), "team/app", all).unwrap();
    assert!(push.may(Permission::Create) && !push.may(Permission::Overwrite) && !push.may(Permission::Pull));
    let denied = policy.permit::<Pull, _>(&caller(&ci), "team/app", all).unwrap_err();
    assert_eq!(denied.to_string(), "robot:ci may not pull team/app: no rule allows it");
    assert_eq!(denied.by, DeniedBy::Policy("no rule allows it".into()));

    let pull_only = Permissions::PULL;
    let denied = policy.permit::<Push, _>(&caller(&alice), "team/app", pull_only).unwrap_err();
    assert_eq!(denied.by, DeniedBy::Scope(pull_only));
    assert_eq!(denied.to_string(), "user:alice may not push team/app: the token is good for pull there");
    assert!(policy.permit::<Pull, _>(&caller(&alice), "team/app", pull_only).is_ok());
    // A token never gives what the policy does not.
    let denied = policy.permit::<Delete, _>(&caller(&alice), "other/app", all).unwrap_err();
    assert!(matches!(denied.by, DeniedBy::Policy(_)));
    let overwrite = Permission::Overwrite.into();
    let push = policy.permit::<Push, _>(&caller(&alice), "team/app", overwrite).unwrap();
    assert!(
        push.may(Permission::Overwrite) && !push.may(Permission::Create) && !push.may(Permission::Delete)
    );
    let denied = policy.permit::<Push, _>(&caller(&ci), "team/app", overwrite).unwrap_err();
    assert_eq!(denied.by, DeniedBy::Scope(overwrite));

    assert!(policy.permit::<List, _>(&caller(&ci), Everything, all).is_ok());
    let nobody = Identity::anonymous();
    assert!(policy.permit::<List, _>(&caller(&nobody), Everything, all).is_err());
    assert!(Policy::open().permit::<List, _>(&caller(&nobody), Everything, all).is_ok());
    assert!(Policy::open().permit::<Push, _>(&caller(&nobody), "a", all).unwrap().may(Permission::Overwrite));
    assert!(Policy::open().permit::<Push, _>(&caller(&nobody), "a", pull_only).is_err());
}

/// The same decisions by trying everything: patterns by recursion, rules one action at a time.
mod model {
    use super::*;

    fn parts(pattern: &[&str], name: &[&str], attributes: &pattern::Attributes) -> bool {
        match (pattern.split_first(), name) {
            (None, []) | (Some((&"**", [])), [_, ..]) => true,
            (Some((&"**", rest)), _) if !rest.is_empty() => {
                (0..=name.len()).any(|skip| parts(rest, &name[skip..], attributes))
            }
            (Some((&"*", rest)), [_, left @ ..]) => parts(rest, left, attributes),
            (Some((first, rest)), _)
                if first.starts_with("${") && first.matches('$').count() == 1 && first.ends_with('}') =>
            {
                let Some(value) = attributes.get(&first[2..first.len() - 1]) else { return false };
                let value: Vec<&str> = value.split('/').collect();
                value.iter().all(|part| pattern::is_component(part))
                    && name.len() >= value.len()
                    && name[..value.len()] == value
                    && parts(rest, &name[value.len()..], attributes)
            }
            (Some((first, rest)), [part, left @ ..]) => {
                text(first, part, attributes) && parts(rest, left, attributes)
            }
            _ => false,
        }
    }

    fn text(pattern: &str, part: &str, attributes: &pattern::Attributes) -> bool {
        if let Some(rest) = pattern.strip_prefix('*') {
            return (0..=part.len()).any(|skip| text(rest, &part[skip..], attributes));
        }
        if let Some((name, rest)) = pattern.strip_prefix("${").and_then(|rest| rest.split_once('}')) {
            let Some(value) = attributes.get(name) else { return false };
            let left = part.strip_prefix(value.as_str());
            return pattern::is_component(value) && left.is_some_and(|left| text(rest, left, attributes));
        }
        match pattern.chars().next() {
            None => part.is_empty(),
            Some(first) => part.strip_prefix(first).is_some_and(|left| text(&pattern[1..], left, attributes)),
        }
    }

    fn fits(pattern: &str, name: &str, attributes: &pattern::Attributes) -> bool {
        let pattern: Vec<&str> = pattern.split('/').collect();
        parts(&pattern, &name.split('/').collect::<Vec<_>>(), attributes)
    }

    fn is(pattern: &str, identity: &Identity) -> bool {
        let none = pattern::Attributes::new();
        if identity.is_anonymous() || pattern == "anonymous" {
            return identity.is_anonymous() && pattern == "anonymous";
        }
        match pattern.split_once(':') {
            None => true,
            Some(("group", group)) => identity.groups.iter().any(|one| fits(group, one, &none)),
            Some((kind, name)) => kind == identity.kind().as_str() && fits(name, identity.name(), &none),
        }
    }

    fn matches(rule: &Rule, question: &Question<'_>, action: Permission) -> bool {
        let attributes = &question.identity.attributes;
        rule.identities.iter().any(|pattern| is(pattern, question.identity))
            && rule.repositories.iter().any(|pattern| fits(pattern, question.repository, attributes))
            && rule.actions.iter().any(|word| Permissions::of_word(word).unwrap().contains(action))
            && (rule.networks.is_empty()
                || match question.client {
                    Some(client) => rule.networks.iter().any(|network| network.contains(client)),
                    None => rule.effect == Effect::Deny,
                })
            && match rule.when.as_deref() {
                None | Some("true") => true,
                Some("action == 'pull'") => action == Permission::Pull,
                Some("attributes.a == 'a'") => match attributes.get("a") {
                    Some(value) => value == "a",
                    None => rule.effect == Effect::Deny,
                },
                Some(other) => panic!("the model knows no {other}"),
            }
    }

    pub(super) fn allowed(rules: &[Rule], question: &Question<'_>) -> Permissions {
        let any = |effect, action| {
            rules.iter().any(|rule| rule.effect == effect && matches(rule, question, action))
        };
        let allows = |action: &Permission| any(Effect::Allow, *action) && !any(Effect::Deny, *action);
        Permission::ALL.into_iter().filter(allows).map(Permissions::from).collect()
    }
}

fn a_rule() -> impl Strategy<Value = Rule> {
    let who = prop::sample::select(vec![
        "*",
        "**",
        "anonymous",
        "user:*",
        "user:a",
        "user:b*",
        "robot:**",
        "serviceaccount:*/a/*",
        "serviceaccount:a/**/b",
        "group:a",
        "group:*",
        "group:b/**",
    ]);
    let repository = prop_oneof![
        prop::sample::select(vec![
            "${a}/**",
            "${a}",
            "a-${b}/*",
            "*-${a}",
            "**/${b}/a",
            "a${a}*b",
            "${a}${b}"
        ])
        .prop_map(str::to_owned),
        prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**", "a*", "*b", "a*b*"]), 1..4)
            .prop_map(|parts| parts.join("/")),
    ];
    let action = prop::sample::select(vec!["pull", "push", "create", "overwrite", "delete", "*"]);
    let when = prop::sample::select(vec![
        None,
        None,
        None,
        Some("true"),
        Some("action == 'pull'"),
        Some("attributes.a == 'a'"),
    ]);
    (
        any::<bool>(),
        prop::collection::vec(who, 1..3),
        prop::collection::vec(repository, 1..3),
        prop::collection::vec(action, 1..3),
        prop::sample::select(vec![0, 0, 1, 2]),
        when,
    )
        .prop_map(|(allow, who, repositories, actions, networks, when)| {
            let effect = if allow { Effect::Allow } else { Effect::Deny };
            let repositories: Vec<&str> = repositories.iter().map(String::as_str).collect();
            let mut rule = rule("", effect, &who, &repositories, &actions);
            let networks = ["10.0.0.0/8", "0.0.0.0/0"][..networks].to_vec();
            rule.networks = serde_json::from_value(networks.into()).unwrap();
            rule.when = when.map(str::to_owned);
            rule
        })
}

fn an_identity() -> impl Strategy<Value = Identity> {
    let name = prop::sample::select(vec![
        "anonymous",
        "user:a",
        "user:b",
        "user:bb",
        "robot:a",
        "serviceaccount:x/a/y",
        "serviceaccount:a/a/b",
    ]);
    let value = || {
        prop::option::of(prop::sample::select(vec![
            "a", "b", "a/b", "*", "**", "..", "", "ab", "a-b", "b/", "A",
        ]))
    };
    let groups = prop::collection::vec(prop::sample::select(vec!["a", "b", "b/c", "c"]), 0..3);
    (name, value(), value(), groups).prop_map(|(name, a, b, groups)| {
        let mut identity = Identity::parse(name).unwrap();
        identity.groups = groups.into_iter().map(str::to_owned).collect();
        for (attribute, value) in [("a", a), ("b", b)] {
            if let Some(value) = value {
                identity = identity.with(attribute, value);
            }
        }
        identity
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn the_policy_is_what_its_model_says_and_what_it_explains(
        mut rules in prop::collection::vec(a_rule(), 0..6),
        identity in an_identity(),
        repository in "[ab]{1,2}(-[ab])?(/[ab]{1,2}){0,3}",
        client in prop::sample::select(vec![None, Some("10.0.0.1"), Some("1.1.1.1")]),
    ) {
        for (at, rule) in rules.iter_mut().enumerate() {
            rule.name = format!("rule {at}");
        }
        let policy = Policy::new(rules.clone()).unwrap();
        let client = client.map(|client| client.parse().unwrap());
        let question = Question { client, ..asks(&identity, &repository) };
        let allowed = policy.allowed(&question);
        prop_assert_eq!(allowed, model::allowed(&rules, &question));
        for action in Permission::ALL {
            let explained = policy.explain(&question, action);
            prop_assert_eq!(explained.allowed, allowed.contains(action), "{}", explained);
            let matches = explained.rules.iter().filter(|rule| rule.outcome == Outcome::Matches);
            let denies = matches.clone().any(|rule| rule.effect == Effect::Deny);
            prop_assert_eq!(explained.allowed, matches.count() > 0 && !denies, "{}", explained);
            prop_assert_eq!(policy.refusal(&question, action.into()).is_empty(), explained.allowed);
        }
    }

    #[test]
    fn no_value_of_an_attribute_reaches_beyond_its_own_text(
        value in r"[a*?{}\[\]$./!,\\-]{0,6}",
        repository in "[ab](-[ab])?(/[ab]){0,2}",
    ) {
        let own = one(&["*"], &["${namespace}/x"]).unwrap();
        let name = format!("{repository}/x");
        let may = !own.allowed(&asks(&pod(&value), &name)).is_empty();
        prop_assert_eq!(may, value == repository, "{:?} {}", value, name);
    }
}

#[test]
fn what_is_odd_about_a_rule_is_said() {
    let vouchers = Vouchers { clusters: ["prod".to_owned()].into(), issuers: ["github".to_owned()].into() };
    let known = Known {
        users: ["alice"].into(),
        robots: ["ci"].into(),
        attributes: ["team"].into(),
        vouchers: Some(&vouchers),
    };
    let odd = |rules: Vec<Rule>| -> Vec<String> {
        Policy::new(rules).unwrap().lint(&known).into_iter().map(|remark| remark.text).collect()
    };
    let allow = |who: &[&str], repositories: &[&str], actions: &[&str]| {
        rule("allow", Effect::Allow, who, repositories, actions)
    };
    let deny = |who: &[&str], repositories: &[&str], actions: &[&str]| {
        rule("deny", Effect::Deny, who, repositories, actions)
    };
    let good = [
        allow(
            &["user:alice", "user:b*", "robot:ci", "group:x"],
            &["a/**", "${team}/**", "${namespace}/*"],
            &["push"],
        ),
        allow(&["anonymous"], &["public/**"], &["pull"]),
        allow(&["serviceaccount:*/team-a/*", "serviceaccount:**", "node:prod/*"], &["a"], &["pull"]),
    ];
    for rule in good {
        assert_eq!(odd(vec![rule.clone()]), [""; 0], "{rule:?}");
    }
    let cases = [
        (allow(&["*"], &["a"], &["pull"]), "everyone who has said who they are"),
        (allow(&["anonymous"], &["a"], &["push"]), "may push there"),
        (allow(&["user:bob"], &["a"], &["pull"]), "no such user"),
        (allow(&["robot:cd"], &["a"], &["pull"]), "no such robot"),
        (allow(&["serviceaccount:team-a/app"], &["a"], &["pull"]), "has 3 parts"),
        (allow(&["node:a/b/*"], &["a"], &["pull"]), "has 2 parts"),
        (allow(&["node:prdo/*"], &["a"], &["pull"]), "no [[auth.cluster]] is called prdo"),
        (allow(&["oidc:githbu/**"], &["a"], &["pull"]), "no [[auth.issuer]] is called githbu"),
        (allow(&["user:alice"], &["a/-b"], &["pull"]), "\"-b\""),
        (allow(&["user:alice"], &["${namespce}/**"], &["pull"]), "the attribute namespce"),
        (allow(&["anonymous"], &["${namespace}/**"], &["pull"]), "anonymous has no attributes"),
        (allow(&["user:alice"], &["a"], &["overwrite"]), "not to create"),
    ];
    for (rule, said) in cases {
        let odd = odd(vec![rule.clone()]);
        assert!(odd.len() == 1 && odd[0].contains(said), "{rule:?}: {odd:?}");
    }
    let shadowed = [
        (deny(&["*"], &["**"], &["*"]), true),
        (deny(&["user:*"], &["a/**"], &["push", "delete"]), true),
        (deny(&["user:alice"], &["a/b", "a/*"], &["push"]), true),
        (deny(&["anonymous"], &["**"], &["*"]), false),
        (deny(&["user:alice"], &["a/b"], &["push"]), false),
        (deny(&["user:alice"], &["a/**"], &["pull"]), false),
        (deny(&["user:b*"], &["**"], &["*"]), false),
        (Rule { when: Some("true".into()), ..deny(&["*"], &["**"], &["*"]) }, false),
    ];
    for (deny, is) in shadowed {
        let odd = odd(vec![allow(&["user:alice"], &["a/*"], &["push"]), deny.clone()]);
        assert_eq!(odd.iter().any(|text| text.contains("it allows nothing")), is, "{deny:?}: {odd:?}");
    }
}

proptest! {
    /// A rule that is said to allow nothing does not.
    #[test]
    fn a_shadowed_rule_allows_nothing(
        mut allow in a_rule(),
        mut deny in a_rule(),
        identity in an_identity(),
        repository in "[ab]{1,2}(-[ab])?(/[ab]{1,2}){0,3}",
    ) {
        (allow.name, allow.effect, deny.name, deny.effect) =
            ("allow".into(), Effect::Allow, "deny".into(), Effect::Deny);
        let policy = Policy::new(vec![allow, deny]).unwrap();
        if policy.lint(&Known::default()).iter().any(|remark| remark.text.contains("it allows nothing")) {
            prop_assert!(policy.allowed(&asks(&identity, &repository)).is_empty());
        }
    }
}
