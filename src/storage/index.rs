//! Finds a queue's messages in the log.
//!
//! ```text
//!   per queue          80 bytes: next and oldest queue offset, when its newest message was stored,
//!                      links to sealed segments  (queues)
//!   per memory segment its messages, in runs of consecutive queue offsets                (memory)
//!   per sealed segment an index file: runs sorted by queue, each with links further back (sealed)
//!   bounded caches     pages of index files, runs that were found in them                (cache)
//! ```
//!
//! A lookup that needs part of an index file says so, and [`load_index`](super::Store::load_index)
//! loads it. So a queue without new messages costs only its header, however long the log is.
//!
//! Invariants:
//! - Segments in memory are newer than all sealed ones. Messages are added only to the newest one.
//! - The runs of a queue are in ascending order of segment and of queue offset and do not overlap;
//!   messages in gaps between them are lost to damage.
//! - `oldest <= next` per queue; the log has no message of the queue below `oldest`, and none at
//!   `next`.
//! - A link leads to an older segment than the one it is in.
//!
//! All of it is derived: the broker adds what it appends, and recovery adds what it finds. Nothing
//! here waits. A message is in the index as soon as it is appended, before it is committed; readers
//! decide what is visible.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use smallvec::SmallVec;
use zerocopy::byteorder::little_endian::{U32, U64};

use crate::model::{LogOffset, QueueOffset, Timestamp};
use crate::storage::ages::Ages;
use crate::storage::images::{Image, Images};
use crate::storage::links::Links;
use crate::storage::located::{IndexMessage, Located, QueueKey};
use crate::storage::row::{LastStoredRow, QueueRow};
use crate::storage::sealed::{
    BLOCKS_PER_PAGE, IndexRun, MESSAGES_PER_BLOCK, block_of_slot, message_in_page,
};

mod cache;
mod memory;
mod queues;

pub(super) use cache::{FilePage, SealedRun, Stretch};
pub(super) use memory::{MemoryRun, MemorySegment};

use cache::{PageCache, StretchCache};
use memory::RunId;
use queues::{Queue, Queues};

/// A page of an index file, identified by the message that is looked up in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexPage {
    pub(super) key: QueueKey,
    pub(super) from: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // Lives for one pull; a box would be an allocation for each.
pub enum Lookup {
    /// At least one message; may be fewer than requested even if more exist.
    Here(SmallVec<[Located; 32]>),
    /// Load this page of an index file, then retry.
    Sealed(IndexPage),
    /// This and the messages up to `next` have expired or are lost to damage.
    Lost { next: QueueOffset },
    /// The queue has no such message yet.
    Nothing,
}

#[derive(Debug)]
pub struct Index {
    queues: Queues,
    /// Segments whose messages are in memory, oldest first; the last one is being filled.
    segments: VecDeque<Rc<MemorySegment>>,
    /// Number of the newest segment that was in memory.
    newest_number: u32,
    /// The beginning of the log. Links below it are dead.
    begin: LogOffset,
    /// The lowest offset up to which a restored row covers all index files.
    rows_cover: Option<LogOffset>,
    pages: PageCache,
    stretches: RefCell<StretchCache>,
    /// Index files that were lost or damaged, rebuilt but not written yet.
    images: Images,
    /// Damaged parts of the log; entries that touch one are not shown. Few, if any.
    hidden: Vec<Range<LogOffset>>,
    /// The ages of full segments. Here because snapshots contain them, like the queues.
    ages: Ages,
}

/// The position of a message, as far as memory knows it.
enum InMemory<'a> {
    Here(&'a MemorySegment, &'a MemoryRun),
    /// It is lost; the queue continues at `next`.
    Lost {
        next: u64,
    },
    /// It is older than everything in memory, of which `above` is the first.
    Older {
        above: u64,
    },
}

/// Where a search in index files begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct SearchStart {
    pub links: Links,
    /// The queue's first known message above.
    pub above: u64,
}

impl Index {
    pub fn new(cache_size_max: usize) -> Self {
        Self {
            queues: Queues::default(),
            segments: VecDeque::new(),
            newest_number: 0,
            begin: LogOffset(0),
            rows_cover: None,
            pages: PageCache::new(cache_size_max),
            stretches: RefCell::default(),
            images: Images::default(),
            hidden: Vec::new(),
            ages: Ages::default(),
        }
    }

    pub fn ages(&self) -> &Ages {
        &self.ages
    }

    pub fn ages_mut(&mut self) -> &mut Ages {
        &mut self.ages
    }

    /// Adds the message at `offset` of its queue. Call it right after the append.
    ///
    /// # Panics
    /// If the queue already has `offset`.
    pub fn push(&mut self, key: QueueKey, offset: QueueOffset, located: Located) {
        let segment = segment_of(&mut self.segments, located.offset);
        segment.note_stored(located.stored_at.0);
        let message = IndexMessage::new(&located, segment.range.start);
        if let Some(queue) = self.queues.get_mut(key)
            && queue.newest.segment == segment.number
        {
            let run = segment.run_mut(queue.newest.slot);
            if run.end() == offset.0 {
                run.push(message);
                queue.note_stored(offset.0, located.stored_at);
                queue.next = queue.next.max(offset.0 + 1);
                return;
            }
        }
        self.begin_run(key, offset.0, &located).push(message);
    }

    #[cold]
    fn begin_run(&mut self, key: QueueKey, first: u64, located: &Located) -> &mut MemoryRun {
        let known = self.queues.get(key).copied().unwrap_or_default();
        let known_end = self.run(known.newest).map_or(known.links.end(), |(_, run)| run.end());
        assert!(known_end <= first, "{key:?} has {first} already");
        let segment = segment_of(&mut self.segments, located.offset);
        let newest = segment.begin_run(key, first, known.newest);
        let queue = self.queues.slot(key);
        queue.note_stored(first, located.stored_at);
        queue.begin_run(first, first + 1);
        queue.newest = newest;
        segment.run_mut(newest.slot)
    }

    /// Queue offsets of the oldest message and after the newest one. Empty for unknown queues.
    pub fn bounds(&self, key: QueueKey) -> Range<u64> {
        let Some(queue) = self.queues.get(key) else { return 0..0 };
        let is_expired = queue.oldest < queue.links.end() && !queue.links.is_any_left(self.begin);
        let oldest = if is_expired { self.oldest_in_memory_of(queue) } else { queue.oldest };
        oldest..queue.next
    }

    /// For a queue whose index files left the log before they could be read.
    #[cold]
    fn oldest_in_memory_of(&self, queue: &Queue) -> u64 {
        let mut oldest = queue.next;
        let mut id = queue.newest;
        while let Some((segment, run)) = self.run(id) {
            oldest = run.first;
            id = segment.head(id.slot).older;
        }
        oldest.max(queue.oldest)
    }

    /// The offset of the queue's next message.
    pub fn next_offset(&self, key: QueueKey) -> QueueOffset {
        QueueOffset(self.queues.get(key).map_or(0, |queue| queue.next))
    }

    /// The offset after a queue's newest message, and when that was stored. It may have expired since.
    /// `None` if only the message says.
    pub fn last_stored(&self, key: QueueKey) -> Option<(QueueOffset, Timestamp)> {
        let queue = self.queues.get(key).filter(|queue| queue.stored_ms > 0)?;
        Some((QueueOffset(queue.next), Timestamp(queue.stored_ms)))
    }

    /// Restores [`last_stored`](Self::last_stored) of a queue whose row has been restored.
    pub fn restore_last_stored(&mut self, row: &LastStoredRow) {
        if let Some(queue) = self.queues.get_mut(row.key()) {
            queue.stored_ms = row.stored_ms.get();
        }
    }

    /// Up to `count_max` messages from offset `from` on. Those in damaged parts of the log are
    /// lost, even if the index was built before the damage.
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

    /// Hides the messages in `hole`, which is damaged.
    pub(super) fn hide(&mut self, hole: Range<LogOffset>) {
        self.hidden.push(hole);
    }

    fn is_hidden(&self, located: &Located) -> bool {
        let entry = located.entry_offset..located.end();
        self.hidden.iter().any(|hole| hole.start < entry.end && entry.start < hole.end)
    }

    /// Like [`lookup`](Self::lookup), but includes messages in damaged parts of the log.
    pub(super) fn find(&self, key: QueueKey, from: QueueOffset, count_max: usize) -> Lookup {
        let Some(queue) = self.queues.get(key) else { return Lookup::Nothing };
        if from.0 >= queue.next || count_max == 0 {
            return Lookup::Nothing;
        }
        let lost = |next| Lookup::Lost { next: QueueOffset(next) };
        if from.0 < queue.oldest {
            return lost(queue.oldest);
        }
        let above = match self.find_in_memory(queue, from.0) {
            InMemory::Here(segment, run) => {
                let found = run.messages[(from.0 - run.first) as usize..].iter().take(count_max);
                let base = segment.range.start;
                return Lookup::Here(found.map(|message| message.located(base)).collect());
            }
            InMemory::Lost { next } => return lost(next),
            InMemory::Older { above } => above,
        };
        match self.stretch(key, from.0) {
            Some(Stretch::Lost { end, .. }) => lost(end),
            Some(Stretch::Run(run)) => {
                let found = self.messages_in_page(&run, from.0, count_max);
                found.unwrap_or(Lookup::Sealed(IndexPage { key, from: from.0 }))
            }
            None if queue.links.towards(from.0, self.begin).is_none() => lost(above),
            None => Lookup::Sealed(IndexPage { key, from: from.0 }),
        }
    }

    fn find_in_memory(&self, queue: &Queue, offset: u64) -> InMemory<'_> {
        let mut above = queue.next;
        let mut id = queue.newest;
        while let Some((segment, run)) = self.run(id) {
            if offset >= run.end() {
                return InMemory::Lost { next: above };
            }
            if offset >= run.first {
                return InMemory::Here(segment, run);
            }
            above = run.first;
            id = segment.head(id.slot).older;
        }
        InMemory::Older { above }
    }

    /// The run, if its segment is in memory.
    fn run(&self, id: RunId) -> Option<(&MemorySegment, &MemoryRun)> {
        let oldest = self.segments.front()?;
        if id.segment < oldest.number {
            return None;
        }
        let index = self.segments.partition_point(|segment| segment.number < id.segment);
        let segment = self.segments.get(index).filter(|segment| segment.number == id.segment)?;
        Some((segment, segment.run(id.slot)))
    }

    fn messages_in_page(&self, run: &SealedRun, from: u64, count_max: usize) -> Option<Lookup> {
        let slot = run.slot(from);
        let page = run.page(from);
        let bytes = (**self.pages.find(page)?).as_ref();
        let first_block = page.number as usize * BLOCKS_PER_PAGE;
        let page_end = ((first_block + BLOCKS_PER_PAGE) * MESSAGES_PER_BLOCK) as u32;
        let found = (slot..run.slot(run.end).min(page_end)).take(count_max);
        let found = found.map_while(|slot| message_in_page(bytes, first_block, slot));
        let found: SmallVec<_> = found.map(|message| message.located(run.segment)).collect();
        (!found.is_empty()).then_some(Lookup::Here(found))
    }

    /// The position of a message in index files, as far as known.
    pub(super) fn stretch(&self, key: QueueKey, from: u64) -> Option<Stretch> {
        let found = self.stretches.borrow_mut().find(key, from)?;
        match found {
            Stretch::Run(run) if run.segment < self.begin => None,
            found => Some(found),
        }
    }

    /// Where to start searching index files for a message; `None` if it is not in one.
    pub(super) fn search_start(&self, key: QueueKey, from: u64) -> Option<SearchStart> {
        let queue = self.queues.get(key).filter(|queue| from >= queue.oldest)?;
        match self.find_in_memory(queue, from) {
            InMemory::Older { above } => Some(SearchStart { links: queue.links, above }),
            InMemory::Here(..) | InMemory::Lost { .. } => None,
        }
    }

    /// Caches a range of the queue's messages that a search has found.
    pub(super) fn note_stretch(&mut self, key: QueueKey, stretch: Stretch) {
        self.stretches.get_mut().insert(key, stretch);
    }

    /// Records that the log no longer has messages of the queue below `oldest`.
    pub(super) fn note_oldest(&mut self, key: QueueKey, oldest: u64) {
        if let Some(queue) = self.queues.get_mut(key) {
            queue.oldest = queue.oldest.max(oldest.min(queue.next));
        }
    }

    /// Removes all queues of a topic.
    pub fn remove_topic(&mut self, topic: u32) {
        self.queues.remove_topic(topic);
    }

    /// Removes all queues of topics that `exists` does not know. For use after recovery, which also
    /// finds messages of topics that have been deleted since.
    pub fn retain_topics(&mut self, mut exists: impl FnMut(u32) -> bool) {
        let gone: Vec<u32> = self.queues.topics().filter(|&topic| !exists(topic)).collect();
        gone.into_iter().for_each(|topic| self.queues.remove_topic(topic));
    }

    /// The rows of up to `count_max` queues from `from` on, in key order. Continue after the last
    /// one's key ([`QueueKey::successor`]); queues created meanwhile may be missing.
    ///
    /// No segment is sealed or retired while rows are read: the store does one after the other.
    pub fn rows_from(
        &self,
        from: QueueKey,
        count_max: usize,
    ) -> impl Iterator<Item = QueueRow> + '_ {
        let sealed_to = self.segments.front().map_or(self.begin, |segment| segment.range.start);
        self.queues.range(from).take(count_max).map(move |(key, queue)| QueueRow {
            topic: U32::new(key.topic),
            queue: U32::new(key.queue.0),
            next: U64::new(queue.next),
            oldest: U64::new(queue.oldest),
            sealed_to: U64::new(sealed_to.0),
            links: QueueRow::links_of(&queue.links),
        })
    }

    /// Restores rows from [`rows_from`](Self::rows_from). For use before the replay.
    pub fn restore_row(&mut self, row: &QueueRow) {
        let sealed_to = LogOffset(row.sealed_to.get());
        self.rows_cover = Some(self.rows_cover.map_or(sealed_to, |cover| cover.min(sealed_to)));
        let next = row.next.get();
        if next > 0 {
            let queue = self.queues.slot(row.key());
            *queue = Queue {
                next,
                oldest: row.oldest.get().min(next),
                links: row.links(),
                newest: RunId::NONE,
                stored_ms: 0,
            };
        }
    }

    /// Index files below this are covered by rows and need not be read.
    pub(super) fn rows_cover(&self) -> LogOffset {
        self.rows_cover.unwrap_or_default()
    }

    /// State for the snapshot that can no longer be derived from expired messages.
    pub fn next_offsets(&self) -> impl Iterator<Item = (QueueKey, QueueOffset)> + '_ {
        self.queues.range(QueueKey::FIRST).map(|(key, queue)| (key, QueueOffset(queue.next)))
    }

    /// Restores [`next_offsets`](Self::next_offsets).
    pub fn restore_next(&mut self, key: QueueKey, next: QueueOffset) {
        if next.0 > 0 {
            let queue = self.queues.slot(key);
            if queue.oldest == queue.next {
                queue.oldest = queue.oldest.max(next.0);
            }
            queue.forget_stored(next.0);
            queue.next = queue.next.max(next.0);
        }
    }

    pub fn queue_count(&self) -> usize {
        self.queues.count()
    }

    /// Bytes of index pages in memory.
    pub fn cached_bytes(&self) -> usize {
        self.pages.size()
    }

    /// Memory for queues and for messages that are not in index files, by capacity, bytes.
    pub fn memory_size(&self) -> usize {
        let segments: usize = self.segments.iter().map(|segment| segment.memory_size()).sum();
        self.queues.memory_size() + segments
    }

    /// Begins a segment: from here on, messages of the segment at `range` are added.
    pub fn begin_segment(&mut self, range: Range<LogOffset>) {
        assert!(self.newest_segment().is_none_or(|newest| newest < range.start));
        self.newest_number += 1;
        self.segments.push_back(Rc::new(MemorySegment::new(range, self.newest_number)));
    }

    /// Removes the segment at `base`, which is empty and not part of the log after all.
    pub(super) fn forget_segment(&mut self, base: LogOffset) {
        self.segments.retain(|segment| segment.range.start != base);
    }

    /// Base of the newest known segment.
    pub(super) fn newest_segment(&self) -> Option<LogOffset> {
        self.segments.back().map(|segment| segment.range.start)
    }

    /// The oldest segment in memory that is full.
    pub(super) fn oldest_sealed_in_memory(&self) -> Option<Range<LogOffset>> {
        (self.segments.len() > 1).then(|| self.segments[0].range.clone())
    }

    /// The oldest segment in memory. While it is referenced, no message can be added to it.
    pub(super) fn oldest_in_memory(&self) -> Rc<MemorySegment> {
        self.segments.front().expect("a segment is in memory").clone()
    }

    /// The queue's links to sealed segments.
    pub(super) fn links(&self, key: QueueKey) -> Links {
        self.queues.get(key).map_or(Links::NONE, |queue| queue.links)
    }

    /// Records that messages of the queue up to `end` are in the index file of the segment at
    /// `range`, and in no later one. From now on they can be found there too.
    pub(super) fn note_sealed(&mut self, key: QueueKey, range: &Range<LogOffset>, end: u64) {
        // The topic may have been deleted meanwhile.
        if let Some(queue) = self.queues.get_mut(key) {
            queue.links.advance(range.start, range.end.0 - range.start.0, end);
        }
    }

    /// Drops the messages of the oldest segment from memory: all queues are linked to its index
    /// file.
    pub(super) fn drop_oldest_in_memory(&mut self) -> Option<Rc<MemorySegment>> {
        self.segments.pop_front()
    }

    /// Adds a run from an index file's directory. Segments come in ascending order, runs in file
    /// order; those covered by a row change nothing.
    pub(super) fn add_run(&mut self, range: &Range<LogOffset>, run: &IndexRun) {
        let (first, end) = (run.first.get(), run.end());
        if self.links(run.key()).end() >= end {
            return;
        }
        let queue = self.queues.slot(run.key());
        queue.forget_stored(end);
        queue.begin_run(first, end);
        queue.links.advance(range.start, range.end.0 - range.start.0, end);
    }

    /// Takes over from `old` what cannot be derived from the log, which now ends in the segment at
    /// `active`.
    pub(super) fn continue_from(&mut self, old: &mut Self, active: LogOffset) {
        self.ages = std::mem::take(&mut old.ages);
        self.ages.drop_from(active);
    }

    /// Drops everything below `begin`, where the log begins now. It can no longer be looked up.
    pub(super) fn drop_before(&mut self, begin: LogOffset) {
        self.begin = begin;
        self.segments.retain(|segment| segment.range.start >= begin);
        self.pages.drop_before(begin);
        self.images.drop_before(begin);
        self.hidden.retain(|hole| hole.end > begin);
        self.ages.drop_before(begin);
    }

    pub(super) fn page(&self, page: FilePage) -> Option<Rc<dyn AsRef<[u8]>>> {
        self.pages.find(page).cloned()
    }

    pub(super) fn insert_page(&mut self, page: FilePage, bytes: Rc<dyn AsRef<[u8]>>) {
        self.pages.insert(page, bytes);
    }

    pub(super) fn images(&self) -> &Images {
        &self.images
    }

    /// Records the end of an attempt to write an image to its file.
    pub(super) fn handle_image_written(&mut self, segment: LogOffset, is_written: bool) {
        self.images.handle_written(segment, is_written);
    }

    /// Inserts the rebuilt index file of the segment; messages may be at other positions in it.
    pub(super) fn insert_image(&mut self, segment: LogOffset, image: Image) {
        self.stretches.get_mut().clear();
        self.images.insert(segment, image);
    }
}

impl Queue {
    /// Records that messages from `first` to `end` are indexed.
    fn begin_run(&mut self, first: u64, end: u64) {
        if first < self.oldest || self.oldest == self.next {
            self.oldest = first;
        }
        self.next = self.next.max(end);
    }

    /// The message at `offset` was stored at this time. Call it before the message counts. A replay
    /// also finds older ones.
    fn note_stored(&mut self, offset: u64, stored_at: Timestamp) {
        if offset + 1 >= self.next {
            self.stored_ms = stored_at.0;
        }
    }

    /// The queue has messages up to `end`; nothing says when they were stored.
    fn forget_stored(&mut self, end: u64) {
        if end > self.next {
            self.stored_ms = 0;
        }
    }
}

impl SealedRun {
    pub fn page(&self, offset: u64) -> FilePage {
        let number = block_of_slot(self.slot(offset)) / BLOCKS_PER_PAGE;
        FilePage { segment: self.segment, version: self.version, number: number as u32 }
    }

    fn slot(&self, offset: u64) -> u32 {
        self.start + (offset - self.first) as u32
    }
}

/// The segment in memory that holds `offset`; nearly always the last.
fn segment_of(segments: &mut VecDeque<Rc<MemorySegment>>, offset: LogOffset) -> &mut MemorySegment {
    let mut newest_first = segments.iter_mut().rev();
    let segment = newest_first
        .find(|segment| segment.range.contains(&offset))
        .expect("the log knows the segment of what it holds");
    Rc::get_mut(segment).expect("a segment that is being sealed gets no more messages")
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::QueueId;

    const KEY: QueueKey = QueueKey { topic: 1, queue: QueueId(2) };
    const SEGMENT: u64 = 1 << 20;

    fn segment(number: u64) -> Range<LogOffset> {
        LogOffset(number * SEGMENT)..LogOffset((number + 1) * SEGMENT)
    }

    fn located(offset: u64) -> Located {
        let at = LogOffset(offset);
        Located { offset: at, size: 100, tag_hash: 0, stored_at: Timestamp(9), entry_offset: at }
    }

    /// Offsets 0 to 2 in the first segment, 5 to 7 in the second; 3 and 4 were lost.
    fn sample() -> Index {
        let mut index = Index::new(0);
        for number in 0..2 {
            index.begin_segment(segment(number));
            for message in 0..3 {
                let offset = QueueOffset(number * 5 + message);
                index.push(KEY, offset, located(number * SEGMENT + message * 100));
            }
        }
        index
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
    fn a_message_in_an_index_file_is_loaded_first() {
        let mut index = sample();
        let before = index.lookup(KEY, QueueOffset(5), 32);
        index.note_sealed(KEY, &segment(0), 3);
        assert_eq!(first(&index.lookup(KEY, QueueOffset(1), 32)), Some((2, 100)), "still there");
        index.drop_oldest_in_memory();
        let wanted = IndexPage { key: KEY, from: 1 };
        assert_eq!(index.lookup(KEY, QueueOffset(1), 32), Lookup::Sealed(wanted));
        assert_eq!(index.lookup(KEY, QueueOffset(3), 32), Lookup::Lost { next: QueueOffset(5) });
        assert_eq!((index.lookup(KEY, QueueOffset(5), 32), index.bounds(KEY)), (before, 0..8));
        index.drop_before(LogOffset(SEGMENT));
        assert_eq!(index.bounds(KEY), 5..8, "the segment left the log without updating the queue");
        assert_eq!(index.lookup(KEY, QueueOffset(1), 32), Lookup::Lost { next: QueueOffset(5) });
    }

    #[test]
    #[should_panic(expected = "already")]
    fn a_number_is_given_once() {
        sample().push(KEY, QueueOffset(7), located(SEGMENT + 500));
    }

    #[test]
    fn topics_are_forgotten_and_expired_queues_keep_their_next_number() {
        let mut index = sample();
        index.note_sealed(KEY, &segment(0), 3);
        index.note_sealed(KEY, &segment(1), 8);
        index.begin_segment(segment(2));
        index.note_oldest(KEY, 8);
        index.drop_before(LogOffset(2 * SEGMENT));
        assert_eq!(index.bounds(KEY), 8..8);
        assert_eq!(index.next_offsets().collect::<Vec<_>>(), [(KEY, QueueOffset(8))]);
        index.retain_topics(|topic| topic == 1);
        assert_eq!(index.queue_count(), 1);
        index.remove_topic(1);
        assert_eq!((index.queue_count(), index.next_offset(KEY)), (0, QueueOffset(0)));
    }

    #[test]
    fn rows_bring_back_what_was_sealed_and_the_replay_the_rest() {
        let mut index = sample();
        index.note_sealed(KEY, &segment(0), 3);
        index.drop_oldest_in_memory();
        index.note_oldest(KEY, 1);
        let other = |topic| QueueKey { topic, queue: QueueId(0) };
        for topic in [9, 0, 4] {
            index.push(other(topic), QueueOffset(0), located(SEGMENT + 300));
        }
        let mut rows = Vec::new();
        let mut from = QueueKey::FIRST;
        loop {
            let part: Vec<QueueRow> = index.rows_from(from, 3).collect();
            let Some(last) = part.last() else { break };
            from = last.key().successor();
            rows.extend(part);
        }
        let keys: Vec<QueueKey> = rows.iter().map(QueueRow::key).collect();
        assert_eq!(keys, [other(0), KEY, other(4), other(9)]);

        let mut restored = Index::new(0);
        rows.iter().for_each(|row| restored.restore_row(row));
        assert_eq!(restored.rows_cover(), LogOffset(SEGMENT));
        restored.begin_segment(segment(1));
        for message in 5..8 {
            restored.push(KEY, QueueOffset(message), located(SEGMENT + (message - 5) * 100));
        }
        assert_eq!((restored.bounds(KEY), restored.queue_count()), (1..8, 4));
        for offset in 0..9 {
            let offset = QueueOffset(offset);
            assert_eq!(restored.lookup(KEY, offset, 9), index.lookup(KEY, offset, 9), "{offset:?}");
        }
    }

    #[test]
    fn the_time_of_the_newest_message_outlives_it() {
        let mut index = Index::new(0);
        index.begin_segment(segment(0));
        let push = |index: &mut Index, offset, ms| {
            let located = Located { stored_at: Timestamp(ms), ..located(offset * 100) };
            index.push(KEY, QueueOffset(offset), located);
        };
        let last = |index: &Index| index.last_stored(KEY).map(|(next, at)| (next.0, at.0));
        assert_eq!(last(&index), None);
        for (offset, ms) in [(0, 50), (1, 70), (2, 60)] {
            push(&mut index, offset, ms);
            assert_eq!(last(&index), Some((offset + 1, ms)));
        }
        let mut restored = Index::new(0);
        index.rows_from(QueueKey::FIRST, 9).for_each(|row| restored.restore_row(&row));

        index.note_sealed(KEY, &segment(0), 3);
        index.begin_segment(segment(1));
        index.drop_oldest_in_memory();
        index.note_oldest(KEY, 3);
        index.drop_before(LogOffset(SEGMENT));
        assert_eq!((index.bounds(KEY), last(&index)), (3..3, Some((3, 60))));

        assert_eq!(last(&restored), None, "as from a snapshot of an older version");
        restored.restore_last_stored(&LastStoredRow::new(KEY, Timestamp(60)));
        restored
            .restore_last_stored(&LastStoredRow::new(QueueKey { topic: 9, ..KEY }, Timestamp(1)));
        assert_eq!((last(&restored), restored.queue_count()), (Some((3, 60)), 1));
        // The replay of what the row has already.
        restored.begin_segment(segment(0));
        push(&mut restored, 1, 70);
        assert_eq!(last(&restored), Some((3, 60)));
        push(&mut restored, 2, 60);
        push(&mut restored, 3, 80);
        assert_eq!(last(&restored), Some((4, 80)));
        restored.restore_next(KEY, QueueOffset(9));
        assert_eq!(last(&restored), None, "nothing says when the others were stored");
    }

    /// A thousand segments, each with messages of ten thousand queues.
    #[test]
    fn memory_of_a_queue_does_not_grow_with_the_log() {
        const QUEUES: u32 = 10_000;
        let key = |queue| QueueKey { topic: queue / 8, queue: QueueId(queue % 8) };
        let mut index = Index::new(0);
        let mut sizes = Vec::new();
        for number in 0..1000 {
            index.begin_segment(segment(number));
            let is_filled = number % 333 == 0;
            for queue in (0..QUEUES).filter(|_| is_filled) {
                let at = number * SEGMENT + u64::from(queue) * 100;
                index.push(key(queue), QueueOffset(number), located(at));
            }
            if is_filled {
                sizes.push(index.memory_size() / QUEUES as usize);
            }
            (0..QUEUES)
                .for_each(|queue| index.note_sealed(key(queue), &segment(number), number + 1));
            drop(index.drop_oldest_in_memory());
        }
        assert!(sizes.iter().all(|&size| size == sizes[0] && size <= 200), "{sizes:?}");
    }
}
