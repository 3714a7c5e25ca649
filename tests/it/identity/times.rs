//! Time: keys that change, clocks that differ, tokens that end in the middle of something.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::{future::join_all, stream};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::scenes::{ask_token, basic, bearer, cast, claims, post_token, push_as, robot, token};
use crate::{
    faults::behind::{Index, command},
    harness::{
        Database, Storage,
        content::{self, sha256},
        process,
        server::Builder,
        tools::workbench,
    },
    operation::scenes::{eventually, on_each_database},
    protocol::wire::{Answer, Berth},
};

const PULL: &str = "repository:private/app:pull";
const IMAGE: &str = "/v2/private/app/manifests/v1";

/// How much faster a clock runs where a test has no time.
const SPEED: u32 = 60;

/// A clock that runs fast from now on.
fn fast() -> String {
    format!("+0 x{SPEED}")
}

/// A clock that runs fast from now on, and shows what the clock of another server shows now.
async fn as_fast_as(berth: &Berth) -> String {
    let issued = claims(&token(berth, &robot("puller"), &[]).await)["iat"].as_u64().expect("a time");
    let now = std::time::UNIX_EPOCH + Duration::from_secs(issued);
    format!(
        "@{} x{SPEED}",
        humantime::format_rfc3339_seconds(now).to_string().replace(['T', 'Z'], " ").trim()
    )
}

fn staged(settings: &str) -> Builder {
    crate::harness::Server::builder().config(&cast().replacen("[auth]\n", &format!("[auth]\n{settings}"), 1))
}

/// The key that signed a token.
fn key_id(token: &str) -> String {
    let header = token.split('.').next().expect("a token has three parts");
    let header = URL_SAFE_NO_PAD.decode(header).expect("base64");
    let header: Value = serde_json::from_slice(&header).expect("JSON");
    header["kid"].as_str().expect("a token names its key").to_owned()
}

async fn pull(berth: &Berth, token: &str) -> Answer {
    berth.send("GET", IMAGE, &[("authorization", &bearer(token))], Vec::new()).await
}

/// A refresh token, as `docker login` asks for it.
async fn log_in(berth: &Berth, client: &str) -> String {
    let query = format!("&offline_token=true&client_id={client}");
    let answer = ask_token(berth, &robot("puller"), &query).await;
    answer.is(200).json()["refresh_token"].as_str().expect("a refresh token").to_owned()
}

async fn refresh(berth: &Berth, refresh_token: &str) -> Answer {
    let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh_token), ("scope", PULL)];
    post_token(berth, "/token", &fields).await
}

/// A minute of these servers is a second. A key signs for one minute, and a token is good for three;
/// each replica looks at the keys every three seconds, so that three of them change it every second.
async fn keys_change_under_load_and_no_request_is_refused(database: Database) {
    let _bench = workbench!("faketime", "weed");
    let builder = staged("token_ttl = \"3m\"\nkey_period = \"1m\"\nupload_grace = \"1m\"\n");
    let builder = match database {
        Database::Sqlite => builder.on_disk(),
        Database::Postgres => builder.database(database).storage(Storage::SeaweedFs),
    };
    let mut replicas = vec![Berth::of(builder.clock(&fast()).await.start().await)];
    if database == Database::Postgres {
        for _ in 0..2 {
            sleep(Duration::from_millis(700)).await;
            let clock = as_fast_as(&replicas[0]).await;
            let beside = replicas[0].server.beside().clock(&clock).await;
            replicas.push(Berth::of(beside.start().await));
        }
    }
    push_as(&replicas[0], &robot("admin"), "private/app", "v1", 1).await.put.is(201);
    let session = log_in(&replicas[0], "docker").await;
    let begun = Instant::now();
    // Each key by when it was first seen among the published, and on a token.
    let (published, signed) = (Mutex::new(BTreeMap::new()), Mutex::new(BTreeMap::new()));
    let gone = Mutex::new(BTreeSet::new());
    let (is_over, requests) = (AtomicBool::new(false), AtomicU32::new(0));
    let note = |now: &BTreeSet<String>| {
        let mut published = published.lock().expect("nobody panics");
        for key in now {
            published.entry(key.clone()).or_insert_with(Instant::now);
        }
        let missing = published.keys().filter(|key| !now.contains(*key)).cloned();
        gone.lock().expect("nobody panics").extend(missing);
    };
    let watch = async |berth: &Berth| {
        while !is_over.load(Ordering::Relaxed) {
            let keys = berth.ask("GET", "/.well-known/jwks.json").await.is(200).json();
            let now: BTreeSet<String> = keys["keys"]
                .as_array()
                .expect("a list of keys")
                .iter()
                .map(|key| key["kid"].as_str().expect("a key has a name").to_owned())
                .collect();
            note(&now);
            sleep(Duration::from_millis(50)).await;
        }
    };
    let life = Duration::from_mins(3) / SPEED;
    let client = async |here: &Berth, there: &Berth, is_late: bool| {
        while !is_over.load(Ordering::Relaxed) {
            let made = Instant::now();
            let by_key = token(here, &robot("puller"), &[PULL]).await;
            let by_session = refresh(there, &session).await.is(200).json();
            let by_session = by_session["access_token"].as_str().expect("a token").to_owned();
            for given in [&by_key, &by_session] {
                signed.lock().expect("nobody panics").entry(key_id(given)).or_insert_with(Instant::now);
            }
            // Some are shown for the first time when they are nearly over: till then the key may be gone.
            if is_late {
                sleep((life * 4 / 5).saturating_sub(made.elapsed())).await;
            }
            while made.elapsed() < life {
                for berth in [here, there] {
                    for given in [&by_key, &by_session] {
                        pull(berth, given).await.is(200);
                        requests.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    };
    let turns = async {
        eventually("the signing key has changed three times, and one is thrown away", async || {
            let signed = signed.lock().expect("nobody panics").len();
            (signed > 3 && !gone.lock().expect("nobody panics").is_empty()).then_some(())
        })
        .await;
        is_over.store(true, Ordering::Relaxed);
        begun.elapsed()
    };
    let count = replicas.len();
    let clients =
        (0..6).map(|number| client(&replicas[number % count], &replicas[(number + 1) % count], number >= 3));

    let ((), _, took) = tokio::join!(watch(&replicas[0]), join_all(clients), turns);

    let (published, signed) = (published.into_inner(), signed.into_inner());
    let (published, signed) = (published.expect("nobody panics"), signed.expect("nobody panics"));
    // The first is used at once.
    let first = signed.values().min().expect("there was a key");
    for (key, signs_from) in signed.iter().filter(|(_, signs_from)| *signs_from != first) {
        let ahead = signs_from.saturating_duration_since(published[key]);
        // Six seconds before, of which it takes a replica that did not make it three to see it.
        assert!(ahead > Duration::from_secs(2), "{key} was published {ahead:?} before it signed");
    }
    let requests = requests.into_inner();
    eprintln!("{requests} requests, signed with {} keys in {took:?}", signed.len());
    assert!(requests > 100, "{requests} requests");
}

on_each_database!(keys_change_under_load_and_no_request_is_refused);

#[tokio::test]
async fn replicas_45_seconds_apart_agree_where_the_first_is_behind() {
    let _bench = workbench!("postgres", "weed", "faketime");
    agree_on_everything("", "+45s").await;
}

#[tokio::test]
async fn replicas_45_seconds_apart_agree_where_the_first_is_ahead() {
    let _bench = workbench!("postgres", "weed", "faketime");
    agree_on_everything("+45s", "").await;
}

/// Two replicas by the clocks of which tokens are made, used and ended; the first makes the first key.
async fn agree_on_everything(first: &str, second: &str) {
    let with = async |builder: Builder, clock: &str| {
        if clock.is_empty() { builder } else { builder.clock(clock).await }
    };
    let builder = staged("").database(Database::Postgres).storage(Storage::SeaweedFs);
    let first = Berth::of(with(builder, first).await.start().await);
    let second = Berth::of(with(first.server.beside(), second).await.start().await);
    push_as(&first, &robot("admin"), "private/app", "v1", 1).await.put.is(201);
    let ways = [(&first, &second), (&second, &first)];
    let mut issued = Vec::new();
    for (here, there) in ways {
        let given = token(here, &robot("puller"), &[PULL]).await;
        issued.push(claims(&given)["iat"].as_i64().expect("a time is a number"));
        pull(there, &given).await.is(200);
        let session = log_in(here, "docker").await;
        let renewed = refresh(there, &session).await.is(200).json();
        pull(here, renewed["access_token"].as_str().expect("a token")).await.is(200);
    }
    assert!((40..60).contains(&(issued[0] - issued[1]).abs()), "their clocks are apart: {issued:?}");

    // The next key is made, and by one of the clocks its time comes soon, by the other at once.
    let mut index = Index::of(&first.server).await;
    index.execute("UPDATE signing_keys SET signs_from = signs_from - 2591400000").await;
    eventually("there is a second key", async || {
        (index.texts("SELECT kid FROM signing_keys").await.len() == 2).then_some(())
    })
    .await;
    index
        .execute(
            "UPDATE signing_keys SET signs_from = CAST(EXTRACT(EPOCH FROM now()) * 1000 AS BIGINT) + 30000
             WHERE number = 2",
        )
        .await;
    let kid = index.texts("SELECT kid FROM signing_keys WHERE number = 2").await.remove(0);
    index.close().await;
    let (signs, given) = eventually("one of them signs with it", async || {
        for (nth, (here, _)) in ways.iter().enumerate() {
            let given = token(here, &robot("puller"), &[PULL]).await;
            if key_id(&given) == kid {
                return Some((nth, given));
            }
        }
        None
    })
    .await;
    let (ahead, behind) = ways[signs];
    pull(behind, &given).await.is(200);
    let older = token(behind, &robot("puller"), &[PULL]).await;
    assert_ne!(key_id(&older), kid, "its time has not come there");
    pull(ahead, &older).await.is(200);

    // What either has given ends on both, whichever is told.
    for (here, there) in ways {
        let client = here.server.host();
        let session = log_in(here, client).await;
        let made = refresh(here, &session).await.is(200).json();
        let made = made["access_token"].as_str().expect("a token").to_owned();
        let list = command(&there.server, &["token", "list", "--identity", "robot:puller", "--json"]);
        let listed = process::run(list).await.text();
        let mut sessions = listed.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let session_id = sessions.find(|session| session["client"] == client).expect("it is listed");
        let session_id = session_id["id"].as_str().expect("an id").to_owned();
        process::run(command(&there.server, &["token", "revoke", &session_id])).await;
        for berth in [here, there] {
            refresh(berth, &session).await.is_refused(401, "UNAUTHORIZED");
            eventually("what was made of it is over", async || {
                (pull(berth, &made).await.status == 401).then_some(())
            })
            .await;
        }
    }
    let sessions = [log_in(&first, "docker").await, log_in(&second, "docker").await];
    let mut tokens = vec![given, older];
    for (berth, session) in [(&first, &sessions[0]), (&second, &sessions[1])] {
        tokens.push(token(berth, &robot("puller"), &[PULL]).await);
        let made = refresh(berth, session).await.is(200).json();
        tokens.push(made["access_token"].as_str().expect("a token").to_owned());
    }
    let told = Instant::now();
    process::run(command(&first.server, &["token", "revoke", "--identity", "robot:puller"])).await;
    for berth in [&first, &second] {
        for session in &sessions {
            refresh(berth, session).await.is_refused(401, "UNAUTHORIZED");
        }
        for token in &tokens {
            eventually("it is over", async || (pull(berth, token).await.status == 401).then_some(())).await;
        }
    }
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}

#[tokio::test]
async fn a_layer_arrives_whose_token_ends_on_the_way() {
    let _bench = workbench!("faketime");
    let settings = "token_ttl = \"1m\"\nupload_grace = \"6m\"\n";
    let berth = Berth::of(staged(settings).clock(&fast()).await.start().await);
    let bytes = content::bytes(1, 3_000);
    let given = token(&berth, &robot("pusher"), &["repository:private/app:push"]).await;
    let mine = bearer(&given);
    let headers = [("authorization", mine.as_str())];
    let target = "/v2/private/app/blobs/uploads/";
    let begin = async || {
        let begun = berth.send("POST", target, &headers, Vec::new()).await;
        begun.is(202).header("location").to_owned()
    };
    let (location, left) = (begin().await, begin().await);

    // Its last bytes are sent when the token is over by all clocks: a minute, and one for clocks that differ.
    let pieces: Vec<_> =
        bytes[..2_000].chunks(250).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
    let body = stream::unfold(pieces.into_iter(), async |mut pieces| {
        let piece = pieces.next()?;
        sleep(Duration::from_millis(350)).await;
        Some((piece, pieces))
    });
    let body = reqwest::Body::wrap_stream(body);
    berth.send("PATCH", &location, &headers, body).await.is(202);

    // It is over for all but the upload it was begun with.
    let refused = berth.send("POST", target, &headers, Vec::new()).await;
    refused.is_refused(401, "UNAUTHORIZED");
    assert!(refused.text().contains("expired"), "{}", refused.text());
    ask_token(&berth, &mine, "").await.is_refused(401, "UNAUTHORIZED");
    ask_token(&berth, &basic("x", &given), "").await.is_refused(401, "UNAUTHORIZED");
    // Whoever may do everything else, with a token that is good, may not go on with it.
    let admin = bearer(&token(&berth, &robot("admin"), &["repository:private/app:pull,push"]).await);
    let theirs = [("authorization", admin.as_str())];
    let last = format!("{location}?digest={}", sha256(&bytes));
    for (method, path) in [("GET", &location), ("PATCH", &location), ("PUT", &last), ("DELETE", &location)] {
        let answer = berth.send(method, path, &theirs, bytes[2_000..].to_vec()).await;
        answer.is_refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    berth.send("PUT", &last, &headers, bytes[2_000..].to_vec()).await.is(201);
    let blob = format!("/v2/private/app/blobs/{}", sha256(&bytes));
    let whole = berth.send("GET", &blob, &[("authorization", &robot("admin"))], Vec::new()).await;
    assert!(whole.is(200).body == bytes);

    // There is an end to it.
    eventually("the grace is over", async || {
        let answer = berth.send("GET", &left, &headers, Vec::new()).await;
        (answer.status == 401).then_some(())
    })
    .await;
    let late = berth.send("PATCH", &left, &headers, bytes.clone()).await;
    late.is_refused(401, "UNAUTHORIZED");
}
