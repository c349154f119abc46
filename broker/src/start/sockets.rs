//! What a node listens on, and by which of its listeners others reach it.

use std::sync::Arc;

use super::StartError;
use crate::config::Config;
use crate::config::quorum::Quorum;
use crate::endpoints::Endpoints;
use crate::net::listener::{self, BindError, Bound, ListenAt};
use crate::node::Node;
use crate::peers::Address;

/// The listeners of a node, bound, by what they are for.
pub(super) struct Sockets {
    /// Open from the beginning: nodes must talk before any of them serves.
    pub(super) first: Vec<Bound>,
    /// Open once this node is a part of its cluster.
    pub(super) then: Vec<Bound>,
}

/// Where others reach this node's metadata log: as the voters' list says, or by what it listens on.
pub(super) fn own_address(node: &Node, quorum: &Quorum, sockets: &Sockets) -> Result<Address, StartError> {
    if let Some(listed) = quorum.voters.iter().find(|voter| voter.node == node.id) {
        return Ok(listed.clone());
    }
    let listeners = sockets.first.iter().chain(&sockets.then).map(Bound::address);
    let first = listeners.into_iter().next();
    let at = first.ok_or_else(|| StartError::NoListener("there is no listener".to_owned()))?;
    let host = if at.host.is_empty() { "localhost".to_owned() } else { at.host };
    Ok(Address { node: node.id, host, port: at.port })
}

/// `inter.broker.listener.name`, or the first one that is not the controller's.
pub(super) fn inter_broker_listener(config: &Config) -> Result<Arc<str>, StartError> {
    if let Some(name) = config.text("inter.broker.listener.name").filter(|name| !name.trim().is_empty()) {
        return Ok(name.trim().to_ascii_uppercase().into());
    }
    let of_controller = config.controller_listeners();
    let listeners = listeners_of(config, "listeners")?;
    let found = listeners.iter().find(|at| !of_controller.iter().any(|name| *name == *at.name));
    Ok(found.map_or_else(|| "PLAINTEXT".into(), |at| Arc::clone(&at.name)))
}

fn listeners_of(config: &Config, setting: &'static str) -> Result<Vec<ListenAt>, StartError> {
    listener::parse(config.text(setting).unwrap_or_default())
        .map_err(|error| StartError::Listeners { setting, error })
}

/// Binds what this node listens on. A node that is alone has nobody to talk to on a controller's listener.
pub(super) fn bind(config: &Config, quorum: &Quorum) -> Result<(Sockets, Endpoints), StartError> {
    let of_controller = config.controller_listeners();
    let is_controllers = |at: &ListenAt| of_controller.iter().any(|name| *name == *at.name);
    let (controllers, brokers): (Vec<_>, Vec<_>) =
        listeners_of(config, "listeners")?.into_iter().partition(is_controllers);
    let bind_all = |listeners: &[ListenAt]| {
        listeners.iter().map(listener::bind).collect::<Result<Vec<Bound>, BindError>>()
    };
    let mut sockets = Sockets { first: Vec::new(), then: Vec::new() };
    if !quorum.is_alone() && quorum.is_controller {
        if controllers.is_empty() {
            return Err(StartError::NoListener(format!(
                "listeners has none of controller.listener.names={}: a controller of several must be reached by the others",
                of_controller.join(",")
            )));
        }
        sockets.first = bind_all(&controllers)?;
    }
    let mut addresses = Vec::new();
    if quorum.is_broker {
        sockets.then = bind_all(&brokers)?;
        addresses = sockets.then.iter().map(Bound::address).collect();
        if !quorum.is_alone() && !quorum.is_controller {
            // It is where the quorum's leader brings an observer the metadata, without which it never serves.
            let of_brokers = inter_broker_listener(config)?;
            let is_theirs = |bound: &mut Bound| *bound.address().name == *of_brokers;
            sockets.first.extend(sockets.then.extract_if(.., is_theirs));
        }
    }
    let endpoints = Endpoints::new(addresses, listeners_of(config, "advertised.listeners")?);
    Ok((sockets, endpoints))
}
