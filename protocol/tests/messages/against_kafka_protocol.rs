//! The `kafka-protocol` crate was generated from Kafka's schemas by other people's code: where both know a version, both must make
//! the same of the same bytes.

use bytes::BytesMut;
use kafka_protocol::protocol::{Decodable, Encodable, Message};

use crate::schema::{self, Schema};
use crate::{VALUES, random};

struct Theirs {
    name: &'static str,
    versions: (i16, i16),
    recode: fn(&[u8], i16) -> Result<Vec<u8>, String>,
}

const fn theirs<M: Message + Decodable + Encodable>(name: &'static str) -> Theirs {
    Theirs { name, versions: (M::VERSIONS.min, M::VERSIONS.max), recode: recode::<M> }
}

fn recode<M: Decodable + Encodable>(bytes: &[u8], version: i16) -> Result<Vec<u8>, String> {
    let mut rest = bytes;
    let message = M::decode(&mut rest, version).map_err(|error| format!("reading: {error}"))?;
    if !rest.is_empty() {
        return Err(format!("{} bytes were left", rest.len()));
    }
    let mut written = BytesMut::new();
    message.encode(&mut written, version).map_err(|error| format!("writing: {error}"))?;
    Ok(written.to_vec())
}

include!(concat!(env!("OUT_DIR"), "/registry_kafka_protocol.rs"));

#[test]
fn both_read_and_write_the_same_bytes() {
    let schemas = schema::all();
    let mut compared = 0;
    for theirs in THEIRS {
        let schema: &Schema = schemas.iter().find(|schema| schema.name == theirs.name).expect("a schema");
        let min = schema.versions.0.max(theirs.versions.0);
        let max = schema.versions.1.min(theirs.versions.1);
        for version in min..=max {
            for seed in 0..VALUES {
                let (value, bytes) = random(schema, version, seed);
                // `every_message_is_read_from_and_written_to...` shows that these are also our bytes.
                let written = (theirs.recode)(&bytes, version);
                assert_eq!(written.as_ref(), Ok(&bytes), "{} v{version} seed {seed}: {value:?}", theirs.name);
                compared += 1;
            }
        }
    }
    assert!(compared > 400 * VALUES, "only {compared} values were compared");
}
