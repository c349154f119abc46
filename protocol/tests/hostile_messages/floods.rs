//! Tagged fields by the million (KIP-482 lets anyone add tags that nobody knows).

use bytes::{BufMut as _, Bytes, BytesMut};
use ottla_protocol::frame::{FrameError, RequestHeader};
use ottla_protocol::wire::{DecodeError, Reader};

use crate::schema::value::{defaults, full};
use crate::schema::write::{Claim, Forgery, varint, write};
use crate::{ALLOCATOR, HARNESS_BYTES, all, alone, decode_within_budget};

/// `count` tagged fields of two bytes each: tag 9, no content.
fn flood(count: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 * count as usize);
    for _ in 0..count {
        bytes.extend([99, 0]);
    }
    bytes
}

/// Before authentication: the header of an ApiVersions request of 40 MB.
#[test]
fn cve_2026_111115_twenty_million_tagged_fields_in_a_header_are_refused_and_cost_nothing() {
    let _alone = alone();
    let mut frame = BytesMut::with_capacity(41 << 20);
    frame.put_slice(&[0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff]);
    let mut count = Vec::new();
    varint(&mut count, 20_000_000);
    frame.put_slice(&count);
    frame.put_slice(&flood(20_000_000));
    let frame = frame.freeze();

    let before = ALLOCATOR.total_allocated();
    let mut r = Reader::new(frame.clone());
    let outcome = RequestHeader::decode(&mut r);
    assert_eq!(outcome, Err(FrameError::Decode(DecodeError::Budget(frame.len()))));
    assert!(ALLOCATOR.total_allocated() - before < HARNESS_BYTES);
    // Nor did it take the time of reading all of them.
    assert!(r.position() < 4 << 20, "{} bytes were read before the flood was refused", r.position());
}

#[test]
fn cve_2026_111115_a_flood_of_tagged_fields_is_refused_in_every_struct_of_every_message() {
    let _alone = alone();
    const COUNT: u32 = 60_000;
    let filler = flood(COUNT);
    let mut refused = 0;
    for (schema, codec) in all() {
        let (min, max) = schema.versions;
        for version in min..=max {
            let value = full(&schema.fields, version);
            for place in 0.. {
                let forgery = Forgery { place, claim: Claim::Raw(COUNT), filler: filler.clone() };
                let (bytes, reached) = write(&schema, &value, version, Some(&forgery));
                if !reached {
                    break;
                }
                let outcome = decode_within_budget(codec, &Bytes::from(bytes), version);
                refused += u32::from(matches!(outcome, Err(DecodeError::Budget(_))));
            }
        }
    }
    assert!(refused > 1_000, "{refused}");
}

#[test]
fn a_few_unknown_tagged_fields_are_no_flood() {
    let _alone = alone();
    let header = [0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 100];
    let mut frame = header.to_vec();
    frame.extend(flood(100));
    assert!(RequestHeader::decode(&mut Reader::new(Bytes::from(frame))).is_ok());
}

/// CVE-2026-83525 was a controller that ended itself at an empty array. FetchSnapshot is not served; the decoders take empty arrays
/// everywhere, and the broker's tests send them to every handler.
#[test]
fn cve_2026_83525_an_empty_array_is_a_value_like_others() {
    let _alone = alone();
    for (schema, codec) in all() {
        let (min, max) = schema.versions;
        for version in min..=max {
            let mut value = defaults(&schema.fields);
            empty_nulls(&mut value, &schema.fields, version);
            let (bytes, _) = write(&schema, &value, version, None);
            let outcome = (codec.recode)(Bytes::from(bytes.clone()), version);
            assert_eq!(outcome.as_ref(), Ok(&bytes), "{} v{version}", schema.name);
        }
    }
}

/// A default of null where the version allows none becomes the empty value.
fn empty_nulls(value: &mut crate::schema::value::Value, fields: &[crate::schema::Field], version: i16) {
    use crate::schema::Type;
    use crate::schema::value::Value;
    let Value::Struct(values) = value else { return };
    for (value, field) in values.iter_mut().zip(fields) {
        if *value == Value::Null && !field.may_be_null(version) {
            *value = match &field.ty {
                Type::Text => Value::Text(String::new()),
                Type::Bytes => Value::Bytes(Vec::new()),
                Type::Array(_) => Value::Array(Vec::new()),
                Type::Struct(fields) => defaults(fields),
                _ => continue,
            };
        }
        if let Type::Struct(fields) = &field.ty {
            empty_nulls(value, fields, version);
        }
    }
}
