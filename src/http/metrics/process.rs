//! What the system knows of this process, under the names that Prometheus' own clients use; nothing
//! where there is no `/proc`.

use super::exposition::Exposition;

/// Per second; Linux tells user programs so on every machine (proc(5), `_SC_CLK_TCK`).
const TICKS: f64 = 100.0;

pub fn write(text: &mut Exposition) {
    if let Some((cpu_ticks, started_ticks)) = stat() {
        let about = "CPU time spent.";
        text.counter("process_cpu_seconds_total", about, cpu_ticks as f64 / TICKS);
        if let Some(booted) = boot_time() {
            let started = booted as f64 + started_ticks as f64 / TICKS;
            text.gauge("process_start_time_seconds", "Start, since 1970 in UTC.", started);
        }
    }
    if let Some(bytes) = resident_bytes() {
        text.gauge("process_resident_memory_bytes", "Memory in use.", bytes);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        text.gauge("process_open_fds", "Open file descriptors.", open.count());
    }
}

/// CPU time and start, in ticks (proc(5), `/proc/PID/stat`: utime and stime, starttime).
fn stat() -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // What stands before is the name, which may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some((field(14)? + field(15)?, field(22)?))
}

fn boot_time() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}
