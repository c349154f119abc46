//! Transactions and idempotent producers.

use crate::config::setting::Effect::*;
use crate::config::setting::Kind::*;
use crate::config::setting::Setting;
use crate::config::setting::Valid::*;

#[rustfmt::skip]
pub(super) const TRANSACTIONS: &[Setting] = &[
    Setting { name: "add.partitions.to.txn.retry.backoff.max.ms", kind: Int, default: Some("100"), valid: Between(0, i64::MAX), effect: NotYet, dynamic: false,
        doc: "How long, in milliseconds, a broker goes on trying to add partitions to a transaction for a producer that left it to the broker." },
    Setting { name: "add.partitions.to.txn.retry.backoff.ms", kind: Int, default: Some("20"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "The pause between two such attempts of `add.partitions.to.txn.retry.backoff.max.ms`, in milliseconds." },
    Setting { name: "producer.id.expiration.ms", kind: Int, default: Some("86400000"), valid: Between(1, i64::MAX), effect: Acts, dynamic: false,
        doc: "How long the sequences of an idle producer are remembered, in milliseconds." },
    Setting { name: "transaction.abort.timed.out.transaction.cleanup.interval.ms", kind: Int, default: Some("10000"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "How often transactions are looked for that have passed their time-out and are to be aborted, in milliseconds." },
    Setting { name: "transaction.max.timeout.ms", kind: Int, default: Some("900000"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "The longest time-out that a producer may ask for its transactions, in milliseconds." },
    Setting { name: "transaction.partition.verification.enable", kind: Boolean, default: Some("true"), valid: Any, effect: NotYet, dynamic: true,
        doc: "Whether a partition asks the transaction coordinator, before the first append of a transaction, if it was added to it." },
    Setting { name: "transaction.remove.expired.transaction.cleanup.interval.ms", kind: Int, default: Some("3600000"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "How often transactional ids are looked for that `transactional.id.expiration.ms` lets go, in milliseconds." },
    Setting { name: "transaction.state.log.load.buffer.size", kind: Int, default: Some("5242880"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "Bytes that are read at a time when the state of transactions is loaded." },
    Setting { name: "transaction.state.log.min.isr", kind: Int, default: Some("2"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "`min.insync.replicas` of `__transaction_state` when it is made." },
    Setting { name: "transaction.state.log.num.partitions", kind: Int, default: Some("50"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "Partitions of `__transaction_state`, fixed when it is made." },
    Setting { name: "transaction.state.log.replication.factor", kind: Short, default: Some("3"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "Replicas of `__transaction_state` when it is made." },
    Setting { name: "transaction.state.log.segment.bytes", kind: Int, default: Some("104857600"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "The size at which a new segment of `__transaction_state` begins, in bytes." },
    Setting { name: "transaction.two.phase.commit.enable", kind: Boolean, default: Some("false"), valid: Any, effect: NotYet, dynamic: false,
        doc: "Whether producers may keep prepared transactions open without a time-out, for a two-phase commit with another system (KIP-939)." },
    Setting { name: "transactional.id.expiration.ms", kind: Int, default: Some("604800000"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "How long a transactional id is remembered without a change of its transactions, in milliseconds." },
];
