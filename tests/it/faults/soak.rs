//! The collector beside pushes, pulls and deletes (D1, D2), and many pushers at once (P8).
//!
//! Short by default; `TEST_SOAK_SECONDS` makes it long.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{sync::RwLock, task::JoinSet, time};

use crate::{
    faults::behind::{Index, assert_clean, assert_invariants},
    faults::wire::{Dice, Failure, Image, Outcome, Wire, blob},
    harness::{Database, Server, content::sha256, process::PATIENCE, tools::workbench},
};

/// `gc.min_age` of the soak: shorter than the soak, longer than any push in it.
const MIN_AGE: Duration = Duration::from_secs(6);

const REPOSITORIES: u64 = 4;
const PUSHERS: u64 = 6;
const PULLERS: u64 = 3;
const DELETERS: u64 = 2;

#[tokio::test]
async fn collection_breaks_no_push_and_no_pull_on_sqlite() {
    soak(Database::Sqlite, 21).await;
}

#[tokio::test]
async fn collection_breaks_no_push_and_no_pull_on_postgres() {
    let _bench = workbench!("postgres");
    soak(Database::Postgres, 22).await;
}

/// An image that was pushed. Whoever pulls it holds `alive`; whoever deletes it takes it.
struct Pushed {
    repository: String,
    tag: String,
    image: Image,
    alive: RwLock<bool>,
}

/// What everyone in the soak shares.
struct Field {
    wire: Wire,
    over: AtomicBool,
    pushed: Mutex<Vec<Arc<Pushed>>>,
    /// Deleted images, to be pushed again.
    deleted: Mutex<Vec<Image>>,
    pushes: AtomicU64,
    pulls: AtomicU64,
    deletes: AtomicU64,
    longest_gap_ms: AtomicU64,
}

async fn soak(database: Database, seed: u64) {
    let seconds = std::env::var("TEST_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let config = format!("[gc]\ninterval = \"1s\"\nmin_age = \"{}s\"", MIN_AGE.as_secs());
    let mut server = Server::builder().database(database).config(&config).start().await;
    let field = Arc::new(Field {
        wire: Wire::to(&server),
        over: AtomicBool::new(false),
        pushed: Mutex::default(),
        deleted: Mutex::default(),
        pushes: AtomicU64::new(0),
        pulls: AtomicU64::new(0),
        deletes: AtomicU64::new(0),
        longest_gap_ms: AtomicU64::new(0),
    });
    let mut everyone = JoinSet::new();
    for number in 0..PUSHERS {
        everyone.spawn(push_until_over(Arc::clone(&field), Dice::new(seed * 1_000 + number)));
    }
    for number in 0..PULLERS {
        everyone.spawn(pull_until_over(Arc::clone(&field), Dice::new(seed * 1_000 + 100 + number)));
    }
    for number in 0..DELETERS {
        everyone.spawn(delete_until_over(Arc::clone(&field), Dice::new(seed * 1_000 + 200 + number)));
    }
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(18));
    while Instant::now() < until {
        // The length of the soak; and the first who fails ends it.
        if let Ok(Some(ended)) = time::timeout(Duration::from_secs(1), everyone.join_next()).await {
            ended.expect("nobody in the soak fails");
        }
        assert_invariants(&server).await;
    }
    field.over.store(true, Ordering::Relaxed);
    while let Some(ended) = everyone.join_next().await {
        ended.expect("nobody in the soak fails");
    }

    let gap = Duration::from_millis(field.longest_gap_ms.load(Ordering::Relaxed));
    let [pushes, pulls, deletes] =
        [&field.pushes, &field.pulls, &field.deletes].map(|count| count.load(Ordering::Relaxed));
    eprintln!("{database:?}: {pushes} pushes, {pulls} pulls, {deletes} deletes, the longest push {gap:?}");
    assert!(gap < MIN_AGE, "a push took {gap:?}; the promise is {MIN_AGE:?}, and the test proves nothing");
    assert!(pushes > 0 && pulls > 0 && deletes > 0, "{pushes} pushes, {pulls} pulls, {deletes} deletes");
    assert!(collected(&server) > 0, "nothing was collected: {}", server.said());
    let alive = std::mem::take(&mut *field.pushed.lock().expect("nobody panicked"));
    for one in alive {
        field.wire.pull(&one.repository, &one.tag, &one.image).await.expect("what is alive pulls");
    }
    assert!(server.terminate().await.success(), "{}", server.said());
    assert_invariants(&server).await;
    assert_clean(&server).await;
}

async fn push_until_over(field: Arc<Field>, mut dice: Dice) {
    while !field.over.load(Ordering::Relaxed) {
        let number = dice.number();
        let again = {
            let mut deleted = field.deleted.lock().expect("nobody panicked");
            let pick = (!deleted.is_empty() && dice.below(3) == 0).then(|| number % deleted.len() as u64);
            pick.map(|pick| deleted.swap_remove(usize::try_from(pick).expect("an index")))
        };
        let image = again.unwrap_or_else(|| {
            let shared = blob(500 + dice.below(6), 20_000);
            let length = usize::try_from(dice.below(60_000)).expect("a small number");
            Image::new(number, [shared, blob(number, length)])
        });
        let repository = format!("soak/{}", dice.below(REPOSITORIES));
        let from = format!("soak/{}", dice.below(REPOSITORIES));
        let from = (from != repository && dice.below(2) == 0).then_some(from);
        let tag = format!("t{number}");
        let gap = field.wire.push(&repository, &tag, &image, dice.way(), from.as_deref()).await;
        let gap = gap.unwrap_or_else(|failure| panic!("the push of {repository}:{tag} broke: {failure:?}"));
        let gap = u64::try_from(gap.as_millis()).expect("a short time");
        field.longest_gap_ms.fetch_max(gap, Ordering::Relaxed);
        field.pushes.fetch_add(1, Ordering::Relaxed);
        let pushed = Pushed { repository, tag, image, alive: RwLock::new(true) };
        field.pushed.lock().expect("nobody panicked").push(Arc::new(pushed));
    }
}

fn pick(field: &Field, dice: &mut Dice) -> Option<Arc<Pushed>> {
    let pushed = field.pushed.lock().expect("nobody panicked");
    let pick = dice.below(pushed.len().max(1) as u64);
    pushed.get(usize::try_from(pick).expect("an index")).cloned()
}

async fn pull_until_over(field: Arc<Field>, mut dice: Dice) {
    while !field.over.load(Ordering::Relaxed) {
        let Some(one) = pick(&field, &mut dice) else {
            time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let alive = one.alive.read().await;
        if *alive {
            let pulled = field.wire.pull(&one.repository, &one.tag, &one.image).await;
            pulled.unwrap_or_else(|failure| {
                panic!("the pull of {}:{} broke: {failure:?}", one.repository, one.tag)
            });
            field.pulls.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn delete_until_over(field: Arc<Field>, mut dice: Dice) {
    while !field.over.load(Ordering::Relaxed) {
        let few = field.pushed.lock().expect("nobody panicked").len() < 20;
        let Some(one) = pick(&field, &mut dice).filter(|_| !few) else {
            time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let mut alive = one.alive.write().await;
        if !std::mem::take(&mut *alive) {
            continue;
        }
        field.pushed.lock().expect("nobody panicked").retain(|other| !Arc::ptr_eq(other, &one));
        delete(&field.wire, &one, &mut dice)
            .await
            .unwrap_or_else(|failure| panic!("a delete broke: {failure:?}"));
        field.deletes.fetch_add(1, Ordering::Relaxed);
        field.deleted.lock().expect("nobody panicked").push(one.image.clone());
    }
}

async fn delete(wire: &Wire, one: &Pushed, dice: &mut Dice) -> Outcome<()> {
    if dice.below(2) == 0 {
        assert!(wire.delete(&one.repository, &format!("manifests/{}", one.tag)).await?, "the tag was there");
    }
    let manifest = format!("manifests/{}", one.image.digest);
    assert!(wire.delete(&one.repository, &manifest).await?, "the manifest was there");
    if dice.below(2) == 0 {
        // Only what is this image's own: to delete a blob that others push is their trouble, not the
        // collector's.
        for bytes in [&one.image.blobs[0], &one.image.blobs[2]] {
            wire.delete(&one.repository, &format!("blobs/{}", sha256(bytes))).await?;
        }
    }
    Ok(())
}

/// How many blobs the server has said that it collected.
fn collected(server: &Server) -> u64 {
    let said = server.said();
    let counts = said.split("sessions, collected ").skip(1);
    counts.filter_map(|rest| rest.split_once(" blobs")?.0.parse::<u64>().ok()).sum()
}

const ROUNDS: u64 = 10;
const LANES: u64 = 20;

#[tokio::test]
async fn what_was_deleted_and_collected_can_be_pushed_again_on_sqlite() {
    push_again(Database::Sqlite).await;
}

#[tokio::test]
async fn what_was_deleted_and_collected_can_be_pushed_again_on_postgres() {
    let _bench = workbench!("postgres");
    push_again(Database::Postgres).await;
}

/// D2: 200 times delete, collect, HEAD, push, pull.
async fn push_again(database: Database) {
    let min_age = Duration::from_secs(1);
    let config = "[gc]\ninterval = \"100ms\"\nmin_age = \"1s\"";
    let mut server = Server::builder().database(database).config(config).start().await;
    let mut lanes = JoinSet::new();
    for number in 0..LANES {
        let wire = Wire::to(&server);
        lanes.spawn(async move {
            // Two lanes have the same image in two repositories: what one lets go of the other may hold.
            let image = Image::new(number / 2, [blob(700 + number / 2, 10_000), blob(800 + number, 5_000)]);
            let repository = format!("again/{number}");
            let mut rounds = 0;
            while rounds < ROUNDS {
                match wire
                    .push(&repository, "latest", &image, crate::faults::wire::Way::Containerd, None)
                    .await
                {
                    Ok(_) => {}
                    // The machine was too slow for a promise of one second: that proves nothing.
                    Err(Failure::Refused { ref body, .. }) if body.contains("MANIFEST_BLOB_UNKNOWN") => {
                        let again = Instant::now();
                        let second = wire
                            .push(&repository, "latest", &image, crate::faults::wire::Way::Single, None)
                            .await;
                        assert!(second.is_ok() || again.elapsed() > min_age, "{repository}: {second:?}");
                        continue;
                    }
                    Err(failure) => panic!("{repository}: {failure:?}"),
                }
                wire.pull(&repository, "latest", &image).await.expect("pull");
                rounds += 1;
                wire.delete(&repository, &format!("manifests/{}", image.digest)).await.expect("delete");
                for bytes in &image.blobs {
                    until_collected(&wire, &repository, &sha256(bytes)).await;
                }
            }
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane.expect("a lane holds");
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let mut index = Index::of(&server).await;
        let places = index.places().await;
        index.close().await;
        if places.is_empty() {
            break;
        }
        assert!(Instant::now() < until, "left over: {places:?}");
        time::sleep(Duration::from_millis(50)).await;
    }
    assert!(server.terminate().await.success(), "{}", server.said());
    assert_clean(&server).await;
}

/// Waits for the collector. By GET: a HEAD of one who may push would put it off.
async fn until_collected(wire: &Wire, repository: &str, digest: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        match wire.blob(repository, digest).await {
            Err(failure) if failure.is_absence() => break,
            Ok(_) => {}
            Err(failure) => panic!("GET of {digest}: {failure:?}"),
        }
        assert!(Instant::now() < until, "{digest} is not collected");
        time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        !wire.has(repository, digest).await.expect("HEAD"),
        "{digest} is gone for GET and there for HEAD"
    );
}

/// P8: whoever pushes never hears of a lock.
#[tokio::test]
async fn sixty_four_pushers_at_once_are_all_served_on_sqlite() {
    let config = "[gc]\ninterval = \"50ms\"\nmin_age = \"60s\"\n[uploads]\nttl = \"1s\"";
    let mut server = Server::builder().config(config).start().await;
    let mut pushers = JoinSet::new();
    for number in 0..64 {
        let wire = Wire::to(&server);
        pushers.spawn(async move {
            let mut dice = Dice::new(31_000 + number);
            let repository = format!("many/{}", number % 8);
            for round in 0..4 {
                let seed = 1_000 * number + round;
                let shared: Bytes = blob(300 + dice.below(4), 8_000);
                let image = Image::new(seed, [shared, blob(seed, 30_000)]);
                let tag = format!("t{}", dice.below(16));
                let way = dice.way();
                wire.push(&repository, &tag, &image, way, None).await.expect("a push among many");
                wire.pull(&repository, &image.digest, &image).await.expect("a pull among many");
                // Left for the collector.
                let location = wire.start(&repository).await.expect("begin an upload");
                wire.append(&location, blob(seed, 1_000)).await.expect("append");
            }
        });
    }
    while let Some(pusher) = pushers.join_next().await {
        pusher.expect("a pusher is served");
    }
    assert!(server.terminate().await.success(), "{}", server.said());
    assert_clean(&server).await;
}
