//! Rules that change while the registry runs.

use std::fs;

use super::scenes::{push_as, robot, robot_entry, rule, staged};
use crate::{
    harness::Server,
    operation::scenes::{eventually, metric},
    protocol::wire::Berth,
};

/// Writes another configuration in place of the server's, as whoever deploys it does.
fn replace(server: &Server, change: impl FnOnce(String) -> String) -> String {
    let before = fs::read_to_string(server.config()).expect("read the configuration");
    let beside = server.config().with_extension("new");
    fs::write(&beside, change(before.clone())).expect("write another configuration");
    fs::rename(&beside, server.config()).expect("put it in place");
    before
}

async fn is_bad(berth: &Berth, value: u64) {
    eventually("the metric says how it is", async || {
        (metric(&berth.server, "berth_policy_is_bad").await == value).then_some(())
    })
    .await;
}

#[tokio::test]
async fn rules_and_robots_of_the_configuration_change_without_a_restart() {
    let berth = Berth::of(staged().start().await);
    let status = async |robot_name: &str| {
        let headers = [("authorization", &*robot(robot_name))];
        berth.send("GET", "/v2/private/app/tags/list", &headers, Vec::new()).await.status
    };
    push_as(&berth, &robot("admin"), "private/app", "v1", 1).await.put.is(201);
    assert_eq!((status("puller").await, status("newcomer").await), (200, 401));

    replace(&berth.server, |config| {
        let config = config.replace("\"robot:puller\"", "\"robot:nobody\"");
        config + &robot_entry("newcomer") + &rule("newcomer", "private/**", "\"pull\"")
    });

    eventually("the newcomer pulls", async || (status("newcomer").await == 200).then_some(())).await;
    assert_eq!(status("puller").await, 404);
    let said = berth.server.said();
    assert_eq!(said.matches("event=\"policy\"").count(), 1, "{said}");
    assert!(!said.contains("it takes a restart"), "{said}");
}

#[tokio::test]
async fn a_bad_configuration_keeps_the_rules_and_says_so() {
    let berth = Berth::of(staged().config("[metrics]\nlisten = \"127.0.0.1:0\"").start().await);
    let status = async || {
        let headers = [("authorization", &*robot("puller"))];
        berth.send("GET", "/v2/private/app/tags/list", &headers, Vec::new()).await.status
    };
    push_as(&berth, &robot("admin"), "private/app", "v1", 1).await.put.is(201);
    for (bad, said) in [
        ("[[auth.rulez]]\nname = \"x\"\n", "unknown field `rulez`"),
        ("[auth]\n", "duplicate"),
        ("\n[gc]\ninterval = \"0s\"\n", "gc.interval must be longer than nothing"),
    ] {
        let good =
            replace(&berth.server, |config| config.replace("\"robot:puller\"", "\"robot:nobody\"") + bad);
        berth.server.until_said(said).await;
        is_bad(&berth, 1).await;
        assert_eq!(status().await, 200, "{bad}");
        replace(&berth.server, |_| good);
        is_bad(&berth, 0).await;
    }
    let said = berth.server.said();
    assert_eq!(said.matches("the policy has changed and is not taken").count(), 3, "{said}");
    assert!(!said.contains("event=\"policy\""), "the rules have been the same all the time: {said}");
}

#[tokio::test]
async fn settings_that_take_a_restart_are_named_and_the_registry_is_never_opened() {
    let berth = Berth::of(staged().start().await);
    push_as(&berth, &robot("admin"), "private/app", "v1", 1).await.put.is(201);
    let good = replace(&berth.server, |config| config + "[drain]\ntimeout = \"1m\"\n");
    berth.server.until_said("the configuration has changed in drain: it takes a restart").await;

    replace(&berth.server, |_| String::new());

    berth.server.until_said("nothing in the configuration says who may do what").await;
    berth.send("GET", "/v2/private/app/tags/list", &[], Vec::new()).await.is_refused(401, "UNAUTHORIZED");
    replace(&berth.server, |_| good);
}
