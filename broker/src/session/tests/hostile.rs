//! Streams of frames with damage somewhere, cut anywhere: nothing panics, no memory stays counted, and what stood before the damage
//! is answered, in order.
//!
//! `OTTLA_FUZZ_FACTOR` makes the test so many times as long, `OTTLA_FUZZ_SEED` says where it begins.

#![allow(clippy::print_stdout)] // The counts are the report of a long run.

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

/// Kinds of good requests, and what each weighs. They end no connection.
const KINDS: [i32; 5] = [NOW, LATER, PARK, SILENT, LARGE];

fn variable(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Damaged correlation ids ask for something too; not for an answer that is given up, which ends the connection.
fn dispatch_any(cx: &mut RequestContext<'_>, reader: &mut Reader) -> Result<Answer, DecodeError> {
    let id = cx.correlation_id;
    let is_owed = OWED.with_borrow(|owed| owed.contains_key(&id));
    if is_owed || !(0..LARGE + 1_000).contains(&id) || id / 1_000 * 1_000 == DROP {
        return Ok(Answer::Now(Output::from(Bytes::from_static(b"now"))));
    }
    dispatch(cx, reader)
}

fn damage(bytes: &mut Vec<u8>, from: usize, rng: &mut SmallRng) {
    for _ in 0..rng.random_range(1..4) {
        if bytes.len() <= from {
            return;
        }
        let at = rng.random_range(from..bytes.len());
        match rng.random_range(0..6) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, rng.random()),
            4 => {
                bytes.splice(at..at, rng.random::<[u8; 13]>());
            }
            _ => {
                let word = [0, 1, 3, 0x7fff_ffff, 0x8000_0000, u32::MAX][rng.random_range(0..6)];
                bytes.splice(at.., u32::to_be_bytes(word));
            }
        }
    }
}

/// Whoever is owed an answer gets it, and what is ready is taken.
fn serve(rig: &mut Rig, ids: &mut Vec<i32>) {
    let slots = OWED.with_borrow_mut(|owed| owed.drain().map(|(_, slot)| slot).collect::<Vec<_>>());
    for slot in slots {
        slot.complete_with(Output::from(Bytes::from_static(b"later")));
    }
    rig.deliver();
    rig.advance(501);
    ids.extend(rig.ids());
}

#[test]
fn what_stands_before_damage_is_answered_and_nothing_stays_behind() {
    let (runs, seed) = (4_000 * variable("OTTLA_FUZZ_FACTOR", 1), variable("OTTLA_FUZZ_SEED", 1));
    let (mut ended, mut went_on) = (0u64, 0u64);
    for run in 0..runs {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(1 << 40).wrapping_add(run));
        let good: Vec<i32> =
            (0..rng.random_range(0..12)).map(|n| KINDS[rng.random_range(0..KINDS.len())] + n).collect();
        let mut stream: Vec<u8> = good.iter().flat_map(|id| request(*id)).collect();
        let before = rng.random_range(0..=good.len());
        let from = before * request(NOW).len();
        damage(&mut stream, from, &mut rng);

        let memory = RequestMemory::new(4_000);
        let mut rig =
            Rig::with(Limits { unsent_bytes_max: 25_000, in_flight_max: 8, memory, ..Limits::default() });
        rig.session.dispatch = dispatch_any;
        let limits = Arc::clone(&rig.session.limits);
        let (mut ids, mut rest) = (Vec::new(), stream.as_slice());
        while !rest.is_empty() && rig.session.is_over().is_none() {
            if !rig.session.wants_bytes() {
                serve(&mut rig, &mut ids);
                continue;
            }
            let (chunk, later) = rest.split_at(rng.random_range(1..=rest.len().min(40)));
            rest = later;
            rig.read(chunk);
            if rng.random_range(0..4) == 0 {
                serve(&mut rig, &mut ids);
            }
        }
        while rig.session.is_over().is_none() && !rig.session.wants_bytes() {
            serve(&mut rig, &mut ids);
        }
        rig.session.on_end_of_bytes(&rig.node);
        while rig.session.is_over().is_none() {
            serve(&mut rig, &mut ids);
        }
        let answered: Vec<i32> =
            good[..before].iter().copied().filter(|id| id / 1_000 * 1_000 != SILENT).collect();
        let why = rig.ending();
        assert!(
            ids.starts_with(&answered),
            "run {run}: {ids:?} instead of {answered:?}, {why:?}, {stream:x?}"
        );
        if rig.ending().contains("closed") {
            went_on += 1
        } else {
            ended += 1
        }
        drop(rig);
        assert_eq!(limits.memory.used(), 0, "run {run}");
        WAKEUPS.take();
        RAN.take();
    }
    println!("{runs} executions, {ended} ended by the session, {went_on} by the client");
    assert!(ended > 0 && went_on > 0, "both ways were tried");
}
