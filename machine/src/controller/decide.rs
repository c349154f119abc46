//! From a command to records: nothing here changes state, and nothing else decides.

use std::sync::Arc;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{BrokerEpoch, ProducerId};

use super::command::{Answer, Command, ConfigRules, Registration};
use super::image::{Broker, Image, PartitionState};
use super::record::Record;
use super::{configs, topics};
use crate::env::Env;

/// What the log is to hold, and what the asker hears once it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Empty: the answer changes nothing.
    pub records: Vec<Record>,
    pub answer: Answer,
}

impl Decision {
    pub(super) fn answer(answer: Answer) -> Self {
        Self { records: Vec::new(), answer }
    }
}

/// Decides one command on `env.image`.
pub fn decide(env: &mut Env<'_>, rules: &dyn ConfigRules, command: &Command) -> Decision {
    match command {
        Command::FoundCluster { cluster_id, features } => {
            if !env.image.cluster_id.is_zero() {
                return Decision::answer(Answer::Done);
            }
            let mut records = vec![Record::Cluster { cluster_id: *cluster_id }];
            records.extend(
                features
                    .iter()
                    .map(|(name, level)| Record::Feature { name: Arc::clone(name), level: *level }),
            );
            Decision { records, answer: Answer::Done }
        }
        Command::RegisterBroker(registration) => register(env.image, registration),
        Command::ShutDownBroker { id, epoch } => {
            let known = env.image.broker(*id).is_some_and(|broker| broker.epoch == *epoch);
            let record = Record::BrokerState { id: *id, epoch: *epoch, fenced: false, shutting_down: true };
            Decision { records: if known { vec![record] } else { Vec::new() }, answer: Answer::Done }
        }
        Command::UnfenceBroker { .. }
        | Command::FenceBroker { .. }
        | Command::UnregisterBroker { .. }
        | Command::AlterPartitions { .. }
        | Command::ElectLeaders { .. }
        | Command::AlterReassignments { .. }
        | Command::BalanceLeaders
        | Command::UpdateFeatures { .. } => {
            Decision::answer(Answer::Failed(ErrorCode::UnsupportedVersion.into()))
        }
        Command::CreateTopics { topics, validate_only } => topics::create(env, rules, topics, *validate_only),
        Command::DeleteTopics { topics } => topics::delete(env.image, rules, topics),
        Command::CreatePartitions { topics, validate_only } => {
            topics::create_partitions(env, topics, *validate_only)
        }
        Command::AlterConfigs { changes, validate_only } => {
            configs::alter(env.image, rules, changes, *validate_only)
        }
        Command::AllocateProducerIds { count } => {
            let first = env.image.next_producer_id;
            Decision {
                records: vec![Record::ProducerIds { next: first + count }],
                answer: Answer::ProducerIds { first: ProducerId(first), count: *count },
            }
        }
    }
}

/// A new incarnation of a broker: its epoch, and a new leader epoch for every partition that it leads, for its log may now be shorter
/// than what others saw of it in the epoch before.
fn register(image: &Image, registration: &Registration) -> Decision {
    let epoch = BrokerEpoch(image.next_broker_epoch.max(1));
    let mut records = vec![Record::Broker(Broker {
        id: registration.id,
        epoch,
        directory: registration.directory,
        endpoints: registration.endpoints.clone(),
        rack: registration.rack.clone(),
        fenced: registration.fenced,
        shutting_down: false,
    })];
    for topic in image.topics.values() {
        for (index, partition) in topic.partitions.iter().enumerate() {
            if partition.leader == registration.id {
                let mut state = PartitionState::clone(partition);
                state.leader_epoch.0 += 1;
                state.partition_epoch.0 += 1;
                let index = topics::index_of(index);
                records.push(Record::Partition { topic: topic.id, index, state });
            }
        }
    }
    Decision { records, answer: Answer::Registered(epoch) }
}
