//! Listening sockets. `localhost` means both loopback addresses, an empty host all addresses of both families.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4_096;

/// How often a free port is looked for when port 0 must be the same one on two addresses.
const FREE_PORT_ATTEMPTS: usize = 16;

/// Where to listen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenAt {
    /// The listener's name, such as `PLAINTEXT`.
    pub name: Arc<str>,
    /// A host name or address; empty for all addresses.
    pub host: String,
    /// 0 picks a free port.
    pub port: u16,
}

impl fmt::Display for ListenAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, host, port } = self;
        if host.contains(':') {
            write!(f, "{name}://[{host}]:{port}")
        } else {
            write!(f, "{name}://{host}:{port}")
        }
    }
}

/// What is wrong with `listeners` or `advertised.listeners`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    #[error("`{0}` is not NAME://host:port")]
    Form(String),
    #[error("`{0}`: the port must be a number from 0 to 65535")]
    Port(String),
    #[error("listener {0} is named twice")]
    Twice(Arc<str>),
    #[error("listeners {0} and {1} have the same port {2}")]
    SamePort(Arc<str>, Arc<str>, u16),
}

/// Reads a list such as `PLAINTEXT://localhost:9092,INTERNAL://[::1]:19092`. An empty host stands for all addresses.
pub fn parse(list: &str) -> Result<Vec<ListenAt>, ParseError> {
    let mut listeners: Vec<ListenAt> = Vec::new();
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let listener = parse_one(text)?;
        if listeners.iter().any(|other| other.name == listener.name) {
            return Err(ParseError::Twice(listener.name));
        }
        if let Some(other) = listeners
            .iter()
            .find(|other| listener.port != 0 && other.port == listener.port && other.host == listener.host)
        {
            return Err(ParseError::SamePort(Arc::clone(&other.name), listener.name, listener.port));
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

fn parse_one(text: &str) -> Result<ListenAt, ParseError> {
    let form = || ParseError::Form(text.to_owned());
    let (name, address) = text.split_once("://").ok_or_else(form)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(form)?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(form());
    }
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').ok_or_else(form)?,
        None if host.contains([':', '/', '[', ']']) => return Err(form()),
        None => host,
    };
    let port = port.parse().map_err(|_| ParseError::Port(text.to_owned()))?;
    // Kafka's names of listeners are compared without regard to case, and shown in capitals.
    Ok(ListenAt { name: name.to_ascii_uppercase().into(), host: host.to_owned(), port })
}

/// A listener whose sockets are bound: one, or two where its host has two addresses.
#[derive(Debug)]
pub struct Bound {
    pub name: Arc<str>,
    pub host: String,
    pub port: u16,
    pub(super) sockets: Vec<(std::net::TcpListener, SocketAddr)>,
}

impl Bound {
    /// Where it listens, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> ListenAt {
        ListenAt { name: Arc::clone(&self.name), host: self.host.clone(), port: self.port }
    }
}

/// One socket of a listener.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) name: Arc<str>,
    pub(super) socket: std::net::TcpListener,
    pub(super) local: SocketAddr,
}

/// Why a listener could not be bound, as a person needs to read it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("the host of listener {name} can't be resolved: {host}: {source}")]
    Resolve { name: Arc<str>, host: String, source: io::Error },
    #[error("can't listen on {address} for {name}: {source}{hint}")]
    Bind { name: Arc<str>, address: SocketAddr, source: io::Error, hint: &'static str },
}

/// Binds all addresses of a listener, on one port.
pub fn bind(at: &ListenAt) -> Result<Bound, BindError> {
    let addresses = addresses(at)?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        match bind_all(at, &addresses) {
            Ok(sockets) => {
                let port = sockets.first().map_or(at.port, |(_, address)| address.port());
                return Ok(Bound { name: Arc::clone(&at.name), host: at.host.clone(), port, sockets });
            }
            // The port that was free on the first address is taken on the second.
            Err(BindError::Bind { source, .. })
                if at.port == 0
                    && source.kind() == io::ErrorKind::AddrInUse
                    && attempt < FREE_PORT_ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    }
}

fn addresses(at: &ListenAt) -> Result<Vec<SocketAddr>, BindError> {
    let ips: Vec<IpAddr> = match at.host.as_str() {
        "" => vec![Ipv6Addr::UNSPECIFIED.into()],
        "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        host => match host.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => (host, 0)
                .to_socket_addrs()
                .map_err(|source| BindError::Resolve {
                    name: Arc::clone(&at.name),
                    host: at.host.clone(),
                    source,
                })?
                .map(|address| address.ip())
                .collect(),
        },
    };
    let mut addresses: Vec<SocketAddr> = Vec::with_capacity(ips.len());
    for ip in ips {
        let address = SocketAddr::new(ip, at.port);
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

fn bind_all(
    at: &ListenAt,
    addresses: &[SocketAddr],
) -> Result<Vec<(std::net::TcpListener, SocketAddr)>, BindError> {
    let mut sockets: Vec<(std::net::TcpListener, SocketAddr)> = Vec::with_capacity(addresses.len());
    for address in addresses {
        let mut address = *address;
        if let Some((_, first)) = sockets.first() {
            address.set_port(first.port());
        }
        match bind_one(address) {
            Ok(bound) => sockets.push(bound),
            // A machine without IPv6 listens on what it has.
            Err(source)
                if address.is_ipv6()
                    && is_without_ipv6(&source)
                    && (at.host.is_empty() || !sockets.is_empty()) =>
            {
                if at.host.is_empty() {
                    let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
                    sockets.push(bind_one(any).map_err(|source| bind_error(at, any, source))?);
                }
            }
            Err(source) => return Err(bind_error(at, address, source)),
        }
    }
    Ok(sockets)
}

fn bind_error(at: &ListenAt, address: SocketAddr, source: io::Error) -> BindError {
    let hint = match source.kind() {
        io::ErrorKind::AddrInUse => {
            " (another process listens there; choose another port with --port, or 0 for a free one)"
        }
        io::ErrorKind::PermissionDenied => " (ports below 1024 need a privilege)",
        _ => "",
    };
    BindError::Bind { name: Arc::clone(&at.name), address, source, hint }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn bind_one(address: SocketAddr) -> io::Result<(std::net::TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted broker takes its port back although old connections linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if let SocketAddr::V6(v6) = address {
        // `::1` beside `127.0.0.1`, but `::` for both families.
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener: std::net::TcpListener = socket.into();
    let local = listener.local_addr()?;
    Ok((listener, local))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn at(host: &str) -> ListenAt {
        ListenAt { name: "PLAINTEXT".into(), host: host.into(), port: 0 }
    }

    #[test]
    fn lists_of_listeners_are_read_as_kafka_writes_them() {
        let read = |list| {
            parse(list).map(|listeners| {
                listeners
                    .iter()
                    .map(|at| format!("{}|{}|{}", at.name, at.host, at.port))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
        };
        for (list, expected) in [
            ("PLAINTEXT://:9092", "PLAINTEXT||9092"),
            ("plaintext://localhost:0", "PLAINTEXT|localhost|0"),
            (" A://1.2.3.4:1 , B://[::1]:2,", "A|1.2.3.4|1 B|::1|2"),
            ("", ""),
        ] {
            assert_eq!(read(list).as_deref(), Ok(expected), "{list}");
        }
        for wrong in [
            "localhost:9092",
            "PLAINTEXT://localhost",
            "PLAINTEXT://h:70000",
            "PLAINTEXT://h:x",
            "://h:1",
            "A B://h:1",
            "A://::1:5",
            "A://[::1:5",
            "A://h:1,a://h:2",
            "A://h:1,B://h:1",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn localhost_is_reached_by_both_families_on_one_port() {
        let bound = bind(&at("localhost")).expect("bound");
        assert_ne!(bound.port, 0);
        for (_, address) in &bound.sockets {
            assert_eq!(address.port(), bound.port);
            TcpStream::connect(address).expect("connects");
        }
        assert!(bound.sockets[0].1.is_ipv4());
    }

    #[test]
    fn an_empty_host_takes_ipv4_too() {
        let bound = bind(&at("")).expect("bound");
        TcpStream::connect((Ipv4Addr::LOCALHOST, bound.port)).expect("connects");
    }

    #[test]
    fn a_taken_port_is_named_in_the_error() {
        let bound = bind(&at("127.0.0.1")).expect("bound");
        let error = bind(&ListenAt { port: bound.port, ..at("127.0.0.1") }).expect_err("taken");
        let text = error.to_string();
        assert!(text.contains(&bound.port.to_string()) && text.contains("--port"), "{text}");
    }
}
