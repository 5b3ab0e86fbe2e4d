//! Reading messages: finds them in the index, takes their bytes from memory or disk, or holds the
//! request until there are some (remoting reference, 5.3 to 5.5).
//!
//! ```text
//!   pull ─▶ try_pull ─┬─ Now: all from memory, or nothing there
//!                     ├─ Held: until a commit or the deadline, then try_pull again
//!                     └─ Cold: read_and_pull ─▶ try ─▶ read the disk ─▶ try … until one of the above
//! ```
//!
//! Only committed messages are visible: a search stops at the queue's visible end.
//!
//! Every copy of a replicated shard answers with messages. That there is nothing new, only its leader
//! says; from other copies a client gets what stock slaves answer (remoting reference, 5.15): nothing
//! matched up to here, and where to read next. Such a pull is held as long as any other, so a client
//! with an old route gets messages without asking in a loop.

use super::filter::TagFilter;
use super::held::PullTask;
use super::{Answer, Broker, Origin, Outcome};
use crate::model::reply::{PullStatus, Pulled};
use crate::model::request::Pull;
use crate::model::{Chunk, GroupName, Moment, QueueOffset, Refusal, Reply};
use crate::storage::disk::Disk;
use crate::storage::{IndexPage, Located, Lookup, QueueKey, ReadError};

/// Maximum number of messages in a reply.
const COUNT_MAX: u32 = 1024;
/// Maximum message bytes in a reply, unless a single message is larger. Below the 16 MiB limit of a
/// frame.
const BYTES_MAX: u32 = 4 << 20;
/// Message bytes in a reply whose request has no limit: the reference's limit for reads from
/// memory.
const BYTES_DEFAULT: u32 = 256 << 10;
/// Maximum time that a pull is held, ms.
const HOLD_MS_MAX: u64 = 60_000;
/// Maximum number of index entries that one pull visits, so that a filter that matches nothing
/// cannot block the shard.
const SCAN_MAX: u64 = 16_384;
/// Index entries fetched at a time.
const LOOKUP_COUNT: usize = 32;

/// The result of trying a pull.
enum Attempt {
    Ended(Outcome),
    /// Boxed, because reading the disk is rare and this would enlarge every outcome.
    Needs(Box<PullTask>, Needs),
}

/// What must be read from the disk before the pull is retried.
enum Needs {
    Index(IndexPage),
    Messages { chosen: Chosen, next: QueueOffset },
}

/// Messages selected for a reply, each with its queue offset.
type Chosen = Vec<(QueueOffset, Located)>;

/// The result of a search.
enum Search {
    Found {
        chosen: Chosen,
        next: QueueOffset,
    },
    /// Searched up to `next`; nothing matched.
    Nothing {
        next: QueueOffset,
    },
    /// Part of a sealed segment's index must be loaded first.
    NeedsIndex {
        page: IndexPage,
        /// Searched below this; nothing matched.
        at: QueueOffset,
    },
    Outside {
        correct: QueueOffset,
    },
}

impl<D: Disk> Broker<D> {
    pub(super) fn pull(
        &self,
        request: &Pull,
        origin: Origin,
        now: Moment,
    ) -> Result<Outcome, Refusal> {
        let queue = self.readable_queue(request)?;
        let filter = self.filter_of(request)?;
        if let (Some(group), Some(offset)) = (&request.group, request.commit) {
            self.commit_on_the_way(group, queue, offset, now);
        }
        let reset = self.end_reset(request, queue, now);
        let asked = u64::try_from(request.offset).unwrap_or(0);
        let task = PullTask {
            origin,
            group: request.group.clone(),
            queue,
            asked: QueueOffset(asked),
            from: QueueOffset(asked),
            count_max: request.count_max.clamp(1, COUNT_MAX),
            bytes_max: request.bytes_max.unwrap_or(BYTES_DEFAULT).clamp(1, BYTES_MAX),
            filter,
            hold_until: request.hold_ms.map(|ms| now.plus_ms(ms.min(HOLD_MS_MAX))),
            held_as: None,
        };
        if let Some(offset) = reset {
            let moved = self.answer(&task, PullStatus::OffsetMoved, offset, 0, Vec::new());
            return Ok(Outcome::Now(moved));
        }
        if request.offset < 0 {
            // Below all messages, even if there are none (remoting reference, 5.3).
            let min = QueueOffset(self.store.with_index(|index| index.bounds(queue).start));
            let moved = self.answer(&task, PullStatus::OffsetMoved, min, 0, Vec::new());
            return Ok(Outcome::Now(moved));
        }
        Ok(self.try_pull(task))
    }

    /// Where the group must go on instead, if its offset was reset since its last pull of the queue.
    /// Only a leader can record that a member has noticed, so no other copy tells it.
    fn end_reset(&self, request: &Pull, queue: QueueKey, now: Moment) -> Option<QueueOffset> {
        if !self.leads() {
            return None;
        }
        let group = request.group.as_ref()?;
        let offset = self.state.borrow_mut().durable.offsets.end_reset(group, queue)?;
        self.schedule_flush(now);
        // An offset below all messages is never the one that was asked for.
        let asked = QueueOffset(u64::try_from(request.offset).unwrap_or(u64::MAX));
        (offset != asked).then_some(offset)
    }

    /// A full offset table must not keep messages from a consumer; an explicit commit reports the
    /// error. Nor must a copy that does not lead.
    fn commit_on_the_way(&self, group: &GroupName, queue: QueueKey, offset: i64, now: Moment) {
        if !self.leads() {
            return;
        }
        if let Err(refusal) = self.commit(group, queue, offset, now)
            && !self.state.borrow_mut().has_logged_full.replace(true)
        {
            let shard = self.config.shard.0;
            tracing::warn!(shard, "cannot commit an offset of {group}: {refusal}");
        }
    }

    /// Tries a pull: answers it, holds it, or reports that the disk must be read first.
    pub(super) fn try_pull(&self, task: PullTask) -> Outcome {
        match self.search_and_take(task) {
            Attempt::Ended(outcome) => outcome,
            Attempt::Needs(task, _) => Outcome::Cold(task),
        }
    }

    /// Tries a pull and reads from disk as needed, until it is answered or held.
    pub(super) async fn read_and_pull(&self, mut task: PullTask) -> Outcome {
        loop {
            let (next, needs) = match self.search_and_take(task) {
                Attempt::Ended(outcome) => return outcome,
                Attempt::Needs(task, needs) => (*task, needs),
            };
            let read = match needs {
                Needs::Index(page) => self.store.load_index(page).await,
                Needs::Messages { chosen, next: end } => {
                    match self.read_messages(&next, chosen, end).await {
                        Ok(Some(answer)) => return Outcome::Now(answer),
                        Ok(None) => Ok(()),
                        Err(error) => Err(error),
                    }
                }
            };
            if let Err(error) = read {
                return Outcome::Now(Answer::refused(self.refuse_read(error)));
            }
            task = next;
        }
    }

    /// Answers with messages from the disk. Returns nothing if the first message is damaged; the
    /// index has then recorded that, and the consumer skips it.
    async fn read_messages(
        &self,
        task: &PullTask,
        mut chosen: Chosen,
        next: QueueOffset,
    ) -> Result<Option<Answer>, ReadError> {
        let wanted: Vec<Located> = chosen.iter().map(|(_, located)| *located).collect();
        match self.store.read(&wanted).await {
            Ok(chunks) => {
                let next = cut(&mut chosen, chunks.len(), next);
                Ok(Some(self.found(task, &chosen, next, chunks)))
            }
            Err(ReadError::Damaged(_)) if self.is_lost(task.queue, chosen[0].0) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn is_lost(&self, queue: QueueKey, offset: QueueOffset) -> bool {
        let found = self.store.with_index(|index| index.lookup(queue, offset, 1));
        matches!(found, Lookup::Lost { .. })
    }

    fn search_and_take(&self, mut task: PullTask) -> Attempt {
        match self.search(&task) {
            Search::Found { chosen, next } => self.take_bytes(task, chosen, next),
            Search::NeedsIndex { page, at } => {
                // Does not start over, because the visited pages may have left the cache by then.
                task.from = at;
                Attempt::Needs(Box::new(task), Needs::Index(page))
            }
            Search::Outside { correct } => Attempt::Ended(Outcome::Now(self.answer(
                &task,
                PullStatus::OffsetMoved,
                correct,
                0,
                Vec::new(),
            ))),
            Search::Nothing { next } => {
                task.from = next;
                self.store.metrics().pulls_missed.add(1);
                Attempt::Ended(match task.hold_until {
                    Some(until) if next >= self.visible(task.queue) => self.hold(task, until),
                    _ => Outcome::Now(self.nothing(&task)),
                })
            }
        }
    }

    /// The reply to a pull that ends without messages.
    pub(super) fn nothing(&self, task: &PullTask) -> Answer {
        let is_advanced = task.from > task.asked;
        let is_newest = self.is_newest();
        let status = match is_newest && !is_advanced {
            true => PullStatus::NothingNew,
            false => PullStatus::NothingMatched,
        };
        let mut answer = self.answer(task, status, task.from, 0, Vec::new());
        if let (false, Ok(Reply::Pulled(pulled))) = (is_newest, &mut answer.reply) {
            pulled.read_from = self.read_from();
        }
        answer
    }

    fn hold(&self, task: PullTask, until: Moment) -> Outcome {
        let refused = self.state.borrow().held.why_full(task.origin.connection);
        if let Some(reason) = refused {
            let shard = self.config.shard.0;
            let refusal = Refusal::Busy { reason, wait_ms: 0, retry_after_ms: 1000, shard };
            return Outcome::Now(Answer::refused(refusal));
        }
        let held = self.state.borrow_mut().hold(task, until);
        match held {
            Ok(()) => Outcome::Held,
            // The queue was deleted during the disk read; the client's next pull is refused.
            Err(task) => Outcome::Now(self.nothing(&task)),
        }
    }

    fn search(&self, task: &PullTask) -> Search {
        let min = QueueOffset(self.store.with_index(|index| index.bounds(task.queue).start));
        let visible = self.visible(task.queue);
        if task.from < min {
            return Search::Outside { correct: min };
        }
        if task.from > visible {
            // Another copy may have more than this one.
            return match self.is_newest() {
                true => Search::Outside { correct: visible },
                false => Search::Nothing { next: task.from },
            };
        }
        let mut chosen = Chosen::new();
        let mut bytes = 0;
        let mut at = task.from;
        let end = visible.min(task.asked.plus(SCAN_MAX)).max(at);
        while at < end {
            let found = self.store.with_index(|index| index.lookup(task.queue, at, LOOKUP_COUNT));
            let entries = match found {
                Lookup::Here(entries) => entries,
                Lookup::Sealed(page) if chosen.is_empty() => {
                    return Search::NeedsIndex { page, at };
                }
                // Expired or found damaged since the bounds were read: the consumer continues after
                // it.
                Lookup::Lost { next } if chosen.is_empty() => {
                    return Search::Outside { correct: next };
                }
                Lookup::Sealed(_) | Lookup::Lost { .. } | Lookup::Nothing => break,
            };
            for located in entries {
                if at >= end {
                    break;
                }
                if task.filter.takes(located.tag_hash) {
                    let is_full = chosen.len() as u32 == task.count_max
                        || (!chosen.is_empty() && bytes + located.size > task.bytes_max);
                    if is_full {
                        return Search::Found { chosen, next: at };
                    }
                    bytes += located.size;
                    chosen.push((at, located));
                }
                at = at.plus(1);
            }
        }
        match chosen.is_empty() {
            true => Search::Nothing { next: at },
            false => Search::Found { chosen, next: at },
        }
    }

    /// Answers with messages in memory. If the first message is not in memory, the missing ones
    /// must be read; messages after a gap are left for the next pull.
    fn take_bytes(&self, task: PullTask, mut chosen: Chosen, next: QueueOffset) -> Attempt {
        let cached = |located: &Located| self.store.cached(located.offset, located.size);
        let chunks: Vec<Chunk> = chosen.iter().map_while(|(_, located)| cached(located)).collect();
        if chunks.is_empty() {
            let cold = chosen.iter().position(|(_, located)| cached(located).is_some());
            let next = cut(&mut chosen, cold.unwrap_or(usize::MAX), next);
            return Attempt::Needs(Box::new(task), Needs::Messages { chosen, next });
        }
        let next = cut(&mut chosen, chunks.len(), next);
        Attempt::Ended(Outcome::Now(self.found(&task, &chosen, next, chunks)))
    }

    fn found(
        &self,
        task: &PullTask,
        chosen: &Chosen,
        next: QueueOffset,
        chunks: Vec<Chunk>,
    ) -> Answer {
        let bytes: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        let metrics = self.store.metrics();
        metrics.pulls_found.add(1);
        metrics.messages_pulled.add(chosen.len() as u64);
        metrics.pulled_bytes.add(bytes as u64);
        self.answer(task, PullStatus::Found, next, chosen.len() as u32, joined(chunks))
    }

    fn answer(
        &self,
        task: &PullTask,
        status: PullStatus,
        next_offset: QueueOffset,
        count: u32,
        chunks: Vec<Chunk>,
    ) -> Answer {
        let min = self.store.with_index(|index| index.bounds(task.queue).start);
        let pulled = Pulled {
            status,
            next_offset,
            min_offset: QueueOffset(min),
            max_offset: self.visible(task.queue),
            count,
            read_from: 0,
        };
        Answer { reply: Ok(Reply::Pulled(pulled)), chunks }
    }

    /// The checks in the order of the reference (remoting reference, 5.3).
    fn readable_queue(&self, Pull { group, queue, .. }: &Pull) -> Result<QueueKey, Refusal> {
        let state = self.state.borrow();
        state.durable.groups.check_pull(group.as_ref())?;
        let (number, topic) = state.durable.topics.find(&queue.topic)?;
        topic.check_pull(queue.queue)?;
        Ok(QueueKey { topic: number, queue: queue.queue })
    }

    fn filter_of(&self, request: &Pull) -> Result<TagFilter, Refusal> {
        if let Some(expression) = &request.subscription {
            return TagFilter::parse(expression);
        }
        match &request.group {
            None => Ok(TagFilter::All),
            Some(group) => {
                let state = self.state.borrow();
                if state.durable.groups.is_any_restricted() && state.groups.is_broadcasting(group) {
                    state.durable.groups.check_broadcast(group)?;
                }
                let (topic, version) = (&request.queue.topic, request.subscription_version);
                state.groups.filter(group, topic, version)
            }
        }
    }

    pub(super) fn visible(&self, queue: QueueKey) -> QueueOffset {
        let state = self.state.borrow();
        state
            .durable
            .topics
            .topic(queue.topic)
            .map_or(QueueOffset(0), |topic| topic.visible(queue.queue))
    }
}

/// Keeps the first `count` of the selected messages; returns the offset at which the next pull
/// begins.
fn cut(chosen: &mut Chosen, count: usize, next: QueueOffset) -> QueueOffset {
    match chosen.get(count) {
        Some(&(offset, _)) => {
            chosen.truncate(count);
            offset
        }
        None => next,
    }
}

/// Merges adjacent chunks, because messages of one batch are adjacent in the log.
fn joined(chunks: Vec<Chunk>) -> Vec<Chunk> {
    let mut joined: Vec<Chunk> = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        match joined.last_mut() {
            Some(last) => {
                if let Err(chunk) = last.join(chunk) {
                    joined.push(chunk);
                }
            }
            None => joined.push(chunk),
        }
    }
    joined
}
