//! Crashes: at every fail point, and at any moment. What was acknowledged holds; nothing is left over.
//!
//! A fail point aborts the server between two steps, as `FAILPOINTS` in its environment says. Each
//! scenario is one such crash in the middle of one thing a client or the collector does. Time does
//! not pass in these tests: two days are taken off every row.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use reqwest::StatusCode;
use tokio::task::JoinSet;

use crate::{
    faults::behind::{
        self, Index, Place, assert_clean, assert_invariants, assert_invariants_but_for,
        assert_only_these_are_left,
    },
    faults::wire::{Dice, Failure, Image, Outcome, Way, Wire, blob},
    harness::{
        Database, Server, Storage,
        content::sha256,
        process::{self, PATIENCE, Process},
        tools::workbench,
    },
};

/// Something in whose middle the server dies.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// The upload of a blob nobody has.
    Upload(Way),
    /// The upload of a blob that another repository has.
    UploadKnown(Way),
    /// The upload of a blob whose object was lost.
    UploadLost,
    /// An upload whose bytes take longer than a checkpoint to come.
    UploadSlowly,
    /// The upload of a blob that is larger than a part.
    UploadLarge(Way),
    Cancel,
    Mount,
    /// A HEAD of a blob that has long been idle.
    Renew,
    /// A GET of a blob whose object was lost.
    ReadLost,
    PutManifest,
    DeleteTag,
    DeleteManifest,
    DeleteBlob,
    /// `berth gc`, over leftovers of every kind.
    Collect,
}

use Act::{
    Cancel, Collect, DeleteBlob, DeleteManifest, DeleteTag, Mount, PutManifest, ReadLost, Renew, Upload,
    UploadKnown, UploadLarge, UploadLost, UploadSlowly,
};
use Way::{Containerd, Docker, Single};

/// Every fail point, how it is armed, and in the middle of what.
const SCENARIOS: [(&str, &str, &[Act]); 38] = [
    ("uploads::started", "return", &[Upload(Docker), Upload(Single)]),
    ("uploads::claimed", "return", &[Upload(Docker), Upload(Containerd)]),
    ("storage::synced", "return", &[Upload(Docker), Upload(Containerd), Upload(Single)]),
    ("uploads::suspended", "return", &[Upload(Docker)]),
    ("uploads::checkpoint", "return", &[UploadSlowly]),
    ("uploads::stored", "return", &[Upload(Docker), UploadKnown(Containerd), UploadLost]),
    ("uploads::before_commit", "return", &[Upload(Docker), Upload(Containerd), Upload(Single)]),
    ("uploads::before_commit", "return", &[UploadKnown(Docker), UploadKnown(Containerd), UploadLost]),
    ("uploads::committed", "return", &[Upload(Docker), Upload(Containerd), Upload(Single)]),
    ("uploads::committed", "return", &[UploadKnown(Docker), UploadKnown(Containerd), UploadLost]),
    ("uploads::before_cancel", "return", &[Cancel]),
    ("uploads::cancelled", "return", &[Cancel]),
    ("uploads::before_mount", "return", &[Mount]),
    ("uploads::mounted", "return", &[Mount]),
    ("blobs::before_renew", "return", &[Renew]),
    ("blobs::renewed", "return", &[Renew]),
    ("blobs::before_mark_missing", "return", &[ReadLost]),
    ("blobs::marked_missing", "return", &[ReadLost]),
    ("manifests::before_commit", "return", &[PutManifest]),
    ("manifests::committed", "return", &[PutManifest]),
    ("tags::before_delete", "return", &[DeleteTag]),
    ("tags::deleted", "return", &[DeleteTag]),
    ("manifests::before_delete", "return", &[DeleteManifest]),
    ("manifests::deleted", "return", &[DeleteManifest]),
    ("blobs::before_unlink", "return", &[DeleteBlob]),
    ("blobs::unlinked", "return", &[DeleteBlob]),
    ("jobs::before_expire", "return", &[Collect]),
    ("jobs::expired", "return", &[Collect]),
    ("jobs::before_collect_link", "1*off->return", &[Collect]),
    ("jobs::link_collected", "1*off->return", &[Collect]),
    ("jobs::before_keep_link", "return", &[Collect]),
    ("jobs::link_kept", "return", &[Collect]),
    ("jobs::before_keep_blob", "return", &[Collect]),
    ("jobs::blob_kept", "return", &[Collect]),
    ("jobs::before_collect_blob", "1*off->return", &[Collect]),
    ("jobs::blob_collected", "1*off->return", &[Collect]),
    ("jobs::objects_deleted", "return", &[Collect]),
    ("jobs::objects_forgotten", "return", &[Collect]),
];

/// What only a folder meets.
const IN_A_FOLDER: [(&str, &str, &[Act]); 4] = [
    ("storage::created", "return", &[Upload(Docker), Upload(Containerd)]),
    ("storage::written", "return", &[Upload(Docker), Upload(Containerd), Upload(Single)]),
    // This one is also met in the middle of a batch.
    ("storage::deleted", "return", &[Collect]),
    ("storage::deleted", "1*off->return", &[Collect]),
];

/// What only an object store meets.
const IN_A_BUCKET: [(&str, &str, &[Act]); 10] = [
    ("uploads::claimed", "1*off->return", &[Upload(Docker)]),
    ("storage::multipart_opened", "return", &[UploadLarge(Docker), UploadLarge(Containerd)]),
    ("uploads::multipart_noted", "return", &[UploadLarge(Docker), UploadLarge(Single)]),
    ("storage::part_put", "return", &[UploadLarge(Docker), UploadLarge(Containerd)]),
    ("storage::part_put", "1*off->return", &[UploadLarge(Docker)]),
    ("storage::put", "return", &[Upload(Docker), Upload(Containerd)]),
    ("uploads::suspended", "return", &[UploadLarge(Docker)]),
    ("storage::synced", "return", &[UploadLarge(Docker), UploadLarge(Containerd)]),
    ("uploads::stored", "return", &[UploadLarge(Docker)]),
    ("uploads::before_commit", "return", &[UploadLarge(Docker), UploadLarge(Single)]),
];

fn scenarios(storage: Storage) -> impl Iterator<Item = (&'static str, &'static str, Act)> {
    let more = if storage == Storage::Filesystem { &IN_A_FOLDER[..] } else { &IN_A_BUCKET };
    let all = SCENARIOS.iter().chain(more);
    all.flat_map(|(point, arm, acts)| acts.iter().map(move |act| (*point, *arm, *act)))
}

#[test]
fn every_fail_point_has_a_scenario() {
    let mut points = BTreeSet::new();
    for folder in ["src", "storage/src", "auth/src"] {
        fail_points(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut points);
    }
    // No crash but an error: `disk` has its scenario.
    assert!(points.remove("db::sync"));
    let everywhere = scenarios(Storage::Filesystem).chain(scenarios(Storage::SeaweedFs));
    let covered: BTreeSet<String> = everywhere.map(|(point, _, _)| point.to_owned()).collect();
    assert_eq!(points, covered, "fail points in the sources, and those with a scenario");
}

fn fail_points(folder: &Path, points: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("read the sources") {
        let path = entry.expect("read the sources").path();
        if path.is_dir() {
            fail_points(&path, points);
        } else {
            let text = fs::read_to_string(&path).expect("read a source file");
            let after = text.split("fail_point!(\"").skip(1);
            points.extend(after.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_and_nothing_left_over_whichever_step_is_the_last_on_sqlite() {
    crash_everywhere(Database::Sqlite).await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_and_nothing_left_over_whichever_step_is_the_last_on_postgres() {
    let _bench = workbench!("postgres");
    crash_everywhere(Database::Postgres).await;
}

async fn crash_everywhere(database: Database) {
    if !cfg!(feature = "failpoints") {
        eprintln!("SKIPPED crash_everywhere: run with --features failpoints");
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "the fail points are not built in");
        return;
    }
    let mut scene = Scene::set(database).await;
    for (number, (point, arm, act)) in scenarios(Storage::of_the_run()).enumerate() {
        eprintln!("{database:?}: {point}={arm} in {act:?}");
        scene.crash(number as u64, &format!("{point}={arm}"), act).await;
    }
}

const APP: &str = "team/app";
const OTHER: &str = "team/other";
const EMPTY: &str = "team/empty";

struct Scene {
    server: Server,
    /// What is in `APP` for good, by tag.
    images: BTreeMap<String, Image>,
    /// A layer that many images share.
    shared: Bytes,
}

/// What a scenario is about, made before its crash.
struct Props {
    /// A blob of `OTHER` and `APP` that no manifest needs.
    loose: Bytes,
    /// A blob nobody has.
    new: Bytes,
    /// Another, larger than a part; nothing where no act needs it.
    large: Bytes,
    /// An image under a tag, to be deleted.
    old: Image,
    /// An image whose blobs are there.
    coming: Image,
    old_tag: String,
    coming_tag: String,
    /// A session with some bytes.
    session: String,
}

impl Scene {
    async fn set(database: Database) -> Self {
        let server = Server::builder().database(database).start().await;
        let shared = blob(1, 20_000);
        let kept = Image::new(0, [shared.clone(), blob(2, 100_000), Bytes::new()]);
        Wire::to(&server).push(APP, "kept", &kept, Docker, None).await.expect("push");
        Self { server, images: BTreeMap::from([("kept".to_owned(), kept)]), shared }
    }

    async fn crash(&mut self, number: u64, arm: &str, act: Act) {
        self.server.restart_with(&[]).await;
        let props = self.prepare(number, act).await;
        if matches!(act, Collect) {
            self.collect_and_die(arm).await;
        } else {
            self.server.restart_with(&[("FAILPOINTS", arm)]).await;
            let wire = Wire::to(&self.server);
            match perform(&wire, act, &props).await {
                Err(Failure::Gone(_)) => {}
                other => panic!("the server was to die at {arm}: {other:?}\n{}", self.server.said()),
            }
            assert_eq!(self.server.end().await.signal(), Some(6), "{}", self.server.said());
        }
        let lost = matches!(act, UploadLost | ReadLost).then(|| sha256(&props.loose));
        assert_invariants_but_for(&self.server, lost.as_deref()).await;

        self.server.restart_with(&[]).await;
        let wire = Wire::to(&self.server);
        if matches!(act, DeleteTag | DeleteManifest) {
            self.images.remove(&props.old_tag);
        }
        self.assert_acknowledged(&wire).await;
        self.assert_whole_or_absent(&wire, act, &props).await;
        // The client tries again, faster this time.
        let again = if matches!(act, UploadSlowly) { Upload(Docker) } else { act };
        match perform(&wire, again, &props).await {
            Ok(()) => {}
            Err(failure) if failure.is_absence() && act.takes_away() => {}
            Err(failure) => panic!("{act:?} after a crash at {arm}: {failure:?}\n{}", self.server.said()),
        }
        self.settle(&wire, act, &props).await;
        self.assert_acknowledged(&wire).await;
        assert_invariants_but_for(&self.server, lost.as_deref()).await;

        self.server.kill();
        if arm.starts_with("storage::multipart_opened") {
            // Only the store knows of that one, once the session is gone.
            let mut index = Index::of(&self.server).await;
            index.two_days_go_by().await;
            index.close().await;
            process::run(behind::command(&self.server, &["gc"])).await;
            process::run(behind::command(&self.server, &["fsck", "--repair"])).await;
        }
        assert_only_these_are_left(&self.server, &self.needed()).await;
    }

    async fn prepare(&mut self, number: u64, act: Act) -> Props {
        let wire = Wire::to(&self.server);
        let seed = (number + 1) * 100;
        let props = Props {
            loose: blob(seed, 3_000),
            new: blob(seed + 1, 70_000),
            large: if matches!(act, UploadLarge(_)) { blob(seed + 7, 9_000_000) } else { Bytes::new() },
            old: Image::new(seed + 2, [self.shared.clone(), blob(seed + 3, 5_000)]),
            coming: Image::new(seed + 4, [self.shared.clone(), blob(seed + 5, 5_000)]),
            old_tag: format!("old-{number}"),
            coming_tag: format!("coming-{number}"),
            session: wire.start(APP).await.expect("begin an upload"),
        };
        wire.append(&props.session, blob(seed + 6, 40_000)).await.expect("append");
        for repository in [APP, OTHER] {
            wire.upload(repository, &props.loose, Containerd).await.expect("upload");
        }
        wire.push(APP, &props.old_tag, &props.old, Single, None).await.expect("push");
        self.images.insert(props.old_tag.clone(), props.old.clone());
        if matches!(act, PutManifest) {
            for bytes in &props.coming.blobs {
                wire.upload(APP, bytes, Docker).await.expect("upload");
            }
        }
        if matches!(act, Renew) {
            // Long enough to be written down anew, and not long enough to be collected.
            let mut index = Index::of(&self.server).await;
            let half_a_day = "UPDATE repository_blobs SET idle_since = idle_since - 43200000
                              WHERE idle_since IS NOT NULL";
            index.execute(half_a_day).await;
            index.close().await;
        }
        if matches!(act, UploadLost | ReadLost) {
            lose(&self.server, &props.loose).await;
        }
        if matches!(act, UploadLost) {
            let lost = wire.blob(OTHER, &sha256(&props.loose)).await;
            assert!(lost.is_err_and(|failure| failure.is_absence()), "a lost blob is not found");
        }
        props
    }

    /// Leaves something of every kind behind, lets time go by, and collects until the fail point.
    async fn collect_and_die(&mut self, arm: &str) {
        let wire = Wire::to(&self.server);
        // Idle in one repository and held by another; idle, and needed by another manifest.
        let other = Image::new(7, [self.shared.clone()]);
        wire.push(OTHER, "other", &other, Docker, Some(APP)).await.expect("push");
        wire.delete(OTHER, &format!("manifests/{}", other.digest)).await.expect("delete");
        wire.delete(OTHER, &format!("blobs/{}", sha256(&self.shared))).await.expect("delete");
        let old: Vec<String> = self.images.keys().filter(|tag| tag.starts_with("old-")).cloned().collect();
        for tag in old {
            let image = self.images.remove(&tag).expect("it was just listed");
            wire.delete(APP, &format!("manifests/{}", image.digest)).await.expect("delete");
        }
        self.server.kill();
        let mut index = Index::of(&self.server).await;
        index.two_days_go_by().await;
        index.close().await;

        let mut command = behind::command(&self.server, &["gc"]);
        command.env("FAILPOINTS", arm);
        let mut gc = Process::start(command);
        assert_eq!(gc.end(PATIENCE).await.signal(), Some(6), "gc was to die at {arm}: {}", gc.said());
    }

    async fn assert_acknowledged(&self, wire: &Wire) {
        for (tag, image) in &self.images {
            wire.pull(APP, tag, image).await.unwrap_or_else(|failure| panic!("{tag}: {failure:?}"));
        }
    }

    /// What was not acknowledged is done wholly, or not at all.
    async fn assert_whole_or_absent(&self, wire: &Wire, act: Act, props: &Props) {
        match act {
            PutManifest => {
                let by_digest = wire.tagged(APP, &props.coming.digest).await.expect("HEAD");
                let by_tag = wire.tagged(APP, &props.coming_tag).await.expect("HEAD");
                assert_eq!(by_tag, by_digest, "a manifest comes with its tag");
                if by_tag.is_some() {
                    wire.pull(APP, &props.coming_tag, &props.coming).await.expect("pull");
                }
            }
            Upload(_) | UploadSlowly | UploadLarge(_) | UploadKnown(_) | Mount => {
                let bytes = props.subject(act);
                if wire.has(EMPTY, &sha256(bytes)).await.expect("HEAD") {
                    assert_eq!(wire.blob(EMPTY, &sha256(bytes)).await.expect("GET"), *bytes);
                }
            }
            DeleteTag | DeleteManifest => {
                let by_tag = wire.tagged(APP, &props.old_tag).await.expect("HEAD");
                if by_tag.is_some() {
                    wire.pull(APP, &props.old_tag, &props.old).await.expect("pull");
                }
            }
            _ => {}
        }
    }

    /// Takes note of what the act has done, now that it was acknowledged.
    async fn settle(&mut self, wire: &Wire, act: Act, props: &Props) {
        match act {
            PutManifest => {
                self.images.insert(props.coming_tag.clone(), props.coming.clone());
            }
            DeleteTag | DeleteManifest => {
                assert_eq!(wire.tagged(APP, &props.old_tag).await.expect("HEAD"), None);
                let by_digest = wire.tagged(APP, &props.old.digest).await.expect("HEAD");
                assert_eq!(by_digest.is_some(), matches!(act, DeleteTag), "the manifest");
                if matches!(act, DeleteTag) {
                    wire.delete(APP, &format!("manifests/{}", props.old.digest)).await.expect("delete");
                }
            }
            Upload(_) | UploadSlowly | UploadLarge(_) | UploadKnown(_) | UploadLost | Mount => {
                let bytes = props.subject(act);
                assert_eq!(wire.blob(EMPTY, &sha256(bytes)).await.expect("GET"), *bytes);
            }
            DeleteBlob => {
                let there = wire.has(OTHER, &sha256(&props.loose)).await.expect("HEAD");
                assert!(!there, "a deleted blob is not found");
                assert_eq!(wire.blob(APP, &sha256(&props.loose)).await.expect("GET"), props.loose);
            }
            Cancel | Renew | ReadLost | Collect => {}
        }
    }

    fn needed(&self) -> BTreeSet<String> {
        self.images.values().flat_map(|image| &image.blobs).map(|bytes| sha256(bytes)).collect()
    }
}

impl Act {
    /// Whether it cannot be done twice.
    fn takes_away(self) -> bool {
        matches!(self, DeleteTag | DeleteManifest | DeleteBlob | Cancel)
    }
}

impl Props {
    /// The blob an act puts into `EMPTY`.
    fn subject(&self, act: Act) -> &Bytes {
        match act {
            Upload(_) | UploadSlowly => &self.new,
            UploadLarge(_) => &self.large,
            _ => &self.loose,
        }
    }
}

async fn perform(wire: &Wire, act: Act, props: &Props) -> Outcome<()> {
    let loose = sha256(&props.loose);
    match act {
        Upload(way) | UploadKnown(way) | UploadLarge(way) => {
            wire.upload(EMPTY, props.subject(act), way).await
        }
        UploadLost => wire.upload(EMPTY, &props.loose, Docker).await,
        UploadSlowly => {
            let location = wire.start(EMPTY).await?;
            // A checkpoint is every ten seconds.
            let pieces: Vec<_> = props.new.chunks(5_000).map(|piece| props.new.slice_ref(piece)).collect();
            let location = wire.append_pieces(&location, pieces, Duration::from_secs(1)).await?;
            let path = location.split_once("blobs/").map(|(_, path)| path).expect("a session's path");
            let path = format!("blobs/{path}?digest={}", sha256(&props.new));
            let put = wire.request(reqwest::Method::PUT, EMPTY, &path);
            crate::faults::wire::expect(put, StatusCode::CREATED).await.map(drop)
        }
        Cancel => wire.cancel(&props.session).await,
        Mount => {
            let mounted = wire.mount(EMPTY, &loose, OTHER).await?;
            assert!(mounted, "a blob of another repository is mounted");
            Ok(())
        }
        Renew => wire.has(OTHER, &loose).await.map(|there| assert!(there, "it is still there")),
        ReadLost => match wire.blob(OTHER, &loose).await {
            Err(failure) if failure.is_absence() => Ok(()),
            outcome => panic_or_gone(outcome),
        },
        PutManifest => wire.put_manifest(APP, &props.coming_tag, &props.coming).await,
        DeleteTag => deleted(wire.delete(APP, &format!("manifests/{}", props.old_tag)).await),
        DeleteManifest => deleted(wire.delete(APP, &format!("manifests/{}", props.old.digest)).await),
        DeleteBlob => deleted(wire.delete(OTHER, &format!("blobs/{loose}")).await),
        Collect => Ok(()),
    }
}

fn deleted(outcome: Outcome<bool>) -> Outcome<()> {
    outcome.map(drop)
}

fn panic_or_gone(outcome: Outcome<Bytes>) -> Outcome<()> {
    match outcome {
        Err(Failure::Gone(why)) => Err(Failure::Gone(why)),
        other => panic!("a lost blob was answered: {other:?}"),
    }
}

/// Takes the object of a blob away, as a broken disk would.
async fn lose(server: &Server, bytes: &Bytes) {
    let mut index = Index::of(server).await;
    let places = index.places().await;
    index.close().await;
    let lost = sha256(bytes);
    let (key, _) = places
        .iter()
        .find(|(_, place)| matches!(place, Place::Blob { digest, .. } if *digest == lost))
        .expect("the blob is in the index");
    server.objects().remove(key).await;
}

/// Rounds of SIGKILL; more by an environment variable.
fn rounds() -> u64 {
    std::env::var("TEST_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(10)
}

#[tokio::test]
async fn what_was_acknowledged_before_a_kill_holds_after_it_on_sqlite() {
    kill_at_random(Database::Sqlite, 11).await;
}

#[tokio::test]
async fn what_was_acknowledged_before_a_kill_holds_after_it_on_postgres() {
    let _bench = workbench!("postgres");
    kill_at_random(Database::Postgres, 12).await;
}

const LANES: u64 = 6;

async fn kill_at_random(database: Database, seed: u64) {
    // Longer than a push, with time for the collector to be at work in later rounds.
    let config = "[gc]\nmin_age = \"10s\"\ninterval = \"50ms\"\n[uploads]\nttl = \"2s\"";
    let mut server = Server::builder().database(database).config(config).start().await;
    let mut lanes: Vec<Lane> = (0..LANES).map(|number| Lane::new(number, seed)).collect();
    let mut dice = Dice::new(seed);
    for _ in 0..rounds() {
        let wire = Wire::to(&server);
        let mut running = JoinSet::new();
        for mut lane in lanes.drain(..) {
            let wire = wire.clone();
            running.spawn(async move {
                lane.run(&wire).await;
                lane
            });
        }
        tokio::time::sleep(Duration::from_millis(50 + dice.below(500))).await;
        server.kill();
        while let Some(lane) = running.join_next().await {
            lanes.push(lane.expect("a lane holds"));
        }
        assert_invariants(&server).await;
        server.restart().await;
        assert_invariants(&server).await;
        let wire = Wire::to(&server);
        for lane in &mut lanes {
            lane.look(&wire).await;
        }
    }
    let pushed: u64 = lanes.iter().map(|lane| lane.done).sum();
    eprintln!("{database:?}: {pushed} acknowledged changes over {} kills", rounds());
    assert!(pushed > 0, "nothing was done between the kills");
    server.kill();
    assert_clean(&server).await;
    let alive = lanes.iter().flat_map(Lane::needed).collect();
    assert_only_these_are_left(&server, &alive).await;
}

/// One client with a repository of its own, and what it was told.
struct Lane {
    repository: String,
    neighbour: String,
    dice: Dice,
    tags: BTreeMap<String, Option<Image>>,
    /// Every manifest that may be there; tags come and go, manifests stay until they are deleted.
    manifests: BTreeMap<String, Image>,
    /// A change that was begun and not answered: a tag, and where it may point now.
    open: Option<(String, Option<Image>)>,
    /// A manifest whose delete was not answered.
    dying: Option<String>,
    done: u64,
}

impl Lane {
    fn new(number: u64, seed: u64) -> Self {
        Self {
            repository: format!("lane/{number}"),
            neighbour: format!("lane/{}", (number + 1) % LANES),
            dice: Dice::new(seed * 1_000 + number),
            tags: BTreeMap::new(),
            manifests: BTreeMap::new(),
            open: None,
            dying: None,
            done: 0,
        }
    }

    /// Works until the server is gone.
    async fn run(&mut self, wire: &Wire) {
        loop {
            let outcome = match self.dice.below(10) {
                0 => self.delete_tag(wire).await,
                1 => self.delete_manifest(wire).await,
                2 => self.begin_and_leave(wire).await,
                _ => self.push(wire).await,
            };
            match outcome {
                Ok(()) => self.done += 1,
                Err(Failure::Gone(_)) => return,
                Err(refused) => panic!("{}: {refused:?}", self.repository),
            }
        }
    }

    async fn push(&mut self, wire: &Wire) -> Outcome<()> {
        let tag = format!("t{}", self.dice.below(4));
        let seed = self.dice.number();
        let shared = blob(900 + self.dice.below(4), 30_000);
        let length = usize::try_from(self.dice.below(200_000)).expect("a small number");
        let image = Image::new(seed, [shared, blob(seed, length)]);
        self.open = Some((tag.clone(), Some(image.clone())));
        let way = self.dice.way();
        wire.push(&self.repository, &tag, &image, way, Some(&self.neighbour)).await?;
        self.open = None;
        self.manifests.insert(image.digest.clone(), image.clone());
        self.tags.insert(tag, Some(image));
        Ok(())
    }

    async fn delete_tag(&mut self, wire: &Wire) -> Outcome<()> {
        let tag = format!("t{}", self.dice.below(4));
        self.open = Some((tag.clone(), None));
        let was_there = wire.delete(&self.repository, &format!("manifests/{tag}")).await?;
        self.open = None;
        let known = self.tags.insert(tag.clone(), None).flatten();
        assert_eq!(was_there, known.is_some(), "tag {tag} of {}", self.repository);
        Ok(())
    }

    async fn delete_manifest(&mut self, wire: &Wire) -> Outcome<()> {
        let Some(digest) = self.manifests.keys().next().cloned() else { return Ok(()) };
        self.dying = Some(digest.clone());
        let was_there = wire.delete(&self.repository, &format!("manifests/{digest}")).await?;
        assert!(was_there, "manifest {digest} of {}", self.repository);
        self.dying = None;
        self.forget(&digest);
        Ok(())
    }

    async fn begin_and_leave(&mut self, wire: &Wire) -> Outcome<()> {
        let location = wire.start(&self.repository).await?;
        wire.append(&location, blob(self.dice.number(), 50_000)).await.map(drop)
    }

    fn forget(&mut self, digest: &str) {
        self.manifests.remove(digest);
        for image in self.tags.values_mut() {
            if image.as_ref().is_some_and(|image| image.digest == digest) {
                *image = None;
            }
        }
    }

    /// After a restart: everything that was answered holds, what was not is whole or absent.
    async fn look(&mut self, wire: &Wire) {
        if let Some((tag, image)) = self.open.take() {
            let now = wire.tagged(&self.repository, &tag).await.expect("HEAD");
            if let Some(image) = image.as_ref() {
                let is_there = wire.tagged(&self.repository, &image.digest).await.expect("HEAD").is_some();
                let is_tagged = now.as_ref() == Some(&image.digest);
                assert_eq!(is_there, is_tagged, "a manifest comes with its tag {tag}");
                if is_there {
                    self.manifests.insert(image.digest.clone(), image.clone());
                }
            }
            if now == image.as_ref().map(|image| image.digest.clone()) {
                self.tags.insert(tag, image);
            }
        }
        if let Some(digest) = self.dying.take()
            && wire.tagged(&self.repository, &digest).await.expect("HEAD").is_none()
        {
            self.forget(&digest);
        }
        for (tag, image) in &self.tags {
            let now = wire.tagged(&self.repository, tag).await.expect("HEAD");
            let expected = image.as_ref().map(|image| image.digest.clone());
            assert_eq!(now, expected, "tag {tag} of {}", self.repository);
        }
        for (digest, image) in &self.manifests {
            let pulled = wire.pull(&self.repository, digest, image).await;
            pulled.unwrap_or_else(|failure| panic!("{} {digest}: {failure:?}", self.repository));
        }
    }

    fn needed(&self) -> impl Iterator<Item = String> {
        self.manifests.values().flat_map(|image| &image.blobs).map(|bytes| sha256(bytes))
    }
}
