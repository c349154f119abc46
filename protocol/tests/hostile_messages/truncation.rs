//! Messages that end too early, at every byte.

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use crate::schema::value::{full, random};
use crate::schema::write::write;
use crate::{all, alone, decode_within_budget};

#[test]
fn a_message_cut_at_any_byte_is_an_error() {
    let _alone = alone();
    for (schema, codec) in all() {
        let (min, max) = schema.versions;
        for version in min..=max {
            let mut rng = SmallRng::seed_from_u64(1);
            for value in [full(&schema.fields, version), random(&schema.fields, version, &mut rng)] {
                let (bytes, _) = write(&schema, &value, version, None);
                let bytes = Bytes::from(bytes);
                assert_eq!(decode_within_budget(codec, &bytes, version), Ok(()));
                for end in 0..bytes.len().min(2_000) {
                    let cut = bytes.slice(..end);
                    let outcome = decode_within_budget(codec, &cut, version);
                    assert!(outcome.is_err(), "{} v{version} cut at {end} of {bytes:02x?}", schema.name);
                }
            }
        }
    }
}

#[test]
fn a_version_that_a_message_lacks_is_an_error() {
    let _alone = alone();
    for (schema, codec) in all() {
        let (min, max) = schema.versions;
        for version in [min - 1, max + 1, i16::MIN, i16::MAX] {
            assert!(decode_within_budget(codec, &Bytes::from_static(&[0; 64]), version).is_err());
        }
    }
}
