//! Answers to other nodes' requests.

use std::sync::{Mutex, PoisonError};

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use openraft::{Raft, Snapshot};

use crate::MetadataLog;
use crate::apply::{self, Applier};
use crate::message::{self, Kind, Message, MessageError, Piece, PieceAnswer};
use crate::types::{TypeConfig, Vote};

/// Why another node gets no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("a request of another node is refused: {0}")]
    Refused(#[from] MessageError),
    /// It is heard who leads, and nothing else of the request: it can be sent again.
    #[error("there is no space for what another node asks")]
    Full,
    #[error("the metadata log has stopped: {0}")]
    Stopped(String),
}

impl MetadataLog {
    /// What another node's request is answered with. Can be awaited on any thread.
    ///
    /// # Errors
    /// There is no answer: the bytes are no request for this node, or the log has stopped. The connection is best closed.
    pub async fn answer_peer(&self, request: &[u8]) -> Result<Vec<u8>, PeerError> {
        let request = Message::read(request)?;
        if request.node != self.voter {
            return Err(MessageError::NotForUs(request.node).into());
        }
        let (kind, node) = (request.kind, request.node);
        Ok(match kind {
            Kind::Append => {
                let mut append = request.append()?;
                // openraft's core would wait for space, and hear of nothing else meanwhile: not even that another node leads.
                let is_full = !append.entries.is_empty() && !self.store.has_room_for(request.content.len());
                if is_full {
                    append = AppendEntriesRequest {
                        vote: append.vote,
                        prev_log_id: None,
                        entries: Vec::new(),
                        leader_commit: None,
                    };
                }
                let answer = self.raft.append_entries(append).await.map_err(stopped)?;
                // A refused one came from a leader that is none any more.
                if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                    self.heard.now();
                    if is_full {
                        return Err(PeerError::Full);
                    }
                }
                message::write(kind, node, &answer, &[])
            }
            Kind::Vote => {
                message::write(kind, node, &self.raft.vote(request.vote()?).await.map_err(stopped)?, &[])
            }
            Kind::PreVote => {
                message::write(kind, node, &self.raft.pre_vote(request.vote()?).await.map_err(stopped)?, &[])
            }
            Kind::TransferLeader => {
                let request = request.transfer()?;
                if *request.to_node_id() == self.voter && !self.store.has_room_for(0) {
                    // It would win, and could not begin its term. The others are asked too, and one of them may.
                    return Err(PeerError::Full);
                }
                let answer = self.raft.handle_transfer_leader(request).await.map_err(stopped)?;
                message::write(kind, node, &answer, &[])
            }
            Kind::Snapshot => {
                let piece = request.piece()?;
                let answer = match self.incoming.take(piece, request.content)? {
                    Taken::Next(offset) => PieceAnswer::Next(offset),
                    Taken::Whole(vote, snapshot) => {
                        PieceAnswer::Whole(install(&self.raft, vote, snapshot).await?)
                    }
                };
                message::write(kind, node, &answer, &[])
            }
        })
    }
}

fn stopped(error: impl ToString) -> PeerError {
    PeerError::Stopped(error.to_string())
}

async fn install(raft: &Raft<TypeConfig, Applier>, vote: Vote, bytes: Vec<u8>) -> Result<Vote, PeerError> {
    let meta = apply::meta_of(&bytes).map_err(MessageError::Malformed)?;
    // openraft trusts that no leader has a snapshot of terms after its own.
    if !vote.committed || meta.last_log_id.is_none_or(|last| last.leader_id.term > vote.leader_id.term) {
        return Err(MessageError::Malformed(format!("{vote} is no leader of {:?}", meta.last_log_id)).into());
    }
    let installed = raft.install_full_snapshot(vote, Snapshot { meta, snapshot: bytes }).await;
    Ok(installed.map_err(stopped)?.vote)
}

/// A snapshot on its way here, piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Incoming(Mutex<Option<(Piece, Vec<u8>)>>);

enum Taken {
    Next(u64),
    Whole(Vote, Vec<u8>),
}

impl Incoming {
    /// Takes a piece that fits what has come; the first piece of a snapshot always does, and throws away what has come of another.
    fn take(&self, piece: Piece, content: &[u8]) -> Result<Taken, MessageError> {
        let mut incoming = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = Piece { offset: 0, ..piece };
        let mut bytes = match incoming.take() {
            _ if piece.offset == 0 => Vec::new(),
            Some((of, bytes)) if of == whole && bytes.len() as u64 == piece.offset => bytes,
            other => {
                let next = other.as_ref().filter(|(of, _)| *of == whole).map_or(0, |(_, bytes)| bytes.len());
                *incoming = other;
                return Ok(Taken::Next(next as u64));
            }
        };
        bytes.extend_from_slice(content);
        if (bytes.len() as u64) < whole.bytes {
            let next = bytes.len() as u64;
            *incoming = Some((whole, bytes));
            return Ok(Taken::Next(next));
        }
        if crc32c::crc32c(&bytes) != whole.crc32c {
            return Err(MessageError::Malformed("the snapshot's checksum does not match".to_owned()));
        }
        Ok(Taken::Whole(whole.vote, bytes))
    }
}
