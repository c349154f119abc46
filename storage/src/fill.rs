//! Filling ahead: zeros in the file before the batches that will lie there. It spares two things (decision 012):
//!
//! - **Where nobody waits for the disk**, most of what an append costs is the room in the page cache, which a write makes in pieces (folios) as
//!   large as itself. Where batches come fast, one write of zeros makes the room for several of them, and each then only copies itself in.
//! - **Where appends are synced**, a sync writes the file's new length and what its blocks have become beside the data. Over zeros that an
//!   earlier sync wrote it writes the data alone: half the time, and half the CPU.
//!
//! The file's length runs ahead of its data by at most one piece: what lies past a segment's size is zeros, which are no batch. Recovery takes
//! them for the end of the data, and a segment that is sealed or closed is cut to its size. Blocks are reserved before they are filled, so that
//! no room is found missing here.
//!
//! Large pieces of memory may be dearer than small ones: where memory is fragmented, or where a virtual machine has given what was free in
//! large pieces back to its host. The disk tells when a piece was dear, and the next ones are left out, twice as many each time.

/// What a log's file is filled ahead for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillFor {
    /// Nothing: few records, or other reasons.
    Nobody,
    /// Appends that nobody waits for to reach the disk.
    Memory,
    /// Syncs that somebody waits for.
    Syncs,
}

/// In which pieces a disk is filled; `None`: that gains nothing there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FillBytes {
    pub memory: Option<u64>,
    pub syncs: Option<u64>,
}

impl FillBytes {
    pub(crate) fn of(self, fill_for: FillFor) -> Option<u64> {
        match fill_for {
            FillFor::Nobody => None,
            FillFor::Memory => self.memory,
            FillFor::Syncs => self.syncs,
        }
    }
}

/// For memory, a piece that took longer than this to be used up was not worth its making; the next one is left out.
const QUICK_MS: i64 = 1_000;
/// For syncs, a piece is worth its bytes, which are written twice, where a sync covers no more than this.
const SYNC_BYTES: u64 = 64 << 10;
/// Batches of so many pieces make large pieces by themselves.
const LARGE_PIECES: u64 = 4;
/// Pieces left out after one that was dear.
const LEFT_OUT_MIN: u32 = 16;
const LEFT_OUT_MAX: u32 = 1_024;

/// How far one log's last segment is filled.
#[derive(Debug, Default)]
pub(crate) struct FillAhead {
    /// The end of the piece that appends go to now, filled or not.
    until: u64,
    /// When the first append went there, and how many flushes there had been.
    since: Option<(i64, u64)>,
    /// Pieces still to be left out, and how many were since a piece was cheap.
    left_out: u32,
    penalty: u32,
}

/// An append that is about to happen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upcoming {
    pub(crate) size: u64,
    pub(crate) len: u64,
    pub(crate) now_ms: i64,
    /// Begun so far.
    pub(crate) flushes: u64,
}

impl FillAhead {
    /// The range to fill before an append: to the end of the piece that it ends in, but only where the last piece was worth it.
    pub(crate) fn plan(&mut self, fill_for: FillFor, piece: u64, append: Upcoming) -> Option<(u64, u64)> {
        let Upcoming { size, len, now_ms, flushes } = append;
        let needed = size + len;
        if needed <= self.until {
            return None;
        }
        let since = self.since.replace((now_ms, flushes));
        let is_worth = since.is_some_and(|(since_ms, flushes_before)| match fill_for {
            FillFor::Nobody => false,
            FillFor::Memory => (0..=QUICK_MS).contains(&now_ms.saturating_sub(since_ms)),
            FillFor::Syncs => (flushes - flushes_before) * SYNC_BYTES >= piece,
        });
        let from = self.until.max(size);
        self.until = needed.next_multiple_of(piece);
        if self.left_out > 0 {
            self.left_out -= 1;
            return None;
        }
        (is_worth && len < piece * LARGE_PIECES).then_some((from, self.until))
    }

    /// What was planned is done.
    pub(crate) fn note(&mut self, is_dear: bool) {
        self.penalty = if is_dear { (self.penalty * 2).clamp(LEFT_OUT_MIN, LEFT_OUT_MAX) } else { 0 };
        self.left_out = self.penalty;
    }

    /// The log goes on in another file, or the file was cut to its data.
    pub(crate) fn begin_anew(&mut self) {
        self.until = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 1_000;

    fn at(size: u64, len: u64, now_ms: i64) -> Upcoming {
        Upcoming { size, len, now_ms, flushes: 0 }
    }

    #[test]
    fn a_piece_is_filled_where_the_one_before_was_soon_used_up() {
        let mut fill = FillAhead::default();
        let mut plan = |append| fill.plan(FillFor::Memory, PIECE, append);
        assert_eq!(plan(at(0, 400, 0)), None, "nobody knows yet how fast batches come");
        assert_eq!(plan(at(400, 400, 10)), None, "within the first piece");
        assert_eq!(plan(at(800, 400, 20)), Some((1_000, 2_000)));
        assert_eq!(plan(at(1_200, 800, 30)), None, "within the second");
        assert_eq!(plan(at(2_000, 400, 5_000)), None, "that took too long");
        assert_eq!(plan(at(2_400, 700, 5_100)), Some((3_000, 4_000)));
        assert_eq!(plan(at(3_100, 2_000, 5_101)), Some((4_000, 6_000)), "two at once");
        assert_eq!(plan(at(5_100, 4_000, 5_102)), None, "large batches need no help");
        fill.begin_anew();
        let mut plan = |append| fill.plan(FillFor::Memory, PIECE, append);
        assert_eq!(plan(at(0, 400, 5_103)), Some((0, 1_000)), "the next segment");
        assert_eq!(plan(at(400, 700, 5_000)), None, "a clock that was set back");
    }

    #[test]
    fn where_appends_are_synced_a_piece_is_filled_for_several_syncs() {
        let mut fill = FillAhead::default();
        let piece = 4 * SYNC_BYTES;
        let mut plan = |pieces, flushes| {
            let append = Upcoming { size: pieces * piece, len: 1_000, now_ms: 0, flushes };
            fill.plan(FillFor::Syncs, piece, append).is_some()
        };
        assert!(!plan(0, 0));
        assert!(!plan(1, 3), "large groups were synced");
        assert!(plan(2, 7));
        assert!(plan(3, 107));
        assert!(!plan(4, 108));
    }

    #[test]
    fn dear_pieces_are_tried_ever_more_seldom_and_a_cheap_one_ends_that() {
        let mut fill = FillAhead::default();
        fill.plan(FillFor::Memory, PIECE, at(0, PIECE, 0));
        let (mut tried, mut dear) = (Vec::new(), true);
        for piece in 1..3_000 {
            if fill.plan(FillFor::Memory, PIECE, at(piece * PIECE, PIECE, 0)).is_some() {
                tried.push(piece);
                dear &= piece < 2_000;
                fill.note(dear);
            }
        }
        assert_eq!(tried[..5], [1, 18, 51, 116, 245]);
        let cheap = tried.iter().position(|piece| *piece >= 2_000).expect("one is tried at last");
        assert_eq!(tried[cheap..].len() as u64, 3_000 - tried[cheap], "and all after it");
    }
}
