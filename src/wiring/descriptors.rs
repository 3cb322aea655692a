//! How many connections the system lets this process have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// File descriptors for all else: the store's files, SQS, DynamoDB, Redis, and those who are told
/// that there is no room.
const RESERVED: u64 = 256;

/// As many connections as wanted, or with a warning as many as there are descriptors for, after
/// raising this process's soft limit as far as needed and allowed. Out of descriptors, nobody
/// could even be told to come again, and the store's files could not be opened.
pub fn connections(wanted: usize) -> usize {
    let needed = (wanted as u64).saturating_add(RESERVED);
    let limit = getrlimit(Resource::Nofile);
    // `None` is no limit.
    let Some(mut current) = limit.current.filter(|current| *current < needed) else {
        return wanted;
    };
    let raised = needed.min(limit.maximum.unwrap_or(needed));
    if setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit }).is_ok() {
        current = raised;
    }
    if current >= needed {
        return wanted;
    }
    let most = current.saturating_sub(RESERVED).max(1) as usize;
    let maximum = limit.maximum.unwrap_or(current);
    tracing::warn!(
        "at most {most} connections instead of {wanted}: the limit of open files is {maximum}; raise \
         it (ulimit -n, LimitNOFILE=)"
    );
    most
}
