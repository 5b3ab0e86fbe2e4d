//! Notifications of members whose group has changed, at a limited rate: each is a system call, and
//! each member then asks for the list of all members. Otherwise a change of a group with a thousand
//! members would hold up everything else on the core.
//!
//! Invariant: a member that waits to be notified waits once, however often its group changes
//! meanwhile, because it asks for the list only after that.
//!
//! Groups take turns, so a large one delays the others by no more than its share.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::model::{GroupName, Moment};

/// Time between two steps. All members of a group of up to [`STEP_COUNT_MIN`] are notified in one.
const PACE_MS: u64 = 25;
/// Minimum number of members notified in one step: a thousand take 0.8 s.
const STEP_COUNT_MIN: usize = 32;
/// One part in this many of those that wait is notified in each step, so that ten thousand take 3 s.
const STEPS: usize = 40;

#[derive(Debug, Default)]
struct Waiting {
    connections: BTreeSet<u64>,
    /// The one that was notified last. The following ones are next, so none is passed over while the
    /// group keeps changing.
    last: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Notices {
    /// Groups that have changed, each with the connections of members to notify; never none.
    waiting: BTreeMap<GroupName, Waiting>,
    /// Number of all members that wait.
    count: usize,
    /// The group of the last notification.
    last: Option<GroupName>,
    /// When the next step may begin, and how many are left of the one that has begun.
    next: Moment,
    left: usize,
}

impl Waiting {
    fn take(&mut self) -> Option<u64> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let following = self.connections.range((after, Bound::Unbounded)).next();
        let next = *following.or_else(|| self.connections.first())?;
        self.last = Some(next);
        self.connections.remove(&next);
        Some(next)
    }
}

impl Notices {
    pub fn add(&mut self, group: &GroupName, connections: BTreeSet<u64>) {
        if !connections.is_empty() {
            let waiting = self.waiting.entry(group.clone()).or_default();
            self.count -= waiting.connections.len();
            waiting.connections.extend(connections);
            self.count += waiting.connections.len();
        }
    }

    /// When a member can be notified; `None` if none waits.
    pub fn next(&self) -> Option<Moment> {
        (!self.waiting.is_empty()).then_some(self.next)
    }

    /// The next member to notify, by its connection, unless others have been notified just now.
    pub fn take(&mut self, now: Moment) -> Option<(u64, GroupName)> {
        if now < self.next {
            return None;
        }
        if self.left == 0 {
            self.left = STEP_COUNT_MIN.max(self.count / STEPS);
        }
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let following = self.waiting.range::<GroupName, _>((after, Bound::Unbounded)).next();
        let group = following.or_else(|| self.waiting.first_key_value())?.0.clone();
        let connection = self.waiting.get_mut(&group)?.take()?;
        if self.waiting[&group].connections.is_empty() {
            self.waiting.remove(&group);
        }
        self.last = Some(group.clone());
        self.count -= 1;
        self.left -= 1;
        if self.left == 0 {
            self.next = now.plus_ms(PACE_MS);
        }
        Some((connection, group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str) -> GroupName {
        GroupName::new(name.to_owned()).unwrap()
    }

    /// Those that can be notified now.
    fn taken(notices: &mut Notices, now: u64) -> Vec<(u64, String)> {
        let taken = std::iter::from_fn(|| notices.take(Moment(now)));
        taken.map(|(connection, group)| (connection, group.to_string())).collect()
    }

    #[test]
    fn many_members_are_notified_at_the_pace_and_few_at_once() {
        let mut notices = Notices::default();
        let all = 0..10 * STEP_COUNT_MIN as u64;
        notices.add(&group("g"), all.clone().collect());
        let mut notified = Vec::new();
        for nth in 0..10 {
            assert_eq!(notices.next(), Some(Moment(if nth == 0 { 0 } else { nth * PACE_MS })));
            let now = taken(&mut notices, nth * PACE_MS);
            assert_eq!(now.len(), STEP_COUNT_MIN);
            notified.extend(now.into_iter().map(|(connection, _)| connection));
            assert_eq!(notices.take(Moment((nth + 1) * PACE_MS - 1)), None, "it is too early");
        }
        assert_eq!((notices.next(), notified), (None, all.collect()));
        notices.add(&group("g"), BTreeSet::new());
        assert_eq!(notices.next(), None, "there is nobody to notify");
    }

    #[test]
    fn very_many_take_some_seconds() {
        for (members, expected_ms) in [(1_000, 800), (10_000, 3_000), (50_000, 4_700)] {
            let mut notices = Notices::default();
            notices.add(&group("g"), (0..members).collect());
            let mut now = 0;
            while let Some(next) = notices.next() {
                now = next.0;
                taken(&mut notices, now);
            }
            assert!(now.abs_diff(expected_ms) < 200, "{members} members take {now} ms");
        }
    }

    #[test]
    fn no_member_is_passed_over_while_the_group_keeps_changing() {
        let (mut notices, mut notified) = (Notices::default(), BTreeSet::new());
        for nth in 0..20 {
            notices.add(&group("g"), (0..10 * STEP_COUNT_MIN as u64).collect());
            let now = taken(&mut notices, nth * PACE_MS);
            notified.extend(now.into_iter().map(|(connection, _)| connection));
        }
        assert_eq!(notified.len(), 10 * STEP_COUNT_MIN);
    }

    #[test]
    fn a_member_waits_once_and_groups_take_turns() {
        let mut notices = Notices::default();
        notices.add(&group("a"), (1..4).collect());
        notices.add(&group("b"), [7].into());
        notices.add(&group("a"), (2..5).collect());
        let row = |connection, group: &str| (connection, group.to_owned());
        let expected = [row(1, "a"), row(7, "b"), row(2, "a"), row(3, "a"), row(4, "a")];
        assert_eq!(taken(&mut notices, 0), expected);
    }
}
