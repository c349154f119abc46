//! How topics are made that nobody wrote a request for: by being asked for, and the cluster's own.

use ottla_machine::controller::command::NewTopic;
use ottla_machine::controller::image::Image;

use crate::config::Config;

/// The topic that groups and their offsets are stored in.
pub const CONSUMER_OFFSETS: &str = "__consumer_offsets";

/// Topics of coordinators that this version does not have, and the controllers' own: nobody makes them by asking for them.
const NOT_MADE: [&str; 3] = ["__transaction_state", "__share_group_state", "__cluster_metadata"];

/// Whether a topic of this name is made because a client asks for it.
#[must_use]
pub fn is_made_on_demand(name: &str) -> bool {
    !NOT_MADE.contains(&name)
}

/// A topic of this name as it is made when somebody needs it.
#[must_use]
pub fn new_topic(config: &Config, image: &Image, name: &str) -> NewTopic {
    if name != CONSUMER_OFFSETS {
        return NewTopic {
            name: name.to_owned(),
            partitions: -1,
            replication_factor: -1,
            ..NewTopic::default()
        };
    }
    let brokers = i16::try_from(image.active_brokers().count()).unwrap_or(i16::MAX);
    let wanted = i16::try_from(config.number("offsets.topic.replication.factor")).unwrap_or(3);
    let set = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    NewTopic {
        name: name.to_owned(),
        partitions: i32::try_from(config.number("offsets.topic.num.partitions")).unwrap_or(50),
        // A cluster smaller than the factor still has groups.
        replication_factor: wanted.min(brokers).max(1),
        configs: vec![
            set("cleanup.policy", "compact"),
            set("compression.type", "producer"),
            set("segment.bytes", &config.number("offsets.topic.segment.bytes").to_string()),
        ],
        ..NewTopic::default()
    }
}
