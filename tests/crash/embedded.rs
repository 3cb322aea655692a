//! On one file: `flux serve`, with workers in it, and `flux work`.

use std::time::{Duration, Instant};

use super::buyers::{Crowd, ask};
use super::{PATIENCE, Place, Process, chance, free_port, pause_ms, queue_is_empty};

const BUYERS: usize = 12;

/// The processes of a sale, by their roles.
struct Sale {
    place: Place,
    port: u16,
    roles: Vec<Vec<String>>,
    processes: Vec<Process>,
}

impl Sale {
    /// `serve`, deciding itself too if told so, and so many `work`.
    fn start(environment: &[(&str, &str)], deciding: usize, workers: usize) -> Sale {
        let place = Place::new(environment);
        place.provision();
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

    fn process(&self, role: usize) -> Process {
        let arguments: Vec<&str> = self.roles[role].iter().map(String::as_str).collect();
        self.place.start(&format!("{role}-{}", arguments[0]), &arguments)
    }

    async fn is_open(&self) {
        let begun = Instant::now();
        while ask(self.port, "GET", "/readyz", None, "").await.is_none_or(|r| r.status != 200) {
            assert!(begun.elapsed() < PATIENCE, "{}", self.processes[0].said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everybody is there again: what was promised must be kept.
    async fn ends_well(&mut self, crowd: Crowd) {
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
            memory.refused.load(std::sync::atomic::Ordering::Relaxed),
            memory.broken.load(std::sync::atomic::Ordering::Relaxed),
            memory.longest.lock().unwrap(),
            report["sold"]
        );
        assert_eq!(report["sold"], 348, "more was asked for than there is: {report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_a_sale_are_killed_at_any_instant_and_nothing_is_lost() {
    let mut sale = Sale::start(&[("FLUX_LEASE_MS", "1000")], 2, 2);
    sale.is_open().await;
    let crowd = Crowd::gather(sale.port, BUYERS);
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        pause_ms(20, 500).await;
        let victim = chance(3) as usize;
        if chance(4) == 0 {
            sale.processes[victim].signal(libc::SIGTERM);
            let status = sale.processes[victim].ended(Duration::from_secs(10)).await;
            assert_eq!(status.code(), Some(0));
        } else {
            sale.processes[victim].kill();
        }
        pause_ms(1, 100).await;
        sale.processes[victim] = sale.process(victim);
    }
    sale.ends_well(crowd).await;
}
