//! How long a decision takes: `cargo run --release -p berth-auth --example decisions`.

use std::hint::black_box;
use std::time::Instant;

use berth_auth::users::{Passwords, User, Users};
use berth_auth::{Effect, Identity, Kind, Policy, Question, Rule};

fn rule(number: usize, identity: &str, repository: &str, when: Option<&str>) -> Rule {
    Rule {
        name: format!("rule {number}"),
        effect: if number.is_multiple_of(10) { Effect::Deny } else { Effect::Allow },
        identities: vec![identity.to_owned()],
        repositories: vec![repository.to_owned()],
        actions: vec!["pull".to_owned()],
        networks: Vec::new(),
        when: when.map(str::to_owned),
    }
}

fn time(what: &str, mut once: impl FnMut()) {
    (0..1_000).for_each(|_| once());
    let start = Instant::now();
    (0..20_000).for_each(|_| once());
    println!("{:>9.2} µs  {what}", start.elapsed().as_secs_f64() * 1e6 / 20_000.0);
}

fn main() {
    let mut pod = Identity::new(Kind::ServiceAccount, "prod/team-7/app").with("namespace", "team-7");
    pod.groups = (0..200).map(|number| format!("group-{number}")).collect();
    let ask = |policy: &Policy| {
        let question = Question { identity: &pod, repository: "team-7/app", client: None, now: 0 };
        black_box(policy.allowed(black_box(&question)));
    };
    let of = |rule: &dyn Fn(usize) -> Rule| Policy::new((1..=100).map(rule).collect()).expect("good rules");

    let others = of(&|n| rule(n, "serviceaccount:*/team-a/*", &format!("other-{n}/**"), None));
    time("100 rules about other repositories", || ask(&others));
    let own = of(&|n| rule(n, &format!("serviceaccount:*/team-{}/*", n + 100), "${namespace}/**", None));
    time("100 rules about the own namespace and other identities", || ask(&own));
    let groups = of(&|n| rule(n, &format!("group:team-{n}"), "**", None));
    time("100 rules about other groups, of one who is in 200", || ask(&groups));
    let when = of(&|n| {
        let when =
            (n == 55).then_some("attributes.namespace == 'team-7' && groups.exists(g, g == 'group-3')");
        rule(n, "serviceaccount:**", if n == 55 { "${namespace}/**" } else { "x/**" }, when)
    });
    time("100 rules, one with a condition", || ask(&when));

    let hash = berth_auth::users::hash("geheim").expect("a password");
    let user: User = serde_json::from_value(serde_json::json!({ "name": "alice", "password_hash": hash }))
        .expect("a user");
    let book = berth_auth::book::Entries { users: vec![user], ..Default::default() };
    let chapter = berth_auth::book::Chapter::of_configuration(None, "", book);
    let book = berth_auth::book::Book::of(&[chapter]).expect("a good book");
    let users: &Users = &book.users;
    let passwords = Passwords::new(&[1; 32]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    time("a password that is remembered", || {
        let checked = runtime.block_on(passwords.check(users, "alice", "geheim", None, || 0));
        black_box(checked).expect("the right one");
    });
}
