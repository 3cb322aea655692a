//! A server and workers of our own, for `flux stress`, on a throw-away store.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::aws;
use crate::config::{Backend, Settings};
use crate::core::engine::Ports;
use crate::core::engine::worker::{Story, Worker};
use crate::core::model::{Chance, SystemChance};
use crate::core::ports::usage::Calls;
use crate::http::Access;
use crate::load::{Address, Guard, Own, Prices, Race, Target};
use crate::telemetry::Silent;

/// Connections beyond those that send orders: buyers who wait, the auditor.
const OTHER_CONNECTIONS: usize = 256;

/// Who plays.
#[derive(Debug)]
pub struct Cast {
    /// Connections that send orders.
    pub connections: usize,
    /// Independent workers, each with its own connections to the store.
    pub workers: usize,
    /// With any, four racing workers play in place of `workers`.
    pub without: Vec<Guard>,
}

/// Runs until [`Rehearsal::end`]; dropping it stops it at once.
#[derive(Debug)]
pub struct Rehearsal {
    stop: CancellationToken,
    playing: JoinSet<()>,
    store: Throwaway,
}

/// What is deleted in the end.
#[derive(Debug)]
enum Throwaway {
    File(TempDir),
    Cloud(Box<aws::Throwaway>),
}

impl Throwaway {
    /// Makes a store that nobody else has, and points the settings at it.
    async fn make(settings: &mut Settings) -> Result<Throwaway> {
        // A rehearsal has nobody who would send what an outbox holds.
        (settings.webhook_url, settings.webhook_secret) = (None, None);
        if settings.backend() == Backend::Embedded {
            let directory = TempDir::with_prefix("flux-stress-")?;
            settings.data = directory.path().join("flux.db");
            return Ok(Throwaway::File(directory));
        }
        let name = format!("flux-stress-{}", uuid::Uuid::from_u128(SystemChance.draw()).simple());
        let fifo = is_fifo(settings);
        let cloud = aws::Throwaway::make(settings, name, fifo).await?;
        Ok(Throwaway::Cloud(Box::new(cloud)))
    }

    async fn delete(self) {
        match self {
            Throwaway::File(directory) => drop(directory),
            Throwaway::Cloud(cloud) => cloud.delete().await,
        }
    }
}

impl Rehearsal {
    pub async fn start(mut settings: Settings, cast: Cast) -> Result<(Rehearsal, Target)> {
        let backend = match settings.backend() {
            Backend::Embedded => "embedded",
            Backend::Aws => "aws",
        };
        let prices = (settings.backend() == Backend::Aws).then(Prices::built_in);
        let store = Throwaway::make(&mut settings).await?;
        let fifo = is_fifo(&settings);
        let connections = cast.connections + OTHER_CONNECTIONS;
        settings.connections_max = settings.connections_max.max(connections);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = Address::parse(&format!("http://{}", listener.local_addr()?))
            .map_err(anyhow::Error::msg)?;

        let work = super::connect(&settings).await?;
        // What buyers, the auditor and the board read is not counted as the sale's cost.
        let reads = super::connect(&settings).await?;
        let (ledger, pulses) = (reads.ledger.clone(), reads.pulses.clone());
        let front = Ports { ledger, pulses, ..work.clone() };
        let (hired, race) = hire(&settings, work, &cast).await?;
        let workers = hired.len();
        let mut calls: Vec<Arc<Calls>> = hired.iter().map(|w| w.ports.calls.clone()).collect();
        calls.dedup_by(|a, b| Arc::ptr_eq(a, b));

        let stop = CancellationToken::new();
        let mut playing = JoinSet::new();
        for worker in hired {
            playing.spawn(worker.run(stop.clone()));
        }
        let serving = stop.clone();
        playing.spawn(async move {
            super::serve(&settings, front, Access::open(), listener, serving).await
        });
        let own = Own { ports: reads, calls, race, workers, backend, prices, fifo };
        Ok((Rehearsal { stop, playing, store }, Target { address, own: Some(own) }))
    }

    /// Lets everybody finish, and throws the store away.
    pub async fn end(mut self, within: Duration) {
        self.stop.cancel();
        let ended = async { while self.playing.join_next().await.is_some() {} };
        let _late = tokio::time::timeout(within, ended).await;
        self.store.delete().await;
    }
}

fn is_fifo(settings: &Settings) -> bool {
    settings.sqs_queue_url.as_ref().is_some_and(|url| url.ends_with(".fifo"))
}

/// The workers; the first works through the same connections as the API.
async fn hire(
    settings: &Settings,
    work: Ports,
    cast: &Cast,
) -> Result<(Vec<Worker>, Option<Race>)> {
    let rules = super::rules(settings, settings.concurrency);
    let story: Arc<dyn Story> = Arc::new(Silent);
    if !cast.without.is_empty() {
        let (race, workers) = Race::start(&work, &rules, &story, cast.without.clone());
        return Ok((workers, Some(race)));
    }
    let worker = |ports| Worker { ports, rules: rules.clone(), story: story.clone() };
    let mut workers = vec![worker(work)];
    for _ in 1..cast.workers {
        workers.push(worker(super::connect(settings).await?));
    }
    Ok((workers, None))
}
