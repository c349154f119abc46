//! Where new partitions go.

use std::collections::BTreeMap;

use super::super::image::Nodes;
use super::super::placement::place;
use super::*;

/// Racks by their size; brokers are numbered through them. Those named are fenced.
fn placed(
    racks: &[i32],
    fenced: &[i32],
    count: usize,
    factor: i16,
    seed: u64,
) -> Result<Vec<Nodes>, ErrorCode> {
    let mut world = World::new(0);
    let mut id = 0;
    for (rack, size) in racks.iter().enumerate() {
        for _ in 0..*size {
            id += 1;
            let rack = (racks.len() > 1).then(|| format!("rack{rack}").into());
            let fenced = fenced.contains(&id);
            world.run(&Command::RegisterBroker(Registration { rack, fenced, ..registration(id) }));
        }
    }
    let mut chance = seed;
    let mut random = || {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        chance >> 33
    };
    let mut env = Env { now_ms: 0, tick_ms: 0, image: &world.image, random: &mut random };
    place(&mut env, count, factor).map_err(|failure| failure.code)
}

fn counted(ids: impl Iterator<Item = NodeId>) -> BTreeMap<i32, usize> {
    let mut counts = BTreeMap::new();
    for id in ids {
        *counts.entry(id.0).or_default() += 1;
    }
    counts
}

#[test]
fn every_broker_gets_its_share_of_leaders_and_replicas() {
    for (racks, factor) in
        [(&[5][..], 1), (&[5], 3), (&[3], 3), (&[2, 2, 2], 3), (&[3, 3], 2), (&[3, 3, 3], 2), (&[4, 4], 3)]
    {
        for seed in 0..20 {
            let brokers: i32 = racks.iter().sum();
            let count = usize::try_from(brokers * 4).expect("few");
            let placed = placed(racks, &[], count, factor, seed).expect("enough brokers");
            let leaders = counted(placed.iter().map(|replicas| replicas[0]));
            assert!(leaders.values().all(|count| *count == 4), "{racks:?}: leaders {leaders:?}");
            let replicas = counted(placed.iter().flatten().copied());
            let share = 4 * usize::try_from(factor).expect("small");
            assert!(replicas.values().all(|count| count.abs_diff(share) <= 1), "{racks:?}: {replicas:?}");
            for replicas in &placed {
                assert_eq!(counted(replicas.iter().copied()).len(), replicas.len(), "{replicas:?}");
            }
        }
    }
}

#[test]
fn the_replicas_of_a_partition_spread_over_the_racks() {
    for seed in 0..20 {
        for replicas in placed(&[2, 2, 2], &[], 12, 3, seed).expect("enough brokers") {
            let racks = counted(replicas.iter().map(|id| NodeId((id.0 - 1) / 2)));
            assert_eq!(racks.len(), 3, "{replicas:?}");
        }
    }
}

#[test]
fn the_first_partition_of_a_topic_is_not_always_on_the_same_brokers() {
    let firsts: std::collections::BTreeSet<_> =
        (0..60).map(|seed| placed(&[2, 2], &[], 1, 2, seed).expect("enough brokers").remove(0)).collect();
    assert_eq!(firsts.len(), 8, "two racks in either order, two brokers in each: {firsts:?}");
}

#[test]
fn fenced_brokers_come_last_and_never_first() {
    for seed in 0..20 {
        for replicas in placed(&[4], &[2], 8, 3, seed).expect("enough brokers") {
            assert!(!replicas.contains(&NodeId(2)), "{replicas:?}");
        }
        for replicas in placed(&[4], &[2], 8, 4, seed).expect("enough brokers") {
            assert_eq!(replicas[3], NodeId(2), "{replicas:?}");
        }
        // A rack of fenced brokers only: its share comes second at the earliest.
        for replicas in placed(&[2, 2], &[1, 2], 4, 2, seed).expect("enough brokers") {
            assert!(replicas[0] >= NodeId(3) && replicas[1] < NodeId(3), "{replicas:?}");
        }
    }
}

#[test]
fn too_few_brokers_are_an_invalid_factor() {
    for (racks, fenced, factor) in
        [(&[2, 1][..], &[][..], 4), (&[2], &[1, 2], 1), (&[2], &[], 0), (&[2], &[], -1), (&[], &[], 1)]
    {
        assert_eq!(placed(racks, fenced, 1, factor, 1), Err(ErrorCode::InvalidReplicationFactor), "{factor}");
    }
}
