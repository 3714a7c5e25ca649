//! The objects of a server, behind its back: in its folder, or in a bucket of its own at a server of
//! the run.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use berth_test_stores::{Azurite, Backdoor, Google, SeaweedFs};

/// Where the server under test keeps its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    Filesystem,
    SeaweedFs,
    Azurite,
    Google,
}

/// The objects of one server.
#[derive(Clone)]
pub enum Objects {
    Folder(PathBuf),
    Bucket {
        store: &'static dyn Backdoor,
        bucket: String,
    },
    /// In a store without a way behind it.
    Nowhere,
}

impl Storage {
    /// What `TEST_STORAGE` says, for a run of all tests over an object store.
    pub fn of_the_run() -> Self {
        match env::var("TEST_STORAGE").as_deref() {
            Err(_) | Ok("" | "filesystem") => Self::Filesystem,
            Ok("seaweedfs") => Self::SeaweedFs,
            Ok("azurite") => Self::Azurite,
            Ok("google") => Self::Google,
            Ok(other) => panic!("TEST_STORAGE is {other}, not filesystem, seaweedfs, azurite or google"),
        }
    }

    /// A store without an object, and the configuration that names it.
    pub(super) async fn fresh(self, data: &Path) -> (Objects, String) {
        match self {
            Self::Filesystem => (Objects::Folder(data.join("objects")), String::new()),
            Self::SeaweedFs => {
                let server = SeaweedFs::of_the_run().await;
                let bucket = server.fresh_bucket().await;
                let config = seaweedfs(server.endpoint(), &bucket);
                (Objects::Bucket { store: server, bucket }, config)
            }
            Self::Azurite => {
                let server = Azurite::of_the_run().await;
                let bucket = server.fresh_bucket().await;
                let config = format!(
                    "[storage]\nkind = \"azure\"\n[storage.azure]\naccount = \"{}\"\ncontainer = \"{bucket}\"\n\
                     endpoint = \"{}\"\naccount_key = \"{}\"",
                    server.account(),
                    server.endpoint(),
                    server.key()
                );
                (Objects::Bucket { store: server, bucket }, config)
            }
            Self::Google => {
                let server = Google::of_the_run();
                let bucket = server.fresh_bucket().await;
                let config = format!(
                    "[storage]\nkind = \"gcs\"\n[storage.gcs]\nbucket = \"{bucket}\"\nendpoint = \"{}\"\n\
                     service_account_file = \"{}\"",
                    server.endpoint(),
                    server.service_account_file().display()
                );
                (Objects::Bucket { store: server, bucket }, config)
            }
        }
    }
}

/// The configuration of a bucket at the run's SeaweedFS, reached at an address.
pub fn seaweedfs(endpoint: &str, bucket: &str) -> String {
    let (id, secret) = ("berth-tests", "not-a-secret");
    format!(
        "[storage]\nkind = \"s3\"\n[storage.s3]\nbucket = \"{bucket}\"\nendpoint = \"{endpoint}\"\n\
         access_key_id = \"{id}\"\nsecret_access_key = \"{secret}\""
    )
}

impl Objects {
    /// All objects, by key, with their sizes in bytes.
    pub async fn list(&self) -> BTreeMap<String, u64> {
        match self {
            Self::Folder(folder) => list(folder),
            Self::Bucket { store, bucket } => {
                let named = store.objects(bucket).await.into_iter();
                let named =
                    named.filter_map(|(name, size)| Some((name.rsplit_once('/')?.1.to_owned(), size)));
                // The marker is no object.
                named.filter(|(key, _)| key.len() == 32).collect()
            }
            Self::Nowhere => BTreeMap::new(),
        }
    }

    /// The size of an object in bytes, if it is there.
    pub async fn size(&self, key: &str) -> Option<u64> {
        match self {
            Self::Folder(folder) => fs::metadata(path(folder, key)).ok().map(|metadata| metadata.len()),
            Self::Bucket { .. } => self.get(key).await.map(|bytes| bytes.len() as u64),
            Self::Nowhere => None,
        }
    }

    pub async fn get(&self, key: &str) -> Option<Vec<u8>> {
        match self {
            Self::Folder(folder) => fs::read(path(folder, key)).ok(),
            Self::Bucket { store, bucket } => store.get(bucket, &name(key)).await.map(Into::into),
            Self::Nowhere => None,
        }
    }

    pub async fn put(&self, key: &str, bytes: Vec<u8>) {
        match self {
            Self::Folder(folder) => fs::write(path(folder, key), bytes).expect("write an object"),
            Self::Bucket { store, bucket } => store.put(bucket, &name(key), bytes.into()).await,
            Self::Nowhere => panic!("nothing can be put there"),
        }
    }

    pub async fn remove(&self, key: &str) {
        match self {
            Self::Folder(folder) => fs::remove_file(path(folder, key)).expect("remove an object"),
            Self::Bucket { store, bucket } => store.delete(bucket, &name(key)).await,
            Self::Nowhere => panic!("nothing can be removed there"),
        }
    }

    /// The key of the object that has these bytes.
    pub async fn key_of(&self, bytes: &[u8]) -> String {
        for (key, size) in self.list().await {
            if size == bytes.len() as u64 && self.get(&key).await.as_deref() == Some(bytes) {
                return key;
            }
        }
        panic!("no object has these {} bytes", bytes.len());
    }

    /// How many multipart uploads are open; none in a folder.
    pub async fn open_multiparts(&self) -> usize {
        match self {
            Self::Folder(_) | Self::Nowhere => 0,
            Self::Bucket { store, bucket } => store.open_multiparts(bucket).await,
        }
    }
}

fn name(key: &str) -> String {
    format!("{}/{key}", &key[..2])
}

fn path(folder: &Path, key: &str) -> PathBuf {
    folder.join(&key[..2]).join(key)
}

fn list(folder: &Path) -> BTreeMap<String, u64> {
    let mut objects = BTreeMap::new();
    // A server that was never started has none.
    for shard in fs::read_dir(folder).into_iter().flatten() {
        let shard = shard.expect("list the store").path();
        if !shard.is_dir() {
            continue;
        }
        for object in fs::read_dir(shard).expect("list a shard") {
            let object = object.expect("list a shard");
            let name = object.file_name().into_string().expect("keys are text");
            // What is deleted while it is listed is not there.
            if let Ok(metadata) = object.metadata() {
                objects.insert(name, metadata.len());
            }
        }
    }
    objects
}
