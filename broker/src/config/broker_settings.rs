//! The settings of a broker: Kafka 4.3.1's names and defaults, but for those that the README lists as different. `dynamic` is Kafka's too,
//! but false for what acts here and is only read at the start (listeners, connection limits, threads).
//!
//! One room per area, each in alphabetical order.

mod groups;
mod log;
mod metering;
mod network;
mod node;
mod remote;
mod replication;
mod security;
mod share;
mod transactions;

use std::sync::LazyLock;

use super::setting::Setting;

/// All of them, in alphabetical order.
pub(super) static BROKER_SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let mut all = [
        groups::GROUPS,
        log::LOG,
        metering::METERING,
        network::NETWORK,
        node::NODE,
        remote::REMOTE,
        replication::REPLICATION,
        security::SECURITY,
        share::SHARE,
        transactions::TRANSACTIONS,
    ]
    .concat();
    all.sort_unstable_by_key(|setting| setting.name);
    all
});
