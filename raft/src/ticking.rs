//! openraft's clock ticks some five times per heartbeat, for its timers: on three idle nodes that was most of what they did. Here it
//! stands still while there is nothing to time: on a leader, whose heartbeats are sent from here, and on a voter that has heard of a
//! leader a moment ago. It runs again long before an election would be due, so that elections are called when they always were. And it
//! stands still on a voter whose disk is full: it could vote, but as a leader it could not even begin its term.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::{Raft, ServerState};
use tokio::time::Instant;

use crate::apply::Applier;
use crate::log_store::LogStore;
use crate::types::TypeConfig;

/// When a leader was heard of last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<Mutex<Option<Instant>>>);

impl Heard {
    pub(crate) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn last(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until the log stops. A leader is missed after two heartbeats and a half, which must be less than the shortest election time-out (with
/// two, a voter would wake for every heartbeat; so it does for every second one).
pub(crate) async fn keep(
    raft: Raft<TypeConfig, Applier>,
    heard: Heard,
    heartbeat: Duration,
    store: LogStore,
) {
    let mut news = raft.server_metrics();
    let mut next_beat = Instant::now();
    loop {
        let state = news.borrow_watched().state;
        let now = Instant::now();
        let (is_ticking, until) = match state {
            ServerState::Leader => {
                if now >= next_beat {
                    if raft.trigger().heartbeat().await.is_err() {
                        return;
                    }
                    next_beat = now + heartbeat;
                }
                (false, next_beat)
            }
            ServerState::Follower | ServerState::Learner => {
                let missed_at = heard.last().map(|last| last + heartbeat * 5 / 2).filter(|at| *at > now);
                let is_missed = missed_at.is_none();
                let may_lead = state == ServerState::Learner || !is_missed || store.has_room_for(0);
                (is_missed && may_lead, missed_at.unwrap_or(now + heartbeat))
            }
            _ => (true, now + heartbeat),
        };
        raft.runtime_config().tick(is_ticking);
        tokio::select! {
            biased;
            changed = news.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(until) => {}
        }
    }
}
