//! Cached parts of index files: pages, and the runs found in them. Both are bounded, with LRU
//! eviction.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::model::LogOffset;
use crate::storage::located::QueueKey;
use crate::storage::sealed::PAGE_SIZE;

/// A page of an index file. A rebuilt file has another version: its runs and messages may be
/// elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FilePage {
    pub segment: LogOffset,
    pub version: u32,
    pub number: u32,
}

/// Pages of index files, bounded in bytes; the least recently used is evicted first.
#[derive(Debug)]
pub struct PageCache {
    pages: FxHashMap<FilePage, CachedPage>,
    count_max: usize,
    clock: Cell<u64>,
}

struct CachedPage {
    bytes: Rc<dyn AsRef<[u8]>>,
    used: Cell<u64>,
}

impl std::fmt::Debug for CachedPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CachedPage(used {})", self.used.get())
    }
}

impl PageCache {
    pub fn new(size_max: usize) -> Self {
        let count_max = (size_max / PAGE_SIZE).max(1);
        Self { pages: FxHashMap::default(), count_max, clock: Cell::new(0) }
    }

    pub fn insert(&mut self, page: FilePage, bytes: Rc<dyn AsRef<[u8]>>) {
        while self.pages.len() >= self.count_max && !self.pages.contains_key(&page) {
            let coldest = self.pages.iter().min_by_key(|(_, cached)| cached.used.get());
            let coldest = *coldest.expect("the cache is full").0;
            self.pages.remove(&coldest);
        }
        self.pages.insert(page, CachedPage { bytes, used: Cell::new(self.tick()) });
    }

    pub fn find(&self, page: FilePage) -> Option<&Rc<dyn AsRef<[u8]>>> {
        let cached = self.pages.get(&page)?;
        cached.used.set(self.tick());
        Some(&cached.bytes)
    }

    /// Keeps only pages of segments that are still in the log.
    pub fn drop_before(&mut self, begin: LogOffset) {
        self.pages.retain(|page, _| page.segment >= begin);
    }

    pub fn size(&self) -> usize {
        self.pages.len() * PAGE_SIZE
    }

    fn tick(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }
}

/// A run in an index file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedRun {
    pub segment: LogOffset,
    /// Of the index file.
    pub version: u32,
    pub first: u64,
    /// Queue offset after the last message.
    pub end: u64,
    /// Slot of the first message.
    pub start: u32,
}

/// The result of a search for a range of queue offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stretch {
    Run(SealedRun),
    /// The log has none of them.
    Lost {
        first: u64,
        end: u64,
    },
}

impl Stretch {
    fn first(&self) -> u64 {
        match self {
            Self::Run(run) => run.first,
            Self::Lost { first, .. } => *first,
        }
    }

    fn end(&self) -> u64 {
        match self {
            Self::Run(run) => run.end,
            Self::Lost { end, .. } => *end,
        }
    }
}

/// Maximum number of cached ranges. A consumer that reads forward looks up its run here for every
/// pull. With fewer ranges than lagging consumers, each one reads the directory more often.
const STRETCHES_MAX: usize = 8192;

/// Search results in two generations: what was not used while the younger one filled up is evicted
/// with the older one.
#[derive(Debug, Default)]
pub struct StretchCache {
    young: BTreeMap<(QueueKey, u64), Stretch>,
    old: BTreeMap<(QueueKey, u64), Stretch>,
}

impl StretchCache {
    pub fn insert(&mut self, key: QueueKey, stretch: Stretch) {
        if self.young.len() >= STRETCHES_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert((key, stretch.first()), stretch);
    }

    /// The cached range of the queue that contains `offset`.
    pub fn find(&mut self, key: QueueKey, offset: u64) -> Option<Stretch> {
        if let Some(found) = find_in(&self.young, key, offset) {
            return Some(found);
        }
        let found = find_in(&self.old, key, offset)?;
        self.insert(key, found);
        Some(found)
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

fn find_in(
    stretches: &BTreeMap<(QueueKey, u64), Stretch>,
    key: QueueKey,
    offset: u64,
) -> Option<Stretch> {
    let (place, found) = stretches.range(..=(key, offset)).next_back()?;
    (place.0 == key && offset < found.end()).then_some(*found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::QueueId;

    #[test]
    fn the_page_used_last_stays() {
        let mut cache = PageCache::new(2 * PAGE_SIZE);
        let page = |number| FilePage { segment: LogOffset(0), version: 0, number };
        for number in 0..2 {
            cache.insert(page(number), Rc::new(vec![0; PAGE_SIZE]));
        }
        assert!(cache.find(page(0)).is_some());
        cache.insert(page(2), Rc::new(vec![0; PAGE_SIZE]));
        let mut left: Vec<u32> = cache.pages.keys().map(|page| page.number).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 2]);
    }

    #[test]
    fn a_stretch_in_use_outlives_any_number_of_others() {
        let mut cache = StretchCache::default();
        let key = |topic| QueueKey { topic, queue: QueueId(0) };
        let kept = Stretch::Lost { first: 5, end: 9 };
        cache.insert(key(0), kept);
        for topic in 1..3 * STRETCHES_MAX as u32 {
            assert_eq!(cache.find(key(0), 7), Some(kept), "{topic}");
            cache.insert(key(topic), Stretch::Lost { first: 0, end: 1 });
            assert!(cache.young.len() + cache.old.len() <= STRETCHES_MAX);
        }
        assert_eq!(cache.find(key(1), 0), None);
        assert_eq!((cache.find(key(0), 4), cache.find(key(0), 9)), (None, None));
    }
}
