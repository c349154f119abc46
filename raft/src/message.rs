//! What nodes say to each other, as bytes: a version, a kind, whom it is for, a head in JSON, and bytes as they are.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the version of this form, 1 |
//! | 4 | CRC-32C of all that follows |
//! | 1 | the kind: 1 append, 2 vote, 3 pre-vote, 4 snapshot, 5 transfer of the leadership |
//! | 8 | the Raft id of the node that is asked; in an answer, of the one that answers |
//! | 4 | the length of the head |
//! | | the head |
//! | | entries as in the log, or a piece of a snapshot |
//!
//! Numbers are big-endian. A node that gets another version refuses it; a newer one must speak this one until all nodes have it.

use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::entry;
use crate::types::{Entry, LogId, TypeConfig, Vote};

const VERSION: u8 = 1;
/// Bytes before the head, and how many of them the checksum does not cover.
const PREFIX: usize = 18;
const UNCHECKED: usize = 5;
/// Of the entries in one request, unless the first alone has more; and of a piece of a snapshot.
pub(crate) const CONTENT_BYTES: usize = 1 << 20;
/// No message between nodes has more bytes, so that a transport can refuse what does.
pub const MESSAGE_BYTES_MAX: usize = entry::ENTRY_BYTES_MAX + CONTENT_BYTES;
/// No snapshot is larger.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Append,
    Vote,
    PreVote,
    Snapshot,
    TransferLeader,
}

impl Kind {
    const ALL: [(u8, Self); 5] = [
        (1, Self::Append),
        (2, Self::Vote),
        (3, Self::PreVote),
        (4, Self::Snapshot),
        (5, Self::TransferLeader),
    ];

    fn number(self) -> u8 {
        Self::ALL.iter().find(|(_, kind)| *kind == self).expect("every kind has a number").0
    }
}

/// Why bytes are no message for this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("it is in version {0} of the form, and this build knows version {VERSION}")]
    Version(u8),
    #[error("it is for node {0}, which this node is not")]
    NotForUs(u64),
    #[error("it is malformed: {0}")]
    Malformed(String),
}

impl From<serde_json::Error> for MessageError {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

pub(crate) fn write(kind: Kind, node: u64, head: &impl Serialize, content: &[u8]) -> Vec<u8> {
    let head = serde_json::to_vec(head).expect("heads are plain data");
    let mut bytes = Vec::with_capacity(PREFIX + head.len() + content.len());
    bytes.extend([VERSION, 0, 0, 0, 0, kind.number()]);
    bytes.extend(node.to_be_bytes());
    bytes.extend(u32::try_from(head.len()).expect("heads are short").to_be_bytes());
    bytes.extend(head);
    bytes.extend(content);
    let crc = crc32c::crc32c(&bytes[UNCHECKED..]);
    bytes[1..UNCHECKED].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// A message as it came, its head not yet read.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub kind: Kind,
    pub node: u64,
    head: &'a [u8],
    pub content: &'a [u8],
}

impl<'a> Message<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let malformed = |reason: &str| MessageError::Malformed(reason.to_owned());
        let version = *bytes.first().ok_or_else(|| malformed("nothing"))?;
        if version != VERSION {
            return Err(MessageError::Version(version));
        }
        let (prefix, rest) = bytes.split_first_chunk::<PREFIX>().ok_or_else(|| malformed("cut short"))?;
        let [_, e, f, g, h, kind, node @ .., a, b, c, d] = *prefix;
        if crc32c::crc32c(&bytes[UNCHECKED..]) != u32::from_be_bytes([e, f, g, h]) {
            return Err(malformed("its checksum does not match"));
        }
        let kind =
            Kind::ALL.iter().find(|(number, _)| *number == kind).ok_or_else(|| malformed("its kind"))?.1;
        let head_len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let (head, content) =
            rest.split_at_checked(head_len).ok_or_else(|| malformed("its head is cut short"))?;
        Ok(Self { kind, node: u64::from_be_bytes(node), head, content })
    }

    pub(crate) fn head<T: DeserializeOwned>(&self) -> Result<T, MessageError> {
        Ok(serde_json::from_slice(self.head)?)
    }

    /// The entries of a request to append, with its head. openraft trusts that they follow each other, and that no leader has entries of
    /// terms after its own; so that is checked here.
    pub(crate) fn append(&self) -> Result<AppendEntriesRequest<TypeConfig>, MessageError> {
        let AppendHead { vote, prev_log_id, leader_commit } = self.head()?;
        let entries: Result<Vec<Entry>, String> = entry::decode_all(self.content).collect();
        let entries = entries.map_err(MessageError::Malformed)?;
        let mut before = prev_log_id;
        for entry in &entries {
            let follows = entry.log_id.index == before.map_or(0, |id| id.index + 1)
                && before.is_none_or(|before| before.leader_id <= entry.log_id.leader_id);
            if !follows {
                return Err(MessageError::Malformed(format!("{} does not follow {before:?}", entry.log_id)));
            }
            before = Some(entry.log_id);
        }
        if !vote.committed || before.is_some_and(|last| last.leader_id.term > vote.leader_id.term) {
            return Err(MessageError::Malformed(format!("{vote} is no leader of {before:?}")));
        }
        Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
    }

    pub(crate) fn vote(&self) -> Result<VoteRequest<TypeConfig>, MessageError> {
        self.head()
    }

    pub(crate) fn transfer(&self) -> Result<TransferLeaderRequest<TypeConfig>, MessageError> {
        self.head()
    }

    pub(crate) fn piece(&self) -> Result<Piece, MessageError> {
        let piece: Piece = self.head()?;
        let end = piece.offset.checked_add(self.content.len() as u64);
        if self.content.is_empty()
            || piece.bytes > SNAPSHOT_BYTES_MAX
            || end.is_none_or(|end| end > piece.bytes)
        {
            return Err(MessageError::Malformed(format!("{} bytes of {piece:?}", self.content.len())));
        }
        Ok(piece)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct AppendHead {
    vote: Vote,
    prev_log_id: Option<LogId>,
    leader_commit: Option<LogId>,
}

/// Writes as many of the entries as one message takes, and says which is the last.
pub(crate) fn write_append(
    node: u64,
    request: &AppendEntriesRequest<TypeConfig>,
) -> (Vec<u8>, Option<LogId>) {
    let AppendEntriesRequest { vote, prev_log_id, leader_commit, ref entries } = *request;
    let (mut content, mut last) = (Vec::new(), prev_log_id);
    for entry in entries {
        let bytes = entry::encode(entry, 0).expect("it was encoded for the log, too");
        if !content.is_empty() && content.len() + bytes.len() > CONTENT_BYTES {
            break;
        }
        content.extend(bytes);
        last = Some(entry.log_id);
    }
    (write(Kind::Append, node, &AppendHead { vote, prev_log_id, leader_commit }, &content), last)
}

/// Where a piece of a snapshot belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Piece {
    pub vote: Vote,
    /// The last entry that the snapshot covers.
    pub last: LogId,
    /// Of the whole snapshot.
    pub bytes: u64,
    pub crc32c: u32,
    pub offset: u64,
}

/// What comes of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PieceAnswer {
    /// The piece that is wanted next begins here.
    Next(u64),
    /// The snapshot is whole, and this is the vote of whoever got it: that of the sender if it was installed.
    Whole(Vote),
}
