//! A queue of deadlines without a clock: what is due when, in order.
//!
//! One per owner replaces one timer per item. Whoever owns it sleeps until [`next`](Deadlines::next)
//! and then takes what is due; an item that ends earlier is cancelled, which costs one look-up.
//! Unbounded by itself: whoever inserts has a bound on what it waits for.

use std::collections::BTreeMap;

use crate::model::ids::Moment;

/// Items by the moment at which they are due. Items of one moment are due in the order of insertion.
#[derive(Debug)]
pub struct Deadlines<T> {
    items: BTreeMap<DeadlineId, T>,
    /// Items inserted so far.
    inserted: u64,
}

/// Names one item for [`Deadlines::cancel`]; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadlineId {
    at: Moment,
    nth: u64,
}

impl<T> Default for Deadlines<T> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), inserted: 0 }
    }
}

impl<T> Deadlines<T> {
    pub fn insert(&mut self, at: Moment, item: T) -> DeadlineId {
        let id = DeadlineId { at, nth: self.inserted };
        self.inserted += 1;
        self.items.insert(id, item);
        id
    }

    /// Takes an item out before it is due; `None` when it has been taken already.
    pub fn cancel(&mut self, id: DeadlineId) -> Option<T> {
        self.items.remove(&id)
    }

    /// Takes the earliest item if it is due at `now`. To be called until it gives `None`.
    pub fn take_due(&mut self, now: Moment) -> Option<T> {
        let first = self.items.first_entry()?;
        (first.key().at <= now).then(|| first.remove())
    }

    /// When the earliest item is due.
    pub fn next(&self) -> Option<Moment> {
        self.items.first_key_value().map(|(id, _)| id.at)
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due<T>(deadlines: &mut Deadlines<T>, now: u64) -> Vec<T> {
        std::iter::from_fn(|| deadlines.take_due(Moment(now))).collect()
    }

    #[test]
    fn items_are_due_in_order_and_none_before_its_moment() {
        let mut deadlines = Deadlines::default();
        for (at, item) in [(30, 'd'), (10, 'a'), (20, 'b'), (20, 'c')] {
            deadlines.insert(Moment(at), item);
        }
        assert_eq!(due(&mut deadlines, 9), []);
        assert_eq!(deadlines.next(), Some(Moment(10)));
        assert_eq!(due(&mut deadlines, 20), ['a', 'b', 'c']);
        assert_eq!((deadlines.next(), deadlines.len()), (Some(Moment(30)), 1));
        assert_eq!(due(&mut deadlines, 100), ['d']);
        assert_eq!((deadlines.next(), deadlines.is_empty()), (None, true));
    }

    #[test]
    fn a_cancelled_item_is_never_due_and_its_name_means_no_other() {
        let mut deadlines = Deadlines::default();
        let first = deadlines.insert(Moment(10), "first");
        let second = deadlines.insert(Moment(10), "second");
        assert_eq!(deadlines.cancel(first), Some("first"));
        deadlines.insert(Moment(10), "third");
        assert_eq!(deadlines.cancel(first), None);
        assert_eq!(due(&mut deadlines, 10), ["second", "third"]);
        assert_eq!(deadlines.cancel(second), None);
    }
}
