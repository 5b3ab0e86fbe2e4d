//! Finds messages in the index files of sealed segments: which segment, which run, which page.
//!
//! A search follows the queue's links from its newest sealed segment back to the one that can
//! contain the message. In every segment on the way it reads one page with fences and one with
//! runs. These stay in the cache, where consumers that read forward, and other queues, find them.
//!
//! A damaged part of an index file is rebuilt from the segment immediately
//! ([`rebuild`](super::rebuild)), and the search starts again.

use std::rc::Rc;

use zerocopy::byteorder::little_endian::U32;

use crate::model::LogOffset;
use crate::storage::disk::{BLOCK_SIZE, Disk, DiskError, DiskErrorKind, DiskFile};
use crate::storage::error::ReadError;
use crate::storage::images::Image;
use crate::storage::index::{FilePage, IndexPage, SealedRun, SearchStart, Stretch};
use crate::storage::located::QueueKey;
use crate::storage::log::SegmentIndex;
use crate::storage::sealed::{
    BLOCKS_PER_PAGE, FENCES_PER_BLOCK, IndexFence, IndexRun, Layout, MARKS_PER_BLOCK, PAGE_SIZE,
    RUNS_PER_BLOCK, body_in_page, is_page_intact, items,
};
use crate::storage::segment::FileName;
use crate::storage::slice::Slices;
use crate::storage::store::Store;

/// An index file in its current version.
pub(super) struct IndexView<F> {
    pub segment: LogOffset,
    pub version: u32,
    pub layout: Layout,
    source: Source<F>,
}

enum Source<F> {
    File(F),
    Image(Image),
}

/// Why a search in index files stopped.
pub(super) enum Stop {
    /// The file was rebuilt, or has left the log: start again.
    Changed,
    Failed(ReadError),
}

impl<E: Into<ReadError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What one segment's directory says about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hit {
    In(IndexRun),
    /// It is older than this run, the queue's first in the segment.
    Older(IndexRun),
    /// It is lost. The queue continues at `next`, or where the search came from.
    Lost {
        next: Option<u64>,
    },
    /// The segment has no messages of the queue.
    Absent,
}

/// The result of a search.
enum Found {
    Stretch(Stretch),
    /// The log has no messages of the queue below.
    Oldest(u64),
}

impl<D: Disk> Store<D> {
    /// Loads a page of an index file, so that a lookup finds it.
    pub async fn load_index(&self, wanted: IndexPage) -> Result<(), ReadError> {
        loop {
            match self.load_page(wanted).await {
                Err(Stop::Changed) => {}
                Err(Stop::Failed(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn load_page(&self, IndexPage { key, from }: IndexPage) -> Result<(), Stop> {
        let cut_count = self.standing().cut_count;
        let known = self.0.index.borrow().stretch(key, from);
        let found = match known {
            Some(Stretch::Run(run)) if self.index_version(run.segment) == Some(run.version) => {
                Found::Stretch(Stretch::Run(run))
            }
            Some(Stretch::Lost { .. }) => return Ok(()),
            _ => {
                let start = self.0.index.borrow().search_start(key, from);
                // By now the message may have been found, or found to be lost.
                let Some(start) = start else { return Ok(()) };
                self.follow_links(key, from, start).await?
            }
        };
        // The index may be another one by now.
        if self.standing().cut_count != cut_count {
            return Err(Stop::Changed);
        }
        let run = match found {
            Found::Stretch(Stretch::Run(run)) => run,
            Found::Stretch(lost) => {
                self.0.index.borrow_mut().note_stretch(key, lost);
                return Ok(());
            }
            Found::Oldest(oldest) => {
                self.0.index.borrow_mut().note_oldest(key, oldest);
                return Ok(());
            }
        };
        let view = self.index_view(run.segment).await?;
        if view.version != run.version {
            return Err(Stop::Changed);
        }
        let page = run.page(from);
        let bytes = self.index_page(&view, page.number as usize).await?;
        if self.standing().cut_count != cut_count {
            return Err(Stop::Changed);
        }
        // Fills both caches in one step, so that the lookup that follows finds them whatever has
        // been evicted meanwhile.
        let mut index = self.0.index.borrow_mut();
        index.note_stretch(key, Stretch::Run(run));
        index.insert_page(page, bytes);
        Ok(())
    }

    /// Follows the links of a queue to the segment that can contain message `from`.
    async fn follow_links(
        &self,
        key: QueueKey,
        from: u64,
        start: SearchStart,
    ) -> Result<Found, Stop> {
        let SearchStart { mut links, mut above } = start;
        let lost = |end| Found::Stretch(Stretch::Lost { first: from, end });
        // Where to continue if the queue has no messages in the linked segment.
        let mut next = None;
        loop {
            let begin = self.begin();
            let linked = || links.towards(from, begin).map(|link| link.segment);
            let Some(place) = next.take().or_else(linked) else {
                let is_left = links.is_any_left(begin);
                return Ok(if is_left { lost(above) } else { Found::Oldest(above) });
            };
            let Some(segment) = self.newest_segment_to(place) else {
                return Ok(Found::Oldest(above));
            };
            let view = self.index_view(segment).await?;
            match self.look_in_directory(&view, key, from).await? {
                Hit::In(run) => {
                    return Ok(Found::Stretch(Stretch::Run(SealedRun {
                        segment: view.segment,
                        version: view.version,
                        first: run.first.get(),
                        end: run.end(),
                        start: run.start.get(),
                    })));
                }
                Hit::Lost { next } => return Ok(lost(next.unwrap_or(above))),
                Hit::Older(run) => {
                    above = run.first.get();
                    links = run.links(view.segment);
                }
                Hit::Absent => match view.segment.0.checked_sub(BLOCK_SIZE as u64) {
                    Some(before) => next = Some(LogOffset(before)),
                    None => return Ok(Found::Oldest(above)),
                },
            }
        }
    }

    /// Base of the newest segment that does not begin after `place`. It contains the place, unless
    /// a file is missing from the middle of the log.
    fn newest_segment_to(&self, place: LogOffset) -> Option<LogOffset> {
        let log = self.0.log.borrow();
        let after = log.segments.partition_point(|segment| segment.range.start <= place);
        Some(log.segments[after.checked_sub(1)?].range.start)
    }

    async fn look_in_directory(
        &self,
        view: &IndexView<D::File>,
        key: QueueKey,
        from: u64,
    ) -> Result<Hit, Stop> {
        let run_blocks = view.layout.run_blocks();
        // The first block whose first run is after the place.
        let (mut low, mut high) = (0, run_blocks);
        while run_blocks > 1 && low < high {
            let middle = low.midpoint(high);
            let fence = self.fence(view, middle).await?;
            if fence.place() <= (key, from) { low = middle + 1 } else { high = middle }
        }
        let first = low.saturating_sub(1);
        let mut before = None;
        for block in first..run_blocks.min(first + 2) {
            let runs = self.runs(view, block).await?;
            let after = runs.partition_point(|run| run.place() <= (key, from));
            before = after.checked_sub(1).map(|index| runs[index]).or(before);
            let of_queue = before.filter(|run| run.key() == key);
            if let Some(run) = of_queue.filter(|run| from < run.end()) {
                return Ok(Hit::In(run));
            }
            if let Some(run) = runs.get(after) {
                return Ok(match (of_queue, run.key() == key) {
                    (None, true) => Hit::Older(*run),
                    (None, false) => Hit::Absent,
                    (Some(_), true) => Hit::Lost { next: Some(run.first.get()) },
                    (Some(_), false) => Hit::Lost { next: None },
                });
            }
        }
        let is_there = before.is_some_and(|run| run.key() == key);
        Ok(if is_there { Hit::Lost { next: None } } else { Hit::Absent })
    }

    async fn fence(&self, view: &IndexView<D::File>, block: usize) -> Result<IndexFence, Stop> {
        let number = 1 + block / FENCES_PER_BLOCK;
        self.with_body(view, number, |body| items::<IndexFence>(body)[block % FENCES_PER_BLOCK])
            .await
    }

    /// The runs in a block of the directory.
    async fn runs(&self, view: &IndexView<D::File>, block: usize) -> Result<Vec<IndexRun>, Stop> {
        let count = (view.layout.run_count - block * RUNS_PER_BLOCK).min(RUNS_PER_BLOCK);
        let number = view.layout.runs_at() + block;
        self.with_body(view, number, |body| items::<IndexRun>(body)[..count].to_vec()).await
    }

    async fn with_body<T>(
        &self,
        view: &IndexView<D::File>,
        number: usize,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Stop> {
        let page = number / BLOCKS_PER_PAGE;
        let bytes = self.index_page(view, page).await?;
        let body = body_in_page((*bytes).as_ref(), page * BLOCKS_PER_PAGE, number);
        Ok(read(body.expect("an intact page holds its blocks")))
    }

    /// Positions in the sealed segment at which entries begin.
    pub(super) async fn marks(&self, segment: LogOffset) -> Result<Vec<u32>, ReadError> {
        loop {
            match self.read_marks(segment).await {
                Err(Stop::Changed) if segment >= self.begin() => {}
                Err(Stop::Changed) => return Err(ReadError::Gone(segment)),
                Err(Stop::Failed(error)) => return Err(error),
                Ok(marks) => return Ok(marks),
            }
        }
    }

    async fn read_marks(&self, segment: LogOffset) -> Result<Vec<u32>, Stop> {
        let view = self.index_view(segment).await?;
        let mut marks = Vec::with_capacity(view.layout.mark_count);
        for block in 0..view.layout.mark_blocks() {
            let count = (view.layout.mark_count - marks.len()).min(MARKS_PER_BLOCK);
            let take = |body: &[u8]| {
                marks.extend(items::<U32>(body)[..count].iter().map(|mark| mark.get()));
            };
            self.with_body(&view, view.layout.marks_at() + block, take).await?;
        }
        Ok(marks)
    }

    /// Advances the oldest offset of every queue with messages in the segment past them. The
    /// segment is about to leave the log.
    pub(super) async fn move_oldest(&self, segment: LogOffset) -> Result<(), ReadError> {
        loop {
            match self.move_oldest_once(segment).await {
                Err(Stop::Changed) => {}
                Err(Stop::Failed(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn move_oldest_once(&self, segment: LogOffset) -> Result<(), Stop> {
        let mut slices = Slices::default();
        let view = self.index_view(segment).await?;
        for block in 0..view.layout.run_blocks() {
            let runs = self.runs(&view, block).await?;
            {
                let mut index = self.0.index.borrow_mut();
                runs.iter().for_each(|run| index.note_oldest(run.key(), run.end()));
            }
            slices.handled(runs.len()).await;
        }
        Ok(())
    }

    /// Whether the sealed segment has messages of a queue that is not below `from`.
    pub async fn has_queues_from(
        &self,
        segment: LogOffset,
        from: QueueKey,
    ) -> Result<bool, ReadError> {
        loop {
            match self.last_queue(segment).await {
                Err(Stop::Changed) if segment < self.begin() => {
                    return Err(ReadError::Gone(segment));
                }
                Err(Stop::Changed) => {}
                Err(Stop::Failed(error)) => return Err(error),
                Ok(last) => return Ok(last.is_some_and(|last| last >= from)),
            }
        }
    }

    /// Runs are in the order of their queues.
    async fn last_queue(&self, segment: LogOffset) -> Result<Option<QueueKey>, Stop> {
        let view = self.index_view(segment).await?;
        let Some(block) = view.layout.run_blocks().checked_sub(1) else { return Ok(None) };
        let runs = self.runs(&view, block).await?;
        Ok(runs.last().map(IndexRun::key))
    }

    /// Version of the index file of the segment at `place`.
    pub(super) fn index_version(&self, place: LogOffset) -> Option<u32> {
        let mut log = self.0.log.borrow_mut();
        match log.segment(place)?.index {
            SegmentIndex::File { version, .. } => Some(version),
            SegmentIndex::Memory | SegmentIndex::Missing => None,
        }
    }

    /// The index file of a sealed segment.
    pub(super) async fn index_view(&self, segment: LogOffset) -> Result<IndexView<D::File>, Stop> {
        let known = {
            let mut log = self.0.log.borrow_mut();
            match log.segment(segment).map(|found| &found.index) {
                Some(SegmentIndex::File { file, layout, version, .. }) => {
                    Some((*version, *layout, file.clone()))
                }
                Some(SegmentIndex::Missing) => None,
                Some(SegmentIndex::Memory) | None => return Err(Stop::Changed),
            }
        };
        let Some((version, layout, file)) = known else {
            self.rebuild(segment, None).await?;
            return Err(Stop::Changed);
        };
        let image = self.0.index.borrow().images().find(segment).cloned();
        let source = match (image, file) {
            (Some(image), _) => Source::Image(image),
            (None, Some(file)) => Source::File(file),
            (None, None) => Source::File(self.open_index(segment, version).await?),
        };
        Ok(IndexView { segment, version, layout, source })
    }

    async fn open_index(&self, segment: LogOffset, version: u32) -> Result<D::File, Stop> {
        let opened = match self.0.disk.open(&FileName::Index(segment).to_string()).await {
            Ok(file) => file,
            Err(error) if error.kind == DiskErrorKind::PowerLost => return Err(error.into()),
            Err(_) => {
                self.rebuild(segment, Some(version)).await?;
                return Err(Stop::Changed);
            }
        };
        let mut log = self.0.log.borrow_mut();
        if let Some(found) = log.segment(segment)
            && let SegmentIndex::File { file, version: current, .. } = &mut found.index
            && *current == version
        {
            *file = Some(opened.clone());
        }
        Ok(opened)
    }

    /// A page of an index file, from the cache or the disk. If it is damaged, the index is rebuilt
    /// from the segment.
    pub(super) async fn index_page(
        &self,
        view: &IndexView<D::File>,
        number: usize,
    ) -> Result<Rc<dyn AsRef<[u8]>>, Stop> {
        let (segment, version) = (view.segment, view.version);
        let cut_count = self.standing().cut_count;
        let page = FilePage { segment, version, number: number as u32 };
        if let Some(bytes) = self.0.index.borrow().page(page) {
            return Ok(bytes);
        }
        let loaded = match &view.source {
            Source::File(file) => self.read_index_page(file, view, number).await?,
            Source::Image(image) => Some(page_of(image, number)),
        };
        let Some(bytes) = loaded else {
            self.rebuild(segment, Some(version)).await?;
            return Err(Stop::Changed);
        };
        if self.standing().cut_count != cut_count {
            return Err(Stop::Changed);
        }
        self.0.index.borrow_mut().insert_page(page, bytes.clone());
        Ok(bytes)
    }

    /// `None` when the page is damaged or cannot be read.
    async fn read_index_page(
        &self,
        file: &D::File,
        view: &IndexView<D::File>,
        number: usize,
    ) -> Result<Option<Rc<dyn AsRef<[u8]>>>, DiskError> {
        let offset = (number * PAGE_SIZE) as u64;
        let size = view.layout.size().saturating_sub(offset).min(PAGE_SIZE as u64) as usize;
        let bytes = match file.read(offset, size).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind == DiskErrorKind::PowerLost => return Err(error),
            Err(_) => return Ok(None),
        };
        let seed = self.0.log.borrow().config.checksum_seed;
        let page = (*bytes).as_ref();
        let is_intact = size > 0
            && page.len() >= size
            && is_page_intact(&page[..size], number * BLOCKS_PER_PAGE, view.segment, seed);
        Ok(is_intact.then_some(bytes))
    }
}

fn page_of(image: &Image, number: usize) -> Rc<dyn AsRef<[u8]>> {
    let rest = image.bytes.get(number * PAGE_SIZE..).unwrap_or_default();
    Rc::new(rest[..rest.len().min(PAGE_SIZE)].to_vec())
}
