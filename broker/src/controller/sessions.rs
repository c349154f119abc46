//! Which brokers are alive, as the node knows that leads the metadata log. Nothing of it is durable: a new leader gives every broker a
//! whole session before it judges.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ottla_machine::controller::command::Command;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{BrokerEpoch, NodeId};

use super::Controller;
use crate::peers::dial::Dial;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    term: u64,
    began_ms: u64,
    heard: HashMap<NodeId, Heard>,
}

#[derive(Debug)]
struct Heard {
    epoch: BrokerEpoch,
    at_ms: u64,
    /// A change of its fence is on its way.
    is_changing: bool,
}

impl Sessions {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node leads from here on.
    pub(super) fn begin(&self, term: u64, tick_ms: u64) {
        let mut state = self.state();
        if state.term != term {
            *state = State { term, began_ms: tick_ms, heard: HashMap::new() };
        }
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
            let heard = state.heard.entry(id).or_insert(Heard { epoch, at_ms, is_changing: false });
            if heard.epoch != epoch {
                *heard = Heard { epoch, at_ms, is_changing: false };
            }
            heard.at_ms = at_ms;
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
                let began_ms = state.began_ms;
                let unheard = Heard { epoch: broker.epoch, at_ms: began_ms, is_changing: false };
                let heard = state.heard.entry(broker.id).or_insert(unheard);
                let since = if heard.epoch == broker.epoch { heard.at_ms } else { began_ms };
                let over = !heard.is_changing && tick_ms.saturating_sub(since) > others.session_timeout_ms;
                heard.is_changing |= over;
                over
            };
            if over {
                tracing::warn!("broker {} was not heard of in time: it is fenced", broker.id);
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

    /// The connection by which a broker sent its heartbeats has ended. If nobody listens at its address any more, its process is gone:
    /// waiting for its session to end would help nobody. Blocks for the attempt.
    pub fn on_peer_gone(self: &Arc<Self>, id: NodeId, epoch: BrokerEpoch) {
        let Some(others) = self.others.get() else { return };
        if !self.is_active() {
            return;
        }
        let image = self.published.image.load();
        let Some(broker) = image.broker(id).filter(|broker| broker.epoch == epoch && !broker.fenced) else {
            return;
        };
        let Some(endpoint) = broker.endpoint(&others.listener) else { return };
        let dialled = Dial::connect(&endpoint.host, endpoint.port, &others.identity.hello());
        if dialled.is_err_and(|error| error.is_connection_refused()) {
            tracing::warn!("broker {id} is gone: its connections are refused; it is fenced");
            self.change(Command::FenceBroker { id, epoch }, id, epoch);
        }
    }
}
