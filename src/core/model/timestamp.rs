//! RFC 3339 times, in UTC with milliseconds.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serializer;

use super::Timestamp;

/// `9999-12-31T23:59:59.999Z`: the last time that RFC 3339 can express.
const LAST_MS: u64 = 253_402_300_799_999;

/// Formats a time as `2026-11-23T13:49:00.000Z`. Later times than [`LAST_MS`] give that.
pub fn rfc3339(at: Timestamp) -> String {
    let since_epoch = Duration::from_millis(at.0.min(LAST_MS));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since_epoch).to_string()
}

/// For serde's `serialize_with`.
pub fn as_rfc3339<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&rfc3339(*at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_matches_date() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (1_795_441_740_123, "2026-11-23T13:49:00.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (LAST_MS, "9999-12-31T23:59:59.999Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(Timestamp(ms)), text);
        }
    }
}
