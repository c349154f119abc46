//! Hostile bytes against the decoder of every message in every version: an error or a message, never a panic, and never more memory
//! than the budget that the number of bytes warrants. The allocator itself is asked what decoding took.

mod floods;
mod forged_lengths;
mod random_bytes;
#[path = "../schema/mod.rs"]
mod schema;
mod truncation;

use std::alloc::System;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cap::Cap;
use ottla_protocol::wire::{DecodeError, Reader};

use schema::Schema;
use schema::codec::{CODECS, Codec};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What the test harness itself may allocate on its own thread while a test measures.
const HARNESS_BYTES: usize = 8 * 1024;

/// The allocator counts for the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Decodes, and fails if all that was allocated on the way (freed again or not) was more than the budget.
fn decode_within_budget(codec: &Codec, bytes: &Bytes, version: i16) -> Result<(), DecodeError> {
    let mut r = Reader::new(bytes.clone());
    let before = ALLOCATOR.total_allocated();
    let outcome = (codec.decode)(&mut r, version);
    let allocated = ALLOCATOR.total_allocated() - before;
    let budget = Reader::budget_of(bytes.len());
    let what = codec.name;
    assert!(
        allocated <= budget + HARNESS_BYTES,
        "{what} v{version}: {allocated} bytes for a message of {} (budget {budget}): {outcome:?}",
        bytes.len()
    );
    outcome
}

fn all() -> impl Iterator<Item = (Schema, &'static Codec)> {
    schema::all().into_iter().map(|schema| {
        let codec = CODECS.iter().find(|codec| codec.name == schema.name).expect("every schema is generated");
        (schema, codec)
    })
}

/// A number of executions, times what `OTTLA_FUZZ_FACTOR` says, for long runs.
fn executions(usual: u64) -> u64 {
    usual * variable("OTTLA_FUZZ_FACTOR", 1)
}

fn variable(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}
