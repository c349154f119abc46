//! Answers to produce requests, read as they come: many in one call to the system where many are there.

use std::io::{self, Read as _};
use std::net::TcpStream;

use bytes::Bytes;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::frame;
use ottla_protocol::messages::ProduceRequest;

use crate::error::BenchError;
use crate::produce_frame::PRODUCE_VERSION;

/// Room for some hundred answers.
const BUFFER_BYTES: usize = 64 << 10;

/// What is read from one connection. Answers come in the order of the requests.
#[derive(Debug)]
pub struct Answers {
    buffer: Vec<u8>,
    filled: usize,
    next_id: i32,
}

impl Answers {
    /// `first_id` is the correlation id of the first request; the following ones count up from it.
    #[must_use]
    pub fn new(first_id: i32) -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], filled: 0, next_id: first_id }
    }

    /// Waits until bytes come and gives the number of whole answers among them.
    ///
    /// # Errors
    /// The connection ended, an answer is out of order, or it says that the records were not taken.
    pub fn read(&mut self, stream: &mut TcpStream) -> Result<usize, BenchError> {
        let came = stream.read(&mut self.buffer[self.filled..])?;
        if came == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.filled += came;
        let (mut at, mut answers) = (0, 0);
        while let Some(length) = self.buffer[at..self.filled].first_chunk::<{ frame::LENGTH_BYTES }>() {
            let bytes = frame::frame_bytes(*length, BUFFER_BYTES - frame::LENGTH_BYTES)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let (start, end) = (at + frame::LENGTH_BYTES, at + frame::LENGTH_BYTES + bytes);
            if end > self.filled {
                break;
            }
            check(&self.buffer[start..end], self.next_id)?;
            self.next_id = self.next_id.wrapping_add(1);
            answers += 1;
            at = end;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(answers)
    }
}

fn check(answer: &[u8], expected: i32) -> Result<(), BenchError> {
    let (got, response) =
        frame::decode_response::<ProduceRequest>(Bytes::copy_from_slice(answer), PRODUCE_VERSION)?;
    if got != expected {
        return Err(BenchError::Order { expected, got });
    }
    for partition in response.responses.iter().flat_map(|topic| &topic.partition_responses) {
        if partition.error_code != ErrorCode::None.code() {
            let what = format!("Produce to partition {}", partition.index);
            return Err(BenchError::refused(what, partition.error_code, partition.error_message.as_deref()));
        }
    }
    Ok(())
}
