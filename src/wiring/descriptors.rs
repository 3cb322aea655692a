//! How many connections the system lets this process have.

/// File descriptors for all else: the store's files, SQS, DynamoDB, Redis, and those who are told
/// that there is no room.
const RESERVED: u64 = 256;

/// As many connections as wanted, or with a warning as many as there are descriptors for, after
/// raising this process's soft limit as far as needed and allowed. Out of descriptors, nobody
/// could even be told to come again, and the store's files could not be opened.
pub fn connections(wanted: usize) -> usize {
    let needed = (wanted as u64).saturating_add(RESERVED);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a plain system call that writes to the struct it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return wanted;
    }
    if limit.rlim_cur < needed {
        limit.rlim_cur = needed.min(limit.rlim_max);
        // SAFETY: a plain system call that reads the struct it is given.
        let _as_before = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    }
    if limit.rlim_cur >= needed {
        return wanted;
    }
    let most = limit.rlim_cur.saturating_sub(RESERVED).max(1) as usize;
    tracing::warn!(
        "at most {most} connections instead of {wanted}: the limit of open files is {}; raise it \
         (ulimit -n, LimitNOFILE=)",
        limit.rlim_max
    );
    most
}
