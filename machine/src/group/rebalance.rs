//! From one generation to the next.

use ottla_protocol::error::ErrorCode;

use super::coordinator::{GroupCoordinator, GroupReply, Now, Then, Timer};
use super::{State, record};

impl GroupCoordinator {
    /// Something about the membership changed: a rebalance begins, or one that is under way may be complete.
    pub(super) fn rebalance(&mut self, id: &str, now: Now) {
        let initial_delay_ms = self.settings.initial_rebalance_delay_ms;
        let Some(group) = self.groups.get_mut(id) else { return };
        match group.state {
            State::Preparing => {}
            State::Empty => {
                // Members of a new group come one after another: a short wait saves a rebalance for each (KIP-134).
                let timeout = group.rebalance_timeout_ms();
                group.initial_left_ms = Some(timeout.saturating_sub(initial_delay_ms));
                group.joined_since = false;
                group.join_ends_ms = now.tick_ms + initial_delay_ms;
                group.enter(State::Preparing, now.wall_ms);
            }
            State::Completing | State::Stable => {
                group.initial_left_ms = None;
                group.join_ends_ms = now.tick_ms + group.rebalance_timeout_ms();
                group.enter(State::Preparing, now.wall_ms);
                self.release_syncing(id, ErrorCode::RebalanceInProgress);
            }
        }
        let group = self.groups.get_mut(id).expect("looked at above");
        let at = group.join_ends_ms;
        if group.initial_left_ms.is_none() && group.all_joined() || at <= now.tick_ms {
            self.complete_join(id, now);
        } else {
            self.set_timer(at, Timer::Join { group: id.to_owned() });
        }
    }

    /// Members that wait for an assignment of a generation that is over.
    pub(super) fn release_syncing(&mut self, id: &str, code: ErrorCode) {
        let Some(group) = self.groups.get_mut(id) else { return };
        group.not_synced.clear();
        let waiting: Vec<_> = group.members.values_mut().filter_map(|member| member.syncing.take()).collect();
        for token in waiting {
            self.reply(token, GroupReply::Sync(Default::default()).failed(code));
        }
    }

    /// A member is gone: the others share what it had.
    pub(super) fn on_member_gone(&mut self, id: &str, now: Now) {
        let Some(group) = self.groups.get(id) else { return };
        match group.state {
            State::Empty => {}
            State::Completing | State::Stable => self.rebalance(id, now),
            State::Preparing => self.on_awaited_gone(id, now),
        }
    }

    /// Somebody for whom a rebalance may have waited does not come any more.
    pub(super) fn on_awaited_gone(&mut self, id: &str, now: Now) {
        let Some(group) = self.groups.get(id) else { return };
        if group.state == State::Preparing && group.initial_left_ms.is_none() && group.all_joined() {
            self.complete_join(id, now);
        }
    }

    pub(super) fn on_join_timer(&mut self, id: &str, now: Now) {
        let initial_delay_ms = self.settings.initial_rebalance_delay_ms;
        let Some(group) = self.groups.get_mut(id) else { return };
        if group.state != State::Preparing || group.join_ends_ms > now.tick_ms {
            return;
        }
        if let Some(left) = group.initial_left_ms
            && group.joined_since
            && left > 0
        {
            // Somebody joined meanwhile: others may follow.
            let delay = initial_delay_ms.min(left);
            group.initial_left_ms = Some(left - delay);
            group.joined_since = false;
            group.join_ends_ms = now.tick_ms + delay;
            let at = group.join_ends_ms;
            self.set_timer(at, Timer::Join { group: id.to_owned() });
            return;
        }
        self.complete_join(id, now);
    }

    /// The joining phase is over: whoever did not join is out, the others form the next generation.
    fn complete_join(&mut self, id: &str, now: Now) {
        let Some(group) = self.groups.get_mut(id) else { return };
        let absent: Vec<String> = group
            .members
            .values()
            .filter(|member| member.joining.is_none() && member.instance_id.is_none())
            .map(|member| member.id.clone())
            .collect();
        for member in absent {
            group.remove(&member);
        }
        let joined = group.order.iter().find(|id| group.members[*id].joining.is_some()).cloned();
        if joined.is_none() && !group.members.is_empty() {
            // Only static members are left, and none of them is here: they have until their sessions end.
            group.join_ends_ms = now.tick_ms + group.rebalance_timeout_ms();
            let at = group.join_ends_ms;
            self.set_timer(at, Timer::Join { group: id.to_owned() });
            return;
        }
        group.initial_left_ms = None;
        group.generation += 1;
        if group.members.is_empty() {
            group.protocol = None;
            group.leader = None;
            group.enter(State::Empty, now.wall_ms);
            let stored = record::group(id, group);
            self.append(vec![stored], Then::Nothing);
            return;
        }
        let leader_joined = group
            .leader
            .as_ref()
            .is_some_and(|id| group.members.get(id).is_some_and(|member| member.joining.is_some()));
        if !leader_joined {
            group.leader = joined;
        }
        group.protocol = group.select_protocol();
        group.enter(State::Completing, now.wall_ms);
        group.not_synced = group.members.keys().cloned().collect();
        group.sync_ends_ms = now.tick_ms + group.rebalance_timeout_ms();
        let sync_ends_ms = group.sync_ends_ms;
        let members: Vec<String> = group.order.clone();
        for member in members {
            let held = self.groups.get_mut(id).and_then(|group| group.members.get_mut(&member));
            let Some(token) = held.and_then(|member| {
                member.is_new = false;
                member.joining.take()
            }) else {
                continue;
            };
            let reply = self.join_reply(id, &member);
            self.reply(token, GroupReply::Join(reply));
            self.touch(id, &member, now);
        }
        self.set_timer(sync_ends_ms, Timer::Sync { group: id.to_owned() });
    }
}
