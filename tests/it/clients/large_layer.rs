//! A layer of 2 GiB, which nobody may hold in memory.

use std::{
    fs::{self, File},
    io::{BufReader, Read},
    os::unix::fs::FileExt,
    path::Path,
};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::{
    Layout, Objects, Server,
    layout::{CONFIG, LAYER, MANIFEST},
    tools::workbench,
};

const SIZE: u64 = 2 << 30;

/// The file is zeros, which cost no disk, but for its own offset at the start of each block, so
/// that a block which is lost, doubled or out of place shows.
const BLOCK: usize = 1 << 20;

fn write_layer(path: &Path) -> String {
    let file = File::create(path).expect("create the layer");
    file.set_len(SIZE).expect("size the layer");
    for offset in (0..SIZE).step_by(BLOCK) {
        file.write_all_at(&mark(offset), offset).expect("mark a block");
    }
    let mut hash = Sha256::new();
    for_each_block(path, |_, block| hash.update(block));
    hex::encode(hash.finalize())
}

fn assert_is_layer(path: &Path) {
    assert_eq!(fs::metadata(path).expect("the layer is there").len(), SIZE);
    for_each_block(path, |offset, block| {
        let (start, rest) = block.split_at(8);
        assert!(start == mark(offset) && rest.iter().all(|&byte| byte == 0), "the block at {offset}");
    });
}

fn mark(offset: u64) -> [u8; 8] {
    (offset + 1).to_le_bytes()
}

fn for_each_block(path: &Path, mut visit: impl FnMut(u64, &[u8])) {
    let mut file = BufReader::with_capacity(BLOCK, File::open(path).expect("open the layer"));
    let mut block = vec![0; BLOCK];
    for offset in (0..SIZE).step_by(BLOCK) {
        file.read_exact(&mut block).expect("read the layer");
        visit(offset, &block);
    }
}

#[tokio::test]
async fn a_layer_of_two_gibibytes_is_pushed_and_pulled() {
    let bench = workbench!("crane", "skopeo");
    let server = Server::start().await;
    let reference = format!("{}/team/large:1", server.host());
    let mut layout = Layout::create(bench.path("layout"));
    let blobs = bench.folder().join("layout/blobs/sha256");
    let name = write_layer(&blobs.join("new"));
    fs::rename(blobs.join("new"), blobs.join(&name)).expect("name the layer");
    let digest = format!("sha256:{name}");
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    });
    let manifest = layout.manifest(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": layout.blob(CONFIG, config.to_string().as_bytes()),
        "layers": [{"mediaType": LAYER, "digest": digest, "size": SIZE}],
    }));
    layout.tag("1", &manifest);

    bench.run("crane", &["push", "--insecure", layout.folder(), &reference]).await;
    fs::remove_file(blobs.join(&name)).expect("make room");
    let pulled = bench.path("pulled");
    let source = format!("docker://{reference}");
    bench.run("skopeo", &["copy", "--src-tls-verify=false", &source, &format!("dir:{pulled}")]).await;

    assert_is_layer(&Path::new(&pulled).join(&name));
    assert_eq!(server.repository("team/large").digest("1").await, layout.root());
    // What Berth promises; a server that streams needs less than half of it. Over an object store a quarter
    // of limits.download_memory stays a while for the next reader, and some parts for the next upload.
    let most = match server.objects() {
        Objects::Folder(_) => 64 << 20,
        Objects::Bucket { .. } | Objects::Nowhere => (64 + 64 + 64) << 20,
    };
    let peak = server.peak_rss_bytes();
    assert!(peak < most, "the server held {peak} bytes at its peak");
}
