//! The processes of one sale, its buyers, and the checks at its end.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use flux::core::engine::Ports;

use super::buyers::{Crowd, ask};
use super::place::{Place, Process};
use super::row::Row;
use super::{ITEMS, PATIENCE, TestRng};
use crate::support::free_port;

/// The processes of a sale, by their roles.
pub struct Sale {
    pub place: Place,
    pub port: u16,
    roles: Vec<Vec<String>>,
    pub processes: Vec<Process>,
    /// The stock of the item that is restocked.
    stock: u64,
}

impl Sale {
    /// Starts `serve` with `deciding` workers, and `workers` processes of `work`.
    pub fn start(place: Place, deciding: usize, workers: usize) -> Sale {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let deciding = deciding.to_string();
        let mut roles = vec![vec!["serve", "--listen", &listen, "--workers", &deciding]];
        roles.extend(vec![vec!["work", "--concurrency", "4"]; workers]);
        let own = |role: Vec<&str>| role.into_iter().map(str::to_owned).collect();
        let roles = roles.into_iter().map(own).collect();
        let [.., (_, stock), _] = ITEMS;
        let mut sale = Sale { place, port, roles, processes: Vec::new(), stock };
        for role in 0..sale.roles.len() {
            let process = sale.process(role);
            sale.processes.push(process);
        }
        sale
    }

    pub fn process(&self, role: usize) -> Process {
        let arguments: Vec<&str> = self.roles[role].iter().map(String::as_str).collect();
        self.place.start(&format!("{role}-{}", arguments[0]), &arguments)
    }

    pub fn restart(&mut self, role: usize) {
        self.processes[role] = self.process(role);
    }

    /// Adds ten units to the stock of the third item.
    pub fn restock(&mut self) {
        self.stock += 10;
        let stock = self.stock.to_string();
        self.place.run_well(&["provision", "--item", "hall_C", "--stock", &stock]);
    }

    pub async fn is_open(&self) {
        let begun = Instant::now();
        while ask(self.port, "GET", "/readyz", None, "").await.is_none_or(|r| r.status != 200) {
            assert!(begun.elapsed() < PATIENCE, "{}", self.processes[0].said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn open_to(&self, buyers: usize, rng: &mut TestRng) -> Crowd {
        self.is_open().await;
        Crowd::gather(self.port, buyers, rng)
    }

    /// Waits until the queue is empty.
    pub async fn is_decided(&self) {
        queue_is_empty(&self.place.ports().await).await;
    }

    /// Ends the sale. All processes must be running, and all promises must be kept.
    pub async fn end(&mut self, crowd: Crowd) -> Row {
        let memory = crowd.stop().await;
        for process in &mut self.processes {
            assert_eq!(process.child.try_wait().unwrap(), None, "{}", process.said());
        }
        assert_eq!(self.place.logged("panicked"), [""; 0]);
        let ports = self.place.ports().await;
        let lost = memory.lost(&ports).await;
        queue_is_empty(&ports).await;
        let report = self.place.audit();
        let units = |name: &str| report[name].as_u64().unwrap();
        let row = Row {
            orders: memory.accepted(),
            lost,
            oversold: units("oversold_units"),
            stranded: units("stranded_units"),
            refused: memory.refused.load(Ordering::Relaxed),
            unanswered: memory.broken.load(Ordering::Relaxed),
            longest: *memory.longest.lock().unwrap(),
            ..Row::default()
        };
        let odd = row.holds() && report["verdict"] != "pass";
        assert!(!odd && (units("undecided"), units("dead_lettered")) == (0, 0), "{report}");
        assert!(units("sold") > 0, "{report}");
        row
    }
}

/// Waits until the queue is empty, also of accepted orders whose buyers got no response.
async fn queue_is_empty(ports: &Ports) {
    let begun = Instant::now();
    loop {
        let backlog = ports.queue.backlog().await.unwrap();
        assert_eq!(backlog.dead_letters, 0);
        if backlog.waiting == 0 {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{} still wait", backlog.waiting);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
