//! Commands and answers as bytes between the nodes of one cluster: a format version, then postcard's encoding of the types of
//! `command.rs`. That encoding does not describe itself: whoever changes one of those types raises the format.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::command::{Answer, Command};

/// The format that this program writes, and the only one it reads.
const FORMAT: u8 = 1;
/// The longest command or answer. Ten thousand partitions take less than one MiB.
pub const BYTES_MAX: usize = 32 << 20;

/// Why bytes of a peer are no command or answer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    #[error("a controller {what} is empty")]
    Empty { what: &'static str },
    #[error("a controller {what} of {length} bytes is longer than {BYTES_MAX}")]
    TooLong { what: &'static str, length: usize },
    #[error(
        "a controller {what} has format {found}; this version of Ottla speaks {FORMAT}: run one version on all nodes"
    )]
    OtherFormat { what: &'static str, found: u8 },
    #[error("a controller {what} cannot be read: {why}")]
    Invalid { what: &'static str, why: String },
}

#[must_use]
pub fn encode_command(command: &Command) -> Vec<u8> {
    encode(command)
}

/// Reads a peer's command.
///
/// # Errors
/// Bytes that are none, or of another format.
pub fn decode_command(bytes: &[u8]) -> Result<Command, WireError> {
    decode(bytes, "command")
}

#[must_use]
pub fn encode_answer(answer: &Answer) -> Vec<u8> {
    encode(answer)
}

/// Reads the controller's answer.
///
/// # Errors
/// Bytes that are none, or of another format.
pub fn decode_answer(bytes: &[u8]) -> Result<Answer, WireError> {
    decode(bytes, "answer")
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![FORMAT]).expect("memory takes all that these types can hold")
}

fn decode<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, WireError> {
    if bytes.len() > BYTES_MAX {
        return Err(WireError::TooLong { what, length: bytes.len() });
    }
    let (format, body) = bytes.split_first().ok_or(WireError::Empty { what })?;
    if *format != FORMAT {
        return Err(WireError::OtherFormat { what, found: *format });
    }
    let invalid = |why: String| WireError::Invalid { what, why };
    let (value, rest) = postcard::take_from_bytes(body).map_err(|error| invalid(error.to_string()))?;
    if !rest.is_empty() {
        return Err(invalid(format!("{} bytes follow its end", rest.len())));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use ottla_protocol::error::ErrorCode;
    use ottla_protocol::types::{BrokerEpoch, NodeId};
    use proptest::prelude::*;

    use super::*;

    fn command() -> Command {
        Command::FenceBroker { id: NodeId(3), epoch: BrokerEpoch(7) }
    }

    #[test]
    fn a_command_survives_the_wire_and_every_cut_of_it_is_an_error() {
        let bytes = encode_command(&command());
        assert_eq!(decode_command(&bytes), Ok(command()));
        for end in 0..bytes.len() {
            assert!(decode_command(&bytes[..end]).is_err(), "cut at {end}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(decode_command(&longer), Err(WireError::Invalid { .. })));
        let newer = [&[FORMAT + 1], &bytes[1..]].concat();
        assert_eq!(
            decode_command(&newer),
            Err(WireError::OtherFormat { what: "command", found: FORMAT + 1 })
        );
        let long = vec![FORMAT; BYTES_MAX + 1];
        assert!(matches!(decode_answer(&long), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn a_count_is_not_believed_beyond_the_bytes_that_are_there() {
        // `Partitions` with 2^40 results, each of which would be a state with 2^40 replicas.
        let partitions = encode_answer(&Answer::Partitions(Vec::new()));
        let count = [0x80, 0x80, 0x80, 0x80, 0x80, 0x20];
        let mut bytes = partitions[..partitions.len() - 1].to_vec();
        bytes.extend_from_slice(&count);
        bytes.push(0);
        bytes.extend_from_slice(&count);
        assert!(matches!(decode_answer(&bytes), Err(WireError::Invalid { .. })));
    }

    #[test]
    fn an_error_code_of_a_newer_peer_is_an_unknown_error() {
        let known = encode_answer(&Answer::Failed(ErrorCode::NotController.into()));
        assert!(
            matches!(decode_answer(&known), Ok(Answer::Failed(failure)) if failure.code == ErrorCode::NotController)
        );
        let at = known.len() - 2 - ErrorCode::NotController.meaning().len();
        let mut newer = known;
        newer[at] = 0x7e;
        newer.insert(at, 0xfe);
        assert!(
            matches!(decode_answer(&newer), Ok(Answer::Failed(failure)) if failure.code == ErrorCode::UnknownServerError)
        );
    }

    proptest! {
        #[test]
        fn bytes_from_outside_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [&[FORMAT], bytes.as_slice()].concat();
            let _ = decode_command(&bytes);
            let _ = decode_answer(&bytes);
        }
    }
}
