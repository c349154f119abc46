//! A place in a log as people say it: `beginning`, `-10m`, `2026-11-25T10:00Z`, `17`.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ottla_client::{At, Cluster, TopicPartition};

use super::units;

pub(super) const HELP: &str = "beginning, end, an OFFSET, -N (the last N records of each partition), -10m or -1h30m (so long ago), a time \
                               such as 2026-11-25T10:00:00Z (UTC), or @MILLISECONDS since 1970";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Beginning,
    End,
    Offset(i64),
    /// So many records before the end.
    Last(i64),
    Ago(Duration),
    /// Milliseconds since 1970.
    Time(i64),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unclear = || format!("give it as {HELP}");
        match text {
            "beginning" | "earliest" | "start" => return Ok(Self::Beginning),
            "end" | "latest" => return Ok(Self::End),
            _ => {}
        }
        if let Some(ms) = text.strip_prefix('@') {
            return ms
                .parse::<u32>()
                .map(i64::from)
                .or_else(|_| ms.parse())
                .map(Self::Time)
                .map_err(|_| unclear());
        }
        if let Some(back) = text.strip_prefix('-') {
            if let Ok(records) = back.parse::<u32>() {
                return Ok(Self::Last(records.into()));
            }
            return humantime::parse_duration(back).map(Self::Ago).map_err(|_| unclear());
        }
        if let Ok(offset) = text.parse::<i64>() {
            return Ok(Self::Offset(offset));
        }
        moment(text).map(Self::Time).ok_or_else(unclear)
    }
}

/// A day, or a time of it with or without seconds and `Z`.
fn moment(text: &str) -> Option<i64> {
    let text = text.trim_end_matches('Z');
    let whole = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        16 => format!("{text}:00Z"),
        _ => format!("{text}Z"),
    };
    let at: SystemTime = humantime::parse_rfc3339_weak(&whole).ok()?;
    i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

impl Place {
    /// The offset in each partition.
    pub(super) fn find(
        self,
        cluster: &mut Cluster,
        partitions: &[TopicPartition],
    ) -> ottla_client::Result<BTreeMap<TopicPartition, i64>> {
        let offsets = |cluster: &mut Cluster, at| cluster.offsets_of_all(at, partitions);
        let all = |offset| partitions.iter().map(|partition| (partition.clone(), offset)).collect();
        let time = match self {
            Self::Offset(offset) => return Ok(all(offset)),
            Self::Beginning => {
                let start = offsets(cluster, At::Earliest)?;
                return Ok(start.into_iter().map(|(partition, found)| (partition, found.offset)).collect());
            }
            Self::End => {
                let end = offsets(cluster, At::Latest)?;
                return Ok(end.into_iter().map(|(partition, found)| (partition, found.offset)).collect());
            }
            Self::Last(records) => {
                let (start, end) = (offsets(cluster, At::Earliest)?, offsets(cluster, At::Latest)?);
                return Ok(end
                    .into_iter()
                    .map(|(partition, end)| {
                        let start = start.get(&partition).map_or(0, |found| found.offset);
                        (partition, (end.offset - records).max(start))
                    })
                    .collect());
            }
            Self::Ago(ago) => units::now_ms() - i64::try_from(ago.as_millis()).unwrap_or(i64::MAX),
            Self::Time(ms) => ms,
        };
        let (end, found) = (offsets(cluster, At::Latest)?, offsets(cluster, At::Time(time))?);
        // Nothing is that new: what comes next is.
        Ok(end
            .into_iter()
            .map(|(partition, end)| {
                let offset = found.get(&partition).map(|found| found.offset).filter(|offset| *offset >= 0);
                (partition, offset.unwrap_or(end.offset))
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_people_write_them() {
        let cases = [
            ("beginning", Place::Beginning),
            ("latest", Place::End),
            ("17", Place::Offset(17)),
            ("-5", Place::Last(5)),
            ("-10m", Place::Ago(Duration::from_secs(600))),
            ("-1h30m", Place::Ago(Duration::from_secs(5_400))),
            ("@1764084601123", Place::Time(1_764_084_601_123)),
            ("2025-11-25T15:30:01Z", Place::Time(1_764_084_601_000)),
            ("2025-11-25 15:30", Place::Time(1_764_084_600_000)),
            ("2025-11-25", Place::Time(1_764_028_800_000)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "soon", "-", "-10 parsecs", "@x", "2025-13-45"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
