//! A walk over the rows of all groups, by group and then by queue, in steps of bounded length: for
//! sweeps and snapshots. Rows and groups may come and go between two steps; the walk visits each
//! row that is there all the time exactly once.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::model::GroupName;
use crate::storage::QueueKey;

/// A group's rows.
pub trait Rows {
    type Row;

    fn rows(&self) -> &BTreeMap<QueueKey, Self::Row>;
}

impl<R> Rows for BTreeMap<QueueKey, R> {
    type Row = R;

    fn rows(&self) -> &Self {
        self
    }
}

/// Where a walk continues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Walk {
    #[default]
    Begin,
    /// Rows of this group from here on have not been visited.
    Within(GroupName, Bound<QueueKey>),
    Behind(GroupName),
}

/// What one step of a walk visits: consecutive rows of one group.
pub struct Step<'a, G: Rows> {
    pub name: &'a GroupName,
    pub group: &'a G,
    pub rows: Vec<(QueueKey, &'a G::Row)>,
    /// Whether the group has no rows behind these.
    pub is_last: bool,
}

impl Walk {
    /// Goes on by at most `left` items: a group counts as one, and so does each of its rows. `None`
    /// if no group is left.
    pub fn step<'a, G: Rows>(
        &mut self,
        groups: &'a BTreeMap<GroupName, G>,
        left: &mut usize,
    ) -> Option<Step<'a, G>> {
        let (begin, from) = match &*self {
            Self::Begin => (Bound::Unbounded, Bound::Unbounded),
            Self::Within(name, from) => (Bound::Included(name), *from),
            Self::Behind(name) => (Bound::Excluded(name), Bound::Unbounded),
        };
        let (name, group) = groups.range::<GroupName, _>((begin, Bound::Unbounded)).next()?;
        // If the group that was begun is gone, this is the next one.
        let is_begun = matches!(&*self, Self::Within(begun, _) if begun == name);
        let mut from = if is_begun { from } else { Bound::Unbounded };
        let mut behind = group.rows().range((from, Bound::Unbounded)).peekable();
        let rows: Vec<_> =
            behind.by_ref().take(left.saturating_sub(1)).map(|(q, r)| (*q, r)).collect();
        *left = left.saturating_sub(1 + rows.len());
        if let Some((queue, _)) = rows.last() {
            from = Bound::Excluded(*queue);
        }
        let is_last = behind.peek().is_none();
        *self = if is_last { Self::Behind(name.clone()) } else { Self::Within(name.clone(), from) };
        Some(Step { name, group, rows, is_last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::QueueId;

    type Groups = BTreeMap<GroupName, BTreeMap<QueueKey, u32>>;

    fn key(queue: u32) -> QueueKey {
        QueueKey { topic: 1, queue: QueueId(queue) }
    }

    fn name(group: u32) -> GroupName {
        GroupName::new(format!("g{group}")).unwrap()
    }

    /// Visits up to `left` items; returns the group, the queues, and whether they are its last.
    fn step(walk: &mut Walk, groups: &Groups, mut left: usize) -> Option<(String, Vec<u32>, bool)> {
        let step = walk.step(groups, &mut left)?;
        let queues = step.rows.iter().map(|(queue, _)| queue.queue.0).collect();
        Some((step.name.to_string(), queues, step.is_last))
    }

    #[test]
    fn every_row_is_visited_once_in_steps_of_bounded_length() {
        let rows = |count| (0..count).map(|queue| (key(queue), queue)).collect();
        let groups: Groups =
            [(0, 5), (1, 0), (2, 2)].map(|(g, count)| (name(g), rows(count))).into();
        let mut walk = Walk::default();
        let mut next = || step(&mut walk, &groups, 3);
        assert_eq!(next(), Some(("g0".into(), vec![0, 1], false)));
        assert_eq!(next(), Some(("g0".into(), vec![2, 3], false)));
        assert_eq!(next(), Some(("g0".into(), vec![4], true)));
        assert_eq!(next(), Some(("g1".into(), vec![], true)));
        assert_eq!(next(), Some(("g2".into(), vec![0, 1], true)));
        assert_eq!(next(), None);
        let mut left = 100;
        assert!(Walk::default().step(&groups, &mut left).is_some());
        assert_eq!(left, 100 - 1 - 5);
    }

    #[test]
    fn groups_and_rows_may_go_between_two_steps() {
        let rows = || (0..4).map(|queue| (key(queue), queue)).collect();
        let groups: Groups = [0, 1].map(|group| (name(group), rows())).into();
        let mut walk = Walk::default();
        step(&mut walk, &groups, 3).unwrap();
        let mut without_rows = groups.clone();
        without_rows.get_mut(&name(0)).unwrap().retain(|queue, _| queue.queue.0 < 2);
        assert_eq!(step(&mut walk.clone(), &without_rows, 3), Some(("g0".into(), vec![], true)));
        let mut without_group = groups.clone();
        without_group.remove(&name(0));
        assert_eq!(step(&mut walk, &without_group, 3), Some(("g1".into(), vec![0, 1], false)));
    }
}
