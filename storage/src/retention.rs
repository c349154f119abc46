//! Which segments may go: a pure function of what they hold.

use ottla_protocol::types::Offset;

/// What retention knows of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    pub base: Offset,
    /// The offset after its last record.
    pub end: Offset,
    /// In bytes.
    pub size: u64,
    /// Negative if its records have none.
    pub max_timestamp: i64,
    pub sealed: bool,
}

/// A topic's retention, and the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// `retention.ms`; negative: for ever.
    pub max_age_ms: i64,
    /// `retention.bytes`; negative: without limit.
    pub max_bytes: i64,
    pub now_ms: i64,
    pub log_start: Offset,
    /// Only what lies below it may go.
    pub high_watermark: Offset,
    /// Of the whole log, in bytes.
    pub log_bytes: u64,
}

impl Retention {
    /// The offset below which segments go ([`crate::Log::drop_segments_below`]); `None` if none does. Segments are looked at from the
    /// oldest on, as far as needed, so `segments` may find out what it says as it goes.
    ///
    /// As in Kafka, age is judged by a segment's newest record, and the active segment goes too once it is too old. One record with a
    /// timestamp far in the future holds its segment (KAFKA-4340), which is what `message.timestamp.after.max.ms` prevents.
    pub fn expired_below<E>(
        &self,
        segments: impl IntoIterator<Item = Result<SegmentSummary, E>>,
    ) -> Result<Option<Offset>, E> {
        let mut below = None;
        let mut bytes = self.log_bytes;
        for segment in segments {
            let segment = segment?;
            if segment.size == 0 || segment.end > self.high_watermark {
                break;
            }
            let too_old = self.max_age_ms >= 0
                && segment.max_timestamp >= 0
                && self.now_ms.saturating_sub(segment.max_timestamp) > self.max_age_ms;
            let left = bytes.saturating_sub(segment.size);
            // By size the active segment stays, however large.
            let too_much = segment.sealed && self.max_bytes >= 0 && left >= self.max_bytes as u64;
            let trimmed = segment.sealed && segment.end <= self.log_start;
            if !too_old && !too_much && !trimmed {
                break;
            }
            below = Some(segment.end);
            bytes = left;
        }
        Ok(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP_ALL: Retention = Retention {
        max_age_ms: -1,
        max_bytes: -1,
        now_ms: 1_000,
        log_start: Offset(0),
        high_watermark: Offset(400),
        log_bytes: 400,
    };

    /// Four segments of 100 records and 100 bytes; the last one grows.
    fn segments(timestamps: [i64; 4]) -> impl Iterator<Item = Result<SegmentSummary, ()>> {
        (0..4).map(move |at| {
            Ok(SegmentSummary {
                base: Offset(at * 100),
                end: Offset(at * 100 + 100),
                size: 100,
                max_timestamp: timestamps[at as usize],
                sealed: at < 3,
            })
        })
    }

    #[test]
    fn segments_go_by_age_size_and_log_start() {
        let rising = [100, 200, 300, 400];
        let cases = [
            ("nothing asks for it", KEEP_ALL, rising, None),
            ("older than 700 ms", Retention { max_age_ms: 700, ..KEEP_ALL }, rising, Some(200)),
            ("all are old", Retention { max_age_ms: 0, ..KEEP_ALL }, rising, Some(400)),
            ("the first one is young", Retention { max_age_ms: 700, ..KEEP_ALL }, [900, 1, 1, 1], None),
            ("no timestamps", Retention { max_age_ms: 0, ..KEEP_ALL }, [-1; 4], None),
            ("the future", Retention { max_age_ms: 0, ..KEEP_ALL }, [i64::MAX; 4], None),
            ("at most 250 bytes", Retention { max_bytes: 250, ..KEEP_ALL }, rising, Some(100)),
            ("at most 300 bytes", Retention { max_bytes: 300, ..KEEP_ALL }, rising, Some(100)),
            ("at most 0 bytes", Retention { max_bytes: 0, ..KEEP_ALL }, rising, Some(300)),
            ("below the start", Retention { log_start: Offset(250), ..KEEP_ALL }, rising, Some(200)),
            (
                "not above the watermark",
                Retention { max_age_ms: 0, high_watermark: Offset(250), ..KEEP_ALL },
                rising,
                Some(200),
            ),
        ];
        for (name, retention, timestamps, expected) in cases {
            let below = retention.expired_below(segments(timestamps)).expect("no error");
            assert_eq!(below, expected.map(Offset), "{name}");
        }
    }
}
