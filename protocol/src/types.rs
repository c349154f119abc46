//! The integers of the protocol as types of their own, so that two kinds of epoch or an offset and a count cannot be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[repr(transparent)]
        pub struct $name(pub $int);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$int> for $name {
            fn from(value: $int) -> Self {
                Self(value)
            }
        }

        impl From<$name> for $int {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

number!(
    /// A position in a partition's log, counted in records.
    Offset(i64)
);
number!(
    /// Raised by the controller at each change of a partition's leader; fences appends and fetches (KIP-101, KIP-320).
    LeaderEpoch(i32)
);
number!(
    /// Raised at each change of a partition's replicas, in-sync set or leader (KIP-497).
    PartitionEpoch(i32)
);
number!(
    /// One incarnation of a broker process, as the controller registered it (KIP-631).
    BrokerEpoch(i64)
);
number!(
    /// The term of the Raft leader that decides metadata.
    ControllerEpoch(i32)
);
number!(
    /// The leader epoch of the partition that a coordinator is stored in.
    CoordinatorEpoch(i32)
);
number!(
    /// An idempotent or transactional producer (KIP-98).
    ProducerId(i64)
);
number!(
    /// One incarnation of a producer id; an older one is fenced (KIP-98).
    ProducerEpoch(i16)
);
number!(
    /// A generation of a classic consumer group: raised by each completed rebalance.
    GenerationId(i32)
);
number!(
    /// `node.id` of a broker or controller.
    NodeId(i32)
);
number!(
    /// The index of a partition within its topic.
    PartitionIndex(i32)
);

impl Offset {
    pub const ZERO: Self = Self(0);
    /// "No offset": Kafka writes it as -1.
    pub const NONE: Self = Self(-1);

    /// The offset `count` records further on. Offsets never reach the end of `i64` (an append would need 292 years at
    /// one record a nanosecond), so an overflow is a broken invariant and stops the process.
    #[must_use]
    pub fn plus(self, count: i64) -> Self {
        Self(self.0.checked_add(count).expect("an offset never overflows"))
    }
}

impl LeaderEpoch {
    /// "Unknown": the caller does not check epochs.
    pub const NONE: Self = Self(-1);
}

impl ProducerId {
    /// A batch of a producer that is not idempotent.
    pub const NONE: Self = Self(-1);
}

impl ProducerEpoch {
    pub const NONE: Self = Self(-1);
}

impl NodeId {
    pub const NONE: Self = Self(-1);
}

/// A 128-bit id: of a topic, a log directory, a cluster or a metadata-quorum member. Shown as Kafka shows it: 22 characters of
/// base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Uuid(pub [u8; 16]);

/// A topic's id (KIP-516).
pub type TopicId = Uuid;

impl Uuid {
    /// Kafka's "no id".
    pub const ZERO: Self = Self([0; 16]);

    /// Makes an id from 16 random bytes: marked as a version-4 UUID, and never one that Kafka reserves (0 to 99 for well-known
    /// directories and topics) or whose text would begin with `-`, which command lines take for an option.
    #[must_use]
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        // The first character of the text is the first six bits; `-` is 62.
        if bytes[0] >> 2 == 62 {
            bytes[0] &= 0x7f;
        }
        Self(bytes)
    }

    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// Reads the 22-character form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        use base64::Engine as _;
        let bytes =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use base64::Engine as _;
        f.write_str(&base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_shown_and_read_as_kafka_shows_it() {
        let id = Uuid([0xff; 16]);
        assert_eq!(id.to_string(), "_____________________w");
        assert_eq!(Uuid::parse(&id.to_string()), Some(id));
        assert_eq!(Uuid::parse("too short"), None);
    }

    #[test]
    fn a_random_id_never_begins_with_a_dash() {
        for first in 0..=255u8 {
            let mut bytes = [7; 16];
            bytes[0] = first;
            assert!(!Uuid::from_random(bytes).to_string().starts_with('-'), "first byte {first}");
        }
    }
}
