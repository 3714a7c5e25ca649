//! dockerd, which compresses on the way and sends its layers in chunks without a length.

use crate::{
    clients::gunzip,
    harness::{
        Layout, Server, content,
        docker::Docker,
        layout::{Compression, Layer},
        tools::workbench,
    },
};

#[tokio::test]
async fn docker_pushes_an_image_and_runs_what_it_pulls_back() {
    let bench = workbench!("root", "docker", "dockerd", "containerd", "runc", "busybox");
    let server = Server::start().await;
    let docker = Docker::start(&bench).await;
    let image = format!("{}/team/app:1", server.host());
    let tar = Layer::shell(Compression::None).tar;
    let file = bench.path("rootfs.tar");
    std::fs::write(&file, &tar).expect("write the layer");
    docker.run(&["import", &file, &image]).await;
    let id = docker.id(&image).await;

    let pushed = docker.run(&["push", &image]).await.text();

    let held = server.repository("team/app").pull("1").await;
    assert!(pushed.contains(&held.digest), "docker says {} was pushed:\n{pushed}", held.digest);
    assert_eq!(held.manifest()["config"]["digest"], id);
    let layer = held.manifest()["layers"][0]["digest"].as_str().expect("a digest is text").to_owned();
    assert!(gunzip(&held.contents[&layer]) == tar, "the layer is the tar file that was imported");

    for reference in [image.clone(), format!("{}/team/app@{}", server.host(), held.digest)] {
        docker.run(&["rmi", "--force", &id]).await;
        docker.run(&["pull", &reference]).await;
        assert_eq!(docker.id(&reference).await, id);
        assert_eq!(docker.container(&reference, &["/bin/busybox", "echo", "hello"]).await, "hello");
    }
}

#[tokio::test]
async fn docker_mounts_the_layers_it_pushed_to_another_repository() {
    let bench = workbench!("root", "docker", "dockerd", "containerd", "runc");
    let server = Server::start().await;
    let docker = Docker::start(&bench).await;
    let [first, second] = ["team/first", "team/second"].map(|name| format!("{}/{name}:1", server.host()));
    let mut layout = Layout::create(bench.path("layout"));
    let layer = Layer::file("data", &content::bytes(55, 100_000), Compression::None);
    let descriptor = layout.image("amd64", &[layer]);
    layout.tag("1", &descriptor);
    docker.load(&layout, &first).await;
    docker.run(&["push", &first]).await;
    docker.run(&["tag", &first, &second]).await;

    let pushed = docker.run(&["push", &second]).await.text();

    assert!(pushed.contains("Mounted from team/first"), "{pushed}");
    let [first, second] = ["team/first", "team/second"].map(|name| server.repository(name));
    assert_eq!(first.pull("1").await.contents, second.pull("1").await.contents);
}

#[tokio::test]
async fn docker_pushes_and_pulls_an_image_of_a_hundred_layers() {
    let bench = workbench!("root", "docker", "dockerd", "containerd", "runc", "busybox");
    let server = Server::start().await;
    let docker = Docker::start(&bench).await;
    let image = format!("{}/team/hundred:1", server.host());
    let mut layers = vec![Layer::shell(Compression::None)];
    layers.extend((1..100).map(|number| {
        let text = format!("this is layer {number}\n");
        Layer::file(&format!("layers/{number}"), text.as_bytes(), Compression::None)
    }));
    let tars: Vec<_> = layers.iter().map(|layer| layer.tar.clone()).collect();
    let mut layout = Layout::create(bench.path("layout"));
    let descriptor = layout.image("amd64", &layers);
    layout.tag("1", &descriptor);
    docker.load(&layout, &image).await;
    let id = docker.id(&image).await;

    docker.run(&["push", &image]).await;
    docker.run(&["rmi", "--force", &id]).await;
    docker.run(&["pull", &image]).await;

    assert_eq!(docker.id(&image).await, id);
    let files =
        docker.container(&image, &["/bin/busybox", "sh", "-c", "cd layers && /bin/busybox cat *"]).await;
    assert_eq!(files.lines().count(), 99, "{files}");
    let held = server.repository("team/hundred").pull("1").await;
    let manifest = held.manifest();
    let stored = manifest["layers"].as_array().expect("an image has layers");
    let held_tars: Vec<_> = stored
        .iter()
        .map(|layer| gunzip(&held.contents[layer["digest"].as_str().expect("a digest is text")]))
        .collect();
    assert!(held_tars == tars, "the layers are the tar files that were loaded, in their order");
}
