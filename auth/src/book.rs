//! The book: every rule, user and robot there is, from the configuration and from a folder.
//!
//! A [`Book`] never changes. The [`Shelf`] holds the one in force and puts another in its place when the
//! configuration's file or the files of the folder change and are all good; as long as one is bad, the old
//! book stays.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{self, SHA256};
use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;
use tracing::warn;

use crate::policy::Known;
use crate::robots::{Robot, Robots};
use crate::users::{User, Users};
use crate::{Policy, Remark, Rule, Vouchers};

/// The most a file of the folder may hold.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// How long files that have changed must stay as they are before they are taken: an editor may be at work.
const SETTLED: Duration = Duration::from_millis(300);

/// Rules, users and robots as a file has them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entries {
    /// `[[rule]]`.
    pub rules: Vec<Rule>,
    /// `[[user]]`.
    pub users: Vec<User>,
    /// `[[robot]]`.
    pub robots: Vec<Robot>,
}

/// The entries of one file, and where they stand in it.
#[derive(Debug, Clone, Default)]
pub struct Chapter {
    /// The file; none for what came in another way.
    file: Option<PathBuf>,
    entries: Entries,
    /// Where rules, users and robots stand.
    places: [Vec<Place>; 3],
}

/// A line and a character in it, the first of each being 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The character.
    pub column: usize,
}

/// What is wrong with a book.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// A file or the folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An entry is not what it should be. The line itself is not shown: it may hold a secret.
    #[error("{}{reason}", Where(file.as_deref(), *place))]
    Entry {
        /// In which file.
        file: Option<PathBuf>,
        /// Where in it.
        place: Option<Place>,
        /// What is wrong.
        reason: String,
    },
}

struct Where<'a>(Option<&'a Path>, Option<Place>);

impl fmt::Display for Where<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(None, _) => Ok(()),
            Self(Some(file), None) => write!(f, "in {}: ", file.display()),
            Self(Some(file), Some(Place { line, column })) => {
                write!(f, "in {}, line {line}, column {column}: ", file.display())
            }
        }
    }
}

/// Which of the three arrays an entry is in.
#[derive(Debug, Clone, Copy)]
enum Array {
    Rule,
    User,
    Robot,
}

impl Place {
    fn of(text: &str, byte: usize) -> Self {
        let before = text.get(..byte).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Self { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

impl Chapter {
    /// Entries that another reader has read out of a file, under `auth` in its text.
    pub fn of_configuration(file: Option<PathBuf>, text: &str, entries: Entries) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Whole {
            auth: Auth,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Auth {
            rule: Vec<Spanned<IgnoredAny>>,
            user: Vec<Spanned<IgnoredAny>>,
            robot: Vec<Spanned<IgnoredAny>>,
        }
        let Auth { rule, user, robot } = toml::from_str::<Whole>(text).unwrap_or_default().auth;
        let places = [rule, user, robot].map(|array| -> Vec<Place> {
            array.iter().map(|entry| Place::of(text, entry.span().start)).collect()
        });
        let mut chapter = Self { file, entries, places };
        for array in [Array::Rule, Array::User, Array::Robot] {
            // An environment variable said something else than the file.
            if chapter.places[array as usize].len() != chapter.len(array) {
                chapter.places[array as usize].clear();
            }
        }
        chapter
    }

    /// The entries of a file of the folder.
    fn read(file: &Path, text: &str) -> Result<Self, BookError> {
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Whole {
            rule: Vec<Spanned<Rule>>,
            user: Vec<Spanned<User>>,
            robot: Vec<Spanned<Robot>>,
        }
        fn apart<T>(text: &str, array: Vec<Spanned<T>>) -> (Vec<Place>, Vec<T>) {
            array.into_iter().map(|entry| (Place::of(text, entry.span().start), entry.into_inner())).unzip()
        }
        let whole: Whole = toml::from_str(text).map_err(|error| BookError::Entry {
            file: Some(file.to_owned()),
            place: error.span().map(|span| Place::of(text, span.start)),
            reason: error.message().to_owned(),
        })?;
        let (rule_places, rules) = apart(text, whole.rule);
        let (user_places, users) = apart(text, whole.user);
        let (robot_places, robots) = apart(text, whole.robot);
        Ok(Self {
            file: Some(file.to_owned()),
            entries: Entries { rules, users, robots },
            places: [rule_places, user_places, robot_places],
        })
    }

    fn len(&self, array: Array) -> usize {
        match array {
            Array::Rule => self.entries.rules.len(),
            Array::User => self.entries.users.len(),
            Array::Robot => self.entries.robots.len(),
        }
    }
}

/// Every rule, user and robot.
#[derive(Debug)]
pub struct Book {
    /// What the rules say.
    pub policy: Policy,
    /// Who has a password.
    pub users: Users,
    /// Who has a key.
    pub robots: Robots,
    /// In which file each rule stands, in their order, and where.
    rule_places: Vec<(Option<PathBuf>, Option<Place>)>,
    digest: String,
    /// The entries, to tell another book from the same one in files that have changed otherwise.
    entries: Entries,
}

impl Book {
    /// The book of these chapters.
    pub fn of(chapters: &[Chapter]) -> Result<Self, BookError> {
        // Where the entry is that is the `at`-th of its kind in all chapters together.
        let place = |array: Array, mut at: usize| {
            for chapter in chapters {
                if at < chapter.len(array) {
                    return (chapter.file.clone(), chapter.places[array as usize].get(at).copied());
                }
                at -= chapter.len(array);
            }
            (None, None)
        };
        let wrong = |array, at, reason| {
            let (file, place) = place(array, at);
            BookError::Entry { file, place, reason }
        };
        let all = |array| chapters.iter().map(move |chapter| chapter.len(array)).sum::<usize>();
        let rules: Vec<Rule> = chapters.iter().flat_map(|chapter| chapter.entries.rules.clone()).collect();
        let users: Vec<User> = chapters.iter().flat_map(|chapter| chapter.entries.users.clone()).collect();
        let robots: Vec<Robot> = chapters.iter().flat_map(|chapter| chapter.entries.robots.clone()).collect();
        let rule_places = (0..all(Array::Rule)).map(|at| place(Array::Rule, at)).collect();
        let digest = digest_of(&rules);
        let entries = Entries { rules: rules.clone(), users: users.clone(), robots: robots.clone() };
        let policy =
            Policy::new(rules).map_err(|error| wrong(Array::Rule, error.index, error.to_string()))?;
        let users = Users::new(users).map_err(|(at, reason)| wrong(Array::User, at, reason))?;
        let robots = Robots::new(robots).map_err(|(at, reason)| wrong(Array::Robot, at, reason))?;
        Ok(Self { policy, users, robots, rule_places, digest, entries })
    }

    /// The chapters at a path: a file, or the `*.toml` files of a folder, in their names' order.
    pub fn chapters(path: &Path) -> Result<Vec<Chapter>, BookError> {
        let files = if path.is_dir() { files(path)? } else { [(path.to_owned(), text(path, path)?)].into() };
        files.iter().map(|(path, text)| Chapter::read(path, text)).collect()
    }

    /// The book of the configuration's chapter and the `*.toml` files of a folder, in their names' order.
    pub fn read(configuration: &Chapter, folder: Option<&Path>) -> Result<Self, BookError> {
        Self::bind(configuration, &folder.map(files).transpose()?.unwrap_or_default())
    }

    fn bind(configuration: &Chapter, files: &Files) -> Result<Self, BookError> {
        let mut chapters = vec![configuration.clone()];
        for (path, text) in files {
            chapters.push(Chapter::read(path, text)?);
        }
        Self::of(&chapters)
    }

    /// `sha256:` and the hash of the rules, for the audit log: another one, other rules.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What is odd about the rules, though they are good. Whether identities that others vouch for can be
    /// there is looked at where it is known who these are.
    pub fn lint(&self, vouchers: Option<&Vouchers>) -> Vec<Remark> {
        let users = self.users.iter().flat_map(|user| user.attributes.keys());
        let robots = self.robots.iter().flat_map(|robot| robot.attributes.keys());
        self.policy.lint(&Known {
            users: self.users.iter().map(|user| user.name.as_str()).collect(),
            robots: self.robots.iter().map(|robot| robot.name.as_str()).collect(),
            attributes: users.chain(robots).map(String::as_str).collect(),
            vouchers,
        })
    }

    /// Where a rule stands, as `FILE, line 3`; rules are numbered as in [`Policy::rules`].
    pub fn place_of_rule(&self, index: usize) -> Option<(&Path, Option<Place>)> {
        let (file, place) = self.rule_places.get(index)?;
        Some((file.as_deref()?, *place))
    }
}

fn digest_of(rules: &[Rule]) -> String {
    // Rules are texts and lists of texts, which JSON has.
    let text = serde_json::to_vec(rules).unwrap_or_default();
    format!("sha256:{}", hex::encode(digest::digest(&SHA256, &text)))
}

/// Texts by path.
type Files = BTreeMap<PathBuf, String>;

/// The `*.toml` files of a folder.
///
/// Kubernetes mounts a folder whose files are links into the folder `..data`, which is a link that is
/// replaced when anything changes. It is resolved once here, so that the files are of one state.
fn files(folder: &Path) -> Result<Files, BookError> {
    let mut again = 3;
    loop {
        match files_once(folder) {
            // It was replaced while it was read.
            Err(BookError::Read { source, .. }) if again > 0 && source.kind() == io::ErrorKind::NotFound => {
                again -= 1;
            }
            read => return read,
        }
    }
}

fn files_once(folder: &Path) -> Result<Files, BookError> {
    let cannot = |path: &Path| {
        let path = path.to_owned();
        move |source| BookError::Read { path, source }
    };
    let data = folder.join("..data");
    let real = if data.is_dir() { data.canonicalize().map_err(cannot(&data))? } else { folder.to_owned() };
    let mut texts = Files::new();
    for entry in fs::read_dir(&real).map_err(cannot(folder))? {
        let name = entry.map_err(cannot(folder))?.file_name();
        let path = folder.join(&name);
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        if is_hidden || path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let file = real.join(&name);
        if fs::metadata(&file).map_err(cannot(&path))?.is_dir() {
            continue;
        }
        let text = text(&file, &path)?;
        texts.insert(path, text);
    }
    Ok(texts)
}

/// What a file holds; `path` is what people know it by.
fn text(file: &Path, path: &Path) -> Result<String, BookError> {
    let cannot = |source| BookError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let opened = fs::File::open(file).map_err(cannot)?;
    let bytes = opened.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(cannot)?;
    if bytes as u64 > MAX_FILE_BYTES {
        return Err(cannot(io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes"))));
    }
    Ok(text)
}

/// What makes a chapter of a file's text.
pub type Reader = Box<dyn Fn(&str) -> Result<Chapter, BookError> + Send + Sync>;

/// The configuration's chapter of the book.
pub enum Configuration {
    /// As it was read once.
    Fixed(Chapter),
    /// A file that is read again when it changes.
    File {
        /// The file.
        path: PathBuf,
        /// Reads the chapter from the file's text, which is bad if anything in it is.
        read: Reader,
    },
}

impl fmt::Debug for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(_) => f.write_str("Fixed"),
            Self::File { path, .. } => write!(f, "File({})", path.display()),
        }
    }
}

/// The shelf: it holds the book in force, and looks whether there is another.
pub struct Shelf {
    configuration: Configuration,
    folder: Option<PathBuf>,
    current: ArcSwap<Book>,
    seen: Mutex<Seen>,
}

/// Every text of the book. They may hold secrets.
#[derive(Clone, PartialEq, Eq)]
struct Texts {
    /// That of the configuration's file, if it is read again.
    configuration: String,
    files: Files,
}

/// What was found at the last look.
struct Seen {
    /// The texts, or why they cannot be read.
    texts: Result<Texts, String>,
    is_bad: bool,
}

/// What a look at the files found.
#[derive(Debug)]
pub enum Look {
    /// Nothing new.
    Same,
    /// Another book is in force.
    Changed(Change),
    /// What was bad is gone, and the files hold the book in force again.
    Restored,
    /// Something changed for the worse: the book that was in force stays.
    Kept(BookError),
}

/// Another book is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The digest of the rules before.
    pub before: String,
    /// The digest of the rules now: the same, where only users or robots have changed.
    pub after: String,
    /// How many rules there are now.
    pub rules: usize,
}

impl Shelf {
    /// Reads the first book, which must be good.
    pub fn open(configuration: Configuration, folder: Option<PathBuf>) -> Result<Self, BookError> {
        let texts = texts(&configuration, folder.as_deref())?;
        let current = ArcSwap::from_pointee(book(&configuration, &texts)?);
        let seen = Mutex::new(Seen { texts: Ok(texts), is_bad: false });
        Ok(Self { configuration, folder, current, seen })
    }

    /// The book in force. Cheap; a request should ask once, so that it sees one book.
    pub fn book(&self) -> Arc<Book> {
        self.current.load_full()
    }

    /// The book in force, for a moment: to be looked into, and not to be kept.
    pub fn read(&self) -> impl Deref<Target = Arc<Book>> {
        self.current.load()
    }

    /// Whether what the files hold is not in force because it is bad.
    pub fn is_bad(&self) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_bad
    }

    /// Looks at the files, and puts another book in force if they have changed. Reads files: not for where
    /// nothing may block.
    pub fn look(&self) -> Look {
        let found = texts(&self.configuration, self.folder.as_deref());
        let key = found.as_ref().map_or_else(|error| Err(error.to_string()), |texts| Ok(texts.clone()));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.texts == key {
            return Look::Same;
        }
        seen.texts = key;
        match found.and_then(|texts| book(&self.configuration, &texts)) {
            Ok(book) => {
                let was_bad = std::mem::take(&mut seen.is_bad);
                let book = Arc::new(book);
                let before = self.current.swap(Arc::clone(&book));
                if before.entries == book.entries {
                    return if was_bad { Look::Restored } else { Look::Same };
                }
                let rules = book.policy.rules().count();
                Look::Changed(Change { before: before.digest.clone(), after: book.digest.clone(), rules })
            }
            Err(error) => {
                seen.is_bad = true;
                warn!("the policy has changed and is not taken, the one before stays: {error}");
                Look::Kept(error)
            }
        }
    }

    /// Whether the files hold something else than at the last look.
    fn is_other(&self) -> Option<Result<Texts, String>> {
        let found = texts(&self.configuration, self.folder.as_deref()).map_err(|error| error.to_string());
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.texts != found).then_some(found)
    }

    /// Looks every so often, for ever, and tells what it found other than nothing.
    pub async fn watch(self: Arc<Self>, every: Duration, mut told: impl FnMut(Look)) {
        if self.folder.is_none() && matches!(self.configuration, Configuration::Fixed(_)) {
            return;
        }
        loop {
            tokio::time::sleep(every).await;
            let (first_look, second_look) = (Arc::clone(&self), Arc::clone(&self));
            let other = tokio::task::spawn_blocking(move || first_look.is_other()).await;
            let Ok(Some(first)) = other else { continue };
            tokio::time::sleep(SETTLED).await;
            let look = tokio::task::spawn_blocking(move || {
                if second_look.is_other() == Some(first) { second_look.look() } else { Look::Same }
            });
            match look.await {
                Ok(Look::Same) | Err(_) => {}
                Ok(look) => told(look),
            }
        }
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shelf")
    }
}

fn texts(configuration: &Configuration, folder: Option<&Path>) -> Result<Texts, BookError> {
    let configuration = match configuration {
        Configuration::Fixed(_) => String::new(),
        Configuration::File { path, .. } => text(path, path)?,
    };
    Ok(Texts { configuration, files: folder.map(files).transpose()?.unwrap_or_default() })
}

fn book(configuration: &Configuration, texts: &Texts) -> Result<Book, BookError> {
    match configuration {
        Configuration::Fixed(chapter) => Book::bind(chapter, &texts.files),
        Configuration::File { read, .. } => Book::bind(&read(&texts.configuration)?, &texts.files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, Permissions, Question, robots};

    const PULL: &str =
        "[[rule]]\nname = 'pull'\nidentities = ['*']\nrepositories = ['**']\nactions = ['pull']\n";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn allowed(book: &Book) -> Permissions {
        let alice = Identity::parse("user:alice").unwrap();
        book.policy.allowed(&Question { identity: &alice, repository: "a", client: None, now: 0 })
    }

    fn read(files: &[(&str, &str)]) -> Result<Book, String> {
        let folder = folder(files);
        Book::read(&Chapter::default(), Some(folder.path()))
            .map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    #[test]
    fn a_book_is_the_configuration_and_the_files_of_the_folder() {
        let hash = robots::generate(&[1; 32]).1;
        let robot = format!("[[robot]]\nname = 'ci'\nsecrets = [{{ hash = '{hash}' }}]\n");
        let second = PULL.replace("'pull'", "'push'");
        let folder = folder(&[
            ("b.toml", &second),
            ("a.toml", &robot),
            (".hidden.toml", "no TOML"),
            ("notes.txt", "no TOML"),
        ]);
        fs::create_dir(folder.path().join("folder.toml")).unwrap();
        let text = format!("data = '.'\n[auth]\n[[auth.rule]]\n{}", PULL.trim_start_matches("[[rule]]\n"));
        let rules = toml::from_str::<BTreeMap<String, Vec<Rule>>>(PULL).unwrap().remove("rule").unwrap();
        let entries = Entries { rules, ..Entries::default() };
        let chapter = Chapter::of_configuration(Some("berth.toml".into()), &text, entries);
        let book = Book::read(&chapter, Some(folder.path())).unwrap();
        assert_eq!(book.policy.rules().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), ["pull", "push"]);
        assert_eq!(allowed(&book).to_string(), "pull, push");
        assert_eq!(book.robots.keys().count(), 1);
        let place = book.place_of_rule(0).unwrap();
        assert_eq!(place, (Path::new("berth.toml"), Some(Place { line: 3, column: 1 })));
        assert_eq!(book.place_of_rule(1).unwrap().0, folder.path().join("b.toml"));
    }

    #[test]
    fn what_is_wrong_is_said_with_file_line_and_column() {
        let twice = format!("# again\n\n{PULL}");
        let bad = format!("{PULL}\n{}", PULL.replace("'pull'", "'bad'").replace("'**'", "'A'"));
        let cases = [
            (
                vec![("a.toml", PULL), ("b.toml", &twice)],
                "in b.toml, line 3, column 1: rule \"pull\": another rule",
            ),
            (vec![("a.toml", &bad)], "in a.toml, line 7, column 1: rule \"bad\": repositories: "),
            (
                vec![("a.toml", "[[rule]]\nname = 'a'\nidentitys = []")],
                "in a.toml, line 3, column 1: unknown field",
            ),
            (vec![("a.toml", "[[rule]\n")], "in a.toml, line 1, column"),
            (vec![("a.toml", "[[rules]]\n")], "in a.toml, line 1, column 3: unknown field"),
            (
                vec![("a.toml", "\n[[user]]\nname = 'a'\npassword_hash = 'geheim'")],
                "in a.toml, line 2, column 1: user",
            ),
            (vec![("a.toml", "[[robot]]\nname = 'A'\nsecrets = []")], "in a.toml, line 1, column 1: robot"),
        ];
        for (files, said) in cases {
            let error = read(&files).unwrap_err();
            assert!(error.starts_with(said), "{error}");
            assert!(!error.contains("geheim"), "{error}");
        }
        let error = Book::read(&Chapter::default(), Some(Path::new("/nowhere"))).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /nowhere: "), "{error}");
    }

    #[test]
    fn a_bad_file_keeps_the_book_until_it_is_good_again() {
        let folder = folder(&[("a.toml", PULL)]);
        let file = folder.path().join("a.toml");
        let shelf =
            Shelf::open(Configuration::Fixed(Chapter::default()), Some(folder.path().to_owned())).unwrap();
        let first = shelf.book();
        assert!(matches!(shelf.look(), Look::Same));

        fs::write(&file, "[[rule]]\nname = 'pull'\n").unwrap();
        let Look::Kept(error) = shelf.look() else { panic!("it is bad") };
        assert!(error.to_string().contains("a.toml, line 1"), "{error}");
        assert!(Arc::ptr_eq(&first, &shelf.book()) && shelf.is_bad());
        assert!(matches!(shelf.look(), Look::Same), "said once");

        fs::write(&file, PULL.replace("['pull']", "['push']")).unwrap();
        let Look::Changed(change) = shelf.look() else { panic!("it is good") };
        assert_eq!(
            (&*change.before, &*change.after, change.rules),
            (first.digest(), shelf.book().digest(), 1)
        );
        assert_ne!(change.before, change.after);
        assert!(!shelf.is_bad());
        assert_eq!(allowed(&shelf.book()), Permissions::PUSH);
        assert_eq!(allowed(&first), Permissions::PULL, "who has the old one keeps it");

        fs::remove_dir_all(folder.path()).unwrap();
        assert!(matches!(shelf.look(), Look::Kept(BookError::Read { .. })));
        assert!(matches!(shelf.look(), Look::Same));
        assert_eq!(allowed(&shelf.book()), Permissions::PUSH, "a folder that is gone changes nothing");
    }

    #[test]
    fn the_configuration_is_read_again_when_its_file_changes() {
        let folder = folder(&[("berth.toml", PULL)]);
        let path = folder.path().join("berth.toml");
        let read = {
            let path = path.clone();
            Box::new(move |text: &str| Chapter::read(&path, text))
        };
        let shelf = Shelf::open(Configuration::File { path: path.clone(), read }, None).unwrap();
        fs::write(&path, PULL.replace("['pull']", "['fly']")).unwrap();
        assert!(matches!(shelf.look(), Look::Kept(_)));
        fs::remove_file(&path).unwrap();
        assert!(matches!(shelf.look(), Look::Kept(BookError::Read { .. })));
        assert_eq!(allowed(&shelf.book()), Permissions::PULL);
        fs::write(&path, PULL).unwrap();
        assert!(matches!(shelf.look(), Look::Restored) && !shelf.is_bad());

        fs::write(&path, format!("# Another line.\n{PULL}")).unwrap();
        assert!(matches!(shelf.look(), Look::Same), "the rules are the same");
        assert_eq!(shelf.book().place_of_rule(0).unwrap().1.unwrap().line, 2);
        fs::write(&path, PULL.replace("['pull']", "['push']")).unwrap();
        assert!(matches!(shelf.look(), Look::Changed(_)));
        assert_eq!(allowed(&shelf.book()), Permissions::PUSH);
    }

    #[cfg(unix)]
    #[test]
    fn a_mounted_config_map_is_followed_through_its_links() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let publish = |version: &str, text: &str| {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("rules.toml"), text).unwrap();
            symlink(version, at("..new")).unwrap();
            fs::rename(at("..new"), at("..data")).unwrap();
        };
        publish("..1", PULL);
        symlink("..data/rules.toml", at("rules.toml")).unwrap();
        let shelf =
            Shelf::open(Configuration::Fixed(Chapter::default()), Some(folder.path().to_owned())).unwrap();
        assert_eq!(allowed(&shelf.book()), Permissions::PULL);
        publish("..2", &PULL.replace("['pull']", "['push']"));
        assert!(matches!(shelf.look(), Look::Changed(_)));
        assert_eq!(allowed(&shelf.book()), Permissions::PUSH);
        publish("..3", "[[rule]]");
        let Look::Kept(error) = shelf.look() else { panic!("it is bad") };
        let name = format!("in {}/rules.toml, line 1", folder.path().display());
        assert!(error.to_string().contains(&name), "{error}");
    }

    #[tokio::test]
    async fn a_change_is_noticed_while_watching() {
        let folder = folder(&[("a.toml", PULL)]);
        let shelf = Arc::new(
            Shelf::open(Configuration::Fixed(Chapter::default()), Some(folder.path().to_owned())).unwrap(),
        );
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let watching = Arc::clone(&shelf).watch(Duration::from_millis(5), move |look| {
            let _ = told.send(matches!(look, Look::Changed(_)));
        });
        tokio::select! {
            () = watching => panic!("it never ends"),
            changed = async {
                fs::write(folder.path().join("b.toml"), PULL.replace("'pull'", "'push'")).unwrap();
                heard.recv().await
            } => assert_eq!(changed, Some(true)),
        }
        assert_eq!(allowed(&shelf.book()).to_string(), "pull, push");
    }
}
