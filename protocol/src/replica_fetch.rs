//! The answer to a follower's fetch, as small encoded pieces and the slices of the log between them: records are never copied.
//! Its fields stand in `schema/peers.jsonl`, from which the reader is generated.

use bytes::Bytes;

use crate::fetch_response::FetchPiece;
use crate::messages::replica_fetch_response::ReplicaData;
use crate::wire::Writer;

/// Writes the answer: for each partition its data, whose `records` are empty, and the slices that stand in their place.
#[must_use]
pub fn write<S>(error_code: i16, partitions: Vec<(ReplicaData, Vec<S>, usize)>) -> Vec<FetchPiece<S>> {
    let mut pieces = Vec::new();
    let mut w = Writer::with_capacity(64 + 64 * partitions.len());
    w.i16(error_code);
    w.array_len(partitions.len(), true);
    for (data, slices, bytes) in partitions {
        w.uuid(data.topic_id);
        w.i32(data.partition);
        w.i16(data.error_code);
        w.i32(data.leader_epoch);
        w.i64(data.offset);
        w.i64(data.high_watermark);
        w.i64(data.log_start_offset);
        w.i32(data.diverging_epoch);
        w.i64(data.diverging_end);
        w.bytes_len(bytes, true);
        if bytes > 0 {
            let encoded = std::mem::replace(&mut w, Writer::with_capacity(128));
            pieces.push(FetchPiece::Encoded(encoded.into_bytes().into()));
            pieces.extend(slices.into_iter().map(FetchPiece::Records));
        }
        w.varint(0);
    }
    w.varint(0);
    pieces.push(FetchPiece::Encoded(Bytes::from(w.into_bytes())));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::ReplicaFetchResponse;
    use crate::types::Uuid;
    use crate::wire::{Message, Reader};

    #[test]
    fn what_is_written_in_pieces_is_what_the_table_says() {
        let data = |partition: i32| ReplicaData {
            topic_id: Uuid([7; 16]),
            partition,
            error_code: 3,
            leader_epoch: 4,
            offset: 5,
            high_watermark: 6,
            log_start_offset: 7,
            diverging_epoch: 8,
            diverging_end: 9,
            records: Bytes::new(),
        };
        let records = Bytes::from(vec![1; 300]);
        let parts = vec![
            (data(0), Vec::new(), 0),
            (data(1), vec![records.slice(..100), records.slice(100..)], 300),
            (data(2), Vec::new(), 0),
        ];
        let mut bytes = Vec::new();
        for piece in write(9, parts) {
            match piece {
                FetchPiece::Encoded(piece) | FetchPiece::Records(piece) => bytes.extend_from_slice(&piece),
            }
        }
        let mut r = Reader::new(bytes.into());
        let read = ReplicaFetchResponse::decode(&mut r, 0).expect("readable");
        assert_eq!(r.remaining(), 0);
        let expected = [data(0), ReplicaData { records, ..data(1) }, data(2)];
        assert_eq!((read.error_code, read.partitions), (9, expected.to_vec()));
    }
}
