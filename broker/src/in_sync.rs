//! Changes of in-sync sets on their way to the controller: what gathers while one request is under way goes with the next.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use ottla_machine::controller::command::{Answer, Command, IsrChange};
use ottla_machine::partition::leader::IsrProposal;
use ottla_protocol::types::{BrokerEpoch, NodeId};

use crate::controller::Controller;
use crate::partition::Partition;

/// The queue of one node.
#[derive(Default)]
pub struct InSync {
    state: Mutex<State>,
    asks: OnceLock<Asks>,
}

#[derive(Default)]
struct State {
    waiting: Vec<(Arc<Partition>, IsrProposal)>,
    in_flight: bool,
    /// After a failure nothing is asked before this tick.
    not_before_ms: u64,
}

/// How long after a failure the controller is left alone.
const PAUSE_MS: u64 = 100;

/// Who asks, and whom.
struct Asks {
    me: NodeId,
    controller: Weak<Controller>,
    epoch: Box<dyn Fn() -> BrokerEpoch + Send + Sync>,
}

impl fmt::Debug for InSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InSync({})", self.state().waiting.len())
    }
}

impl InSync {
    /// Names the controller, once. `epoch`: this node's registration at the moment.
    pub fn attach(
        &self,
        me: NodeId,
        controller: &Arc<Controller>,
        epoch: impl Fn() -> BrokerEpoch + Send + Sync + 'static,
    ) {
        let asks = Asks { me, controller: Arc::downgrade(controller), epoch: Box::new(epoch) };
        assert!(self.asks.set(asks).is_ok(), "the controller is named once");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a change.
    pub(crate) fn propose(self: &Arc<Self>, partition: Arc<Partition>, proposal: IsrProposal) {
        let tick_ms = partition.tick_ms();
        {
            let mut state = self.state();
            if tick_ms >= state.not_before_ms {
                state.waiting.push((partition, proposal));
                drop(state);
                return self.send();
            }
        }
        partition.on_proposal_failed(&proposal);
    }

    fn send(self: &Arc<Self>) {
        let taken = {
            let mut state = self.state();
            if state.in_flight || state.waiting.is_empty() {
                return;
            }
            state.in_flight = true;
            std::mem::take(&mut state.waiting)
        };
        let asks = self.asks.get();
        let Some((asks, controller)) = asks.and_then(|asks| Some((asks, asks.controller.upgrade()?))) else {
            return self.answered(taken, &Answer::Done);
        };
        let changes = taken.iter().map(|(partition, proposal)| IsrChange {
            topic: partition.topic,
            index: partition.index,
            leader_epoch: proposal.leader_epoch,
            partition_epoch: proposal.partition_epoch,
            isr: proposal.isr.clone(),
        });
        let command =
            Command::AlterPartitions { broker: asks.me, epoch: (asks.epoch)(), changes: changes.collect() };
        let in_sync = Arc::clone(self);
        controller.submit(command, move |answer| in_sync.answered(taken, &answer));
    }

    fn answered(self: &Arc<Self>, asked: Vec<(Arc<Partition>, IsrProposal)>, answer: &Answer) {
        let results = match answer {
            Answer::Partitions(results) => results.as_slice(),
            _ => {
                let tick_ms = asked.first().map_or(0, |(partition, _)| partition.tick_ms());
                self.state().not_before_ms = tick_ms + PAUSE_MS;
                &[]
            }
        };
        for (at, (partition, proposal)) in asked.iter().enumerate() {
            // What was taken reaches the partition with the image.
            if !matches!(results.get(at), Some(Ok(_))) {
                partition.on_proposal_failed(proposal);
            }
        }
        self.state().in_flight = false;
        self.send();
    }
}
