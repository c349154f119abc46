//! The thread that follows one leader over a socket.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ottla_protocol::messages::ReplicaFetchRequest;

use super::{ANSWER_GRACE_MS, OnLeader, PAUSE_MS, Replicator, Replicators, Sending};
use crate::peers::dial::{Dial, DialError, Sender};

/// Starts a thread for each leader.
#[must_use]
pub fn follow_on_threads() -> OnLeader {
    Box::new(|all, replicator| {
        let (shared, own) = (Arc::clone(all), Arc::clone(replicator));
        let thread = std::thread::Builder::new()
            .name(format!("follow-{}", replicator.leader))
            .spawn(move || own.run(&shared))
            .expect("the operating system has a thread for each other broker");
        all.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    })
}

impl Sending for Sender {
    fn try_send(&self, frame: &[u8]) -> bool {
        self.try_send(frame)
    }

    fn close(&self) {
        self.close();
    }
}

impl Replicator {
    fn run(&self, all: &Replicators) {
        loop {
            {
                let mut state = self.state();
                while state.followed.is_empty() && !state.stopping {
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.stopping {
                    return;
                }
            }
            if let Err(error) = self.converse(all) {
                tracing::debug!("following node {}: {error}", self.leader);
            }
            self.end();
            let (state, _) = self
                .wake
                .wait_timeout_while(self.state(), Duration::from_millis(PAUSE_MS), |state| !state.stopping)
                .unwrap_or_else(PoisonError::into_inner);
            if state.stopping {
                return;
            }
        }
    }

    /// One connection, from its greeting to its end.
    fn converse(&self, all: &Replicators) -> Result<(), DialError> {
        let image = all.image.load_full();
        let endpoint = image.broker(self.leader).and_then(|leader| leader.endpoint(&all.settings.listener));
        let Some(endpoint) = endpoint else {
            return Err(DialError::Unreadable(format!("it has no listener {}", all.settings.listener)));
        };
        let (mut dial, greeted) = Dial::connect(&endpoint.host, endpoint.port, &all.identity.hello())?;
        if greeted.node_id != self.leader.0 {
            return Err(DialError::Unreadable(format!("node {} answers at its address", greeted.node_id)));
        }
        dial.set_patience(Duration::from_millis(all.settings.max_wait_ms + ANSWER_GRACE_MS))?;
        self.begin(Box::new(dial.sender()?));
        while self.ask(all, |request| dial.send(request))? {
            let answer = dial.receive::<ReplicaFetchRequest>()?;
            self.on_answer(all, &answer).map_err(|code| DialError::Refused(code, String::new()))?;
        }
        Ok(())
    }
}
