//! Numbers as people read them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// `1,234,567`.
pub(super) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1.5 MiB`.
pub(super) fn bytes(number: i64) -> String {
    let mut value = number as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value.abs() < 1024.0 {
            return if unit == "B" { format!("{number} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// So many a second: `1,234/s`, `0.2/s`, `0.02/s`.
pub(super) fn rate(per_second: f64) -> String {
    if per_second == 0.0 || per_second >= 10.0 {
        format!("{}/s", count(per_second.round() as i64))
    } else if per_second < 0.1 {
        format!("{per_second:.2}/s")
    } else {
        format!("{per_second:.1}/s")
    }
}

/// The two largest units: `3 d 4 h`, `2 m 5 s`, `0.4 s`.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as i64;
    let (days, hours, minutes, seconds) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60, whole % 60);
    let two = |large: i64, unit: &str, small: i64, under: &str| {
        if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {under}") }
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => two(minutes, "m", seconds, "s"),
        (0, _, _) => two(hours, "h", minutes, "m"),
        _ => two(days, "d", hours, "h"),
    }
}

/// How fast a count grows, over the last seconds.
pub(super) struct Meter {
    began: Instant,
    /// The count at the begin of this window and of the one before.
    windows: [(Instant, u64); 2],
}

impl Meter {
    const WINDOW: Duration = Duration::from_secs(2);

    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { began: now, windows: [(now, 0); 2] }
    }

    /// Records a second.
    pub(super) fn rate(&mut self, count: u64) -> f64 {
        let now = Instant::now();
        if now - self.windows[1].0 > Self::WINDOW {
            self.windows = [self.windows[1], (now, count)];
        }
        let (since, before) = self.windows[0];
        (count - before) as f64 / (now - since).as_secs_f64().max(1e-3)
    }

    /// Since the begin.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// `2026-11-25T15:30:01.123Z`; `-` for a time that is none.
pub(super) fn time(ms: i64) -> String {
    let at = u64::try_from(ms).ok().and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
    match at {
        // Past the year 9999 the form has no room.
        Some(at) if ms < 253_402_300_800_000 => humantime::format_rfc3339_millis(at).to_string(),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!([0, 999, 1_000, -1_234_567].map(count), ["0", "999", "1,000", "-1,234,567"]);
        assert_eq!([0, 1023, 1536, 5 << 40].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 TiB"]);
        assert_eq!(
            [0.0, 0.017, 0.25, 9.94, 1234.4].map(rate),
            ["0/s", "0.02/s", "0.2/s", "9.9/s", "1,234/s"]
        );
        let seconds = [0.04, 9.96, 59.6, 125.0, 3_600.0, 7_260.0, 100_000.0];
        assert_eq!(seconds.map(duration), ["0.0 s", "10.0 s", "1 m", "2 m 5 s", "1 h", "2 h 1 m", "1 d 3 h"]);
        assert_eq!(
            [0, 1_764_084_601_123, -1].map(time),
            ["1970-01-01T00:00:00.000Z", "2025-11-25T15:30:01.123Z", "-"]
        );
        assert_eq!(time(i64::MAX), "-");
    }
}
