//! Every message in every version: written and read again, and compared with what two others make of the same bytes, an
//! interpreter of the schema tables and the `kafka-protocol` crate.

mod against_kafka_protocol;
mod round_trip;
#[path = "../schema/mod.rs"]
mod schema;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use schema::Schema;
use schema::value::Value;

/// How many random values of each version are tried.
const VALUES: u64 = 50;

/// The `seed`-th random value of a version, and its bytes.
fn random(schema: &Schema, version: i16, seed: u64) -> (Value, Vec<u8>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let value = schema::value::random(&schema.fields, version, &mut rng);
    let (bytes, _) = schema::write::write(schema, &value, version, None);
    (value, bytes)
}
