//! Real clients, round trip: what each pushes is read back and compared byte by byte.

mod buildah;
mod buildkit;
mod containerd;
mod crane;
mod docker;
mod helm;
mod large_layer;
mod oras;
mod podman;
mod regctl;
mod skopeo;
mod umoci;

use std::io::Read;

/// The tar file of a layer that a client has compressed with gzip.
fn gunzip(stored: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::MultiGzDecoder::new(stored)
        .read_to_end(&mut bytes)
        .expect("the layer is compressed with gzip");
    bytes
}
