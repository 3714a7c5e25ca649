//! How each server is set up, as its documentation recommends and as durable as it offers.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::identities::Identities;
use super::kinds::Kind;
use crate::backing::Place;

/// The command that starts a server, and its address where that has to be chosen before.
pub fn command(
    kind: Kind,
    directory: &Path,
    place: &Place,
    identities: Option<&Identities>,
) -> Result<(Command, Option<SocketAddr>)> {
    let mut command = Command::new(kind.program()?);
    for (name, _) in std::env::vars_os() {
        // All of them take settings from variables, and a benchmark's are its own.
        let text = name.to_string_lossy().to_ascii_uppercase();
        let prefixes = ["BERTH_", "REGISTRY_", "OTEL_", "AWS_", "TROW_", "RUST_LOG"];
        if prefixes.iter().any(|prefix| text.starts_with(prefix)) || text.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    let data = directory.join("data");
    if kind.is_berth() {
        berth(&mut command, &data, place, identities);
        return Ok((command, None));
    }
    let address = free_address()?;
    fs::create_dir_all(&data)?;
    let data = data.to_str().context("a folder that is no text")?;
    let file = |name: &str, text: String| {
        let file = directory.join(name);
        fs::write(&file, text).map(|()| file)
    };
    match kind {
        Kind::DockerRegistry | Kind::Distribution => {
            let file = file("config.yml", distribution(data, address, place))?;
            command.arg("serve").arg(file).env("OTEL_TRACES_EXPORTER", "none");
        }
        Kind::Zot => {
            let config = serde_json::json!({
                "distSpecVersion": "1.1.1",
                "storage": { "rootDirectory": data, "commit": true },
                "http": { "address": address.ip().to_string(), "port": address.port().to_string() },
                "log": { "level": "error" },
            });
            command.arg("serve").arg(file("config.json", config.to_string())?);
        }
        Kind::Angos => {
            let config = format!(
                "[server]\nbind_address = \"{}\"\nport = {}\n\n\
                 [global.access_policy]\ndefault_allow = true\n\n\
                 [blob_store.fs]\nroot_dir = \"{data}\"\nsync_to_disk = true\n\n\
                 [metadata_store.fs]\nroot_dir = \"{data}\"\nsync_to_disk = true\n\n\
                 [repository.\"bench\"]\n",
                address.ip(),
                address.port()
            );
            command.arg("-c").arg(file("config.toml", config)?).arg("server").env("RUST_LOG", "error");
        }
        Kind::Trow => {
            let port = address.port().to_string();
            command
                .args(["--host", "127.0.0.1", "--data-dir", data, "--port", &port])
                .env("RUST_LOG", "error");
        }
        Kind::Nginx => {
            let file = file("nginx.conf", nginx(directory, data, address))?;
            command.arg("-e").arg(directory.join("error.log")).arg("-p").arg(directory).arg("-c").arg(file);
        }
        Kind::Berth | Kind::Before | Kind::Postgres | Kind::Replicas | Kind::FourReplicas => {
            bail!("set up above")
        }
    }
    Ok((command, Some(address)))
}

fn berth(command: &mut Command, data: &Path, place: &Place, identities: Option<&Identities>) {
    command.arg("serve");
    if let Some(identities) = identities {
        command.arg("--config").arg(&identities.config);
    }
    command.args(["--listen", "127.0.0.1:0", "--data"]).arg(data).env("BERTH_LOG__LEVEL", "error");
    if let Some(url) = &place.database {
        command.env("BERTH_DATABASE__URL", url);
    }
    if let Some(bucket) = &place.bucket {
        command.env("BERTH_STORAGE__KIND", "s3");
        command.env("BERTH_STORAGE__S3__ENDPOINT", &bucket.endpoint);
        command.env("BERTH_STORAGE__S3__REGION", bucket.region);
        command.env("BERTH_STORAGE__S3__BUCKET", &bucket.name);
        command.env("BERTH_STORAGE__S3__ACCESS_KEY_ID", &bucket.access_key);
        command.env("BERTH_STORAGE__S3__SECRET_ACCESS_KEY", &bucket.secret_key);
    }
}

fn distribution(data: &str, address: SocketAddr, place: &Place) -> String {
    let driver = match &place.bucket {
        None => format!("  filesystem:\n    rootdirectory: {data}\n"),
        Some(bucket) => format!(
            "  s3:\n    regionendpoint: {}\n    region: {}\n    bucket: {}\n    accesskey: {}\n    \
             secretkey: {}\n    secure: false\n    v4auth: true\n    forcepathstyle: true\n  \
             redirect:\n    disable: true\n",
            bucket.endpoint, bucket.region, bucket.name, bucket.access_key, bucket.secret_key
        ),
    };
    format!(
        "version: 0.1\n\
         log:\n  level: error\n  accesslog:\n    disabled: true\n\
         storage:\n  cache:\n    blobdescriptor: inmemory\n{driver}  delete:\n    enabled: true\n\
         http:\n  addr: {address}\n"
    )
}

fn nginx(directory: &Path, data: &str, address: SocketAddr) -> String {
    let directory = directory.display();
    format!(
        "daemon off;\nworker_processes auto;\npid {directory}/pid;\nerror_log {directory}/error.log error;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  keepalive_requests 1000000;\n  \
         client_body_temp_path {directory}/body;\n  proxy_temp_path {directory}/proxy;\n  \
         fastcgi_temp_path {directory}/fastcgi;\n  uwsgi_temp_path {directory}/uwsgi;\n  \
         scgi_temp_path {directory}/scgi;\n  \
         server {{ listen {address}; root {data}; location = /v2/ {{ return 200 \"\"; }} }}\n}}\n"
    )
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
