//! Times as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second of the year 9999, which is as far as RFC 3339 goes.
const LATEST: u64 = 253_402_300_799;

/// Seconds since the Unix epoch, by the clock of the node.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// RFC 3339, in UTC.
pub fn rfc3339(unix: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(unix.min(LATEST));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A time in its largest unit, as kubectl shows it: `45s`, `12m`, `3h`, `9d`.
pub fn span(seconds: u64) -> String {
    const UNITS: [(u64, char); 3] = [(24 * 60 * 60, 'd'), (60 * 60, 'h'), (60, 'm')];
    let unit = UNITS.into_iter().find(|(size, _)| seconds >= *size);
    unit.map_or_else(|| format!("{seconds}s"), |(size, unit)| format!("{}{unit}", seconds / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_their_largest_unit() {
        assert_eq!(
            [0, 59, 60, 3599, 3600, 86399, 86400].map(span),
            ["0s", "59s", "1m", "59m", "1h", "23h", "1d"]
        );
    }

    #[test]
    fn every_time_is_shown() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
