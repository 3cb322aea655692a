//! The number of connections that the limit of open files allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// File descriptors for everything else: the store's files, SQS, DynamoDB, Redis, and the clients
/// that get a 503 because all connections are in use.
const RESERVED: u64 = 256;

/// The number of connections to accept: `wanted`, or fewer with a warning if the limit of open files
/// is too low. Raises the soft limit of this process first. A process without free descriptors could
/// neither reject a client nor open the store's files.
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
        "connections limited to {most} instead of {wanted}, because the limit of open files is \
         {maximum}: raise it (ulimit -n, LimitNOFILE=)"
    );
    most
}
