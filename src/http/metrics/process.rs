//! Process metrics from `/proc`, with the names of Prometheus' client libraries. Without `/proc`
//! there are none.

use super::exposition::Exposition;

/// Linux reports 100 ticks per second to user programs on every architecture (proc(5)).
const TICKS_PER_S: f64 = 100.0;

pub fn write(text: &mut Exposition) {
    if let Some((cpu_ticks, started_ticks)) = stat() {
        let seconds = cpu_ticks as f64 / TICKS_PER_S;
        text.counter("process_cpu_seconds_total", "CPU time in seconds.", seconds);
        if let Some(booted) = boot_time() {
            let started = booted as f64 + started_ticks as f64 / TICKS_PER_S;
            text.gauge(
                "process_start_time_seconds",
                "Start time in seconds since 1970 in UTC.",
                started,
            );
        }
    }
    if let Some(bytes) = resident_bytes() {
        text.gauge("process_resident_memory_bytes", "Resident memory in bytes.", bytes);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        text.gauge("process_open_fds", "Open file descriptors.", open.count());
    }
}

/// CPU time (utime and stime) and starttime, in ticks (proc(5), `/proc/PID/stat`).
fn stat() -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The fields after the process name, which may contain any characters.
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
