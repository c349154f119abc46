//! Who decides about metadata, and what this node is: `process.roles`, `controller.quorum.voters` and their kin, read together.

use ottla_protocol::types::NodeId;

use super::{Config, ConfigError};
use crate::peers::Address;

/// This node's place in the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// Of the configuration; empty for a node that is alone.
    pub voters: Vec<Address>,
    /// Where the quorum is found: the voters, or `controller.quorum.bootstrap.servers`.
    pub known: Vec<Address>,
    pub is_broker: bool,
    pub is_controller: bool,
}

impl Quorum {
    /// A cluster of this node only, for which no other will ever be looked.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.known.is_empty()
    }
}

impl Config {
    /// The names of the listeners that only controllers talk through.
    #[must_use]
    pub fn controller_listeners(&self) -> Vec<String> {
        let names = self.text("controller.listener.names").unwrap_or_default();
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(str::to_ascii_uppercase).collect()
    }

    /// The name of the listener at a voter's address, as the quorum's description shows it.
    #[must_use]
    pub fn quorum_listener(&self) -> String {
        self.controller_listeners().into_iter().next().unwrap_or_else(|| "CONTROLLER".to_owned())
    }

    /// Reads and checks them.
    ///
    /// # Errors
    /// Settings that contradict each other.
    pub fn quorum(&self) -> Result<Quorum, ConfigError> {
        let invalid = |message: String| ConfigError::Invalid { origin: "settings".into(), message };
        let items = |name: &str| -> Vec<&str> {
            let text = self.text(name).unwrap_or_default();
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
        };
        let roles = items("process.roles");
        if let Some(role) = roles.iter().find(|role| !matches!(**role, "broker" | "controller")) {
            return Err(invalid(format!("process.roles={role}: there are broker and controller")));
        }
        let (is_broker, is_controller) = (roles.contains(&"broker"), roles.contains(&"controller"));
        if !is_broker && !is_controller {
            return Err(invalid("process.roles is empty: a node is broker, controller, or both".into()));
        }
        let id = NodeId(i32::try_from(self.number("node.id")).unwrap_or(i32::MAX));
        let mut voters = Vec::new();
        for text in items("controller.quorum.voters") {
            let voter = Address::parse(text)
                .ok_or_else(|| invalid(format!("controller.quorum.voters: `{text}` is not id@host:port")))?;
            if voters.iter().any(|other: &Address| other.node == voter.node) {
                return Err(invalid(format!("controller.quorum.voters names node {} twice", voter.node)));
            }
            voters.push(voter);
        }
        let mut known = voters.clone();
        for text in items("controller.quorum.bootstrap.servers") {
            // Without an id: whoever answers there says which it is.
            let address = Address::parse(&format!("{}@{text}", i32::MAX)).ok_or_else(|| {
                invalid(format!("controller.quorum.bootstrap.servers: `{text}` is not host:port"))
            })?;
            known.push(address);
        }
        let listed = voters.iter().any(|voter| voter.node == id);
        match (is_controller, voters.as_slice()) {
            (true, [_, ..]) if !listed => Err(invalid(format!(
                "controller.quorum.voters lists {}, and not node.id={id}, which is a controller",
                items("controller.quorum.voters").join(",")
            ))),
            (false, [_, ..]) if listed => Err(invalid(format!(
                "controller.quorum.voters lists node.id={id}, whose process.roles has no controller"
            ))),
            (false, []) if known.is_empty() => Err(invalid(
                "process.roles=broker needs controller.quorum.voters or controller.quorum.bootstrap.servers"
                    .into(),
            )),
            // The only voter: nobody is to be looked for.
            (true, [_]) if known.len() == 1 && is_broker => {
                Ok(Quorum { voters: Vec::new(), known: Vec::new(), is_broker, is_controller })
            }
            _ => Ok(Quorum { voters, known, is_broker, is_controller }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn quorum(pairs: &[(&str, &str)]) -> Result<Quorum, ConfigError> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load(&[Source { origin: "--set".into(), pairs }])?.0.quorum()
    }

    #[test]
    fn roles_and_voters_go_together_or_are_refused() {
        let three = "1@a:9093,2@b:9093,3@c:9093";
        let cases: [(&[(&str, &str)], Option<bool>); 10] = [
            (&[], Some(true)),
            (&[("controller.quorum.voters", "1@localhost:9093")], Some(true)),
            (&[("controller.quorum.voters", three)], Some(false)),
            (&[("node.id", "4"), ("controller.quorum.voters", three)], None),
            (
                &[("node.id", "4"), ("process.roles", "broker"), ("controller.quorum.voters", three)],
                Some(false),
            ),
            (&[("node.id", "2"), ("process.roles", "broker"), ("controller.quorum.voters", three)], None),
            (&[("process.roles", "broker")], None),
            (&[("process.roles", "")], None),
            (&[("process.roles", "king")], None),
            (&[("controller.quorum.voters", "1@a:1,1@b:1")], None),
        ];
        for (pairs, alone) in cases {
            assert_eq!(quorum(pairs).ok().map(|quorum| quorum.is_alone()), alone, "{pairs:?}");
        }
    }
}
