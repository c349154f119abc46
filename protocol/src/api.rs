//! THE table of the APIs that a node serves, in the versions of Kafka 4.3.1. ApiVersions, the refusal of unknown keys and versions,
//! and the broker's dispatch all come from it: an API that has no line here does not exist.

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    pub key: ApiKey,
    /// Kafka's name, such as `Metadata`.
    pub name: &'static str,
    /// The oldest version that is answered.
    pub min: i16,
    /// The newest version that is answered.
    pub max: i16,
    /// The oldest version that ApiVersions names. It differs for Produce alone: librdkafka stops compressing unless version 0 is
    /// named (KAFKA-18659).
    pub advertised_min: i16,
    /// Whether a later request on the same connection may rely on what this one did, so that it must wait for its answer.
    pub barrier: bool,
    /// Between nodes only: served on connections that introduced themselves as a peer, and never advertised.
    pub peer: bool,
}

const fn has(marks: &[&str], wanted: u8) -> bool {
    let mut at = 0;
    while at < marks.len() {
        // The marks differ in their first letters.
        if marks[at].as_bytes()[0] == wanted {
            return true;
        }
        at += 1;
    }
    false
}

macro_rules! apis {
    ($($name:ident = $code:literal, $min:literal..=$max:literal $(@ $advertised:literal)? $(, $mark:ident)*;)*) => {
        /// The APIs that a node serves, by their numbers in the protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ApiKey {
            $($name = $code,)*
        }

        /// All APIs, by rising key.
        pub const APIS: &[Api] = &[
            $(Api {
                key: ApiKey::$name,
                name: stringify!($name),
                min: $min,
                max: $max,
                advertised_min: { let min = $min; $(let min = { let _ = min; $advertised };)? min },
                barrier: has(&[$(stringify!($mark)),*], b'b'),
                peer: has(&[$(stringify!($mark)),*], b'p'),
            },)*
        ];

        impl ApiKey {
            /// `None` for a key that is not served.
            #[must_use]
            pub const fn from_code(code: i16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

// Key, versions answered; `peer` for Ottla's own between nodes; `barrier` where the next request of a pipelining client may need the effect.
apis! {
    Produce = 0, 3..=13 @ 0;
    Fetch = 1, 4..=18;
    ListOffsets = 2, 1..=11;
    Metadata = 3, 0..=13;
    OffsetCommit = 8, 2..=10;
    OffsetFetch = 9, 1..=10;
    FindCoordinator = 10, 0..=6;
    JoinGroup = 11, 0..=9;
    Heartbeat = 12, 0..=4;
    LeaveGroup = 13, 0..=5;
    SyncGroup = 14, 0..=5;
    DescribeGroups = 15, 0..=6;
    ListGroups = 16, 0..=5;
    ApiVersions = 18, 0..=4;
    CreateTopics = 19, 2..=7, barrier;
    DeleteTopics = 20, 1..=6, barrier;
    DeleteRecords = 21, 0..=2;
    InitProducerId = 22, 0..=5;
    OffsetForLeaderEpoch = 23, 2..=4;
    DescribeConfigs = 32, 1..=4;
    AlterConfigs = 33, 0..=2, barrier;
    AlterReplicaLogDirs = 34, 1..=2;
    DescribeLogDirs = 35, 1..=5;
    CreatePartitions = 37, 0..=3, barrier;
    DeleteGroups = 42, 0..=2;
    ElectLeaders = 43, 0..=2, barrier;
    IncrementalAlterConfigs = 44, 0..=1, barrier;
    AlterPartitionReassignments = 45, 0..=1, barrier;
    ListPartitionReassignments = 46, 0..=0;
    OffsetDelete = 47, 0..=0;
    DescribeQuorum = 55, 0..=2;
    UpdateFeatures = 57, 0..=2, barrier;
    DescribeCluster = 60, 0..=2;
    DescribeProducers = 61, 0..=0;
    UnregisterBroker = 64, 0..=0, barrier;
    ListConfigResources = 74, 0..=1;
    DescribeTopicPartitions = 75, 0..=0;
    AddRaftVoter = 80, 0..=1, barrier;
    RemoveRaftVoter = 81, 0..=0, barrier;
    PeerHello = 20000, 0..=0, barrier, peer;
    Quorum = 20001, 0..=0, peer;
    FoundCluster = 20002, 0..=0, peer;
    JoinQuorum = 20003, 0..=0, peer;
    ControllerCommand = 20004, 0..=0, peer;
    BrokerBeat = 20005, 0..=0, peer;
    ReplicaFetch = 20006, 0..=0, peer;
    ReplicaUpdate = 20007, 0..=0, peer;
    LeaderAsked = 20008, 0..=0, peer;
}

impl ApiKey {
    /// The number in the protocol.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The API's line in the table.
    #[must_use]
    pub fn api(self) -> &'static Api {
        let place = APIS.binary_search_by_key(&self, |api| api.key);
        &APIS[place.expect("every key has a line, and the lines are sorted")]
    }

    /// The versions that are answered.
    #[must_use]
    pub fn versions(self) -> std::ops::RangeInclusive<i16> {
        let api = self.api();
        api.min..=api.max
    }

    /// Kafka's name, such as `Metadata`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.api().name
    }
}

impl Api {
    /// Whether a request of this version is answered.
    #[must_use]
    pub fn serves(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;

    #[test]
    fn the_lines_are_sorted_and_findable_by_their_number() {
        assert!(APIS.windows(2).all(|pair| pair[0].key < pair[1].key));
        for api in APIS {
            assert_eq!(ApiKey::from_code(api.key.code()), Some(api.key));
            assert_eq!(api.key.api(), api);
        }
        assert_eq!(ApiKey::from_code(-1), None);
        assert_eq!(ApiKey::from_code(17), None);
    }

    #[test]
    fn every_version_served_has_a_message() {
        for api in APIS {
            let known = frame::schema_versions(api.key.code()).expect("a served API has messages");
            assert!(api.min >= known.0 && api.max <= known.1, "{}: {known:?}", api.name);
        }
    }

    #[test]
    fn only_produce_names_versions_that_it_does_not_serve() {
        let odd: Vec<_> =
            APIS.iter().filter(|api| api.advertised_min != api.min).map(|api| api.name).collect();
        assert_eq!(odd, ["Produce"]);
        assert_eq!(ApiKey::Produce.api().advertised_min, 0);
    }

    #[test]
    fn what_changes_the_metadata_is_a_barrier() {
        let barriers: Vec<_> =
            APIS.iter().filter(|api| api.barrier && !api.peer).map(|api| api.name).collect();
        assert_eq!(
            barriers,
            [
                "CreateTopics",
                "DeleteTopics",
                "AlterConfigs",
                "CreatePartitions",
                "ElectLeaders",
                "IncrementalAlterConfigs",
                "AlterPartitionReassignments",
                "UpdateFeatures",
                "UnregisterBroker",
                "AddRaftVoter",
                "RemoveRaftVoter"
            ]
        );
    }
}
