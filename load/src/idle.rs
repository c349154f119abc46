//! Connections that do nothing: what clients that wait cost a broker.

use std::net::SocketAddr;

use ottla_protocol::messages::ApiVersionsRequest;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::connection::Connection;
use crate::error::BenchError;

/// Connections that are open as long as this is kept.
#[derive(Debug, Default)]
pub struct Idle {
    connections: Vec<Connection>,
}

impl Idle {
    /// Opens so many to one broker, each of which says once what it is, as every client does. Where the machine or the broker takes no
    /// more, those that are open stay, and the reason is told.
    pub fn open(address: SocketAddr, wanted: usize) -> (Self, Option<BenchError>) {
        raise_descriptor_limit();
        let mut idle = Self::default();
        while idle.connections.len() < wanted {
            match opened(address) {
                Ok(connection) => idle.connections.push(connection),
                Err(error) => return (idle, Some(error)),
            }
        }
        (idle, None)
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.connections.len()
    }
}

fn opened(address: SocketAddr) -> Result<Connection, BenchError> {
    let mut connection = Connection::open(address)?;
    connection.call(0, &ApiVersionsRequest::default())?;
    Ok(connection)
}

/// The soft limit of open files is for programs that use `select`. Where it can't be raised, fewer connections are opened.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_protocol::frame::{LENGTH_BYTES, encode_response, frame_bytes};
    use ottla_protocol::messages::ApiVersionsResponse;
    use ottla_protocol::wire::Writer;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    /// Answers the one request that comes, which is the connection's first.
    fn answer(stream: &mut TcpStream) {
        let mut length = [0; LENGTH_BYTES];
        stream.read_exact(&mut length).expect("a request");
        let mut request = vec![0; frame_bytes(length, 1 << 20).expect("its length")];
        stream.read_exact(&mut request).expect("a request");
        let mut w = Writer::new();
        encode_response(&mut w, &ApiVersionsResponse::default(), 0, 1);
        stream.write_all(w.as_bytes()).expect("it waits");
    }

    #[test]
    fn where_no_more_are_taken_those_that_are_open_stay() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let broker = thread::spawn(move || {
            let mut taken = Vec::new();
            for _ in 0..3 {
                let (mut stream, _) = listener.accept().expect("a connection");
                answer(&mut stream);
                taken.push(stream);
            }
            taken
        });
        let (idle, limited_by) = Idle::open(address, 5);
        assert_eq!(idle.count(), 3);
        assert!(matches!(limited_by, Some(BenchError::Connection(_))), "{limited_by:?}");
        let mut taken = broker.join().expect("it ends");
        taken[0].set_nonblocking(true).expect("a socket");
        let open = taken[0].read(&mut [0]).expect_err("nothing comes, and nobody has gone");
        assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
        drop(idle);
        taken[0].set_nonblocking(false).expect("a socket");
        assert_eq!(taken[0].read(&mut [0]).expect("its end"), 0);
    }
}
