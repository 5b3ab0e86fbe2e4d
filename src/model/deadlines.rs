//! A queue of deadlines without a clock.
//!
//! One queue per owner replaces one timer per item. The owner sleeps until
//! [`next`](Deadlines::next) and then takes what is due; cancelling an item costs one look-up. The
//! queue itself has no bound; its users bound what they insert.

use std::collections::BTreeMap;

use crate::model::ids::Moment;

/// Items by deadline. Items with the same deadline are due in insertion order.
#[derive(Debug)]
pub struct Deadlines<T> {
    items: BTreeMap<DeadlineId, T>,
    /// Number of items inserted so far.
    inserted: u64,
}

/// Identifies an item for [`Deadlines::cancel`]; never reused.
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

    /// Removes an item before it is due; `None` if it has been taken already.
    pub fn cancel(&mut self, id: DeadlineId) -> Option<T> {
        self.items.remove(&id)
    }

    /// Takes the earliest item if it is due at `now`. Call it until it returns `None`.
    pub fn take_due(&mut self, now: Moment) -> Option<T> {
        let first = self.items.first_entry()?;
        (first.key().at <= now).then(|| first.remove())
    }

    /// The earliest deadline.
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
