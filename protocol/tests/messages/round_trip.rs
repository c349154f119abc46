use bytes::Bytes;

use crate::schema::codec::{CODECS, Codec};
use crate::schema::{self, Schema};
use crate::{VALUES, random};

fn all() -> Vec<(Schema, &'static Codec)> {
    let find = |schema: Schema| {
        let codec = CODECS.iter().find(|codec| codec.name == schema.name);
        let codec = codec.unwrap_or_else(|| panic!("{} was not generated", schema.name));
        (schema, codec)
    };
    schema::all().into_iter().map(find).collect()
}

#[test]
fn every_schema_has_a_message_with_its_key_and_versions() {
    let all = all();
    assert_eq!(all.len(), CODECS.len());
    for (schema, codec) in all {
        assert_eq!(schema.versions, codec.versions, "{}", schema.name);
        assert_eq!(schema.api_key, codec.api_key.map(i64::from), "{}", schema.name);
        let flexible_from = codec.flexible_from.unwrap_or(i16::MAX);
        let (min, max) = codec.versions;
        for version in min..=max {
            assert_eq!(schema.is_flexible(version), version >= flexible_from, "{} v{version}", schema.name);
        }
    }
}

#[test]
fn every_message_is_read_from_and_written_to_the_bytes_that_its_schema_gives() {
    for (schema, codec) in all() {
        let (min, max) = schema.versions;
        for version in min..=max {
            for seed in 0..VALUES {
                let (value, bytes) = random(&schema, version, seed);
                let written = (codec.recode)(Bytes::from(bytes.clone()), version);
                let what = || format!("{} v{version} seed {seed}: {value:?}", schema.name);
                assert_eq!(
                    written.unwrap_or_else(|error| panic!("{error} in {}", what())),
                    bytes,
                    "{}",
                    what()
                );
            }
        }
    }
}

/// A tagged field of the future is passed by, at the end of whichever struct it stands.
#[test]
fn a_flexible_message_with_unknown_tagged_fields_is_read_as_the_one_without() {
    for (schema, codec) in all() {
        let (min, max) = schema.versions;
        for version in min..=max {
            if !schema.is_flexible(version) {
                continue;
            }
            let value = schema::value::defaults(&schema.fields);
            let (mut bytes, _) = schema::write::write(&schema, &value, version, None);
            let Ok(plain) = (codec.recode)(Bytes::from(bytes.clone()), version) else { continue };
            assert_eq!(
                bytes.pop(),
                Some(0),
                "{} v{version} ends with its number of tagged fields",
                schema.name
            );
            bytes.extend([2, 99, 3, 1, 2, 3, 100, 0]);
            let written = (codec.recode)(Bytes::from(bytes), version);
            assert_eq!(written.as_ref(), Ok(&plain), "{} v{version}", schema.name);
        }
    }
}
