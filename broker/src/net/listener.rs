//! Listening sockets. `localhost` means both loopback addresses, an empty host all addresses of both families.

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

/// A listener whose sockets are bound: one, or two where its host has two addresses.
#[derive(Debug)]
pub struct Bound {
    pub name: Arc<str>,
    pub host: String,
    pub port: u16,
    pub(super) sockets: Vec<(std::net::TcpListener, SocketAddr)>,
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
        host => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            match bare.parse::<IpAddr>() {
                Ok(ip) => vec![ip],
                Err(_) => (bare, 0)
                    .to_socket_addrs()
                    .map_err(|source| BindError::Resolve {
                        name: Arc::clone(&at.name),
                        host: at.host.clone(),
                        source,
                    })?
                    .map(|address| address.ip())
                    .collect(),
            }
        }
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
