//! The index by itself: what a commit promises, and that both databases answer alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    future::Future,
    pin::Pin,
    str::FromStr,
    task::{Context, Poll},
    time::Duration,
};

use berth::{
    db::{
        self, Db, Location, blobs, doomed_objects, manifests, referrers, refresh_tokens, repositories,
        revocations, scrubs, signing_keys, tags, uploads,
    },
    oci::{Reference, RepositoryName, Tag},
};
use berth_storage::{Algorithm, Digest, Key, Object};
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::{
    faults::wire::Dice,
    harness::{postgres::Postgres, run, tools::workbench},
};

async fn sqlite(folder: &TempDir) -> db::Result<Db> {
    let db = Db::open(&Location::Sqlite(folder.path().join("berth.db"))).await?;
    db.migrate().await?;
    Ok(db)
}

fn key(number: u64) -> Key {
    Key::try_from(format!("{number:032x}")).expect("a key is 32 digits")
}

fn digest(number: u64) -> Digest {
    Digest::of(Algorithm::Sha256, &number.to_le_bytes())
}

async fn keys(db: &Db) -> BTreeSet<String> {
    let keys = doomed_objects::due(db, i64::MAX, i64::MAX).await.expect("read");
    keys.iter().map(|doomed| doomed.storage_key.to_string()).collect()
}

/// Drops a future once it has been polled so often: a request that is cut where it happens to wait.
struct Cut<F> {
    inner: Pin<Box<F>>,
    polls_left: u64,
}

impl<F: Future> Future for Cut<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls_left == 0 {
            return Poll::Ready(None);
        }
        self.polls_left -= 1;
        match self.inner.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // The last look is at what waits; then it is cut without being woken.
            Poll::Pending if self.polls_left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// What becomes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Committed,
    /// Dropped after one row or two.
    Dropped,
    /// Ended by a constraint.
    Refused,
    /// Cut at any await, the commit's included.
    Cut,
}

/// Writes the two rows of a transaction, and does not commit if it is not to.
async fn write(db: &Db, number: u64, fate: Fate) -> db::Result<()> {
    let mut tx = db.begin().await?;
    doomed_objects::insert(&mut tx, &key(number * 2), None, 0).await?;
    if fate == Fate::Dropped && number.is_multiple_of(2) {
        return Ok(());
    }
    if fate == Fate::Refused {
        tags::set(&mut tx, 1, &Tag::from_str("v1").expect("a tag"), &digest(number), 0).await?;
    }
    doomed_objects::insert(&mut tx, &key(number * 2 + 1), None, 0).await?;
    if fate == Fate::Dropped {
        return Ok(());
    }
    tx.commit().await?;
    if fate == Fate::Committed {
        // Whoever is told that it stands can read it.
        let found = doomed_objects::keys(db, key(number * 2).as_str(), key(number * 2 + 2).as_str()).await?;
        assert_eq!(found.len(), 2, "transaction {number} was committed and cannot be read");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_transaction_on_sqlite_is_there_wholly_or_not_at_all() {
    let folder = run::folder("database");
    let db = sqlite(&folder).await.expect("open");
    let mut dice = Dice::new(41);
    let mut ended: BTreeMap<u64, (Fate, bool)> = BTreeMap::new();
    for batch in 0..60 {
        let mut everyone = JoinSet::new();
        for number in batch * 32..(batch + 1) * 32 {
            let fate = match dice.below(8) {
                0 => Fate::Dropped,
                1 => Fate::Refused,
                2 | 3 => Fate::Cut,
                _ => Fate::Committed,
            };
            let polls_left = if fate == Fate::Cut { dice.below(12) } else { u64::MAX };
            let db = db.clone();
            everyone.spawn(async move {
                let inner = Box::pin(async move { write(&db, number, fate).await });
                (number, fate, Cut { inner, polls_left }.await)
            });
        }
        while let Some(one) = everyone.join_next().await {
            let (number, fate, outcome) = one.expect("no transaction panics");
            let told = match (fate, outcome) {
                (Fate::Committed, Some(Ok(()))) => true,
                (Fate::Committed, other) => panic!("transaction {number} was not committed: {other:?}"),
                (Fate::Refused, Some(Err(error))) => {
                    assert!(error.is_foreign_key_violation(), "{error}");
                    false
                }
                (Fate::Refused, other) => panic!("transaction {number} was not refused: {other:?}"),
                (Fate::Dropped, outcome) => {
                    outcome.expect("it was not cut").expect("its statements are good");
                    false
                }
                (Fate::Cut, Some(outcome)) => outcome.map(|()| true).expect("nothing else ends it"),
                (Fate::Cut, None) => false,
            };
            ended.insert(number, (fate, told));
        }
    }
    db.close().await;
    drop(db);

    let db = sqlite(&folder).await.expect("open again");
    let there = keys(&db).await;
    for (number, (fate, told)) in ended {
        let halves = [number * 2, number * 2 + 1].map(|number| there.contains(key(number).as_str()));
        match (fate, told) {
            (_, true) => assert_eq!(halves, [true, true], "transaction {number}, {fate:?}, was acknowledged"),
            (Fate::Cut, false) => assert_eq!(halves[0], halves[1], "transaction {number} is there by half"),
            (_, false) => assert_eq!(halves, [false, false], "transaction {number}, {fate:?}"),
        }
    }
}

#[tokio::test]
async fn a_transaction_that_was_cut_on_sqlite_holds_up_nobody() {
    let folder = run::folder("database");
    let db = sqlite(&folder).await.expect("open");
    // At each await in turn, so that none is missed by chance.
    for polls_left in 0..40 {
        let inner = Box::pin(write(&db, 1_000 + polls_left, Fate::Cut));
        let _ = Cut { inner, polls_left }.await;
        write(&db, polls_left, Fate::Committed)
            .await
            .unwrap_or_else(|error| panic!("after {polls_left}: {error}"));
    }
}

#[tokio::test]
async fn a_sqlite_file_has_one_process() {
    let folder = run::folder("database");
    let db = sqlite(&folder).await.expect("open");
    let second = sqlite(&folder).await;
    assert!(matches!(second, Err(db::Error::InUse { .. })), "{second:?}");
    db.close().await;
    drop(db);
    // A program that another test starts right now has a copy of the lock, until it is that program.
    let mut opened = sqlite(&folder).await;
    for _ in 0..100 {
        if opened.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        opened = sqlite(&folder).await;
    }
    opened.expect("open once the first is closed");
}

fn put<'a>(digest: &'a Digest, content: &'a [u8]) -> manifests::New<'a> {
    manifests::New { digest, media_type: "text/plain", subject: None, content }
}

/// What a database answered, in order.
#[derive(Default)]
struct Answers(Vec<String>);

impl Answers {
    fn note<T: Debug>(&mut self, what: &str, outcome: db::Result<T>) {
        self.0.push(match outcome {
            Ok(answer) => format!("{what}: {answer:?}"),
            Err(error) if error.is_foreign_key_violation() => format!("{what}: a foreign key refuses it"),
            Err(error) => format!("{what}: {error}"),
        });
    }
}

#[tokio::test]
async fn both_databases_give_the_same_answers() {
    let _bench = workbench!("postgres");
    let folder = run::folder("database");
    let sqlite = sqlite(&folder).await.expect("open");
    let url = Postgres::of_the_run().await.fresh_database().await;
    let postgres = Db::open(&Location::Postgres { url, max_connections: 4 }).await.expect("open");
    postgres.migrate().await.expect("migrate");

    let [sqlite, postgres] = [answers(&sqlite).await, answers(&postgres).await];

    for (sqlite, postgres) in sqlite.iter().zip(&postgres) {
        assert_eq!(sqlite, postgres);
    }
    assert_eq!(sqlite.len(), postgres.len());
}

#[expect(clippy::too_many_lines, reason = "one life of an index, from its first repository on")]
async fn answers(db: &Db) -> Vec<String> {
    let mut answers = Answers::default();
    let [one, two] = ["a/one", "a/two"].map(|name| RepositoryName::from_str(name).expect("a name"));
    let mut tx = db.begin().await.expect("begin");
    for name in ["b", "a-b", "a/one", "a", "a.b", "a_b", "a/two", "a0"] {
        let name = RepositoryName::from_str(name).expect("a name");
        repositories::ensure(&mut tx, &name, 1).await.expect("a repository is made");
    }
    answers.note("names", repositories::page(&mut tx, "", 10).await);
    answers.note("names after", repositories::page(&mut tx, "a.b", 2).await);
    let id = repositories::find(&mut tx, &one).await.expect("find").expect("it was made");
    let again = repositories::ensure(&mut tx, &one, 2).await.expect("ensure");
    assert_eq!(id, again);

    let object = |number| Object { key: key(number), size_bytes: number, digest: digest(number) };
    for number in 1..5 {
        answers.note("blob", blobs::insert(&mut tx, &digest(number), &object(number), 10).await);
    }
    answers.note("same blob", blobs::insert(&mut tx, &digest(1), &object(11), 11).await);
    answers.note("stored", blobs::stored(&mut tx, &digest(1)).await);
    for number in 1..4 {
        answers.note(
            "link",
            blobs::link(&mut tx, &one, &digest(number), 20 + i64::try_from(number).unwrap()).await,
        );
    }
    answers
        .note("nowhere", blobs::link(&mut tx, &RepositoryName::from_str("c").unwrap(), &digest(1), 30).await);
    answers.note("same link", blobs::link(&mut tx, &one, &digest(1), 30).await);
    let some = [1, 2, 9].map(digest);
    let some: Vec<&Digest> = some.iter().collect();
    let held = blobs::held(&mut tx, id, &some).await.map(|held| held.into_iter().collect::<BTreeSet<_>>());
    answers.note("held", held);
    answers.note("renewed", blobs::renew(&mut tx, &one, &digest(1), 40).await);
    answers.note("renewed elsewhere", blobs::renew(&mut tx, &two, &digest(1), 40).await);

    let [image, index] = [digest(100), digest(101)];
    let image_id =
        manifests::insert(&mut tx, id, put(&image, b"image"), 50).await.expect("insert").expect("new");
    answers.note("same manifest", manifests::insert(&mut tx, id, put(&image, b"image"), 51).await);
    let index_id =
        manifests::insert(&mut tx, id, put(&index, b"index"), 52).await.expect("insert").expect("new");
    answers.note("needed", manifests::need_blobs(&mut tx, image_id, id, &some).await);
    answers.note("on hold", blobs::hold(&mut tx, id, &some).await);
    answers.note("children", manifests::need_manifests(&mut tx, index_id, id, &[&image]).await);
    answers.note("missing", manifests::need_missing(&mut tx, index_id, id, &digest(4)).await);
    answers.note("links", blobs::link(&mut tx, &one, &digest(4), 60).await);
    answers.note("arrived", manifests::blob_arrived(&mut tx, id, &digest(4)).await);
    answers.note("missed", manifests::is_missed(&mut tx, id, &digest(4)).await);
    for name in ["v1", "V1", "_x", "a-b", "a.b", "Z"] {
        let tag = Tag::from_str(name).expect("a tag");
        answers.note("tag", tags::set(&mut tx, id, &tag, &image, 70).await);
    }
    answers.note("moved tag", tags::set(&mut tx, id, &Tag::from_str("v1").unwrap(), &index, 71).await);
    answers.note("tags", tags::page(&mut tx, id, "", 10).await);
    answers.note("tags after", tags::page(&mut tx, id, "a", 2).await);
    for number in [7, 5, 6] {
        let kind = if number == 6 { "b" } else { "a" };
        let digest = digest(number);
        manifests::insert(&mut tx, id, put(&digest, b"referrer"), 80).await.expect("insert");
        answers.note("refers", referrers::insert(&mut tx, id, &image, &digest, kind, "{}").await);
        answers.note("refers again", referrers::insert(&mut tx, id, &image, &digest, kind, "{}").await);
    }
    tx.commit().await.expect("commit");

    let tag = Reference::Tag(Tag::from_str("v1").unwrap());
    answers.note("found", blobs::find(db, &one, &digest(1)).await);
    answers.note("elsewhere", blobs::find(db, &two, &digest(1)).await);
    answers.note("by tag", manifests::find(db, &one, &tag).await);
    for range in [0..5, 1..3, 2..9, 7..9] {
        answers.note("piece", manifests::piece(db, &one, &image, range).await);
    }
    answers.note("piece elsewhere", manifests::piece(db, &two, &image, 0..5).await);
    answers.note("head", manifests::head(db, &one, &Reference::Digest(image.clone())).await);
    answers.note("head elsewhere", manifests::head(db, &two, &tag).await.map(|head| head.is_some()));
    answers.note("referrers", referrers::entries(db, id, &image, "", 10).await);
    answers.note("referrers of a type", referrers::entries_of_type(db, id, &image, "a", "", 1).await);
    answers.note(
        "idle links",
        blobs::idle_links(db, 1_000, 10)
            .await
            .map(|links| format!("{links:?}").replace(&id.to_string(), "id")),
    );
    answers.note("holders", blobs::holders(db, &digest(1), "", 10).await);
    answers.note("needed by", blobs::needed_by(db, &digest(1), 10).await);
    answers.note("needed by some", blobs::needed_by(db, &digest(1), 2).await);
    answers.note("needed by nothing", blobs::needed_by(db, &digest(3), 10).await);
    answers.note("behind", blobs::behind(db, digest(2).as_str(), 2).await);
    answers.note("bytes", blobs::total_bytes(db).await);
    answers.note("missing", blobs::count_missing(db).await);

    // Each of these ends its transaction on PostgreSQL, so each has its own.
    for (what, refused) in [("blob", 0), ("child", 1), ("link", 2), ("tag", 3), ("stored", 4)] {
        let mut tx = db.begin().await.expect("begin");
        blobs::set_idle(&mut tx, &digest(1), 1).await.expect("idle");
        let blob = blobs::stored(&mut tx, &digest(1)).await.expect("read").expect("it is there");
        answers.note(
            what,
            match refused {
                0 => blobs::unlink(&mut tx, &one, &digest(1)).await,
                1 => {
                    tags::remove_all_of(&mut tx, id, &image).await.expect("remove");
                    manifests::remove(&mut tx, image_id).await
                }
                2 => blobs::link(&mut tx, &one, &digest(99), 1).await.map(|_| 1),
                3 => tags::set(&mut tx, id, &Tag::from_str("v2").unwrap(), &digest(99), 1).await,
                _ => blobs::collect_blob(&mut tx, &blob).await,
            },
        );
    }
    let mut tx = db.begin().await.expect("begin");
    answers.note("let go", blobs::let_go(&mut tx, image_id, id, 90).await);
    answers.note(
        "still needed",
        blobs::idle_links(&mut tx, 1_000, 10)
            .await
            .map(|links| links.iter().map(|link| link.needed).collect::<Vec<_>>()),
    );
    answers.note("tags of it", tags::remove_all_of(&mut tx, id, &index).await);
    answers.note("index gone", manifests::remove(&mut tx, index_id).await);
    answers.note("idle", blobs::set_idle(&mut tx, &digest(4), 95).await);
    answers.note("idle blobs", blobs::idle_blobs(&mut tx, 100, 10).await);

    answers.note("scrub", scrubs::take(&mut tx, "me", 10, 20).await);
    let far = scrubs::Scrub { position: "sha256:5".into(), begun_at: 10, total_bytes: 9, done_bytes: 3 };
    answers.note("scrubbed", scrubs::save(&mut tx, "me", &far, 30).await);
    answers.note("scrub of another", scrubs::take(&mut tx, "you", 29, 40).await);
    answers.note("scrubbed by another", scrubs::save(&mut tx, "you", &far, 40).await);
    answers.note("scrub taken over", scrubs::take(&mut tx, "you", 30, 40).await);

    let key_row = |number| signing_keys::SigningKey {
        number,
        kid: format!("kid-{number}"),
        private_key: vec![1, 2],
        signs_from: 5,
    };
    answers.note("signing key", signing_keys::insert(&mut tx, &key_row(1), 3).await);
    answers.note("the same one of another", signing_keys::insert(&mut tx, &key_row(1), 4).await);
    answers.note("the next", signing_keys::insert(&mut tx, &key_row(2), 4).await);
    answers.note("thrown away", signing_keys::remove(&mut tx, 1).await);
    answers.note("signing keys", signing_keys::all(&mut tx).await.map(|keys| keys.len()));
    let refresh = |number: u8, subject: &str| refresh_tokens::RefreshToken {
        id: format!("id-{number}"),
        hash: vec![number],
        subject: subject.into(),
        identity: "{}".into(),
        scope: (number == 1).then(|| "repository:a:pull".into()),
        proof: String::new(),
        client: "docker".into(),
        created_at: 1,
        expires_at: 100 + i64::from(number),
        used_at: 1,
    };
    for (number, subject) in [(1, "user:alice"), (2, "user:bob"), (3, "user:alice"), (4, "user:bob")] {
        answers.note("refresh token", refresh_tokens::insert(&mut tx, &refresh(number, subject)).await);
    }
    answers.note("used", refresh_tokens::touch(&mut tx, "id-1", 9).await);
    answers.note("found", refresh_tokens::find(&mut tx, &[1], 100).await);
    answers.note("over", refresh_tokens::find(&mut tx, &[1], 101).await);
    answers.note("all", refresh_tokens::page(&mut tx, None, "id-1", 102, 2).await);
    answers.note("one's", refresh_tokens::page(&mut tx, Some("user:alice"), "", 50, 9).await);
    answers.note("one gone", refresh_tokens::remove(&mut tx, "id-3").await);
    answers.note("all of bob", refresh_tokens::remove_all_of(&mut tx, "user:bob").await);
    answers.note("expired tokens", refresh_tokens::expire(&mut tx, 101).await);
    let revoked = |session: Option<&str>, subject: Option<&str>| revocations::Revocation {
        session: session.map(Into::into),
        subject: subject.map(Into::into),
        revoked_at: 7,
    };
    answers.note("revoked", revocations::insert(&mut tx, &revoked(Some("id-3"), None), 50).await);
    answers.note("revoked", revocations::insert(&mut tx, &revoked(None, Some("user:bob")), 60).await);
    answers.note("revocations", revocations::all(&mut tx, 50).await);
    answers.note("revocations over", revocations::expire(&mut tx, 50).await);

    let session =
        |id: &str, number| uploads::Session::new(id.into(), key(number), "sha256".into(), vec![1, 2, 3]);
    for (number, session_id) in ["s1", "s2"].into_iter().enumerate() {
        let session = session(session_id, 200 + number as u64);
        answers.note("session", uploads::insert(&mut tx, &session, &owner(&one), 1, 100).await);
    }
    let [me, you, third] = [900, 901, 902].map(key);
    let claimed = uploads::claim(&mut tx, &owner(&one), "s1", &me, 150).await;
    let mut mine = claimed.expect("claim").expect("nobody has it");
    answers.note("claimed by another", uploads::claim(&mut tx, &owner(&one), "s1", &you, 150).await);
    let stranger = uploads::Owner { subject: "user:eve".into(), ..owner(&two) };
    answers.note("claimed by a stranger", uploads::claim(&mut tx, &stranger, "s2", &you, 150).await);
    answers.note("cancelled by a stranger", uploads::cancel(&mut tx, &stranger, "s2").await);
    answers.note("claimed elsewhere", uploads::claim(&mut tx, &owner(&two), "s2", &you, 150).await);
    answers.note("taken over too early", uploads::take_over(&mut tx, &mine, &you, 190, 149).await);
    answers.note("mine", uploads::is_writer(&mut tx, "s1", &me).await);
    answers.note("not yours", uploads::is_writer(&mut tx, "s1", &you).await);
    answers.note("opened", uploads::open_multipart(&mut tx, &mine, "multi").await);
    (mine.offset_bytes, mine.writer_until, mine.parts_count) = (5, 160, 3);
    (mine.multipart, mine.part_bytes, mine.storage_key) = (Some("multi".into()), 2, key(299));
    answers.note("saved", uploads::save(&mut tx, &mine, 100).await);
    answers.note("saved elsewhere", uploads::save_place(&mut tx, &mine).await);
    let parts: Vec<String> = (0..250).map(|part| format!("part {part}")).collect();
    answers.note("parts", uploads::add_parts(&mut tx, "s1", 0, &parts[..1]).await);
    answers.note("more parts", uploads::add_parts(&mut tx, "s1", 1, &parts[1..]).await);
    answers.note("all parts", uploads::parts(&mut tx, "s1").await);
    answers.note("tail", uploads::keep_tail(&mut tx, "s1", b"tail").await);
    answers.note("longer tail", uploads::keep_tail(&mut tx, "s1", b"longer tail").await);
    answers.note("read tail", uploads::tail(&mut tx, "s1").await);
    answers.note("dropped tail", uploads::drop_tail(&mut tx, "s1").await);
    answers.note("no tail", uploads::tail(&mut tx, "s1").await);
    answers.note("another tail", uploads::keep_tail(&mut tx, "s1", b"another").await);
    let yours = uploads::Session { writer: Some(you.to_string()), ..mine.clone() };
    answers.note("saved by another", uploads::save(&mut tx, &yours, 100).await);
    answers.note("saved elsewhere by another", uploads::save_place(&mut tx, &yours).await);
    answers.note("none expired", uploads::any_expired(&mut tx, 99).await);
    answers.note("some expired", uploads::any_expired(&mut tx, 155).await);
    answers.note("expired", uploads::expire(&mut tx, 155, 10).await);
    answers.note("written", uploads::written(&mut tx).await);
    answers.note("taken over", uploads::take_over(&mut tx, &mine, &third, 190, 160).await);
    answers.note("saved too late", uploads::save(&mut tx, &mine, 100).await);
    answers.note("keys", uploads::keys(&mut tx, "0", "1").await.map(|keys| keys.len()));
    answers.note("expired later", uploads::expire(&mut tx, 191, 10).await);
    answers.note("parts of nobody", uploads::parts(&mut tx, "s1").await);
    answers.note("tail of nobody", uploads::tail(&mut tx, "s1").await);
    answers.note("cancelled", uploads::cancel(&mut tx, &owner(&one), "s1").await);
    for (number, not_before) in [(1, 30), (2, 10), (3, 20)] {
        let doomed = doomed_objects::insert(&mut tx, &key(300 + number), Some("multi"), not_before).await;
        answers.note("doomed", doomed);
    }
    answers.note("doomed again", doomed_objects::insert(&mut tx, &key(301), None, 5).await);
    answers.note("due", doomed_objects::due(&mut tx, 20, 10).await);
    answers.note("postponed", doomed_objects::postpone(&mut tx, &key(302), 40).await);
    answers.note("forgotten", doomed_objects::remove(&mut tx, &key(303)).await);
    answers.note("due at last", doomed_objects::due(&mut tx, 100, 10).await);
    tx.commit().await.expect("commit");
    answers.0
}

fn owner(repository: &RepositoryName) -> uploads::Owner {
    uploads::Owner { repository: repository.clone(), subject: "user:alice".into() }
}

/// PostgreSQL only: a session that a writer has just claimed does not expire under them.
#[tokio::test]
async fn a_session_that_is_claimed_while_it_expires_stays() {
    let _bench = workbench!("postgres");
    let url = Postgres::of_the_run().await.fresh_database().await;
    let db = Db::open(&Location::Postgres { url, max_connections: 4 }).await.expect("open");
    db.migrate().await.expect("migrate");
    let repository = RepositoryName::from_str("a").expect("a name");
    let session = uploads::Session::new("s".into(), key(1), "sha256".into(), Vec::new());
    let mut tx = db.begin().await.expect("begin");
    uploads::insert(&mut tx, &session, &owner(&repository), 0, 10).await.expect("insert");
    tx.commit().await.expect("commit");

    let mut writer = db.begin().await.expect("begin");
    uploads::claim(&mut writer, &owner(&repository), "s", &key(2), 100)
        .await
        .expect("claim")
        .expect("it is free");
    let sweeping = async {
        let mut tx = db.begin().await.expect("begin");
        let expired = uploads::expire(&mut tx, 20, 10).await.expect("expire");
        tx.commit().await.expect("commit");
        expired
    };
    let claiming = async {
        until_somebody_waits(&db).await;
        writer.commit().await.expect("commit");
    };
    let (expired, ()) = tokio::join!(sweeping, claiming);

    assert_eq!(expired.len(), 0, "the session was swept under its writer");
    assert!(uploads::find(&db, &owner(&repository), "s").await.expect("find").is_some());
}

/// PostgreSQL only: a blob whose last repository lets go of it while the collector has a look stays a
/// candidate.
#[tokio::test]
async fn a_blob_that_is_let_go_while_it_is_kept_stays_idle() {
    let _bench = workbench!("postgres");
    let url = Postgres::of_the_run().await.fresh_database().await;
    let db = Db::open(&Location::Postgres { url, max_connections: 4 }).await.expect("open");
    db.migrate().await.expect("migrate");
    let repository = RepositoryName::from_str("a").expect("a name");
    let mut tx = db.begin().await.expect("begin");
    repositories::ensure(&mut tx, &repository, 0).await.expect("ensure");
    let object = Object { key: key(1), size_bytes: 1, digest: digest(1) };
    blobs::insert(&mut tx, &digest(1), &object, 0).await.expect("insert");
    blobs::link(&mut tx, &repository, &digest(1), 0).await.expect("link");
    blobs::set_idle(&mut tx, &digest(1), 5).await.expect("idle");
    tx.commit().await.expect("commit");
    let candidate = blobs::idle_blobs(&db, 10, 10).await.expect("read").remove(0);

    let mut delete = db.begin().await.expect("begin");
    blobs::set_idle(&mut delete, &digest(1), 20).await.expect("idle");
    blobs::unlink(&mut delete, &repository, &digest(1)).await.expect("unlink");
    let keeping = async {
        let mut tx = db.begin().await.expect("begin");
        blobs::keep_blob(&mut tx, &candidate).await.expect("keep");
        tx.commit().await.expect("commit");
    };
    let deleting = async {
        until_somebody_waits(&db).await;
        delete.commit().await.expect("commit");
    };
    tokio::join!(keeping, deleting);

    let idle = blobs::idle_blobs(&db, 100, 10).await.expect("read");
    assert_eq!(idle.len(), 1, "nobody holds the blob, and nobody will ever collect it");
}

/// Many look at once, for what is there and what is not, and some are cut where they happen to wait: everybody else
/// finds what was committed before they asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn looks_that_go_together_find_what_each_would_find_alone() {
    const MANIFESTS: u64 = 30;
    let url = Postgres::of_the_run().await.fresh_database().await;
    let db = Db::open(&Location::Postgres { url, max_connections: 4 }).await.expect("open");
    db.migrate().await.expect("migrate");
    let repository = RepositoryName::from_str("a").expect("a name");
    let mut tx = db.begin().await.expect("begin");
    let id = repositories::ensure(&mut tx, &repository, 0).await.expect("ensure");
    let content = |number: u64| vec![b'x'; if number.is_multiple_of(3) { 40_000 } else { 400 }];
    for number in 0..MANIFESTS {
        let (digest, content) = (digest(number), content(number));
        manifests::insert(&mut tx, id, put(&digest, &content), 0).await.expect("insert").expect("it is new");
        let object = Object { key: key(number), size_bytes: number, digest: digest.clone() };
        blobs::insert(&mut tx, &digest, &object, 0).await.expect("insert");
        blobs::link(&mut tx, &repository, &digest, 0).await.expect("link");
    }
    tx.commit().await.expect("commit");
    let mut everyone = JoinSet::new();
    let mut dice = Dice::new(5);
    for number in 0..1_500 {
        let (db, repository) = (db.clone(), repository.clone());
        let polls_left = if number % 4 == 0 { dice.below(6) } else { u64::MAX };
        let tag = Tag::from_str(&format!("t{number}")).expect("a tag");
        let (one, other) = (dice.below(MANIFESTS * 4 / 3), dice.below(MANIFESTS));
        let looks = async move {
            let expected = (one < MANIFESTS).then(|| digest(one));
            let found =
                manifests::find(&db, &repository, &Reference::Digest(digest(one))).await.expect("look");
            assert_eq!(found.as_ref().map(|found| &found.head.digest), expected.as_ref());
            if let Some(found) = found {
                let is_small = content(one).len() <= manifests::SMALL_BYTES;
                assert_eq!(found.content, is_small.then(|| content(one)));
            }
            let blob = blobs::find(&db, &repository, &digest(one)).await.expect("look");
            assert_eq!(blob.map(|blob| (blob.digest, blob.storage_key)), expected.map(|it| (it, key(one))));
            // What was committed is seen, also by a look that goes with others that were asked for earlier.
            for target in [other, (other + 1) % MANIFESTS] {
                let mut tx = db.begin().await.expect("begin");
                tags::set(&mut tx, id, &tag, &digest(target), 1).await.expect("set");
                tx.commit().await.expect("commit");
                let head =
                    manifests::head(&db, &repository, &Reference::Tag(tag.clone())).await.expect("look");
                assert_eq!(head.map(|head| head.digest), Some(digest(target)));
            }
        };
        everyone.spawn(async move { Cut { inner: Box::pin(looks), polls_left }.await });
    }
    let mut cut = 0;
    let all = async {
        while let Some(one) = everyone.join_next().await {
            cut += u64::from(one.expect("nobody finds anything else").is_none());
        }
    };
    tokio::time::timeout(crate::harness::process::PATIENCE, all)
        .await
        .expect("nobody waits for one who was cut");
    assert!(cut > 100, "{cut} were cut");

    db.close().await;

    let found = blobs::find(&db, &repository, &digest(1)).await;
    assert!(found.expect_err("it is closed").is_unavailable());
}

/// The connections of the pool end while nobody uses them, as where PostgreSQL was started anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn looks_do_not_fail_for_connections_that_have_ended() {
    let url = Postgres::of_the_run().await.fresh_database().await;
    let db = Db::open(&Location::Postgres { url, max_connections: 4 }).await.expect("open");
    db.migrate().await.expect("migrate");
    let repository = RepositoryName::from_str("a").expect("a name");
    let Db::Postgres { pool, .. } = &db else { unreachable!("it is PostgreSQL") };
    let all = join_all((0..4).map(|_| pool.acquire())).await;
    drop(all);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let mut last = pool.acquire().await.expect("connect");
    sqlx::query(end).execute(&mut *last).await.expect("end the others");
    drop(last);

    let looks = (0..50).map(|number| {
        let (db, repository) = (&db, &repository);
        async move { blobs::find(db, repository, &digest(number)).await }
    });

    for found in join_all(looks).await {
        assert_eq!(found.expect("look"), None);
    }
}

/// More come at once than go together, and then nobody: the last of them are not left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn looks_are_not_left_behind_by_those_before_them() {
    let url = Postgres::of_the_run().await.fresh_database().await;
    let db = Db::open(&Location::Postgres { url, max_connections: 1 }).await.expect("open");
    db.migrate().await.expect("migrate");
    let repository = RepositoryName::from_str("a").expect("a name");
    for burst in 0..300 {
        // They gather where there is no connection for them.
        let busy = db.begin().await.expect("begin");
        let mut everyone = JoinSet::new();
        let look = |number: u64| {
            let (db, repository) = (db.clone(), repository.clone());
            async move { blobs::find(&db, &repository, &digest(number)).await }
        };
        let first = everyone.spawn(look(0));
        for number in 1..66 {
            everyone.spawn(look(number));
        }
        tokio::time::sleep(Duration::from_millis(burst % 10)).await;
        // The one whose turn it is hangs up.
        first.abort();
        drop(busy);
        let all = async {
            while let Some(found) = everyone.join_next().await {
                match found {
                    Ok(found) => assert_eq!(found.expect("look"), None),
                    Err(error) => assert!(error.is_cancelled(), "{error}"),
                }
            }
        };
        tokio::time::timeout(crate::harness::process::PATIENCE, all).await.expect("nobody is left behind");
    }
}

/// Waits until a transaction waits for a lock of another.
async fn until_somebody_waits(db: &Db) {
    let Db::Postgres { pool, .. } = db else { return };
    let sql = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
               WHERE NOT l.granted AND a.datname = current_database()";
    let waiting = async {
        while sqlx::query_scalar::<_, i64>(sql).fetch_one(pool).await.expect("ask PostgreSQL") == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::harness::process::PATIENCE, waiting).await.expect("somebody waits");
}
