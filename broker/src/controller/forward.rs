//! Commands on a node that does not lead: sent to the one that does, and answered once this node's own image shows what was decided.

use std::sync::Arc;
use std::time::Duration;

use ottla_machine::controller::command::{Answer, Command, Failure};
use ottla_machine::controller::wire::{decode_answer, encode_command};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::ControllerCommandRequest;
use ottla_protocol::types::NodeId;

use super::{Controller, Others, Reply};
use crate::peers::Address;
use crate::peers::links::Line;

/// How long somebody is looked for who decides, and how long that may take, unless the client has less time.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

impl Controller {
    /// The node that leads the metadata log, if it is known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let others = self.others.get()?;
        if self.is_active() { Some(others.identity.node) } else { Some(self.leader_address()?.node) }
    }

    /// Where the node listens that leads the metadata log, if it is known and another one.
    #[must_use]
    pub fn leader_address(&self) -> Option<Address> {
        let status = self.log.get()?.status();
        let identity = status.identities.get(&status.leader?)?;
        Address::parse(std::str::from_utf8(identity).ok()?)
    }

    pub(super) fn forward(self: &Arc<Self>, command: Command, reply: Reply, deadline_ms: u64) {
        self.attempt(command, reply, deadline_ms.min(self.deadline_ms(LIMIT)));
    }

    fn attempt(self: &Arc<Self>, command: Command, reply: Reply, deadline_ms: u64) {
        let Some(others) = self.others.get() else { return };
        if self.is_active() {
            return self.decide_here(command, reply, deadline_ms);
        }
        let Some(address) = self.leader_address().filter(|address| address.node != others.identity.node)
        else {
            return self.again(others, command, reply, deadline_ms);
        };
        let left_ms = deadline_ms.saturating_sub(self.clock.tick_ms());
        let request = ControllerCommandRequest {
            timeout_ms: i32::try_from(left_ms).unwrap_or(i32::MAX),
            command: encode_command(&command).into(),
        };
        let controller = Arc::clone(self);
        others.links.call(&address, Line::Commands, &request, LIMIT, move |outcome| {
            let Some(others) = controller.others.get() else { return };
            match outcome {
                Ok(response) if response.error_code == 0 => {
                    let version = u64::try_from(response.image_version).unwrap_or(0);
                    let answer = decode_answer(&response.answer).unwrap_or_else(|error| {
                        Answer::Failed(Failure::new(ErrorCode::UnknownServerError, error.to_string()))
                    });
                    controller.published.when(version, move || reply(answer));
                }
                Ok(_) => controller.again(others, command, reply, deadline_ms),
                Err(error) if error.was_not_sent() || is_repeatable(&command) => {
                    controller.again(others, command, reply, deadline_ms);
                }
                Err(error) => {
                    let failure = Failure::new(
                        ErrorCode::RequestTimedOut,
                        format!("{error}: whether it was decided is not known"),
                    );
                    reply(Answer::Failed(failure));
                }
            }
        });
    }

    fn again(self: &Arc<Self>, others: &Others, command: Command, reply: Reply, deadline_ms: u64) {
        if self.clock.tick_ms() >= deadline_ms {
            let message = "no controller was found in time";
            return reply(Answer::Failed(Failure::new(ErrorCode::RequestTimedOut, message)));
        }
        let controller = Arc::clone(self);
        others.links.after(PAUSE, move || controller.attempt(command, reply, deadline_ms));
    }
}

/// Whether deciding it twice is as good as once.
fn is_repeatable(command: &Command) -> bool {
    matches!(
        command,
        Command::FoundCluster { .. }
            | Command::RegisterBroker(_)
            | Command::UnfenceBroker { .. }
            | Command::FenceBroker { .. }
            | Command::ShutDownBroker { .. }
            | Command::AlterPartitions { .. }
            | Command::BalanceLeaders
            | Command::AllocateProducerIds { .. }
    )
}
