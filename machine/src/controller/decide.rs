//! From a command to records: nothing here changes state, and nothing else decides.

use std::sync::Arc;

use ottla_protocol::types::ProducerId;

use super::command::{Answer, Command, ConfigRules};
use super::record::Record;
use super::{brokers, configs, features, isr, leadership, reassignment, topics};
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
    let image = env.image;
    match command {
        Command::FoundCluster { cluster_id, features } => {
            if !image.cluster_id.is_zero() {
                return Decision::answer(Answer::Done);
            }
            let mut records = vec![Record::Cluster { cluster_id: *cluster_id }];
            records.extend(
                features
                    .iter()
                    .map(|(name, level)| Record::Feature { name: Arc::clone(name), level: *level }),
            );
            records.push(configs::common_minimum(rules, image));
            Decision { records, answer: Answer::Done }
        }
        Command::RegisterBroker(registration) => brokers::register(image, rules, registration),
        Command::UnfenceBroker { id, epoch } => brokers::unfence(image, rules, *id, *epoch),
        Command::FenceBroker { id, epoch } => brokers::fence(image, rules, *id, *epoch),
        Command::ShutDownBroker { id, epoch } => brokers::shut_down(image, rules, *id, *epoch),
        Command::UnregisterBroker { id } => brokers::unregister(image, rules, *id),
        Command::AlterPartitions { broker, epoch, changes } => {
            isr::alter(image, rules, *broker, *epoch, changes)
        }
        Command::ElectLeaders { kind, partitions } => {
            leadership::elect(image, rules, *kind, partitions.as_deref())
        }
        Command::AlterReassignments { changes, may_change_factor } => {
            reassignment::alter(image, rules, changes, *may_change_factor)
        }
        Command::BalanceLeaders => leadership::balance(image, rules),
        Command::UpdateFeatures { changes, validate_only } => {
            features::update(image, rules, changes, *validate_only)
        }
        Command::CreateTopics { topics, validate_only } => topics::create(env, rules, topics, *validate_only),
        Command::DeleteTopics { topics } => topics::delete(image, rules, topics),
        Command::CreatePartitions { topics, validate_only } => {
            topics::create_partitions(env, topics, *validate_only)
        }
        Command::AlterConfigs { changes, validate_only } => {
            configs::alter(image, rules, changes, *validate_only)
        }
        Command::AllocateProducerIds { count } => {
            let first = image.next_producer_id;
            Decision {
                records: vec![Record::ProducerIds { next: first + count }],
                answer: Answer::ProducerIds { first: ProducerId(first), count: *count },
            }
        }
    }
}
