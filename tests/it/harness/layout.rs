//! OCI image layouts made by hand, so that a test knows every byte that a client will send.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use flate2::{Compression as Level, write::GzEncoder};
use serde_json::{Value, json};

use super::{
    content::sha256,
    repository::{descriptors, is_manifest},
};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How the tar file of a layer is stored.
#[derive(Clone, Copy, Debug)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A layer: its tar file, and how it is stored.
pub struct Layer {
    pub tar: Vec<u8>,
    pub compression: Compression,
}

/// A file in a layer.
pub struct File<'a> {
    pub path: &'a str,
    pub bytes: &'a [u8],
    pub mode: u32,
}

/// A folder in the form of an OCI image layout.
pub struct Layout {
    folder: PathBuf,
    tagged: Vec<Value>,
}

impl Layer {
    /// A layer of these files, with the same bytes each time it is made.
    pub fn of(files: &[File], compression: Compression) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        for file in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(file.bytes.len() as u64);
            header.set_mode(file.mode);
            header.set_mtime(1_700_000_000);
            archive.append_data(&mut header, file.path, file.bytes).expect("write to memory");
        }
        Self { tar: archive.into_inner().expect("write to memory"), compression }
    }

    /// A layer of one file.
    pub fn file(path: &str, bytes: &[u8], compression: Compression) -> Self {
        Self::of(&[File { path, bytes, mode: 0o644 }], compression)
    }

    /// A layer with a statically linked shell, for images that run.
    pub fn shell(compression: Compression) -> Self {
        let busybox = fs::read("/bin/busybox").expect("busybox is among the test's tools");
        Self::of(&[File { path: "bin/busybox", bytes: &busybox, mode: 0o755 }], compression)
    }

    /// The layer as it is stored.
    fn stored(&self) -> (String, Vec<u8>) {
        match self.compression {
            Compression::None => (LAYER.to_owned(), self.tar.clone()),
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
                encoder.write_all(&self.tar).expect("write to memory");
                (format!("{LAYER}+gzip"), encoder.finish().expect("write to memory"))
            }
            Compression::Zstd => {
                (format!("{LAYER}+zstd"), zstd::encode_all(self.tar.as_slice(), 1).expect("write to memory"))
            }
        }
    }
}

impl Layout {
    /// Makes an empty layout in a folder that is not there yet.
    pub fn create(folder: impl AsRef<Path>) -> Self {
        let folder = folder.as_ref().to_owned();
        fs::create_dir_all(folder.join("blobs/sha256")).expect("make the layout's folders");
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write oci-layout");
        let layout = Self { folder, tagged: Vec::new() };
        layout.write_index();
        layout
    }

    /// A layout that a client has written.
    pub fn open(folder: impl AsRef<Path>) -> Self {
        let folder = folder.as_ref().to_owned();
        let index = fs::read(folder.join("index.json")).expect("read the layout's index");
        Self { folder, tagged: descriptors(&index) }
    }

    /// Adds a blob; returns its descriptor.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        fs::write(self.blob_path(&digest), bytes).expect("write a blob");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Adds a manifest or index as it is; returns its descriptor.
    pub fn manifest(&self, manifest: &Value) -> Value {
        let media_type = manifest["mediaType"].as_str().expect("a manifest made here says what it is");
        self.blob(media_type, manifest.to_string().as_bytes())
    }

    /// Adds an image for a platform such as `amd64`; returns its descriptor.
    pub fn image(&self, architecture: &str, layers: &[Layer]) -> Value {
        let differences: Vec<_> = layers.iter().map(|layer| sha256(&layer.tar)).collect();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/busybox", "echo", "hello from berth"]},
            "rootfs": {"type": "layers", "diff_ids": differences},
        });
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| {
                let (media_type, bytes) = layer.stored();
                self.blob(&media_type, &bytes)
            })
            .collect();
        self.manifest(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(CONFIG, config.to_string().as_bytes()),
            "layers": layers,
        }))
    }

    /// Adds an index of images with their platforms; returns its descriptor.
    pub fn index(&self, images: &[(&str, Value)]) -> Value {
        let manifests: Vec<_> = images
            .iter()
            .map(|(architecture, image)| {
                let mut image = image.clone();
                image["platform"] = json!({"architecture": architecture, "os": "linux"});
                image
            })
            .collect();
        self.manifest(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))
    }

    /// Gives a manifest a name in the layout.
    pub fn tag(&mut self, tag: &str, descriptor: &Value) {
        let mut descriptor = descriptor.clone();
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.tagged.push(descriptor);
        self.write_index();
    }

    pub fn folder(&self) -> &str {
        self.folder.to_str().expect("temporary folders have plain names")
    }

    /// The only manifest that has a name here, or the only one at all.
    pub fn root(&self) -> String {
        assert_eq!(self.tagged.len(), 1, "{} has one manifest", self.folder.display());
        self.tagged[0]["digest"].as_str().expect("a descriptor has a digest").to_owned()
    }

    /// The bytes of a blob or manifest, compared with its digest.
    pub fn read(&self, digest: &str) -> Vec<u8> {
        let bytes = fs::read(self.blob_path(digest)).unwrap_or_else(|error| panic!("{digest}: {error}"));
        assert_eq!(sha256(&bytes), digest, "the bytes of {digest} in {}", self.folder.display());
        bytes
    }

    /// Everything below the layout's manifests, by digest.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let mut contents = BTreeMap::new();
        let mut wanted = self.tagged.clone();
        while let Some(descriptor) = wanted.pop() {
            let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
            let bytes = self.read(digest);
            if is_manifest(&descriptor) {
                wanted.extend(descriptors(&bytes));
            }
            contents.insert(digest.to_owned(), bytes);
        }
        contents
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        self.folder.join("blobs").join(digest.replace(':', "/"))
    }

    fn write_index(&self) {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": self.tagged});
        fs::write(self.folder.join("index.json"), index.to_string()).expect("write the layout's index");
    }
}
