//! What must hold for a cluster, whatever happens to its machines.
//!
//! - Every acknowledged message is readable, with the same bytes, at its queue offset, on every
//!   replica: checked against everything that consumers see, and at the end against every replica.
//! - Two leaders never acknowledge different messages at one queue offset.
//! - What a consumer has seen never changes and never disappears. Consumers see no gaps.
//! - A message is stored in one place only, however often its producer sends it.
//! - A group's offset on any replica is never below one whose commit was acknowledged earlier, and
//!   never above the highest that was sent to a leader.
//! - A replica that reports that there is nothing new, or the end of a queue or the offset of a
//!   group, knows of everything that was acknowledged before it was asked.
//! - A term has one leader, in one life of its process.
//! - The n-th entry of the engine is the same on all replicas that count it as committed, and so
//!   are the bytes of their logs up to it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;

use ringmq::broker::raft_entries::RaftPlace;
use ringmq::model::LogOffset;
use ringmq::replication::types::ReplicaId;
use ringmq::sim::copies::Sendable;

/// A queue and an offset in it.
pub type Place = (u32, u64);

/// A consumer group's offset in a queue.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The highest offset that was sent to a leader.
    asked: u64,
    /// The highest offset whose commit was acknowledged.
    acknowledged: u64,
}

/// The newest acknowledged state of a queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Newest {
    pub end: u64,
    /// The offset of one group.
    pub committed: u64,
}

#[derive(Default)]
pub struct Oracle(RefCell<Known>);

#[derive(Default)]
struct Known {
    acknowledged: BTreeMap<Place, Vec<u8>>,
    seen: BTreeMap<Place, Vec<u8>>,
    /// Where each message is, as seen or acknowledged.
    places: BTreeMap<Vec<u8>, Place>,
    progress: BTreeMap<(String, u32), Progress>,
    /// The machine that leads in a term, and the life of its process.
    leaders: BTreeMap<u64, (ReplicaId, u64)>,
    /// The engine's committed entries, by index.
    entries: BTreeMap<u64, RaftPlace>,
    /// The committed entries of the log, by where they begin.
    log: BTreeMap<LogOffset, Sendable>,
}

impl Known {
    fn place(&mut self, place: Place, body: &[u8], who: &dyn Display) {
        let before = *self.places.entry(body.to_vec()).or_insert(place);
        assert_eq!(before, place, "{who}: {} is in two places", text(body));
        for known in [&self.acknowledged, &self.seen] {
            if let Some(known) = known.get(&place) {
                let (before, found) = (text(known), text(body));
                assert!(known == body, "{who}: at {place:?} was {before}, and is {found}");
            }
        }
    }
}

/// The part of a message that distinguishes it from others.
fn text(body: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&body[..body.len().min(12)])
}

impl Oracle {
    pub fn acknowledge(&self, place: Place, body: &[u8], who: &dyn Display) {
        let known = &mut *self.0.borrow_mut();
        known.place(place, body, who);
        known.acknowledged.insert(place, body.to_vec());
    }

    pub fn see(&self, place: Place, body: &[u8], who: &dyn Display) {
        let known = &mut *self.0.borrow_mut();
        known.place(place, body, who);
        known.seen.insert(place, body.to_vec());
    }

    pub fn ask_commit(&self, group: &str, queue: u32, offset: u64) {
        let known = &mut *self.0.borrow_mut();
        let progress = known.progress.entry((group.into(), queue)).or_default();
        progress.asked = progress.asked.max(offset);
    }

    pub fn acknowledge_commit(&self, group: &str, queue: u32, offset: u64) {
        let known = &mut *self.0.borrow_mut();
        let progress = known.progress.entry((group.into(), queue)).or_default();
        progress.acknowledged = progress.acknowledged.max(offset);
    }

    /// Lower bounds of the end of a queue and of a group's offset in it.
    pub fn known(&self, queue: u32, group: Option<&str>) -> Newest {
        let known = self.0.borrow();
        let last = known.acknowledged.range((queue, 0)..(queue + 1, 0)).next_back();
        let progress = group.and_then(|group| known.progress.get(&(group.to_owned(), queue)));
        Newest {
            end: last.map_or(0, |(place, _)| place.1 + 1),
            committed: progress.map_or(0, |progress| progress.acknowledged),
        }
    }

    pub fn lead(&self, term: u64, leader: (ReplicaId, u64)) {
        let before = *self.0.borrow_mut().leaders.entry(term).or_insert(leader);
        assert_eq!(before, leader, "term {term} has two leaders, or two runs of one");
    }

    pub fn commit_entry(&self, place: RaftPlace, who: &dyn Display) {
        let before = *self.0.borrow_mut().entries.entry(place.index).or_insert(place);
        assert_eq!(before, place, "{who}: another entry is committed");
    }

    /// Compares the log of a replica with that of others. `entries` is its log up to the committed
    /// watermark.
    pub fn compare_log(&self, entries: impl Iterator<Item = Sendable>, who: &dyn Display) {
        let known = &mut *self.0.borrow_mut();
        let mut end = None;
        for entry in entries {
            let begin = end.replace(entry.end).unwrap_or(entry.at);
            assert_eq!(entry.at, begin, "{who}: a gap in the log");
            let before = known.log.entry(entry.at).or_insert_with(|| entry.clone());
            assert!(*before == entry, "{who}: its log differs: {before:?}, {entry:?}");
        }
    }

    pub fn groups(&self) -> Vec<(String, u32)> {
        self.0.borrow().progress.keys().cloned().collect()
    }

    /// Checks the offset of a group on a replica that has everything.
    pub fn check_progress(&self, group: &(String, u32), found: Option<u64>, who: &dyn Display) {
        let progress = self.0.borrow().progress[group];
        let range = progress.acknowledged..=progress.asked;
        assert!(
            range.contains(&found.unwrap_or(0)),
            "{who}: {group:?} is at {found:?}: {progress:?}"
        );
    }

    /// Checks a replica that has everything except what retention has deleted. `queues` are the
    /// offsets of the messages in all of its queues, which have been passed to [`see`](Self::see).
    pub fn check_all(&self, queues: &[Range<u64>], who: &dyn Display) {
        let known = self.0.borrow();
        for place in known.seen.keys().chain(known.acknowledged.keys()) {
            assert!(place.1 < queues[place.0 as usize].end, "{who}: {place:?} is lost");
        }
        let total: u64 = queues.iter().map(|queue| queue.end - queue.start).sum();
        let is_kept = |place: &&Place| place.1 >= queues[place.0 as usize].start;
        let seen = known.seen.keys().filter(is_kept).count();
        assert_eq!(seen as u64, total, "{who}: messages that were seen");
    }

    pub fn acknowledged_count(&self) -> usize {
        self.0.borrow().acknowledged.len()
    }

    pub fn leader_count(&self) -> usize {
        self.0.borrow().leaders.len()
    }
}
