//! By which addresses this node is reached: what it answers to its own clients, and what it registers for everybody else.
//!
//! With `advertised.listeners` unset, a client is told the address by which it came: whatever brought it here once, a port mapping
//! or a second network, brings it here again. Other nodes' clients can't be told that, so for them the node registers the host of
//! its listener; for a wildcard the controller fills in the address from which the node reached it.

use std::net::SocketAddr;
use std::sync::Arc;

use ottla_machine::controller::image::Endpoint;

use crate::net::listener::ListenAt;

/// Kafka's number of the security protocol PLAINTEXT.
const PLAINTEXT: i16 = 0;

#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// Bound: with the ports that were chosen.
    listeners: Vec<ListenAt>,
    advertised: Vec<ListenAt>,
}

impl Endpoints {
    /// `listeners` with their real ports; `advertised` is empty where nothing was set.
    #[must_use]
    pub fn new(listeners: Vec<ListenAt>, advertised: Vec<ListenAt>) -> Self {
        Self { listeners, advertised }
    }

    #[must_use]
    pub fn listeners(&self) -> &[ListenAt] {
        &self.listeners
    }

    /// Host and port to tell a client that came through `listener` to our address `local`.
    #[must_use]
    pub fn for_client(&self, listener: &str, local: SocketAddr) -> (String, u16) {
        match self.advertised.iter().find(|at| *at.name == *listener) {
            Some(at) => (at.host.clone(), self.port_of(at)),
            None => (local.ip().to_canonical().to_string(), local.port()),
        }
    }

    /// What the node registers with the controller. An empty host is a wildcard for the controller to fill in.
    #[must_use]
    pub fn to_register(&self) -> Vec<Endpoint> {
        let of_listener = |listener: &ListenAt| {
            let at = self.advertised.iter().find(|at| at.name == listener.name).unwrap_or(listener);
            let host = if is_wildcard(&at.host) { "" } else { at.host.as_str() };
            Endpoint {
                listener: Arc::clone(&listener.name),
                host: host.into(),
                port: self.port_of(at),
                security_protocol: PLAINTEXT,
            }
        };
        self.listeners.iter().map(of_listener).collect()
    }

    /// Advertising port 0 means the port that was picked.
    fn port_of(&self, at: &ListenAt) -> u16 {
        let bound = self.listeners.iter().find(|listener| listener.name == at.name);
        match (at.port, bound) {
            (0, Some(bound)) => bound.port,
            (port, _) => port,
        }
    }
}

fn is_wildcard(host: &str) -> bool {
    matches!(host, "" | "0.0.0.0" | "::")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::listener::parse;

    fn endpoints(listeners: &str, advertised: &str) -> Endpoints {
        Endpoints::new(parse(listeners).expect("listeners"), parse(advertised).expect("advertised"))
    }

    #[test]
    fn a_client_is_told_what_is_advertised_or_else_how_it_came() {
        let v4: SocketAddr = "10.0.0.5:9092".parse().expect("an address");
        let mapped: SocketAddr = "[::ffff:10.0.0.5]:9092".parse().expect("an address");
        let unset = endpoints("PLAINTEXT://:9092", "");
        assert_eq!(unset.for_client("PLAINTEXT", v4), ("10.0.0.5".into(), 9092));
        assert_eq!(unset.for_client("PLAINTEXT", mapped), ("10.0.0.5".into(), 9092));
        let set = endpoints("PLAINTEXT://:9092,INTERNAL://:9093", "PLAINTEXT://kafka.example:19092");
        assert_eq!(set.for_client("PLAINTEXT", v4), ("kafka.example".into(), 19092));
        assert_eq!(set.for_client("INTERNAL", v4), ("10.0.0.5".into(), 9092));
    }

    #[test]
    fn every_listener_is_registered_and_a_wildcard_is_left_open() {
        let endpoints = endpoints("A://0.0.0.0:1,B://host:2,C://:3", "C://outside:0");
        let registered: Vec<_> = endpoints
            .to_register()
            .into_iter()
            .map(|endpoint| format!("{} {} {}", endpoint.listener, endpoint.host, endpoint.port))
            .collect();
        assert_eq!(registered, ["A  1", "B host 2", "C outside 3"]);
    }
}
