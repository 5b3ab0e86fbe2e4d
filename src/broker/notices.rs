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

/// Maximum number of members notified in each [`PACE_MS`]: all of a thousand in 0.3 s.
const NOTICES_MAX: usize = 32;
const PACE_MS: u64 = 10;

#[derive(Debug, Default)]
pub struct Notices {
    /// Groups that have changed, each with the connections of members to notify; never none.
    waiting: BTreeMap<GroupName, BTreeSet<u64>>,
    /// The group of the last notification.
    last: Option<GroupName>,
    /// When the next notifications may be sent, and how many have been since the ones before.
    next: Moment,
    taken: usize,
}

impl Notices {
    pub fn add(&mut self, group: &GroupName, connections: BTreeSet<u64>) {
        if !connections.is_empty() {
            self.waiting.entry(group.clone()).or_default().extend(connections);
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
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let following = self.waiting.range::<GroupName, _>((after, Bound::Unbounded)).next();
        let group = following.or_else(|| self.waiting.first_key_value())?.0.clone();
        let connections = self.waiting.get_mut(&group)?;
        let connection = connections.pop_first()?;
        if connections.is_empty() {
            self.waiting.remove(&group);
        }
        self.last = Some(group.clone());
        self.taken += 1;
        if self.taken == NOTICES_MAX {
            (self.taken, self.next) = (0, now.plus_ms(PACE_MS));
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
        let all = 0..10 * NOTICES_MAX as u64;
        notices.add(&group("g"), all.clone().collect());
        let mut notified = Vec::new();
        for nth in 0..10 {
            assert_eq!(notices.next(), Some(Moment(if nth == 0 { 0 } else { nth * PACE_MS })));
            let now = taken(&mut notices, nth * PACE_MS);
            assert_eq!(now.len(), NOTICES_MAX);
            notified.extend(now.into_iter().map(|(connection, _)| connection));
            assert_eq!(notices.take(Moment((nth + 1) * PACE_MS - 1)), None, "it is too early");
        }
        assert_eq!((notices.next(), notified), (None, all.collect()));
        notices.add(&group("g"), BTreeSet::new());
        assert_eq!(notices.next(), None, "there is nobody to notify");
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
