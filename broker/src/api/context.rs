//! What a handler knows about the request it answers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytestring::ByteString;
use ottla_machine::controller::image::{Broker, Image};
use ottla_protocol::api::ApiKey;
use ottla_protocol::types::NodeId;
use ottla_protocol::wire::Message;

use super::peers::Peer;
use super::reply::{Origin, Output, Overdue, ReplySlot, Wakeup};
use crate::node::Node;
use crate::session::mailbox::ConnectionId;

/// What stays the same, or is remembered, from one request of a connection to the next.
#[derive(Debug)]
pub struct ConnectionState {
    pub id: ConnectionId,
    /// The client's end.
    pub peer: SocketAddr,
    /// Our end: the address by which the client came.
    pub local: SocketAddr,
    /// The name of the listener it came through, such as `PLAINTEXT`.
    pub listener: Arc<str>,
    /// Of the latest request; one allocation per connection, for clients rarely change it.
    pub client_id: Option<Arc<str>>,
    /// Name and version of the client's software, as its ApiVersions said (KIP-511).
    pub client_software: Option<(Arc<str>, Arc<str>)>,
    /// Set once the other end introduced itself as a node.
    pub node: Option<Box<Peer>>,
}

impl ConnectionState {
    /// See [`RequestContext::address_of`].
    #[must_use]
    pub fn address_of(&self, node: &Node, broker: &Broker) -> Option<(ByteString, i32)> {
        self.entrance().address_of(node, broker)
    }

    /// The way by which this client came.
    #[must_use]
    pub fn entrance(&self) -> Entrance {
        Entrance { listener: Arc::clone(&self.listener), local: self.local }
    }

    /// The client's address as Kafka shows it in group descriptions: `/127.0.0.1`.
    #[must_use]
    pub fn client_host(&self) -> String {
        // A dual-stack listener reports IPv4 clients as mapped IPv6 addresses.
        match self.peer.ip().to_canonical() {
            IpAddr::V4(ip) => format!("/{ip}"),
            IpAddr::V6(ip) => format!("/{ip}"),
        }
    }
}

/// The way by which a client came to this node: it is sent to others by the same.
#[derive(Clone, Debug)]
pub struct Entrance {
    listener: Arc<str>,
    local: SocketAddr,
}

impl Entrance {
    /// See [`RequestContext::address_of`].
    #[must_use]
    pub fn address_of(&self, node: &Node, broker: &Broker) -> Option<(ByteString, i32)> {
        if broker.id == node.id {
            let (host, port) = node.endpoints.for_client(&self.listener, self.local);
            return Some((host.into(), i32::from(port)));
        }
        let endpoint = broker.endpoint(&self.listener)?;
        Some((ByteString::from(&*endpoint.host), i32::from(endpoint.port)))
    }
}

/// One request on its way through its handler.
pub struct RequestContext<'a> {
    pub node: &'a Arc<Node>,
    pub connection: &'a mut ConnectionState,
    pub api: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
    /// Wall clock when the request was taken up, in milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Monotonic clock at the same moment, in milliseconds: deadlines are `tick_ms` + timeout.
    pub tick_ms: u64,
    pub(crate) origin: Origin,
    pub(crate) wakeup: Option<Wakeup>,
    pub(crate) overdue: Option<Overdue>,
    pub(crate) deferred: bool,
}

impl RequestContext<'_> {
    /// Takes the duty to answer; the handler then returns `Reply::Later`.
    pub fn defer<R>(&mut self) -> ReplySlot<R> {
        assert!(!self.deferred, "a request is answered once");
        self.deferred = true;
        ReplySlot::new(self.origin.clone(), self.version)
    }

    /// As [`Self::defer`], but the client gets `overdue` if nobody has answered by that tick; an answer that comes later is dropped.
    pub fn defer_until<R: Message>(
        &mut self,
        deadline_ms: u64,
        overdue: impl FnOnce() -> R + Send + 'static,
    ) -> ReplySlot<R> {
        let version = self.version;
        let answer = Box::new(move || Output::of(&overdue(), version));
        self.overdue = Some(Overdue { deadline_ms, answer });
        self.defer()
    }

    /// The handle that resumes this request once it is parked. The same one however often it is asked for.
    pub fn wakeup(&mut self) -> Wakeup {
        self.wakeup.get_or_insert_with(|| Wakeup::new(self.origin.clone())).clone()
    }

    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        self.connection.client_id.as_deref()
    }

    #[must_use]
    pub fn client_host(&self) -> String {
        self.connection.client_host()
    }

    /// Where this client reaches a broker: for this node itself what it advertises, or the address by which the client came; for
    /// another one what it registered for the same listener. `None` if it has no such listener.
    #[must_use]
    pub fn address_of(&self, broker: &Broker) -> Option<(ByteString, i32)> {
        self.connection.address_of(self.node, broker)
    }

    /// Where clients are to send what the controller decides: the node that does, if it is a broker too, else this one. Any broker
    /// passes it on; the first saves the hop.
    #[must_use]
    pub fn controller_id(&self, image: &Image) -> NodeId {
        let serves = |id: &NodeId| image.broker(*id).is_some_and(|broker| !broker.fenced);
        let leader = self.node.controller.leader().filter(serves);
        let some = || image.serving_brokers().next().map_or(NodeId::NONE, |broker| broker.id);
        leader.or(Some(self.node.id).filter(serves)).unwrap_or_else(some)
    }

    /// Whether the request came through a listener that is for controllers.
    #[must_use]
    pub fn is_on_controller_listener(&self) -> bool {
        self.node.config.controller_listeners().iter().any(|name| **name == *self.connection.listener)
    }
}
