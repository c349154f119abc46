//! Brokers: registered, unfenced, fenced, shut down in order, unregistered.
//!
//! ```text
//!             UnfenceBroker          ShutDownBroker
//!  fenced ------------------> active ---------------> leaving
//!    ^ ^                        |                        |
//!    | +------------------------+------------------------+  FenceBroker: its session is over
//!    +--- RegisterBroker, from any state: a new incarnation, with a new epoch
//! ```

use std::collections::BTreeSet;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{BrokerEpoch, NodeId};

use super::command::{Answer, ConfigRules, Failure, LogProof, Registration};
use super::decide::Decision;
use super::image::{Broker, Image, PartitionState};
use super::leadership::{Fitness, Lost, change_partitions};
use super::record::Record;
use crate::sabotage::{Bug, is_on};

/// A new incarnation of a broker. It loses what a fenced broker loses, leaves the in-sync and eligible sets that its logs cannot vouch
/// for, and every partition that it led gets a new leader epoch, for its log may now be shorter than what others saw of it.
pub(super) fn register(image: &Image, rules: &dyn ConfigRules, registration: &Registration) -> Decision {
    let known = image.broker(registration.id);
    if let Err(failure) = check(image, known, registration) {
        return Decision::answer(Answer::Failed(failure));
    }
    let Registration { id, fenced, .. } = *registration;
    let epoch = BrokerEpoch(image.next_broker_epoch.max(1));
    let last_served = known.map_or(BrokerEpoch(-1), |known| known.last_served);
    let mut records = vec![Record::Broker(Broker {
        id,
        epoch,
        directory: registration.directory,
        endpoints: registration.endpoints.clone(),
        rack: registration.rack.clone(),
        fenced,
        shutting_down: false,
        last_served: if fenced { last_served } else { epoch },
    })];
    let proof = believed(known, registration);
    let damaged: BTreeSet<_> = registration.damaged.iter().copied().collect();
    let fitness = Fitness::of(image).with(id, fenced, false);
    records.extend(change_partitions(
        image,
        rules,
        &fitness,
        |state| holds_office(state, id),
        |topic, index, change| {
            let vouches = match proof {
                LogProof::Complete => true,
                LogProof::Flushed => rules.is_flushed(image, &topic.name),
                LogProof::Nothing => false,
            };
            if !vouches || damaged.contains(&(topic.id, index.0)) {
                change.lost = Some(Lost { id, is_empty: proof == LogProof::Nothing });
            }
            change.raise_leader_epoch = topic.partition(index).is_some_and(|state| state.leader == id);
        },
    ));
    Decision { records, answer: Answer::Registered(epoch) }
}

/// Whether a partition's state gives the broker a part that its restart may cost.
fn holds_office(state: &PartitionState, id: NodeId) -> bool {
    state.leader == id
        || state.isr.contains(&id)
        || state.elr.contains(&id)
        || state.last_known_elr.contains(&id)
        || (!state.has_leader() && state.replicas.contains(&id))
}

fn check(image: &Image, known: Option<&Broker>, registration: &Registration) -> Result<(), Failure> {
    let Registration { id, cluster_id, directory, .. } = *registration;
    if !cluster_id.is_zero() && !image.cluster_id.is_zero() && cluster_id != image.cluster_id {
        let message = format!(
            "Broker {id} belongs to cluster {cluster_id}; this is cluster {}. Give it an empty data directory, or its own cluster.",
            image.cluster_id
        );
        return Err(Failure::new(ErrorCode::InconsistentClusterId, message));
    }
    if let Some(other) = image.brokers.values().find(|other| other.directory == directory && other.id != id) {
        let message = format!(
            "Broker {id} comes with the data directory {directory} of broker {}: a copied disk cannot be another broker's.",
            other.id
        );
        return Err(Failure::new(ErrorCode::InvalidRegistration, message));
    }
    let Some(known) = known.filter(|known| !known.fenced) else { return Ok(()) };
    let message = if known.directory != directory {
        format!(
            "Broker {id} is alive with another data directory ({}): two nodes have the same node.id, or the disk was replaced \
             and the old process still counts as alive. Try again once its session is over.",
            known.directory
        )
    } else if is_older_copy(known, registration) {
        format!(
            "Broker {id} is alive, and this data directory is an older copy of its own: it knows epoch {}, the cluster {}.",
            registration.previous_epoch, known.last_served
        )
    } else {
        return Ok(());
    };
    Err(Failure::new(ErrorCode::DuplicateBrokerRegistration, message))
}

/// A broker writes its epoch to its directory before it asks to be unfenced: one that does not know the last incarnation that served
/// was copied before.
fn is_older_copy(known: &Broker, registration: &Registration) -> bool {
    let previous = registration.previous_epoch;
    previous >= BrokerEpoch(0) && previous < known.last_served
}

/// What of its proof counts: another directory than the one that is in sync, or an older copy of it, proves nothing.
fn believed(known: Option<&Broker>, registration: &Registration) -> LogProof {
    match known {
        Some(known) if known.directory != registration.directory || is_older_copy(known, registration) => {
            LogProof::Nothing
        }
        _ => registration.proof,
    }
}

/// The broker of this id, if this is its epoch.
pub(super) fn incarnation(image: &Image, id: NodeId, epoch: BrokerEpoch) -> Result<&Broker, Failure> {
    match image.broker(id) {
        Some(broker) if broker.epoch == epoch => Ok(broker),
        Some(broker) => Err(Failure::new(
            ErrorCode::StaleBrokerEpoch,
            format!("Broker {id} is registered with epoch {}, not {epoch}.", broker.epoch),
        )),
        None => {
            Err(Failure::new(ErrorCode::StaleBrokerEpoch, format!("No broker with id {id} is registered.")))
        }
    }
}

/// The broker may lead: leaders are elected where that was all that was missing.
pub(super) fn unfence(image: &Image, rules: &dyn ConfigRules, id: NodeId, epoch: BrokerEpoch) -> Decision {
    let Broker { fenced, shutting_down, .. } = *match incarnation(image, id, epoch) {
        Ok(broker) => broker,
        Err(failure) => return Decision::answer(Answer::Failed(failure)),
    };
    let fitness = Fitness::of(image).with(id, false, shutting_down);
    let waits = |state: &PartitionState| state.replicas.contains(&id) && !fitness.is_active(state.leader);
    let mut records = change_partitions(image, rules, &fitness, waits, |_, _, _| {});
    if fenced {
        records.insert(0, Record::BrokerState { id, epoch, fenced: false, shutting_down });
    }
    Decision { records, answer: Answer::Done }
}

/// The broker leads nothing any more and is in sync nowhere.
pub(super) fn fence(image: &Image, rules: &dyn ConfigRules, id: NodeId, epoch: BrokerEpoch) -> Decision {
    let Broker { fenced, shutting_down, .. } = *match incarnation(image, id, epoch) {
        Ok(broker) => broker,
        Err(failure) => return Decision::answer(Answer::Failed(failure)),
    };
    if fenced {
        return Decision::answer(Answer::Done);
    }
    let fitness = Fitness::of(image).with(id, true, shutting_down);
    let mut records = vec![Record::BrokerState { id, epoch, fenced: true, shutting_down }];
    let concerns = |state: &PartitionState| {
        if is_on(Bug::FenceLeadersOnly) { state.leader == id } else { serves(state, id) }
    };
    records.extend(change_partitions(image, rules, &fitness, concerns, |_, _, _| {}));
    Decision { records, answer: Answer::Done }
}

/// The broker gets no leadership and joins no in-sync set any more; what others can take moves to them.
pub(super) fn shut_down(image: &Image, rules: &dyn ConfigRules, id: NodeId, epoch: BrokerEpoch) -> Decision {
    let Broker { fenced, shutting_down, .. } = *match incarnation(image, id, epoch) {
        Ok(broker) => broker,
        Err(failure) => return Decision::answer(Answer::Failed(failure)),
    };
    let fitness = Fitness::of(image).with(id, fenced, true);
    let mut records = change_partitions(image, rules, &fitness, |state| serves(state, id), |_, _, _| {});
    if !shutting_down {
        records.insert(0, Record::BrokerState { id, epoch, fenced, shutting_down: true });
    }
    Decision { records, answer: Answer::Done }
}

fn serves(state: &PartitionState, id: NodeId) -> bool {
    state.leader == id || state.isr.contains(&id)
}

/// The broker is gone, and what it held counts for nothing: it may come back as a stranger.
pub(super) fn unregister(image: &Image, rules: &dyn ConfigRules, id: NodeId) -> Decision {
    let Some(broker) = image.broker(id) else {
        let message = format!("Broker ID {id} is not currently registered");
        return Decision::answer(Answer::Failed(Failure::new(ErrorCode::BrokerIdNotRegistered, message)));
    };
    let fitness = Fitness::of(image).with(id, true, false);
    let held = |state: &PartitionState| serves(state, id) || state.elr.contains(&id);
    let mut records = change_partitions(image, rules, &fitness, held, |_, _, change| {
        change.lost = Some(Lost { id, is_empty: false });
    });
    records.push(Record::BrokerRemoved { id, epoch: broker.epoch });
    Decision { records, answer: Answer::Done }
}
