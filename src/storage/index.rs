//! Where a queue's messages are in the log.
//!
//! Per queue a small header: the next queue offset, and *runs*, stretches of consecutive queue offsets
//! in one segment. The messages of a run are in memory as long as the segment is being filled, and
//! afterwards in the segment's index file ([`sealed`](super::sealed)), of which some pages are cached.
//! A queue that gets no messages costs its header and nothing else.
//!
//! What always holds, per queue: runs are in ascending order of segment and of queue offset and do not
//! overlap; where they do not join, the messages between are lost to damage.
//!
//! All of it is derived: the broker pushes what it appends, and recovery pushes what it finds. Nothing
//! here waits. A message is in the index as soon as it is appended, also before it is committed; what may be
//! shown, whoever reads knows.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::model::{LogOffset, QueueId, QueueOffset, Timestamp};
use crate::storage::sealed::{
    BLOCKS_PER_PAGE, IndexMessage, IndexPlan, IndexRun, MESSAGES_PER_BLOCK, PAGE_SIZE, PlannedRun,
    block_of_slot, message_in_page,
};

/// A queue, by the number that the broker gave its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey {
    pub topic: u32,
    pub queue: QueueId,
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Where the record begins.
    pub offset: LogOffset,
    /// Bytes of the record.
    pub size: u32,
    pub tag_hash: i32,
    pub stored_at: Timestamp,
    /// Where the entry begins that holds the record.
    pub entry_offset: LogOffset,
}

impl Located {
    pub fn end(&self) -> LogOffset {
        self.offset.plus(u64::from(self.size))
    }
}

/// A part of an index file, as it is loaded and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexPage {
    pub segment: LogOffset,
    pub number: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // Lives for one pull; a box would be an allocation for each.
pub enum Lookup {
    /// At least one message; perhaps fewer than were asked for, also when more exist.
    Here(SmallVec<[Located; 32]>),
    /// Load this page of a sealed segment's index, then look again.
    Sealed(IndexPage),
    /// This and the messages up to `next` have expired or are lost to damage.
    Lost { next: QueueOffset },
    /// The queue has no such message yet.
    Nothing,
}

#[derive(Debug)]
pub struct Index {
    queues: FxHashMap<QueueKey, Queue>,
    /// Segments whose messages are in memory, oldest first; the last one is being filled.
    segments: VecDeque<MemorySegment>,
    pages: PageCache,
    /// Damaged parts of the log; entries that touch one are not shown. Few, if any.
    hidden: Vec<Range<LogOffset>>,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    runs: VecDeque<Run>,
}

#[derive(Debug)]
struct Run {
    segment: LogOffset,
    first: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Memory(Rc<Vec<IndexMessage>>),
    File { start: u32, count: u32 },
}

#[derive(Debug)]
struct MemorySegment {
    range: Range<LogOffset>,
    /// Queues with messages here, in order of their first; some more than once.
    touched: Vec<QueueKey>,
    stored_ms: Option<(u64, u64)>,
}

impl Index {
    pub fn new(cache_size_max: usize) -> Self {
        Self {
            queues: FxHashMap::default(),
            segments: VecDeque::new(),
            pages: PageCache::new(cache_size_max),
            hidden: Vec::new(),
        }
    }

    /// Adds the message with number `offset` in its queue. Call it right behind the append.
    ///
    /// # Panics
    /// When `offset` is one that the queue already has.
    pub fn push(&mut self, key: QueueKey, offset: QueueOffset, located: Located) {
        let segment = self.segment_of(located.offset);
        let base = segment.range.start;
        segment.note_stored(located.stored_at.0);
        let message = IndexMessage::new(&located, base);
        let queue = self.queues.entry(key).or_default();
        queue.next = queue.next.max(offset.0 + 1);
        if let Some(run) = queue.runs.back_mut() {
            assert!(run.end() <= offset.0, "{key:?} has {offset} already");
            if run.segment == base && run.end() == offset.0 && run.push(message) {
                return;
            }
        }
        let place = Place::Memory(Rc::new(vec![message]));
        queue.runs.push_back(Run { segment: base, first: offset.0, place });
        self.segment_of(located.offset).touched.push(key);
    }

    /// Queue offsets of the oldest message and behind the newest one. Empty for unknown queues.
    pub fn bounds(&self, key: QueueKey) -> Range<u64> {
        let Some(queue) = self.queues.get(&key) else { return 0..0 };
        queue.runs.front().map_or(queue.next, |run| run.first)..queue.next
    }

    /// The number that the queue's next message gets.
    pub fn next_offset(&self, key: QueueKey) -> QueueOffset {
        QueueOffset(self.queues.get(&key).map_or(0, |queue| queue.next))
    }

    /// Up to `count_max` messages from number `from` on. Those in damaged parts of the log are lost,
    /// also where the index was made before the damage.
    pub fn lookup(&self, key: QueueKey, from: QueueOffset, count_max: usize) -> Lookup {
        match self.find(key, from, count_max) {
            Lookup::Here(mut found) if !self.hidden.is_empty() => {
                let lost = found.iter().take_while(|located| self.is_hidden(located)).count();
                if lost > 0 {
                    return Lookup::Lost { next: from.plus(lost as u64) };
                }
                let shown = found.iter().take_while(|located| !self.is_hidden(located)).count();
                found.truncate(shown);
                Lookup::Here(found)
            }
            found => found,
        }
    }

    /// What lies in `hole` is damaged.
    pub(super) fn hide(&mut self, hole: Range<LogOffset>) {
        self.hidden.push(hole);
    }

    fn is_hidden(&self, located: &Located) -> bool {
        let entry = located.entry_offset..located.end();
        self.hidden.iter().any(|hole| hole.start < entry.end && entry.start < hole.end)
    }

    /// As [`lookup`](Self::lookup), and messages in damaged parts of the log as well.
    pub(super) fn find(&self, key: QueueKey, from: QueueOffset, count_max: usize) -> Lookup {
        let Some(queue) = self.queues.get(&key) else { return Lookup::Nothing };
        if from.0 >= queue.next || count_max == 0 {
            return Lookup::Nothing;
        }
        let behind = queue.runs.partition_point(|run| run.first <= from.0);
        let run = behind.checked_sub(1).map(|index| &queue.runs[index]);
        let Some(run) = run.filter(|run| from.0 < run.end()) else {
            let next = queue.runs.get(behind).map_or(queue.next, |run| run.first);
            return Lookup::Lost { next: QueueOffset(next) };
        };
        let skip = (from.0 - run.first) as u32;
        match &run.place {
            Place::Memory(messages) => {
                let found = messages[skip as usize..].iter().take(count_max);
                Lookup::Here(found.map(|message| message.located(run.segment)).collect())
            }
            Place::File { start, count } => {
                self.pages.messages(run.segment, start + skip..start + count, count_max)
            }
        }
    }

    /// Forgets all queues of a topic.
    pub fn remove_topic(&mut self, topic: u32) {
        self.queues.retain(|key, _| key.topic != topic);
    }

    /// Forgets all queues of topics that `exists` does not know. For use after recovery, which also
    /// finds the index of topics that were removed since.
    pub fn retain_topics(&mut self, mut exists: impl FnMut(u32) -> bool) {
        self.queues.retain(|key, _| exists(key.topic));
    }

    /// What a snapshot has to remember, because expired messages no longer tell it.
    pub fn next_offsets(&self) -> impl Iterator<Item = (QueueKey, QueueOffset)> + '_ {
        self.queues.iter().map(|(&key, queue)| (key, QueueOffset(queue.next)))
    }

    /// Puts back what [`next_offsets`](Self::next_offsets) said.
    pub fn restore_next(&mut self, key: QueueKey, next: QueueOffset) {
        let queue = self.queues.entry(key).or_default();
        queue.next = queue.next.max(next.0);
    }

    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// Bytes of index pages in memory.
    pub fn cached_bytes(&self) -> usize {
        self.pages.pages.len() * PAGE_SIZE
    }

    /// Messages of the segment at `range` will be pushed from here on.
    pub fn begin_segment(&mut self, range: Range<LogOffset>) {
        let newest = self.segments.back().map(|segment| segment.range.start);
        assert!(newest.is_none_or(|newest| newest < range.start));
        self.segments.push_back(MemorySegment { range, touched: Vec::new(), stored_ms: None });
    }

    /// The segment at `base`, which holds nothing, is no part of the log after all.
    pub(super) fn forget_segment(&mut self, base: LogOffset) {
        self.segments.retain(|segment| segment.range.start != base);
    }

    /// Base of the newest segment that it was told of.
    pub(super) fn newest_segment(&self) -> Option<LogOffset> {
        self.segments.back().map(|segment| segment.range.start)
    }

    /// The oldest segment whose messages are in memory and that is not being filled.
    pub(super) fn oldest_sealed_in_memory(&self) -> Option<Range<LogOffset>> {
        (self.segments.len() > 1).then(|| self.segments[0].range.clone())
    }

    /// What the index file of the oldest segment in memory is to hold.
    pub(super) fn plan_file(&self, marks: Vec<u32>) -> IndexPlan {
        let segment = self.segments.front().expect("a segment is in memory");
        let base = segment.range.start;
        let mut keys = segment.touched.clone();
        keys.sort_unstable();
        keys.dedup();
        let mut runs = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(queue) = self.queues.get(&key) else { continue };
            let of_segment = queue.runs.iter().filter(|run| run.segment == base);
            runs.extend(of_segment.filter_map(|run| match &run.place {
                Place::Memory(messages) => {
                    Some(PlannedRun { key, first: run.first, messages: messages.clone() })
                }
                Place::File { .. } => None,
            }));
        }
        let (segment, stored_ms) = (segment.range.clone(), segment.stored_ms);
        IndexPlan { segment: segment.start, segment_end: segment.end, runs, marks, stored_ms }
    }

    /// The file that was planned is there: its messages leave memory.
    pub(super) fn handle_file(&mut self, plan: &IndexPlan) {
        let oldest = self.segments.pop_front().expect("the planned segment is in memory");
        assert!(oldest.range.start == plan.segment);
        for (planned, start) in plan.runs.iter().zip(plan.starts()) {
            let Some(queue) = self.queues.get_mut(&planned.key) else { continue };
            let index = queue.runs.partition_point(|run| run.first < planned.first);
            if let Some(run) = queue.runs.get_mut(index)
                && run.first == planned.first
                && run.segment == plan.segment
            {
                run.place = Place::File { start, count: planned.messages.len() as u32 };
            }
        }
    }

    /// Takes in the directory of an index file. Segments come in ascending order.
    pub(super) fn add_file(&mut self, segment: LogOffset, runs: &[IndexRun]) {
        for run in runs {
            let queue = self.queues.entry(run.key()).or_default();
            let (first, count) = (run.first.get(), run.count.get());
            let place = Place::File { start: run.start.get(), count };
            queue.next = queue.next.max(first + u64::from(count));
            queue.runs.push_back(Run { segment, first, place });
        }
    }

    /// Forgets everything about segments below `begin`, except the next offsets of queues.
    pub(super) fn drop_before(&mut self, begin: LogOffset) {
        for queue in self.queues.values_mut() {
            while queue.runs.front().is_some_and(|run| run.segment < begin) {
                queue.runs.pop_front();
            }
        }
        self.segments.retain(|segment| segment.range.start >= begin);
        self.pages.pages.retain(|page, _| page.segment >= begin);
        self.hidden.retain(|hole| hole.end > begin);
    }

    pub(super) fn insert_page(&mut self, page: IndexPage, bytes: Rc<dyn AsRef<[u8]>>) {
        self.pages.insert(page, bytes);
    }

    /// For a search by time: the queue offsets of each run.
    pub(super) fn runs(&self, key: QueueKey) -> Vec<Range<u64>> {
        let queue = self.queues.get(&key);
        queue
            .map_or(Vec::new(), |queue| queue.runs.iter().map(|run| run.first..run.end()).collect())
    }

    /// The segment in memory that holds `offset`; nearly always the last.
    fn segment_of(&mut self, offset: LogOffset) -> &mut MemorySegment {
        let mut segments = self.segments.iter_mut().rev();
        segments
            .find(|segment| segment.range.contains(&offset))
            .expect("the log knows the segment of what it holds")
    }
}

impl Run {
    fn end(&self) -> u64 {
        self.first
            + match &self.place {
                Place::Memory(messages) => messages.len() as u64,
                Place::File { count, .. } => u64::from(*count),
            }
    }

    /// False when the messages are no longer in memory, or are just being written to a file.
    fn push(&mut self, message: IndexMessage) -> bool {
        let Place::Memory(messages) = &mut self.place else { return false };
        let Some(messages) = Rc::get_mut(messages) else { return false };
        messages.push(message);
        true
    }
}

impl MemorySegment {
    fn note_stored(&mut self, stored_ms: u64) {
        let (first, last) = self.stored_ms.unwrap_or((stored_ms, stored_ms));
        self.stored_ms = Some((first.min(stored_ms), last.max(stored_ms)));
    }
}

/// Pages of index files, at most so many bytes; the least recently used leaves first.
#[derive(Debug)]
struct PageCache {
    pages: FxHashMap<IndexPage, CachedPage>,
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
    fn new(size_max: usize) -> Self {
        let count_max = (size_max / PAGE_SIZE).max(1);
        Self { pages: FxHashMap::default(), count_max, clock: Cell::new(0) }
    }

    fn insert(&mut self, page: IndexPage, bytes: Rc<dyn AsRef<[u8]>>) {
        while self.pages.len() >= self.count_max && !self.pages.contains_key(&page) {
            let coldest = self.pages.iter().min_by_key(|(_, cached)| cached.used.get());
            let coldest = *coldest.expect("the cache is full").0;
            self.pages.remove(&coldest);
        }
        self.pages.insert(page, CachedPage { bytes, used: Cell::new(self.tick()) });
    }

    fn messages(&self, segment: LogOffset, slots: Range<u32>, count_max: usize) -> Lookup {
        let number = block_of_slot(slots.start) / BLOCKS_PER_PAGE;
        let page = IndexPage { segment, number: number as u32 };
        let Some(cached) = self.pages.get(&page) else { return Lookup::Sealed(page) };
        cached.used.set(self.tick());
        let first_block = number * BLOCKS_PER_PAGE;
        let page_end = ((first_block + BLOCKS_PER_PAGE) * MESSAGES_PER_BLOCK) as u32;
        let bytes = (*cached.bytes).as_ref();
        let found = (slots.start..slots.end.min(page_end)).take(count_max);
        Lookup::Here(
            found
                .map_while(|slot| message_in_page(bytes, first_block, slot))
                .map(|message| message.located(segment))
                .collect(),
        )
    }

    fn tick(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::BLOCK_SIZE;

    const KEY: QueueKey = QueueKey { topic: 1, queue: QueueId(2) };
    const SEGMENT: u64 = 1 << 20;

    fn located(offset: u64) -> Located {
        let at = LogOffset(offset);
        Located { offset: at, size: 100, tag_hash: 0, stored_at: Timestamp(9), entry_offset: at }
    }

    /// Numbers 0 to 2 in the first segment, 5 to 7 in the second; 3 and 4 were lost.
    fn sample() -> Index {
        let mut index = Index::new(PAGE_SIZE);
        for segment in 0..2 {
            let base = segment * SEGMENT;
            index.begin_segment(LogOffset(base)..LogOffset(base + SEGMENT));
            for number in 0..3 {
                let offset = QueueOffset(segment * 5 + number);
                index.push(KEY, offset, located(base + number * 100));
            }
        }
        index
    }

    /// Writes the index file of the oldest segment to memory.
    fn seal(index: &mut Index) -> Vec<u8> {
        let plan = index.plan_file(vec![0]);
        let mut file = vec![0xEE; plan.layout().size() as usize];
        let mut encode = plan.encode(4);
        file.chunks_mut(BLOCK_SIZE).for_each(&mut encode);
        drop(encode);
        index.handle_file(&plan);
        file
    }

    fn first(lookup: &Lookup) -> Option<(usize, u64)> {
        match lookup {
            Lookup::Here(found) => Some((found.len(), found[0].offset.0)),
            _ => None,
        }
    }

    #[test]
    fn lookups() {
        let index = sample();
        let lost = |next| Lookup::Lost { next: QueueOffset(next) };
        assert_eq!(first(&index.lookup(KEY, QueueOffset(0), 32)), Some((3, 0)));
        assert_eq!(first(&index.lookup(KEY, QueueOffset(1), 1)), Some((1, 100)));
        assert_eq!(index.lookup(KEY, QueueOffset(3), 32), lost(5));
        assert_eq!(index.lookup(KEY, QueueOffset(4), 32), lost(5));
        assert_eq!(first(&index.lookup(KEY, QueueOffset(5), 32)), Some((3, SEGMENT)));
        assert_eq!(index.lookup(KEY, QueueOffset(8), 32), Lookup::Nothing);
        let unknown = QueueKey { topic: 3, ..KEY };
        assert_eq!(index.lookup(unknown, QueueOffset(0), 32), Lookup::Nothing);
        assert_eq!((index.bounds(KEY), index.bounds(unknown)), (0..8, 0..0));
    }

    #[test]
    fn numbers_given_away_without_a_message_are_lost() {
        let mut index = sample();
        index.restore_next(KEY, QueueOffset(20));
        assert_eq!(index.next_offset(KEY), QueueOffset(20));
        assert_eq!(index.lookup(KEY, QueueOffset(8), 1), Lookup::Lost { next: QueueOffset(20) });
    }

    #[test]
    fn a_sealed_segment_answers_from_its_file_as_it_did_from_memory() {
        let mut index = sample();
        let before = index.lookup(KEY, QueueOffset(1), 32);
        let file = seal(&mut index);
        let Lookup::Sealed(page) = index.lookup(KEY, QueueOffset(1), 32) else {
            panic!("not loaded yet")
        };
        index.insert_page(page, Rc::new(file));
        assert_eq!(index.lookup(KEY, QueueOffset(1), 32), before);
        index.drop_before(LogOffset(SEGMENT));
        assert_eq!((index.bounds(KEY), index.cached_bytes()), (5..8, 0));
        assert_eq!(index.lookup(KEY, QueueOffset(1), 32), Lookup::Lost { next: QueueOffset(5) });
    }

    #[test]
    fn the_page_used_last_stays() {
        let mut cache = PageCache::new(2 * PAGE_SIZE);
        let page = |number| IndexPage { segment: LogOffset(0), number };
        let slot = |number: u32| number * (BLOCKS_PER_PAGE * MESSAGES_PER_BLOCK) as u32;
        for number in 0..2 {
            cache.insert(page(number), Rc::new(vec![0; PAGE_SIZE]));
        }
        cache.messages(LogOffset(0), slot(0)..slot(1), 1);
        cache.insert(page(2), Rc::new(vec![0; PAGE_SIZE]));
        let mut left: Vec<u32> = cache.pages.keys().map(|page| page.number).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 2]);
    }

    #[test]
    #[should_panic(expected = "already")]
    fn a_number_is_given_once() {
        sample().push(KEY, QueueOffset(7), located(SEGMENT + 500));
    }

    #[test]
    fn topics_are_forgotten_and_expired_queues_keep_their_next_number() {
        let mut index = sample();
        index.drop_before(LogOffset(2 * SEGMENT));
        assert_eq!(index.bounds(KEY), 8..8);
        assert_eq!(index.next_offsets().collect::<Vec<_>>(), [(KEY, QueueOffset(8))]);
        index.retain_topics(|topic| topic == 1);
        assert_eq!(index.queue_count(), 1);
        index.remove_topic(1);
        assert_eq!((index.queue_count(), index.next_offset(KEY)), (0, QueueOffset(0)));
    }
}
