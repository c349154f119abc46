//! Quantities as they are typed: 16KiB, 250ms, 10,000.

use std::time::Duration;

use ottla_protocol::compression::Compression;

/// A rate, or as much as goes through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Speed {
    PerSecond(f64),
    Max,
}

/// More is no measurement but an accident.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    let rate: f64 = text.replace([',', '_'], "").parse().map_err(|_| expected(text, "1000, or `max`"))?;
    if rate > 0.0 && rate <= 1e9 {
        Ok(Speed::PerSecond(rate))
    } else {
        Err(expected(text, "a number above 0"))
    }
}

pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != ',' && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(expected(text, "bytes, or a number with KiB, MiB or GiB")),
    };
    let number: usize =
        number.replace([',', '_'], "").parse().map_err(|_| expected(text, "such as 16384 or 16KiB"))?;
    let bytes = number.checked_mul(1 << shift);
    bytes.filter(|bytes| *bytes <= 1 << 40).ok_or_else(|| expected(text, "at most 1024 GiB"))
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = duration_or_none(text)?;
    if duration.is_zero() { Err(expected(text, "a time above 0")) } else { Ok(duration) }
}

pub(super) fn duration_or_none(text: &str) -> Result<Duration, String> {
    let hint = "such as 10s, 500ms or 2m";
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => return Err(expected(text, hint)),
    };
    let number: f64 = number.trim().parse().map_err(|_| expected(text, hint))?;
    let duration = Duration::try_from_secs_f64(number * seconds).map_err(|_| expected(text, hint))?;
    if duration <= LONGEST { Ok(duration) } else { Err(expected(text, "at most 24h")) }
}

pub(super) fn acks(text: &str) -> Result<i16, String> {
    match text {
        "all" | "-1" => Ok(-1),
        "1" => Ok(1),
        "0" => {
            Err("0: nothing answers such requests, so there is nothing to time; give `all` or `1`".to_owned())
        }
        other => Err(expected(other, "`all` or `1`")),
    }
}

pub(super) fn codec(text: &str) -> Result<Compression, String> {
    Compression::from_name(text).ok_or_else(|| expected(text, "none, gzip, snappy, lz4 or zstd"))
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| expected(text, "NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn expected(text: &str, wanted: &str) -> String {
    format!("{text}: give {wanted}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_with_their_units() {
        assert_eq!((bytes("16KiB"), bytes("1_000"), bytes("2M")), (Ok(16_384), Ok(1_000), Ok(2 << 20)));
        assert_eq!(
            (duration("250ms"), duration("1.5m")),
            (Ok(Duration::from_millis(250)), Ok(Duration::from_secs(90)))
        );
        assert_eq!((speed("max"), speed("10,000")), (Ok(Speed::Max), Ok(Speed::PerSecond(10_000.0))));
        assert_eq!((acks("all"), acks("1")), (Ok(-1), Ok(1)));
    }

    #[test]
    fn what_is_none_is_refused_with_a_hint() {
        for text in ["", "x", "KiB", "1TiB", "99999999999999999999", "-1", "4096GiB"] {
            assert!(bytes(text).expect_err(text).contains("give"), "{text}");
        }
        for text in ["", "s", "-1s", "1y", "nans", "0s", "1e300s", "90000000h"] {
            assert!(duration(text).expect_err(text).contains("give"), "{text}");
        }
        for text in ["", "fast", "0", "-5", "inf", "nan"] {
            assert!(speed(text).expect_err(text).contains("give"), "{text}");
        }
        assert!(acks("0").expect_err("nothing to time").contains("nothing answers"));
        assert!(codec("brotli").is_err() && pair("name").is_err());
    }
}
