//! Leadership goes back to the preferred replicas by and by, so that a node that was away gets its share of the work again
//! (`auto.leader.rebalance.enable`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ottla_machine::controller::command::{Answer, Command};

use super::Controller;

/// Of the time of the next round: none was set, for this node did not lead a moment ago.
const UNSET: u64 = 0;

impl Controller {
    /// Called again and again; acts on the node that leads, every `leader.imbalance.check.interval.seconds`.
    pub fn balance_leaders(self: &Arc<Self>) {
        let Some(every_ms) = self.others.get().and_then(|others| others.balance_every_ms) else { return };
        if !self.is_active() {
            return self.next_balance_ms.store(UNSET, Ordering::Relaxed);
        }
        let now_ms = self.clock.tick_ms();
        let due_ms = self.next_balance_ms.load(Ordering::Relaxed);
        if due_ms != UNSET && now_ms < due_ms {
            return;
        }
        self.next_balance_ms.store(now_ms + every_ms, Ordering::Relaxed);
        // A new leader of the quorum waits first: brokers may be on their way back to it.
        if due_ms != UNSET {
            self.submit(Command::BalanceLeaders, |answer| {
                if let Answer::Failed(failure) = answer {
                    tracing::debug!("leaders were not balanced: {}", failure.message);
                }
            });
        }
    }
}
