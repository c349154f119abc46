//! A small client of this cluster for the command line: one connection, one request at a time.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use ottla_protocol::frame;
use ottla_protocol::wire::Request;

/// A node that does not answer within this is shown as one that does not.
const PATIENCE: Duration = Duration::from_secs(1);
const FRAME_BYTES_MAX: usize = 256 << 20;

pub(super) struct Client {
    stream: TcpStream,
    next_id: i32,
}

impl Client {
    pub(super) fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Self::connect_with(address, PATIENCE)
    }

    /// `patience`: how long an answer is waited for.
    pub(super) fn connect_with(address: SocketAddr, patience: Duration) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)
            .with_context(|| format!("nobody answers at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, next_id: 0 })
    }

    /// Sends a request and waits for its answer. The node is of this program's own version, so that `version` needs no asking.
    pub(super) fn call<R: Request>(&mut self, version: i16, request: &R) -> anyhow::Result<R::Response> {
        self.next_id += 1;
        self.stream.write_all(&frame::encode_request(
            request,
            version,
            self.next_id,
            Some("ottla-cluster"),
        ))?;
        let mut length = [0; frame::LENGTH_BYTES];
        self.stream.read_exact(&mut length).with_context(|| format!("no answer to {}", R::NAME))?;
        let bytes = frame::frame_bytes(length, FRAME_BYTES_MAX)?;
        // Grows as the bytes come: a length alone costs nothing.
        let mut body = Vec::with_capacity(bytes.min(1 << 20));
        (&mut self.stream).take(bytes as u64).read_to_end(&mut body)?;
        if body.len() < bytes {
            bail!("the answer to {} ends early", R::NAME);
        }
        let (_, response) = frame::decode_response::<R>(Bytes::from(body), version)
            .with_context(|| format!("the answer to {} can't be read", R::NAME))?;
        Ok(response)
    }
}
