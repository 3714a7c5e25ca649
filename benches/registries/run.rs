//! The order of things: what is measured when, so that the figures can be set beside each other.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::Plan;
use crate::backing::{Backing, Group};
use crate::flame::Recording;
use crate::idle;
use crate::limits::Limits;
use crate::loads::{Load, Scene, Unit};
use crate::machine;
use crate::measure::{Meter, Sample};
use crate::report::{Column, Outcome, Report};
use crate::servers::{Kind, Server};
use crate::syncs;

/// No run takes this much longer than it was meant to, unless a server hangs.
const PATIENCE: Duration = Duration::from_mins(10);
/// The share of a round that the warm-up before it lasts.
const WARM_UP: f64 = 0.25;

/// Measures what the plan says. The servers that come with the report are stopped; their data goes with them.
pub async fn run(plan: &Plan, command: String, count_syncs: bool) -> Result<(Report, Vec<Server>)> {
    let busy = machine::load_average()?;
    if busy > 0.5 {
        eprintln!("the machine is busy (load average {busy}): these figures will be noise");
    }
    let version = |kind: &Kind| match kind.version() {
        // Not ours to install, and not ours to know how it is asked.
        Err(_) if Kind::OPTIONAL.contains(kind) => Ok("of an unknown version".to_owned()),
        version => version,
    };
    let versions = plan.servers.iter().map(version).collect::<Result<_>>()?;
    let mut syncs = Vec::new();
    if count_syncs {
        for kind in &plan.servers {
            syncs.push(syncs::per_image(*kind, &plan.directory).await?);
        }
    }
    let backing = Backing::start(plan.group, &plan.servers, &plan.directory).await?;
    let mut idle = Vec::new();
    for kind in &plan.servers {
        let place = backing.place(*kind).await?;
        idle.push(idle::bytes(*kind, &plan.directory, place).await?);
    }
    let pushes = plan.loads.iter().any(|load| load.unit() == Unit::Mebibytes && !load.is_pull());
    let limits = if pushes && !plan.group.has_buckets() { Some(Limits::measure(plan)?) } else { None };
    let mut outcomes = Vec::new();
    // Their folders go at the end: ext4 without a journal takes its time to make a file where many have
    // just been deleted, and the next load would be measured by that. What is large is few files.
    let mut done = Vec::new();
    for load in &plan.loads {
        let (outcome, servers) = compare(*load, plan, &backing).await?;
        outcomes.push(outcome);
        if load.unit() != Unit::Mebibytes {
            done.extend(servers);
        }
    }
    let report = Report {
        plan: plan.clone(),
        command,
        date: machine::date()?,
        machine: machine::describe(&plan.directory)?,
        busy,
        versions,
        syncs,
        idle,
        limits,
        outcomes,
        backing: backing.describe(),
    };
    Ok((report, done))
}

/// Who plays a load: the servers of the plan, and nginx where it is the limit.
fn players(load: Load, plan: &Plan) -> Vec<Kind> {
    let limit = plan.group == Group::Filesystem
        && load.is_played_by(Kind::Nginx)
        && !plan.servers.contains(&Kind::Nginx)
        && Kind::Nginx.program().is_ok();
    plan.servers.iter().copied().chain(limit.then_some(Kind::Nginx)).collect()
}

/// Measures one load at all who play it. They are stopped when this returns, and their data is there.
pub async fn compare(load: Load, plan: &Plan, backing: &Backing) -> Result<(Outcome, Vec<Server>)> {
    // A round over a bucket has a new server and a new bucket: the disk holds only one of them.
    let keeps = !plan.group.has_buckets();
    let mut scenes = Vec::new();
    let mut columns = Vec::new();
    for kind in players(load, plan) {
        let mut column = Column::new(kind);
        let mut scene = None;
        if !load.is_played_by(kind) {
            column.is_absent = true;
        } else if keeps {
            match prepare(load, kind, plan, backing).await {
                Ok(prepared) => scene = Some(prepared),
                Err(error) if Kind::OPTIONAL.contains(&kind) => {
                    // What is not installed by us is measured as far as it goes.
                    eprintln!("{}: left out: {error:#}", load.title());
                    column.is_absent = true;
                    column.remark = Some(format!("{}: left out: {error}", load.title()));
                }
                Err(error) => return Err(error),
            }
        }
        scenes.push(scene);
        columns.push(column);
    }
    let rounds = load.rounds(plan);
    for round in 0..rounds as usize {
        for place in 0..scenes.len() {
            // Everyone is once the first and once the last.
            let index = (place + round) % scenes.len();
            let column = &mut columns[index];
            if column.is_absent {
                continue;
            }
            let mut scene = match scenes[index].take() {
                Some(scene) => scene,
                None => prepare(load, column.kind, plan, backing).await?,
            };
            let sample = one_round(&mut scene, plan).await;
            let sample = sample.with_context(|| {
                format!("{}: {} ({})", column.kind.name(), load.title(), scene.stage.server.last_words())
            })?;
            eprintln!(
                "{}: round {} of {rounds}: {:.1} a second at {}",
                load.title(),
                round + 1,
                sample.units_per_second,
                column.kind.name()
            );
            column.samples.push(sample);
            if let Some(remark) = scene.remark() {
                column.remark = Some(format!("{}: {remark}", load.title()));
            }
            if keeps {
                scenes[index] = Some(scene);
            } else {
                let bucket = scene.stage.server.bucket();
                drop(scene);
                backing.remove(bucket).await;
            }
        }
    }
    let mut servers: Vec<Server> = scenes.into_iter().flatten().map(|scene| scene.stage.server).collect();
    servers.iter_mut().for_each(Server::stop);
    Ok((Outcome { load, columns }, servers))
}

/// A load at a server that is fresh but for what the load needs.
pub async fn prepare(load: Load, kind: Kind, plan: &Plan, backing: &Backing) -> Result<Scene> {
    eprintln!("{}: preparing {}", load.title(), kind.name());
    let what = || format!("{}: {}", kind.name(), load.title());
    let place = backing.place(kind).await?;
    let started = Server::start(kind, &plan.directory, place, load.has_identities()).await;
    let prepared =
        tokio::time::timeout(PATIENCE, Scene::prepare(load, started.with_context(what)?, plan)).await;
    prepared?.with_context(what)
}

/// A warm-up and what is measured after it, recorded by perf if there is a folder for that.
pub async fn one_round(scene: &mut Scene, plan: &Plan) -> Result<Sample> {
    if !plan.quick {
        tokio::time::timeout(PATIENCE, scene.stock(WARM_UP)).await??;
        tokio::time::timeout(PATIENCE, scene.run(WARM_UP)).await??;
    }
    tokio::time::timeout(PATIENCE, scene.stock(1.0)).await??;
    if scene.load.writes() {
        machine::have_memory_at_hand(&plan.directory, plan.large_bytes * 3 / 2)?;
    }
    scene.stage.server.settle()?;
    let server = &scene.stage.server;
    let recording = match &plan.flame {
        Some(folder) if server.kind.is_berth() => Some(Recording::start(folder, scene.load, server).await?),
        _ => None,
    };
    let meter = Meter::start(server)?;
    let tally = tokio::time::timeout(PATIENCE, scene.run(1.0)).await??;
    let sample = meter.stop(&scene.stage.server, &tally)?;
    recording.map(Recording::finish).transpose()?;
    tokio::time::timeout(PATIENCE, scene.check()).await??;
    Ok(sample)
}
