//! Throttles of replication (KIP-73): while partitions are copied to new replicas, that takes no more than a rate, so that clients do not
//! feel it. Replicas in sync are never held up.
//!
//! What is throttled says the topic (`leader.replication.throttled.replicas`: `*`, or partition:broker pairs), how much the leader's broker
//! (`leader.replication.throttled.rate`, bytes per second). Kafka's tool for reassignments sets both, and the twins of both for
//! followers, which do nothing here: what a leader does not send, no follower gets.

use std::sync::{Arc, Mutex, PoisonError};

use ottla_machine::controller::image::Image;
use ottla_protocol::types::{NodeId, TopicId};

use crate::config::Config;

const RATE: &str = "leader.replication.throttled.rate";
const REPLICAS: &str = "leader.replication.throttled.replicas";

/// The throttle of what one node sends.
#[derive(Debug)]
pub struct Throttle {
    me: NodeId,
    config: Arc<Config>,
    budget: Mutex<Budget>,
}

/// What may go through still: it grows by the rate, up to what comes in a second, and may be overdrawn by one answer.
#[derive(Debug, Default)]
struct Budget {
    bytes: i64,
    at_ms: u64,
}

impl Throttle {
    #[must_use]
    pub fn new(me: NodeId, config: Arc<Config>) -> Self {
        Self { me, config, budget: Mutex::default() }
    }

    /// Bytes per second; `None`, as nearly always: there is no throttle.
    #[must_use]
    pub fn rate(&self, image: &Image) -> Option<i64> {
        let set = image.broker_config(self.me, RATE).map(|value| &**value);
        set.or_else(|| self.config.static_value(RATE))?.trim().parse().ok()
    }

    /// Whether a follower's copy is made under this throttle: this node's replica is named, and the follower is not in sync.
    #[must_use]
    pub fn concerns(&self, image: &Image, topic: TopicId, index: i32, follower: NodeId) -> bool {
        let Some(topic) = image.topic(topic) else { return false };
        let is_in_sync = topic.partition(index.into()).is_some_and(|placed| placed.isr.contains(&follower));
        !is_in_sync
            && image.topic_config(&topic.name, REPLICAS).is_some_and(|named| is_named(named, index, self.me))
    }

    /// Whether something may go through now.
    #[must_use]
    pub fn lets_through(&self, rate: i64, tick_ms: u64) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let passed_ms = i64::try_from(tick_ms.saturating_sub(budget.at_ms)).unwrap_or(i64::MAX);
        let grown = i128::from(rate) * i128::from(passed_ms) / 1000;
        if grown > 0 {
            let most = i128::from(rate);
            let bytes = (i128::from(budget.bytes) + grown).min(most);
            *budget = Budget { bytes: i64::try_from(bytes).unwrap_or(i64::MAX), at_ms: tick_ms };
        }
        budget.bytes > 0
    }

    /// So much went through.
    pub fn note(&self, bytes: usize) {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.bytes = budget.bytes.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// Whether a list of throttled replicas names the one of `index` on `me`.
fn is_named(list: &str, index: i32, me: NodeId) -> bool {
    list.split(',').map(str::trim).any(|item| {
        item == "*"
            || item.split_once(':').is_some_and(|(partition, broker)| {
                partition.trim().parse() == Ok(index) && broker.trim().parse() == Ok(me.0)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_name_all_replicas_or_single_ones() {
        for (list, expected) in
            [("*", true), ("1:2", true), ("0:1, 1:2", true), ("1:3,2:2", false), ("", false), ("1", false)]
        {
            assert_eq!(is_named(list, 1, NodeId(2)), expected, "{list}");
        }
    }

    #[test]
    fn over_time_the_rate_goes_through_and_no_more() {
        let throttle = Throttle::new(NodeId(1), Arc::default());
        let (rate, mut sent) = (1000, 0);
        for tick_ms in (10..60_000).step_by(7) {
            while throttle.lets_through(rate, tick_ms) {
                throttle.note(300);
                sent += 300;
            }
        }
        assert!((59_000..=61_300).contains(&sent), "{sent} bytes in a minute at 1000 a second");
    }
}
