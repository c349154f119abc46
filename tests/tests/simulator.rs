//! The simulator itself: a seed gives the same run every time, and a few seeds that once failed do not any more. `just sim` runs more.

use ottla_tests::sim::{self, Tier};

fn passes(seed: u64) {
    let outcome = sim::run(seed, false);
    if let Some(violation) = &outcome.violation {
        outcome.trace.iter().for_each(|line| eprintln!("{line}"));
        panic!("seed {seed}: {}: {}", violation.check, violation.what);
    }
    assert!(outcome.stats.acknowledged > 0 && outcome.stats.converged, "seed {seed} did nothing");
}

#[test]
#[ignore = "slow unless optimised: tests/all runs it in the profile `sim`"]
fn the_same_seed_gives_the_same_run_byte_for_byte() {
    let (first, again, other) = (sim::run(8, false), sim::run(8, false), sim::run(11, false));
    assert_eq!((first.hash, first.stats.acknowledged), (again.hash, again.stats.acknowledged));
    assert_ne!(first.hash, other.hash);
}

/// A calm run: an hour of groups and slow timers.
#[test]
#[ignore = "slow unless optimised: tests/all runs it in the profile `sim`"]
fn the_same_calm_seed_gives_the_same_run_byte_for_byte() {
    let (first, again) = (sim::run(2, false), sim::run(2, false));
    assert_eq!((first.hash, first.stats.commits), (again.hash, again.stats.commits));
    assert!(first.stats.commits > 0, "its groups did nothing");
}

/// A group's coordinator was given up for good once a commit had waited too long for replicas.
#[test]
#[ignore = "slow unless optimised: tests/all runs it in the profile `sim`"]
fn coordinators_outlive_a_time_with_too_few_replicas_in_sync() {
    passes(101_000_025);
}

#[test]
#[ignore = "slow unless optimised: tests/all runs it in the profile `sim`"]
fn so_it_does_with_the_real_raft() {
    let [first, again] = [(); 2].map(|()| sim::run_in(Tier::Raft, 3, false));
    assert!(first.violation.is_none(), "{:?}", first.violation);
    assert!(first.stats.converged && first.stats.acknowledged > 0 && first.stats.elections > 1);
    assert_eq!((first.hash, first.stats.acknowledged), (again.hash, again.stats.acknowledged));
}

/// A follower that had everything before the controller let it serve had no reason to fetch again, and stayed out of sync.
#[test]
#[ignore = "slow unless optimised: tests/all runs it in the profile `sim`"]
fn followers_that_have_everything_join_although_nobody_produces() {
    passes(7);
}

/// A follower got into the in-sync set of a new leader with what it had in memory, led, and lost power.
#[test]
#[ignore = "slow unless optimised: tests/all runs it in the profile `sim`"]
fn nobody_joins_a_new_leader_without_all_of_the_epochs_before_on_its_disk() {
    passes(7015);
}

/// The first of a new producer's burst came to a node that did not know yet that it leads, the last one when it did.
#[test]
#[ignore = "slow unless optimised: tests/all runs it in the profile `sim`"]
fn a_new_producers_first_batch_comes_first_also_where_it_came_before_its_leader_knew() {
    passes(795_628_871_109);
}
