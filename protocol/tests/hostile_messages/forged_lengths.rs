//! Every length, count and number of tagged fields of every message in every version, forged.

use bytes::Bytes;
use ottla_protocol::api::ApiKey;
use ottla_protocol::frame::{FrameError, RequestHeader};
use ottla_protocol::messages::MetadataRequest;
use ottla_protocol::wire::{DecodeError, Message as _, Reader};

use crate::schema::value::full;
use crate::schema::write::{Claim, Forgery, write};
use crate::{ALLOCATOR, all, alone, decode_within_budget};

/// Calls `attack` for each place of each message of each version, with the bytes that end in the forgery.
fn for_every_place(claim: Claim, filler: &[u8]) -> usize {
    let mut attacks = 0;
    for (schema, codec) in all() {
        let (min, max) = schema.versions;
        for version in min..=max {
            let value = full(&schema.fields, version);
            for place in 0.. {
                let forgery = Forgery { place, claim, filler: filler.to_vec() };
                let (bytes, reached) = write(&schema, &value, version, Some(&forgery));
                if !reached {
                    break;
                }
                // Whether it is an error depends on what the filler happens to mean; memory and panics are the point.
                let _ = decode_within_budget(codec, &Bytes::from(bytes), version);
                attacks += 1;
            }
        }
    }
    attacks
}

#[test]
fn cve_2026_111108_every_array_at_the_greatest_count_that_its_bytes_allow() {
    let _alone = alone();
    const FILLER: u32 = 40_000;
    let mut attacks = 0;
    // Zeros are nulls and empty arrays, ones are empty strings: the most elements that so many bytes can hold.
    for byte in [0, 1] {
        let filler = vec![byte; FILLER as usize];
        for count in [FILLER, FILLER - 1, FILLER / 2, FILLER / 4, FILLER / 16, FILLER + 1] {
            attacks += for_every_place(Claim::Count(count), &filler);
        }
    }
    assert!(attacks > 20_000, "{attacks}");
}

#[test]
fn cve_2022_34917_a_length_or_count_is_not_believed_before_its_bytes_are_there() {
    let _alone = alone();
    let numbers = [
        i32::MAX as u32,
        i32::MIN as u32,
        i32::MAX as u32 - 1,
        u32::MAX,
        u32::MAX - 1,
        0x7fff,
        0x8000,
        0xffff,
        0xfffe,
        1 << 24,
    ];
    for filler in [&[][..], &[0; 64], &[1; 64], &[0xff; 64]] {
        for bits in numbers {
            for_every_place(Claim::Raw(bits), filler);
        }
    }
}

/// The shortest of them: ten bytes of header, and a count of two thousand million topics.
#[test]
fn a_metadata_request_of_14_bytes_that_claims_every_topic_there_could_be_costs_nothing() {
    let _alone = alone();
    let frame = Bytes::from_static(&[0, 3, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    let before = ALLOCATOR.total_allocated();
    let mut r = Reader::new(frame);
    let header = RequestHeader::decode(&mut r).expect("the header is in order");
    assert_eq!(header.api_key, ApiKey::Metadata.code());
    let outcome = MetadataRequest::decode(&mut r, header.api_version);
    assert_eq!(outcome, Err(DecodeError::Count { count: i32::MAX as usize, left: 0 }));
    assert!(ALLOCATOR.total_allocated() - before < crate::HARNESS_BYTES);
}

#[test]
fn a_client_id_with_a_forged_length_is_an_error() {
    let _alone = alone();
    for length in [[0x7f, 0xff], [0x80, 0], [0xff, 0xfe], [0, 1]] {
        let mut frame = vec![0, 3, 0, 9, 0, 0, 0, 1];
        frame.extend(length);
        let outcome = RequestHeader::decode(&mut Reader::new(Bytes::from(frame)));
        assert!(matches!(outcome, Err(FrameError::Decode(_))), "{length:?}: {outcome:?}");
    }
}
