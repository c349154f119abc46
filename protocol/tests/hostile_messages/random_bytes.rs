//! Random bytes, and good messages with some bytes changed. `OTTLA_FUZZ_FACTOR` makes the run so many times as long, and
//! `OTTLA_FUZZ_SEED` another one.

#![allow(clippy::print_stdout)] // The counts are the report of a long run.

use bytes::Bytes;
use ottla_protocol::frame::{Prefix, RequestHeader};
use ottla_protocol::wire::Reader;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::schema::value::random;
use crate::schema::write::write;
use crate::{all, alone, decode_within_budget, executions, variable};

/// Bytes that are more often than not those that lengths and counts are made of.
fn noise(rng: &mut SmallRng) -> Vec<u8> {
    const ODD: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xff, 0xfe, 8];
    let len = if rng.random_ratio(1, 50) { 5_000 } else { 120 };
    let len = rng.random_range(0..len);
    let odd = rng.random_range(0..10);
    (0..len)
        .map(|_| if rng.random_ratio(odd, 10) { ODD[rng.random_range(0..ODD.len())] } else { rng.random() })
        .collect()
}

/// Some changes: a byte, a bit, a piece doubled or taken out.
fn damage(bytes: &mut Vec<u8>, rng: &mut SmallRng) {
    for _ in 0..rng.random_range(1..4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.random_range(0..bytes.len());
        let end = rng.random_range(at..bytes.len().min(at + 40)) + 1;
        match rng.random_range(0..5) {
            0 => bytes[at] = rng.random(),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => bytes[at] = [0, 0x7f, 0x80, 0xff][rng.random_range(0..4)],
            3 => drop(bytes.drain(at..end)),
            _ => bytes.extend_from_within(at..end),
        }
    }
}

#[test]
fn every_decoder_survives_random_bytes() {
    let _alone = alone();
    let mut rng = SmallRng::seed_from_u64(variable("OTTLA_FUZZ_SEED", 0) + 7);
    let all: Vec<_> = all().collect();
    for _ in 0..executions(150) {
        for (schema, codec) in &all {
            let version = rng.random_range(schema.versions.0..=schema.versions.1);
            let _ = decode_within_budget(codec, &Bytes::from(noise(&mut rng)), version);
        }
    }
    println!("{} executions", executions(150) * all.len() as u64);
}

#[test]
fn every_decoder_survives_damaged_messages() {
    let _alone = alone();
    let mut rng = SmallRng::seed_from_u64(variable("OTTLA_FUZZ_SEED", 0) + 8);
    let all: Vec<_> = all().collect();
    for _ in 0..executions(15) {
        for (schema, codec) in &all {
            let version = rng.random_range(schema.versions.0..=schema.versions.1);
            let value = random(&schema.fields, version, &mut rng);
            let (bytes, _) = write(schema, &value, version, None);
            for _ in 0..10 {
                let mut damaged = bytes.clone();
                damage(&mut damaged, &mut rng);
                let _ = decode_within_budget(codec, &Bytes::from(damaged), version);
            }
        }
    }
    println!("{} executions", executions(15) * all.len() as u64 * 10);
}

#[test]
fn a_request_header_survives_random_bytes() {
    let _alone = alone();
    let mut rng = SmallRng::seed_from_u64(variable("OTTLA_FUZZ_SEED", 0) + 9);
    for _ in 0..executions(20_000) {
        let mut bytes = noise(&mut rng);
        // Half of them name an API and a version that exist.
        if rng.random() && bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&[0, rng.random_range(0..93), 0, rng.random_range(0..14)]);
        }
        let _ = Prefix::peek(&bytes).map(Prefix::api);
        let _ = RequestHeader::decode(&mut Reader::new(Bytes::from(bytes)));
    }
    println!("{} executions", executions(20_000));
}
