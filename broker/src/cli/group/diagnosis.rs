//! Why a group is behind: the causes that can be seen from outside, the likeliest first, each with what to do.

use std::collections::BTreeMap;

use ottla_client::{Group, TopicPartition};

use super::describe::runs;
use super::sample::{Point, Trend};
use crate::cli::units;

/// One partition with more than this share of the lag is the matter, not the group.
const ONE_PARTITION_SHARE: f64 = 0.8;
/// Who looked for fewer seconds knows nothing of members that commit every five.
const LOOKED_MIN: f64 = 12.0;
/// A lag of less is no matter.
const LAG_MIN: i64 = 1;

/// What a partition shows.
pub(super) struct Seen<'a> {
    pub(super) point: &'a Point,
    pub(super) trend: Option<&'a Trend>,
    /// How long its commit has not moved, as far as it was watched.
    pub(super) still_for: Option<f64>,
}

/// What is wrong, in sentences, as far as `looked` seconds tell. Empty: nothing.
pub(super) fn causes(group: &Group, seen: &BTreeMap<TopicPartition, Seen<'_>>, looked: f64) -> Vec<String> {
    let mut causes = Vec::new();
    lost(seen, &mut causes);
    leaderless(seen, &mut causes);
    let lagging: BTreeMap<&TopicPartition, i64> = seen
        .iter()
        .filter_map(|(at, seen)| Some((at, seen.trend?.lag)).filter(|(_, lag)| *lag >= LAG_MIN))
        .collect();
    if lagging.is_empty() {
        return causes;
    }
    if group.members.is_empty() {
        causes.push(format!(
            "no members: nobody reads for this group{}; start its consumers",
            longest_wait(seen)
                .map_or_else(String::new, |wait| format!(", the oldest record waits for {wait}"))
        ));
        return causes;
    }
    if matches!(
        group.state.as_str(),
        "PreparingRebalance" | "CompletingRebalance" | "Assigning" | "Reconciling"
    ) {
        causes.push(format!(
            "the group rebalances ({}): nothing is committed meanwhile; if this stays so, a member joins and leaves again and again, or \
             takes longer between two polls than max.poll.interval.ms allows",
            group.state
        ));
    }
    unassigned(group, &lagging, &mut causes);
    let before = causes.len();
    stopped(group, seen, &lagging, &mut causes);
    if causes.len() == before {
        skewed(seen, &lagging, &mut causes);
        too_slow(group, seen, looked, &mut causes);
    }
    causes
}

fn owner<'a>(group: &'a Group, at: &TopicPartition) -> Option<&'a ottla_client::GroupMember> {
    group.members.iter().find(|member| member.partitions.contains(at))
}

fn longest_wait(seen: &BTreeMap<TopicPartition, Seen<'_>>) -> Option<String> {
    let waits = seen.values().filter_map(|seen| seen.trend?.lag_seconds);
    waits.max_by(f64::total_cmp).map(units::duration)
}

fn lost(seen: &BTreeMap<TopicPartition, Seen<'_>>, causes: &mut Vec<String>) {
    for (at, seen) in seen.iter().filter(|(_, seen)| seen.point.lost() > 0) {
        causes.push(format!(
            "{at}: {} records were deleted by retention before they were read (the group is at {}, the log begins at {}): raise retention.ms \
             or retention.bytes of the topic",
            units::count(seen.point.lost()),
            seen.point.committed.unwrap_or_default(),
            seen.point.start.unwrap_or_default()
        ));
    }
}

fn leaderless(seen: &BTreeMap<TopicPartition, Seen<'_>>, causes: &mut Vec<String>) {
    let gone = seen.iter().filter(|(_, seen)| seen.point.end.is_none()).map(|(at, _)| at);
    for (topic, indexes) in by_topic(gone) {
        causes.push(format!(
            "{topic} {indexes}: no leader, or the topic is deleted: nobody can read there; `ottla topic describe {topic}` shows more"
        ));
    }
}

fn by_topic<'a>(partitions: impl Iterator<Item = &'a TopicPartition>) -> BTreeMap<&'a str, String> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for at in partitions {
        topics.entry(&at.topic).or_default().push(at.partition);
    }
    topics.into_iter().map(|(topic, indexes)| (topic, runs(&indexes))).collect()
}

fn unassigned(group: &Group, lagging: &BTreeMap<&TopicPartition, i64>, causes: &mut Vec<String>) {
    if group.state != "Stable" {
        return;
    }
    let nobodys = lagging.keys().copied().filter(|at| owner(group, at).is_none());
    for (topic, indexes) in by_topic(nobodys) {
        causes.push(format!(
            "{topic} {indexes}: no member reads it: the members do not subscribe to this topic any more, or it got partitions that they \
             have not noticed"
        ));
    }
}

/// Members that have partitions with a lag and commit nothing.
fn stopped(
    group: &Group,
    seen: &BTreeMap<TopicPartition, Seen<'_>>,
    lagging: &BTreeMap<&TopicPartition, i64>,
    causes: &mut Vec<String>,
) {
    for member in &group.members {
        let of_member: Vec<&TopicPartition> =
            lagging.keys().copied().filter(|at| member.partitions.contains(at)).collect();
        let still: Vec<(&TopicPartition, f64)> =
            of_member.iter().filter_map(|at| Some((*at, seen.get(*at)?.still_for?))).collect();
        if still.is_empty() {
            continue;
        }
        let seconds = still.iter().map(|(_, seconds)| *seconds).fold(0.0, f64::max);
        let places = by_topic(still.iter().map(|(at, _)| *at));
        let places: Vec<String> =
            places.into_iter().map(|(topic, indexes)| format!("{topic} {indexes}")).collect();
        let who = format!("{} at {}", member.client_id, member.host);
        let places = places.join(", ");
        if still.len() == of_member.len() {
            causes.push(format!(
                "commits have stopped: {who} has committed nothing of {places} for {}: it hangs in one record, fails to commit, or commits \
                 more rarely than that (watch longer)",
                units::duration(seconds)
            ));
        } else {
            causes.push(format!(
                "one slow partition: {who} reads its other partitions, but has committed nothing of {places} for {}: a record there may be \
                 stuck or fail again and again",
                units::duration(seconds)
            ));
        }
    }
}

/// One partition has nearly all of the lag.
fn skewed(
    seen: &BTreeMap<TopicPartition, Seen<'_>>,
    lagging: &BTreeMap<&TopicPartition, i64>,
    causes: &mut Vec<String>,
) {
    let total: i64 = lagging.values().sum();
    let Some((at, lag)) = lagging.iter().max_by_key(|(_, lag)| **lag) else { return };
    let share = *lag as f64 / total as f64;
    if seen.len() < 2 || share < ONE_PARTITION_SHARE {
        return;
    }
    let rates: Vec<f64> = seen.values().filter_map(|seen| seen.trend?.rate_in).collect();
    let all: f64 = rates.iter().sum();
    let own = seen.get(*at).and_then(|seen| seen.trend?.rate_in).unwrap_or(0.0);
    let hot = all > 0.0 && own / all > (1.5 / seen.len() as f64).max(0.5);
    causes.push(if hot {
        format!(
            "one partition: {at} has {:.0} % of the lag, and gets {:.0} % of the records: one key may be far more frequent than the others",
            share * 100.0,
            own / all * 100.0
        )
    } else {
        format!(
            "one slow partition: {at} has {:.0} % of the lag, though it gets no more records than the others: look at its member and its \
             records",
            share * 100.0
        )
    });
}

/// Whether members may read well, and only have not committed since the first look.
pub(super) fn is_between_commits(group: &Group, rate_out: f64, looked: f64) -> bool {
    !group.members.is_empty() && rate_out == 0.0 && looked < LOOKED_MIN
}

/// More comes in than goes out.
fn too_slow(group: &Group, seen: &BTreeMap<TopicPartition, Seen<'_>>, looked: f64, causes: &mut Vec<String>) {
    let sum = |of: fn(&Trend) -> Option<f64>| -> Option<f64> {
        let rates: Vec<f64> = seen.values().filter_map(|seen| of(seen.trend?)).collect();
        (!rates.is_empty()).then(|| rates.iter().sum())
    };
    let (Some(rate_in), Some(rate_out)) = (sum(|trend| trend.rate_in), sum(|trend| trend.rate_out)) else {
        return;
    };
    if rate_out >= rate_in {
        return;
    }
    if is_between_commits(group, rate_out, looked) {
        causes.push(format!(
            "nothing was committed in the {} of looking, but consumers commit every 5 s or so: look longer with --over 15, or --watch",
            units::duration(looked)
        ));
        return;
    }
    let (members, partitions) = (group.members.len(), seen.len());
    let then = if members >= partitions {
        format!(
            "there is a member for each of the {partitions} partitions already: more members need more partitions, or each must become faster"
        )
    } else {
        format!("{members} of at most {partitions} useful members run: start more, or make each faster")
    };
    causes.push(format!(
        "too slow: {} come in, {} are committed; {then}",
        units::rate(rate_in),
        units::rate(rate_out)
    ));
}

#[cfg(test)]
mod tests {
    use ottla_client::GroupMember;

    use super::*;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition::new("orders", partition)
    }

    fn group(state: &str, shares: &[&[i32]]) -> Group {
        let member = |(n, share): (usize, &&[i32])| GroupMember {
            id: format!("m{n}"),
            client_id: format!("c{n}"),
            host: "10.0.0.7".into(),
            partitions: share.iter().map(|index| at(*index)).collect(),
            ..GroupMember::default()
        };
        Group {
            id: "g".into(),
            state: state.into(),
            members: shares.iter().enumerate().map(member).collect(),
            ..Group::default()
        }
    }

    fn point(committed: i64, end: i64) -> Point {
        Point { committed: Some(committed), start: Some(0), end: Some(end), ..Point::default() }
    }

    fn trend(lag: i64, rate_in: f64, rate_out: f64) -> Trend {
        Trend {
            lag,
            lag_seconds: Some(75.0),
            rate_in: Some(rate_in),
            rate_out: Some(rate_out),
            empty_in: super::super::sample::empty_in(lag, Some(rate_in), Some(rate_out)),
        }
    }

    /// The causes for partitions of (lag, in, out, still for).
    fn of(group: &Group, partitions: &[(i64, f64, f64, Option<f64>)]) -> Vec<String> {
        within(group, partitions, 30.0)
    }

    fn within(group: &Group, partitions: &[(i64, f64, f64, Option<f64>)], looked: f64) -> Vec<String> {
        let all: Vec<(Point, Trend, Option<f64>)> = partitions
            .iter()
            .map(|(lag, rate_in, rate_out, still)| {
                (point(100 - lag, 100), trend(*lag, *rate_in, *rate_out), *still)
            })
            .collect();
        let seen = all
            .iter()
            .enumerate()
            .map(|(index, (point, trend, still_for))| {
                let index = i32::try_from(index).expect("few");
                (at(index), Seen { point, trend: Some(trend), still_for: *still_for })
            })
            .collect();
        causes(group, &seen, looked)
    }

    #[test]
    fn each_cause_is_recognised() {
        let two = group("Stable", &[&[0], &[1]]);
        let one = group("Stable", &[&[0, 1]]);
        let cases: &[(&Group, &[(i64, f64, f64, Option<f64>)], &str)] = &[
            (
                &group("Empty", &[]),
                &[(5, 1.0, 0.0, None)],
                "no members: nobody reads for this group, the oldest record waits for 1 m 15 s",
            ),
            (
                &group("PreparingRebalance", &[&[0]]),
                &[(5, 1.0, 1.0, None)],
                "the group rebalances (PreparingRebalance)",
            ),
            (
                &group("Stable", &[&[0]]),
                &[(0, 1.0, 1.0, None), (9, 1.0, 0.0, None)],
                "orders 1: no member reads it",
            ),
            (
                &two,
                &[(50, 5.0, 0.0, Some(30.0)), (0, 5.0, 5.0, None)],
                "commits have stopped: c0 at 10.0.0.7 has committed nothing of orders 0 for 30 s",
            ),
            (
                &one,
                &[(50, 5.0, 0.0, Some(30.0)), (1, 5.0, 5.0, None)],
                "one slow partition: c0 at 10.0.0.7 reads its other partitions",
            ),
            (
                &two,
                &[(90, 50.0, 40.0, None), (1, 1.0, 1.0, None)],
                "one partition: orders-0 has 99 % of the lag, and gets 98 % of the records",
            ),
            (
                &two,
                &[(90, 5.0, 4.0, None), (1, 5.0, 5.0, None)],
                "one slow partition: orders-0 has 99 % of the lag, though",
            ),
            (
                &two,
                &[(50, 50.0, 40.0, None), (50, 50.0, 40.0, None)],
                "there is a member for each of the 2 partitions already",
            ),
            (
                &one,
                &[(50, 50.0, 40.0, None), (50, 50.0, 40.0, None)],
                "too slow: 100/s come in, 80/s are committed; 1 of at most 2 useful members run",
            ),
        ];
        for (group, partitions, expected) in cases {
            let found = of(group, partitions);
            assert!(found.iter().any(|cause| cause.contains(expected)), "{expected}: {found:?}");
        }
    }

    #[test]
    fn a_short_look_does_not_call_members_slow_that_only_have_not_committed() {
        let one = group("Stable", &[&[0]]);
        let partitions = [(50, 50.0, 0.0, None)];
        assert!(
            within(&one, &partitions, 2.0)[0].starts_with("nothing was committed in the 2.0 s of looking")
        );
        assert!(within(&one, &partitions, 20.0)[0].starts_with("too slow"));
        assert!(within(&group("Empty", &[]), &partitions, 2.0)[0].starts_with("no members"));
    }

    #[test]
    fn a_group_that_keeps_up_has_no_causes() {
        let two = group("Stable", &[&[0], &[1]]);
        assert_eq!(of(&two, &[(0, 5.0, 5.0, None), (0, 5.0, 5.0, None)]), Vec::<String>::new());
        assert_eq!(of(&group("Empty", &[]), &[(0, 0.0, 0.0, None)]), Vec::<String>::new());
        // It catches up: there is a lag, and nothing to be said against it.
        assert_eq!(of(&two, &[(50, 5.0, 9.0, None), (40, 5.0, 9.0, None)]), Vec::<String>::new());
    }

    #[test]
    fn records_that_retention_took_are_told_first() {
        let stable = group("Stable", &[&[0]]);
        let point = Point { committed: Some(5), start: Some(20), end: Some(20), ..Point::default() };
        let trend = trend(0, 0.0, 0.0);
        let seen = BTreeMap::from([(at(0), Seen { point: &point, trend: Some(&trend), still_for: None })]);
        let found = causes(&stable, &seen, 5.0);
        assert!(found[0].starts_with("orders-0: 15 records were deleted by retention"), "{found:?}");
        let gone = Point { committed: Some(5), ..Point::default() };
        let seen = BTreeMap::from([(at(0), Seen { point: &gone, trend: None, still_for: None })]);
        assert!(causes(&stable, &seen, 5.0)[0].starts_with("orders 0: no leader"));
    }
}
