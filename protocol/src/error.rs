//! Kafka's error codes (`org.apache.kafka.common.protocol.Errors` of 4.3.1) and what each means.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! error_codes {
    ($($code:literal $variant:ident $name:literal $meaning:literal)*) => {
        /// An error code as it stands in responses.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(i16)]
        pub enum ErrorCode {
            $(#[doc = $meaning] $variant = $code,)*
        }

        impl ErrorCode {
            /// Every code, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code with this number, where Kafka 4.3.1 has one.
            #[must_use]
            pub fn from_code(code: i16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Kafka's name: `NOT_LEADER_OR_FOLLOWER`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// One sentence for the `error_message` of a response.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)*
                }
            }
        }
    };
}

error_codes! {
    -1 UnknownServerError "UNKNOWN_SERVER_ERROR" "The server experienced an unexpected error."
    0 None "NONE" "No error."
    1 OffsetOutOfRange "OFFSET_OUT_OF_RANGE" "The requested offset is not within the range of offsets that the partition holds."
    2 CorruptMessage "CORRUPT_MESSAGE" "The record batch failed its checksum, exceeds the valid size, has a null key on a compacted topic, or is otherwise corrupt."
    3 UnknownTopicOrPartition "UNKNOWN_TOPIC_OR_PARTITION" "This server does not host this topic-partition."
    4 InvalidFetchSize "INVALID_FETCH_SIZE" "The requested fetch size is invalid."
    5 LeaderNotAvailable "LEADER_NOT_AVAILABLE" "There is no leader for this topic-partition at the moment."
    6 NotLeaderOrFollower "NOT_LEADER_OR_FOLLOWER" "This broker is not the leader (for a fetch: nor a follower) of the partition."
    7 RequestTimedOut "REQUEST_TIMED_OUT" "The request timed out."
    8 BrokerNotAvailable "BROKER_NOT_AVAILABLE" "The broker is not available."
    9 ReplicaNotAvailable "REPLICA_NOT_AVAILABLE" "The replica is not available on this broker."
    10 MessageTooLarge "MESSAGE_TOO_LARGE" "The request included a batch larger than the server accepts."
    11 StaleControllerEpoch "STALE_CONTROLLER_EPOCH" "The controller moved to another broker."
    12 OffsetMetadataTooLarge "OFFSET_METADATA_TOO_LARGE" "The metadata of the committed offset is too large."
    13 NetworkException "NETWORK_EXCEPTION" "The server disconnected before a response was received."
    14 CoordinatorLoadInProgress "COORDINATOR_LOAD_IN_PROGRESS" "The coordinator is loading and can't process the request yet."
    15 CoordinatorNotAvailable "COORDINATOR_NOT_AVAILABLE" "The coordinator is not available."
    16 NotCoordinator "NOT_COORDINATOR" "This is not the coordinator of the group or transactional id."
    17 InvalidTopicException "INVALID_TOPIC_EXCEPTION" "The topic name is invalid, or the topic may not be written to by clients."
    18 RecordListTooLarge "RECORD_LIST_TOO_LARGE" "The request included a list of batches larger than the segment size."
    19 NotEnoughReplicas "NOT_ENOUGH_REPLICAS" "Fewer replicas are in sync than min.insync.replicas requires."
    20 NotEnoughReplicasAfterAppend "NOT_ENOUGH_REPLICAS_AFTER_APPEND" "The records were appended, but to fewer in-sync replicas than required."
    21 InvalidRequiredAcks "INVALID_REQUIRED_ACKS" "The value of acks is none of 0, 1 and -1."
    22 IllegalGeneration "ILLEGAL_GENERATION" "The generation id is not the current one of the group."
    23 InconsistentGroupProtocol "INCONSISTENT_GROUP_PROTOCOL" "The protocol type or protocols of the member don't fit the group's."
    24 InvalidGroupId "INVALID_GROUP_ID" "The group id is invalid."
    25 UnknownMemberId "UNKNOWN_MEMBER_ID" "The coordinator does not know this member."
    26 InvalidSessionTimeout "INVALID_SESSION_TIMEOUT" "The session timeout lies outside group.min.session.timeout.ms and group.max.session.timeout.ms."
    27 RebalanceInProgress "REBALANCE_IN_PROGRESS" "The group is rebalancing, so a rejoin is needed."
    28 InvalidCommitOffsetSize "INVALID_COMMIT_OFFSET_SIZE" "The offset commit is too large."
    29 TopicAuthorizationFailed "TOPIC_AUTHORIZATION_FAILED" "Topic authorization failed."
    30 GroupAuthorizationFailed "GROUP_AUTHORIZATION_FAILED" "Group authorization failed."
    31 ClusterAuthorizationFailed "CLUSTER_AUTHORIZATION_FAILED" "Cluster authorization failed."
    32 InvalidTimestamp "INVALID_TIMESTAMP" "The timestamp of a record is out of the acceptable range."
    33 UnsupportedSaslMechanism "UNSUPPORTED_SASL_MECHANISM" "The SASL mechanism is not supported."
    34 IllegalSaslState "ILLEGAL_SASL_STATE" "The request is not valid in the current SASL state."
    35 UnsupportedVersion "UNSUPPORTED_VERSION" "The version of the API is not supported."
    36 TopicAlreadyExists "TOPIC_ALREADY_EXISTS" "A topic with this name already exists."
    37 InvalidPartitions "INVALID_PARTITIONS" "The number of partitions is invalid."
    38 InvalidReplicationFactor "INVALID_REPLICATION_FACTOR" "The replication factor is below 1 or larger than the number of available brokers."
    39 InvalidReplicaAssignment "INVALID_REPLICA_ASSIGNMENT" "The replica assignment is invalid."
    40 InvalidConfig "INVALID_CONFIG" "The configuration is invalid."
    41 NotController "NOT_CONTROLLER" "This is not the active controller."
    42 InvalidRequest "INVALID_REQUEST" "The request is invalid."
    43 UnsupportedForMessageFormat "UNSUPPORTED_FOR_MESSAGE_FORMAT" "The message format does not support this operation."
    44 PolicyViolation "POLICY_VIOLATION" "The request parameters violate a policy."
    45 OutOfOrderSequenceNumber "OUT_OF_ORDER_SEQUENCE_NUMBER" "The sequence number is out of order."
    46 DuplicateSequenceNumber "DUPLICATE_SEQUENCE_NUMBER" "The sequence number is a duplicate."
    47 InvalidProducerEpoch "INVALID_PRODUCER_EPOCH" "The producer's epoch is old."
    48 InvalidTxnState "INVALID_TXN_STATE" "The transactional operation does not fit the state of the transaction."
    49 InvalidProducerIdMapping "INVALID_PRODUCER_ID_MAPPING" "The producer id does not belong to the transactional id."
    50 InvalidTransactionTimeout "INVALID_TRANSACTION_TIMEOUT" "The transaction timeout is larger than transaction.max.timeout.ms."
    51 ConcurrentTransactions "CONCURRENT_TRANSACTIONS" "Another operation on the transaction is under way."
    52 TransactionCoordinatorFenced "TRANSACTION_COORDINATOR_FENCED" "The transaction coordinator is not the current one any more."
    53 TransactionalIdAuthorizationFailed "TRANSACTIONAL_ID_AUTHORIZATION_FAILED" "Transactional id authorization failed."
    54 SecurityDisabled "SECURITY_DISABLED" "Security features are disabled."
    55 OperationNotAttempted "OPERATION_NOT_ATTEMPTED" "The operation was not attempted."
    56 KafkaStorageError "KAFKA_STORAGE_ERROR" "The log can't be accessed on this broker's disk."
    57 LogDirNotFound "LOG_DIR_NOT_FOUND" "The log directory is not one of the broker's."
    58 SaslAuthenticationFailed "SASL_AUTHENTICATION_FAILED" "SASL authentication failed."
    59 UnknownProducerId "UNKNOWN_PRODUCER_ID" "The broker does not know this producer id."
    60 ReassignmentInProgress "REASSIGNMENT_IN_PROGRESS" "A reassignment of the partition is in progress."
    61 DelegationTokenAuthDisabled "DELEGATION_TOKEN_AUTH_DISABLED" "Delegation tokens are not enabled."
    62 DelegationTokenNotFound "DELEGATION_TOKEN_NOT_FOUND" "The delegation token is not found."
    63 DelegationTokenOwnerMismatch "DELEGATION_TOKEN_OWNER_MISMATCH" "The principal is neither owner nor renewer of the delegation token."
    64 DelegationTokenRequestNotAllowed "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED" "Delegation tokens can't be requested on this channel."
    65 DelegationTokenAuthorizationFailed "DELEGATION_TOKEN_AUTHORIZATION_FAILED" "Delegation token authorization failed."
    66 DelegationTokenExpired "DELEGATION_TOKEN_EXPIRED" "The delegation token has expired."
    67 InvalidPrincipalType "INVALID_PRINCIPAL_TYPE" "The principal type is not supported."
    68 NonEmptyGroup "NON_EMPTY_GROUP" "The group is not empty."
    69 GroupIdNotFound "GROUP_ID_NOT_FOUND" "The group id does not exist."
    70 FetchSessionIdNotFound "FETCH_SESSION_ID_NOT_FOUND" "The fetch session is not known."
    71 InvalidFetchSessionEpoch "INVALID_FETCH_SESSION_EPOCH" "The epoch of the fetch session is invalid."
    72 ListenerNotFound "LISTENER_NOT_FOUND" "The leader has no listener that matches the one of the request."
    73 TopicDeletionDisabled "TOPIC_DELETION_DISABLED" "Topic deletion is disabled."
    74 FencedLeaderEpoch "FENCED_LEADER_EPOCH" "The leader epoch of the request is older than the broker's."
    75 UnknownLeaderEpoch "UNKNOWN_LEADER_EPOCH" "The leader epoch of the request is newer than the broker's."
    76 UnsupportedCompressionType "UNSUPPORTED_COMPRESSION_TYPE" "The compression type is not supported for this version."
    77 StaleBrokerEpoch "STALE_BROKER_EPOCH" "The broker epoch has changed."
    78 OffsetNotAvailable "OFFSET_NOT_AVAILABLE" "The high watermark of the leader has not caught up since its election."
    79 MemberIdRequired "MEMBER_ID_REQUIRED" "The group member must have a member id before it joins."
    80 PreferredLeaderNotAvailable "PREFERRED_LEADER_NOT_AVAILABLE" "The preferred leader is not available."
    81 GroupMaxSizeReached "GROUP_MAX_SIZE_REACHED" "The group has reached its maximum size."
    82 FencedInstanceId "FENCED_INSTANCE_ID" "Another member with the same group.instance.id took this one's place."
    83 EligibleLeadersNotAvailable "ELIGIBLE_LEADERS_NOT_AVAILABLE" "No eligible leader is available."
    84 ElectionNotNeeded "ELECTION_NOT_NEEDED" "No leader election is needed."
    85 NoReassignmentInProgress "NO_REASSIGNMENT_IN_PROGRESS" "No partition reassignment is in progress."
    86 GroupSubscribedToTopic "GROUP_SUBSCRIBED_TO_TOPIC" "The group is actively subscribed to the topic."
    87 InvalidRecord "INVALID_RECORD" "A record failed the broker's validation."
    88 UnstableOffsetCommit "UNSTABLE_OFFSET_COMMIT" "There are offsets whose transaction is not decided yet."
    89 ThrottlingQuotaExceeded "THROTTLING_QUOTA_EXCEEDED" "The throttling quota is exceeded."
    90 ProducerFenced "PRODUCER_FENCED" "A newer producer with the same transactional id fences this one."
    91 ResourceNotFound "RESOURCE_NOT_FOUND" "The resource does not exist."
    92 DuplicateResource "DUPLICATE_RESOURCE" "The resource exists already."
    93 UnacceptableCredential "UNACCEPTABLE_CREDENTIAL" "The credential does not meet the criteria."
    94 InconsistentVoterSet "INCONSISTENT_VOTER_SET" "The voter sets of sender and receiver don't match."
    95 InvalidUpdateVersion "INVALID_UPDATE_VERSION" "The given version is invalid."
    96 FeatureUpdateFailed "FEATURE_UPDATE_FAILED" "The finalized features could not be updated."
    97 PrincipalDeserializationFailure "PRINCIPAL_DESERIALIZATION_FAILURE" "The principal of a forwarded request can't be read."
    98 SnapshotNotFound "SNAPSHOT_NOT_FOUND" "The snapshot is not found."
    99 PositionOutOfRange "POSITION_OUT_OF_RANGE" "The position lies outside the snapshot."
    100 UnknownTopicId "UNKNOWN_TOPIC_ID" "This server does not host this topic id."
    101 DuplicateBrokerRegistration "DUPLICATE_BROKER_REGISTRATION" "This broker id is in use by another broker."
    102 BrokerIdNotRegistered "BROKER_ID_NOT_REGISTERED" "This broker id is not registered."
    103 InconsistentTopicId "INCONSISTENT_TOPIC_ID" "The topic id of the request does not match the log's."
    104 InconsistentClusterId "INCONSISTENT_CLUSTER_ID" "The cluster id of the request is not this cluster's."
    105 TransactionalIdNotFound "TRANSACTIONAL_ID_NOT_FOUND" "The transactional id is not found."
    106 FetchSessionTopicIdError "FETCH_SESSION_TOPIC_ID_ERROR" "The fetch session mixes requests with and without topic ids."
    107 IneligibleReplica "INELIGIBLE_REPLICA" "The new in-sync set contains an ineligible replica."
    108 NewLeaderElected "NEW_LEADER_ELECTED" "The in-sync set was changed and a new leader elected."
    109 OffsetMovedToTieredStorage "OFFSET_MOVED_TO_TIERED_STORAGE" "The requested offset lies in tiered storage."
    110 FencedMemberEpoch "FENCED_MEMBER_EPOCH" "The member epoch is fenced by the coordinator."
    111 UnreleasedInstanceId "UNRELEASED_INSTANCE_ID" "The instance id is still held by another member."
    112 UnsupportedAssignor "UNSUPPORTED_ASSIGNOR" "The assignor is not supported by the group."
    113 StaleMemberEpoch "STALE_MEMBER_EPOCH" "The member epoch is stale."
    114 MismatchedEndpointType "MISMATCHED_ENDPOINT_TYPE" "The request was sent to an endpoint of the wrong type."
    115 UnsupportedEndpointType "UNSUPPORTED_ENDPOINT_TYPE" "This endpoint type is not supported."
    116 UnknownControllerId "UNKNOWN_CONTROLLER_ID" "This controller id is not known."
    117 UnknownSubscriptionId "UNKNOWN_SUBSCRIPTION_ID" "The client's subscription id is not the current one."
    118 TelemetryTooLarge "TELEMETRY_TOO_LARGE" "The telemetry pushed is too large."
    119 InvalidRegistration "INVALID_REGISTRATION" "The registration of the controller is invalid."
    120 TransactionAbortable "TRANSACTION_ABORTABLE" "The transaction must be aborted, after which the producer can go on."
    121 InvalidRecordState "INVALID_RECORD_STATE" "The record is not in the state that the operation needs."
    122 ShareSessionNotFound "SHARE_SESSION_NOT_FOUND" "The share session is not found."
    123 InvalidShareSessionEpoch "INVALID_SHARE_SESSION_EPOCH" "The epoch of the share session is invalid."
    124 FencedStateEpoch "FENCED_STATE_EPOCH" "The share coordinator's state epoch is fenced."
    125 InvalidVoterKey "INVALID_VOTER_KEY" "The voter key does not match the receiving replica's."
    126 DuplicateVoter "DUPLICATE_VOTER" "The voter is part of the set already."
    127 VoterNotFound "VOTER_NOT_FOUND" "The voter is not part of the set."
    128 InvalidRegularExpression "INVALID_REGULAR_EXPRESSION" "The regular expression is not valid."
    129 RebootstrapRequired "REBOOTSTRAP_REQUIRED" "The client's metadata is stale; it should bootstrap again."
    130 StreamsInvalidTopology "STREAMS_INVALID_TOPOLOGY" "The topology is invalid."
    131 StreamsInvalidTopologyEpoch "STREAMS_INVALID_TOPOLOGY_EPOCH" "The topology epoch is invalid."
    132 StreamsTopologyFenced "STREAMS_TOPOLOGY_FENCED" "The topology epoch is outdated."
    133 ShareSessionLimitReached "SHARE_SESSION_LIMIT_REACHED" "The limit of share sessions is reached."
}

/// As its number; one that this program does not know (a newer peer's) is UNKNOWN_SERVER_ERROR.
impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i16(self.code())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = i16::deserialize(deserializer)?;
        Ok(Self::from_code(code).unwrap_or(Self::UnknownServerError))
    }
}

impl ErrorCode {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }

    #[must_use]
    pub fn is_error(self) -> bool {
        self != Self::None
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
