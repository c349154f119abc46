//! Filling ahead: zeros in the file before the batches that will lie there.
//!
//! A write makes room in the page cache in pieces (folios) as large as itself, and most of what an append from memory costs is making
//! that room. So where batches come fast, one write of zeros makes the room for several of them, and each then only copies itself in:
//! less than half the cost for batches of 16 KiB (decision 012). The file's length runs ahead of its data by at most one piece: what lies past a
//! segment's size is zeros, which are no batch. Recovery takes them for the end of the data, and a segment that is sealed or closed is cut
//! to its size. Blocks are reserved before they are filled, so that no room is found missing here.
//!
//! Large pieces of memory may be dearer than small ones: where memory is fragmented, or where a virtual machine has given what was free in
//! large pieces back to its host. The disk tells when a piece was dear, and the next ones are left out, twice as many each time.

/// A piece that took longer than this to be used up was not worth its making; the next one is left out.
const QUICK_MS: i64 = 1_000;
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
    /// When the first append went there.
    since_ms: Option<i64>,
    /// Pieces still to be left out, and how many were since a piece was cheap.
    left_out: u32,
    penalty: u32,
}

impl FillAhead {
    /// The range to fill before `len` bytes are appended at `size`: to the end of the piece that they end in, but only where the last
    /// piece was soon used up.
    pub(crate) fn plan(&mut self, piece: u64, size: u64, len: u64, now_ms: i64) -> Option<(u64, u64)> {
        let needed = size + len;
        if needed <= self.until {
            return None;
        }
        let since_ms = self.since_ms.replace(now_ms);
        let is_quick = since_ms.is_some_and(|since| (0..=QUICK_MS).contains(&now_ms.saturating_sub(since)));
        let from = self.until.max(size);
        self.until = needed.next_multiple_of(piece);
        if self.left_out > 0 {
            self.left_out -= 1;
            return None;
        }
        (is_quick && len < piece * LARGE_PIECES).then_some((from, self.until))
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

    #[test]
    fn a_piece_is_filled_where_the_one_before_was_soon_used_up() {
        let mut fill = FillAhead::default();
        assert_eq!(fill.plan(PIECE, 0, 400, 0), None, "nobody knows yet how fast batches come");
        assert_eq!(fill.plan(PIECE, 400, 400, 10), None, "within the first piece");
        assert_eq!(fill.plan(PIECE, 800, 400, 20), Some((1_000, 2_000)));
        assert_eq!(fill.plan(PIECE, 1_200, 800, 30), None, "within the second");
        assert_eq!(fill.plan(PIECE, 2_000, 400, 5_000), None, "that took too long");
        assert_eq!(fill.plan(PIECE, 2_400, 700, 5_100), Some((3_000, 4_000)));
        assert_eq!(fill.plan(PIECE, 3_100, 2_000, 5_101), Some((4_000, 6_000)), "two at once");
        assert_eq!(fill.plan(PIECE, 5_100, 4_000, 5_102), None, "large batches need no help");
        fill.begin_anew();
        assert_eq!(fill.plan(PIECE, 0, 400, 5_103), Some((0, 1_000)), "the next segment");
        assert_eq!(fill.plan(PIECE, 400, 700, 5_000), None, "a clock that was set back");
    }

    #[test]
    fn dear_pieces_are_tried_ever_more_seldom_and_a_cheap_one_ends_that() {
        let mut fill = FillAhead::default();
        fill.plan(PIECE, 0, PIECE, 0);
        let (mut tried, mut dear) = (Vec::new(), true);
        for piece in 1..3_000 {
            if fill.plan(PIECE, piece * PIECE, PIECE, 0).is_some() {
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
