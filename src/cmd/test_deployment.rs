//! The server and workers that `flux stress` starts, on a temporary store.
//!
//! It passes what `wiring` builds to what `load` runs. Neither of these may import the other, so
//! this module is above both.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Backend, Settings};
use crate::core::engine::Ports;
use crate::core::engine::worker::{Observer, Worker};
use crate::core::ports::usage::Calls;
use crate::http::Access;
use crate::load::{Address, DisabledGuard, GuardExperiment, OwnStore, Prices, Target};
use crate::telemetry::Silent;
use crate::wiring;
use crate::wiring::temporary_store::{TemporaryStore, is_fifo};

/// Connections beyond those that send orders: waiting buyers, the auditor.
const OTHER_CONNECTIONS: usize = 256;

/// The processes of a test deployment.
#[derive(Debug)]
pub struct Topology {
    /// Connections that send orders.
    pub connections: usize,
    /// Independent workers, each with its own connections to the store.
    pub workers: usize,
    /// If not empty, the four workers of a [`GuardExperiment`] run instead of `workers`.
    pub without: Vec<DisabledGuard>,
}

/// A running test deployment. [`TestDeployment::end`] stops it in order; dropping it aborts its
/// tasks.
#[derive(Debug)]
pub struct TestDeployment {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    store: TemporaryStore,
}

impl TestDeployment {
    pub async fn start(
        mut settings: Settings,
        topology: Topology,
    ) -> Result<(TestDeployment, Target)> {
        let backend = match settings.backend() {
            Backend::Embedded => "embedded",
            Backend::Aws => "aws",
        };
        let prices = (settings.backend() == Backend::Aws).then(Prices::built_in);
        let store = TemporaryStore::create(&mut settings).await?;
        let fifo = is_fifo(&settings);
        let connections = topology.connections + OTHER_CONNECTIONS;
        settings.connections_max = settings.connections_max.max(connections);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = Address::parse(&format!("http://{}", listener.local_addr()?))
            .map_err(anyhow::Error::msg)?;

        let work = wiring::connect(&settings).await?;
        // Reads of buyers, the auditor and the dashboard use other connections, so that they are
        // not counted as the sale's cost.
        let reads = wiring::connect(&settings).await?;
        let front = Ports {
            ledger: reads.ledger.clone(),
            heartbeats: reads.heartbeats.clone(),
            ..work.clone()
        };
        let (workers, experiment) = connect_workers(&settings, work, &topology).await?;
        let count = workers.len();
        let mut calls: Vec<Arc<Calls>> = workers.iter().map(|w| w.ports.calls.clone()).collect();
        calls.dedup_by(|a, b| Arc::ptr_eq(a, b));

        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for worker in workers {
            tasks.spawn(worker.run(stop.clone()));
        }
        let serving = stop.clone();
        tasks.spawn(async move {
            wiring::serve(&settings, front, Access::open(), listener, serving).await
        });
        let own =
            OwnStore { ports: reads, calls, experiment, workers: count, backend, prices, fifo };
        Ok((TestDeployment { stop, tasks, store }, Target { address, own: Some(own) }))
    }

    /// Stops the server and the workers, waits for them at most `grace`, and deletes the store.
    pub async fn end(mut self, grace: Duration) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _timed_out = tokio::time::timeout(grace, ended).await;
        self.store.delete().await;
    }
}

/// Connects the workers. The first uses the same connections as the API.
async fn connect_workers(
    settings: &Settings,
    work: Ports,
    topology: &Topology,
) -> Result<(Vec<Worker>, Option<GuardExperiment>)> {
    let rules = wiring::rules(settings, settings.concurrency);
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    if !topology.without.is_empty() {
        let (experiment, workers) =
            GuardExperiment::start(&work, &rules, &observer, topology.without.clone());
        return Ok((workers, Some(experiment)));
    }
    let worker = |ports| Worker { ports, rules: rules.clone(), observer: observer.clone() };
    let mut workers = vec![worker(work)];
    for _ in 1..topology.workers {
        workers.push(worker(wiring::connect(settings).await?));
    }
    Ok((workers, None))
}
