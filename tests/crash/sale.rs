//! The processes of one sale, and its end.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::buyers::{Crowd, ask};
use super::{PATIENCE, Place, Process, free_port, queue_is_empty};

/// The processes of a sale, by their roles.
pub struct Sale {
    pub place: Place,
    pub port: u16,
    roles: Vec<Vec<String>>,
    pub processes: Vec<Process>,
}

impl Sale {
    /// `serve`, deciding itself too if told so, and so many `work`.
    pub fn start(place: Place, deciding: usize, workers: usize) -> Sale {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let deciding = deciding.to_string();
        let mut roles = vec![vec!["serve", "--listen", &listen, "--workers", &deciding]];
        roles.extend(vec![vec!["work", "--concurrency", "4"]; workers]);
        let own = |role: Vec<&str>| role.into_iter().map(str::to_owned).collect();
        let roles = roles.into_iter().map(own).collect();
        let mut sale = Sale { place, port, roles, processes: Vec::new() };
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

    pub async fn is_open(&self) {
        let begun = Instant::now();
        while ask(self.port, "GET", "/readyz", None, "").await.is_none_or(|r| r.status != 200) {
            assert!(begun.elapsed() < PATIENCE, "{}", self.processes[0].said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everybody is there again: what was promised must be kept.
    pub async fn ends_well(&mut self, crowd: Crowd) {
        let memory = crowd.go_home().await;
        for process in &mut self.processes {
            assert_eq!(process.child.try_wait().unwrap(), None, "{}", process.said());
        }
        let ports = self.place.ports().await;
        memory.holds(&ports).await;
        queue_is_empty(&ports).await;
        let report = self.place.audit();
        println!(
            "accepted {}, refused {}, broken {}, longest wait {:?}, sold {}",
            memory.accepted(),
            memory.refused.load(Ordering::Relaxed),
            memory.broken.load(Ordering::Relaxed),
            memory.longest.lock().unwrap(),
            report["sold"]
        );
        assert!(report["sold"].as_u64() > Some(100), "{report}");
    }
}
