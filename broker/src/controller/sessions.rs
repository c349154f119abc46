//! Which brokers are alive, as the node knows that leads the metadata log. Nothing of it is durable: a new leader gives every broker a
//! whole session before it judges.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ottla_machine::controller::command::Command;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{BrokerEpoch, NodeId};

use super::Controller;

/// Between the elections that two voters call when they see the leader's end at the same moment.
const ELECTION_STEP: Duration = Duration::from_millis(60);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    term: u64,
    began_ms: u64,
    heard: BTreeMap<NodeId, Heard>,
    /// Who led before this node: nobody had heard of it for an election's time when this node began.
    former: Option<NodeId>,
}

#[derive(Debug)]
struct Heard {
    epoch: BrokerEpoch,
    at_ms: u64,
    /// A change of its fence is on its way.
    is_changing: bool,
    /// Its silence is in the log already.
    is_said: bool,
}

impl Sessions {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node leads from here on, perhaps already. Returns whether that is news.
    fn begin(&self, term: u64, tick_ms: u64) -> bool {
        let mut state = self.state();
        let news = state.term != term;
        if news {
            *state = State { term, began_ms: tick_ms, heard: BTreeMap::new(), former: state.former };
        }
        news
    }

    /// Another node leads.
    pub(super) fn follow(&self, leader: Option<NodeId>) {
        let mut state = self.state();
        state.former = leader.or(state.former);
    }
}

impl Controller {
    /// A broker says that it is alive, and whether it is ready to lead. Returns whether it is fenced.
    ///
    /// # Errors
    /// NOT_CONTROLLER; STALE_BROKER_EPOCH: it is not registered like that.
    pub fn on_beat(
        self: &Arc<Self>,
        id: NodeId,
        epoch: BrokerEpoch,
        is_ready: bool,
    ) -> Result<bool, ErrorCode> {
        if !self.is_active() {
            return Err(ErrorCode::NotController);
        }
        let image = self.published.image.load();
        let broker = image.broker(id).filter(|broker| broker.epoch == epoch);
        let is_fenced = broker.ok_or(ErrorCode::StaleBrokerEpoch)?.fenced;
        let unfence = {
            let mut state = self.sessions.state();
            let at_ms = self.clock.tick_ms();
            let heard =
                state.heard.entry(id).or_insert(Heard { epoch, at_ms, is_changing: false, is_said: false });
            if heard.epoch != epoch {
                *heard = Heard { epoch, at_ms, is_changing: false, is_said: false };
            }
            (heard.at_ms, heard.is_said) = (at_ms, false);
            let unfence = is_fenced && is_ready && !heard.is_changing;
            heard.is_changing |= unfence;
            unfence
        };
        if unfence {
            self.change(Command::UnfenceBroker { id, epoch }, id, epoch);
        }
        Ok(is_fenced)
    }

    /// Fences brokers whose sessions are over. Called again and again.
    pub fn check_sessions(self: &Arc<Self>) {
        let Some(others) = self.others.get() else { return };
        if !self.is_active() {
            return;
        }
        let tick_ms = self.clock.tick_ms();
        let image = self.published.image.load();
        for broker in image.brokers.values().filter(|broker| !broker.fenced) {
            if broker.id == others.identity.node {
                continue;
            }
            let over = {
                let mut state = self.sessions.state();
                let (began_ms, former) = (state.began_ms, state.former);
                let unheard =
                    Heard { epoch: broker.epoch, at_ms: began_ms, is_changing: false, is_said: false };
                let heard = state.heard.entry(broker.id).or_insert(unheard);
                let mut since = if heard.epoch == broker.epoch { heard.at_ms } else { began_ms };
                if since == began_ms && former == Some(broker.id) {
                    since = since.saturating_sub(others.election_ms);
                }
                let over = !heard.is_changing && tick_ms.saturating_sub(since) > others.session_timeout_ms;
                if over && !heard.is_said {
                    heard.is_said = true;
                    tracing::warn!("broker {} was not heard of in time: it is to be fenced", broker.id);
                }
                heard.is_changing |= over;
                over
            };
            if over {
                self.change(
                    Command::FenceBroker { id: broker.id, epoch: broker.epoch },
                    broker.id,
                    broker.epoch,
                );
            }
        }
    }

    fn change(self: &Arc<Self>, command: Command, id: NodeId, epoch: BrokerEpoch) {
        let controller = Arc::clone(self);
        self.submit(command, move |_| {
            if let Some(heard) =
                controller.sessions.state().heard.get_mut(&id).filter(|heard| heard.epoch == epoch)
            {
                heard.is_changing = false;
            }
        });
    }

    /// This node leads from here on: who is gone already is not waited for.
    pub(super) fn begin_sessions(self: &Arc<Self>, term: u64) {
        let Some(others) = self.others.get() else { return };
        if !self.sessions.begin(term, self.clock.tick_ms()) {
            return;
        }
        let image = self.published.image.load();
        for broker in image.brokers.values() {
            if broker.id != others.identity.node && !broker.fenced {
                let (controller, id) = (Arc::clone(self), broker.id);
                others.links.spawn_blocking(move || controller.fence_if_gone(id));
            }
        }
    }

    /// A connection by which a node showed that it lives has ended. If nobody listens at its address any more, its process is gone:
    /// waiting for time-outs would help nobody (decision 007). Blocks for the attempt.
    pub fn on_peer_gone(self: &Arc<Self>, id: NodeId) {
        self.replace_if_gone(id);
        self.fence_if_gone(id);
    }

    /// If the leader of the metadata log is gone, another is elected at once.
    fn replace_if_gone(self: &Arc<Self>, id: NodeId) {
        let (Some(others), Some(log)) = (self.others.get(), self.log.get()) else { return };
        let Some(address) = self.leader_address().filter(|address| address.node == id) else { return };
        if id == others.identity.node || !others.links.refuses(&address.host, address.port) {
            return;
        }
        let status = log.status();
        let (Some(gone), Some(me)) = (status.leader, self.voter_id()) else { return };
        tracing::warn!("node {id}, which leads the metadata log, is gone: its connections are refused");
        // One after the other, or they would split the votes.
        let rank = status.voters.iter().filter(|voter| **voter != gone).position(|voter| *voter == me);
        let rank = u32::try_from(rank.unwrap_or_default()).unwrap_or(0);
        log.replace_leader(gone, ELECTION_STEP * rank);
    }

    /// On the node that leads the metadata log: a broker that is gone is fenced at once.
    fn fence_if_gone(self: &Arc<Self>, id: NodeId) {
        let Some(others) = self.others.get().filter(|_| self.is_active()) else { return };
        let image = self.published.image.load_full();
        let Some(broker) = image.broker(id).filter(|broker| !broker.fenced) else { return };
        let Some(endpoint) = broker.endpoint(&others.listener) else { return };
        if others.links.refuses(&endpoint.host, endpoint.port) {
            tracing::warn!("broker {id} is gone: its connections are refused; it is fenced");
            let epoch = broker.epoch;
            self.change(Command::FenceBroker { id, epoch }, id, epoch);
        }
    }
}
