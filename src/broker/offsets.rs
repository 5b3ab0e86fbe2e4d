//! The offset of each consumer group in each queue of this shard.
//!
//! The group sees a committed offset immediately. The log gets all that have changed at most once a
//! second, in facts of [`ROWS_PER_FACT`] (the reference flushes every 5 s; remoting reference, 5.6).
//! Logged offsets change only in [`apply`](Offsets::apply).
//!
//! An operator may reset an offset while the group has members (5.7). A member that has not noticed
//! goes on where it was, and commits that. So the reset is *pending*, and commits of the pair are
//! ignored, until a member pulls the queue and is told the new offset. The log says of an offset
//! that its reset is pending, so a restart or a new leader does not undo it. A crash just after the
//! pull makes the reset pending again: the group consumes a little twice.
//!
//! ```text
//!   OFFSETS   GroupHead, name, padding, OffsetRow, OffsetRow, …    of one group; as many groups as follow
//! ```
//!
//! Invariants: `count` is the number of rows, and `pending_count` that of the rows whose current
//! position is a pending reset; a row is in `changed` exactly if its current position differs from
//! its logged one. Rows of deleted topics are unreachable, because topic numbers are
//! not reused, and are removed by the next [`sweep`](Offsets::sweep).

use std::collections::{BTreeMap, BTreeSet};
use std::mem::size_of;

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::facts::{self, Fact, Facts, ITEMS_PER_SLICE, OFFSETS};
use super::walk::{Rows, Step, Walk};
use crate::model::{GroupName, QueueId, QueueOffset, Refusal, Timestamp};
use crate::storage::QueueKey;

/// Maximum number of (group, queue) pairs with an offset: ten groups on each of 100,000 queues.
pub const OFFSETS_MAX: usize = 1_000_000;
/// Maximum number of groups with an offset.
const GROUPS_MAX: usize = 100_000;
/// Maximum number of rows per fact.
pub const ROWS_PER_FACT: usize = 1_000;

/// Maximum number of (group, queue) pairs with a pending reset.
const RESETS_MAX: usize = 100_000;

/// What a fact does to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum FactKind {
    /// The group is in use, and its offsets are those in the rows.
    Offsets = 1,
    /// The group has been unused for so long that its offsets are deleted.
    Forgotten = 2,
    /// As `Offsets`, but those in the rows were reset, and no member has noticed.
    Resets = 3,
}

/// Precedes a group's rows. Followed by the group's name and zeros up to a multiple of 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GroupHead {
    /// 1: committed; 2: forgotten; 3: reset.
    pub says: u8,
    pub reserved: u8,
    pub name_size: U16,
    pub row_count: U32,
    pub used_at_ms: U64,
}

/// One consume offset.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OffsetRow {
    pub topic: U32,
    pub queue: U32,
    pub offset: U64,
}

const _: () = {
    assert!(size_of::<GroupHead>() == 16);
    assert!(size_of::<OffsetRow>() == 16);
};

#[derive(Debug, Default)]
pub struct Offsets {
    /// Sorted rather than hashed, because clients choose the names and could provoke collisions.
    groups: BTreeMap<GroupName, Group>,
    /// Rows whose current position is not in the log.
    changed: BTreeSet<(GroupName, QueueKey)>,
    /// Groups whose use must be recorded in the log.
    touched: BTreeSet<GroupName>,
    count: usize,
    pending_count: usize,
}

#[derive(Debug, Default)]
struct Group {
    rows: BTreeMap<QueueKey, Row>,
    /// When a fact last mentioned it.
    used_at: Timestamp,
    /// When a fact last mentioned one of its offsets; in a snapshot as `used_at`.
    committed_at: Option<Timestamp>,
}

impl Rows for Group {
    type Row = Row;

    fn rows(&self) -> &BTreeMap<QueueKey, Row> {
        &self.rows
    }
}

#[derive(Clone, Copy, Debug)]
struct Row {
    /// As the group sees it.
    newest: Position,
    /// As the log has it, if it does.
    logged: Option<Position>,
}

/// Where a group goes on in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    offset: QueueOffset,
    /// Set by a reset that no member has noticed.
    is_reset: bool,
}

impl Row {
    fn is_changed(&self) -> bool {
        self.logged != Some(self.newest)
    }
}

impl Offsets {
    pub fn find(&self, group: &GroupName, queue: QueueKey) -> Option<QueueOffset> {
        Some(self.row(group, queue)?.newest.offset)
    }

    fn row(&self, group: &GroupName, queue: QueueKey) -> Option<&Row> {
        self.groups.get(group)?.rows.get(&queue)
    }

    /// Sets `offset`, also to a lower value, because groups may be reset on purpose. Does nothing
    /// while a reset is pending. Refuses a new pair if the table is full.
    pub fn commit(
        &mut self,
        group: &GroupName,
        queue: QueueKey,
        offset: QueueOffset,
    ) -> Result<(), Refusal> {
        match self.is_reset(group, queue) {
            true => Ok(()),
            false => self.change(group, queue, Position { offset, is_reset: false }),
        }
    }

    /// Sets `offset` so that commits do not change it until [`end_reset`](Self::end_reset).
    pub fn reset(
        &mut self,
        group: &GroupName,
        queue: QueueKey,
        offset: QueueOffset,
    ) -> Result<(), Refusal> {
        self.change(group, queue, Position { offset, is_reset: true })
    }

    /// Whether a reset of this pair is pending.
    pub fn is_reset(&self, group: &GroupName, queue: QueueKey) -> bool {
        // Every pull asks; resets are rare.
        self.pending_count > 0 && self.row(group, queue).is_some_and(|row| row.newest.is_reset)
    }

    /// Whether so many more resets fit.
    pub fn check_resets(&self, count: usize) -> Result<(), Refusal> {
        match self.pending_count + count <= RESETS_MAX {
            true => Ok(()),
            false => Err(Refusal::Full { what: "unnoticed resets", count_max: RESETS_MAX }),
        }
    }

    /// A member pulls the queue, and will know where the group goes on: gives that, if a reset was
    /// pending.
    pub fn end_reset(&mut self, group: &GroupName, queue: QueueKey) -> Option<QueueOffset> {
        if !self.is_reset(group, queue) {
            return None;
        }
        let offset = self.find(group, queue)?;
        let noticed = Position { offset, is_reset: false };
        self.change(group, queue, noticed).expect("the pair is in the table");
        Some(offset)
    }

    fn change(
        &mut self,
        group: &GroupName,
        queue: QueueKey,
        newest: Position,
    ) -> Result<(), Refusal> {
        let known = self.groups.get_key_value(group);
        let row = known.and_then(|(_, group)| group.rows.get(&queue)).copied();
        if row.is_some_and(|row| row.newest == newest) {
            return Ok(());
        }
        if row.is_none() && self.count >= OFFSETS_MAX {
            return Err(Refusal::Full { what: "committed offsets", count_max: OFFSETS_MAX });
        }
        if known.is_none() && self.groups.len() >= GROUPS_MAX {
            let what = "groups with committed offsets";
            return Err(Refusal::Full { what, count_max: GROUPS_MAX });
        }
        // The table's copy of the name, so that it is stored once.
        let name = known.map_or_else(|| group.detached(), |(name, _)| name.clone());
        self.put(&name, queue, Row { newest, logged: row.and_then(|row| row.logged) });
        Ok(())
    }

    /// Whether the group has any offset.
    pub fn has(&self, group: &GroupName) -> bool {
        self.groups.contains_key(group)
    }

    /// When a group last committed an offset.
    pub fn committed_at(&self, group: &GroupName) -> Option<Timestamp> {
        self.groups.get(group)?.committed_at
    }

    /// Numbers of the topics for which a group has offsets.
    pub fn topics_of(&self, group: &GroupName) -> Vec<u32> {
        let rows = self.groups.get(group).into_iter().flat_map(|group| group.rows.keys());
        let mut topics: Vec<u32> = rows.map(|queue| queue.topic).collect();
        topics.dedup();
        topics
    }

    /// Groups that have offsets for a topic.
    pub fn groups_of(&self, topic: u32) -> impl Iterator<Item = &GroupName> {
        let first = QueueKey { topic, queue: QueueId(0) };
        let is_of = move |group: &Group| {
            group.rows.range(first..).next().is_some_and(|(queue, _)| queue.topic == topic)
        };
        self.groups.iter().filter(move |(_, group)| is_of(group)).map(|(name, _)| name)
    }

    /// Whether the current position of this pair is not in the log.
    pub fn is_changed(&self, group: &GroupName, queue: QueueKey) -> bool {
        self.row(group, queue).is_some_and(Row::is_changed)
    }

    fn put(&mut self, name: &GroupName, queue: QueueKey, row: Row) {
        let group = match self.groups.get_mut(name) {
            Some(group) => group,
            None => self.groups.entry(name.clone()).or_default(),
        };
        self.pending_count += usize::from(row.newest.is_reset);
        match group.rows.insert(queue, row) {
            Some(before) => self.pending_count -= usize::from(before.newest.is_reset),
            None => self.count += 1,
        }
        let key = (name.clone(), queue);
        match row.is_changed() {
            true => self.changed.insert(key),
            false => self.changed.remove(&key),
        };
    }

    /// Whether any current position is not in the log.
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty() || !self.touched.is_empty()
    }

    /// A fact with up to [`ROWS_PER_FACT`] unlogged rows. Empty if there are none.
    pub fn next_fact(&self, now: Timestamp) -> Facts {
        if !self.has_changes() {
            return Facts::default();
        }
        let mut rows = self.changed.iter().take(ROWS_PER_FACT).peekable();
        Facts::one(OFFSETS, 0, |out| {
            while let Some((name, _)) = rows.peek().copied() {
                let of_group = std::iter::from_fn(|| rows.next_if(|(group, _)| group == name));
                let newest = |queue: QueueKey| (queue, self.groups[name].rows[&queue].newest);
                write_group(out, name, now, of_group.map(|(_, queue)| newest(*queue)));
            }
            for name in self.touched.iter().take(ROWS_PER_FACT) {
                write_group(out, name, now, std::iter::empty());
            }
        })
    }

    /// Continues a sweep for a bounded time: drops rows of deleted topics, records in the log that
    /// groups are in use well before they would expire, and lists those that have been unused for
    /// `retention_ms`.
    pub fn sweep(&mut self, mut walk: Walk, rule: &SweepRule<'_>) -> Swept {
        let (mut expired, mut left) = (Vec::new(), ITEMS_PER_SLICE);
        while left > 0 {
            let Some(step) = walk.step(&self.groups, &mut left) else {
                return Swept { expired, rest: None };
            };
            let (name, is_last) = (step.name.clone(), step.is_last);
            let queues = step.rows.iter().map(|(queue, _)| *queue);
            let gone: Vec<_> = queues.filter(|queue| !(rule.has_topic)(queue.topic)).collect();
            gone.into_iter().for_each(|queue| self.remove(&name, queue));
            if is_last && self.judge(&name, rule) {
                expired.push(name);
            }
        }
        Swept { expired, rest: Some(walk) }
    }

    fn remove(&mut self, name: &GroupName, queue: QueueKey) {
        let Some(group) = self.groups.get_mut(name) else { return };
        let Some(row) = group.rows.remove(&queue) else { return };
        self.count -= 1;
        self.pending_count -= usize::from(row.newest.is_reset);
        self.changed.remove(&(name.clone(), queue));
    }

    /// Whether a group has expired. One without rows is dropped: a snapshot may have named it
    /// before its first rows were logged.
    fn judge(&mut self, name: &GroupName, rule: &SweepRule<'_>) -> bool {
        let Some(group) = self.groups.get(name) else { return false };
        if group.rows.is_empty() {
            self.groups.remove(name);
            self.touched.remove(name);
            return false;
        }
        let unused_ms = rule.now.ms_since(group.used_at);
        let is_active = (rule.is_active)(name);
        if is_active && unused_ms > rule.retention_ms / TOUCHES_PER_RETENTION {
            self.touched.insert(name.clone());
        }
        !is_active && unused_ms > rule.retention_ms
    }
}

/// The use of a group is recorded this many times per retention time, so that after its last member
/// leaves, the group still has nearly all of its time.
const TOUCHES_PER_RETENTION: u64 = 8;

/// The parameters of a sweep.
pub struct SweepRule<'a> {
    pub now: Timestamp,
    /// Offsets of groups that have been unused for longer are deleted, milliseconds.
    pub retention_ms: u64,
    pub has_topic: &'a dyn Fn(u32) -> bool,
    /// Whether a group has members.
    pub is_active: &'a dyn Fn(&GroupName) -> bool,
}

/// The result of one step of a sweep.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Groups whose offsets are to be deleted.
    pub expired: Vec<GroupName>,
    /// `None` when all groups have been visited.
    pub rest: Option<Walk>,
}

/// The fact that deletes the offsets of these groups.
pub fn forgotten(groups: &[GroupName], now: Timestamp) -> Facts {
    let mut facts = Facts::default();
    if !groups.is_empty() {
        add_forgotten(&mut facts, groups, now);
    }
    facts
}

pub fn add_forgotten(facts: &mut Facts, groups: &[GroupName], now: Timestamp) {
    facts.push(OFFSETS, 0, |out| {
        groups.iter().for_each(|name| write_head(out, name, FactKind::Forgotten, now, 0));
    });
}

/// Writes that a group is in use, and the offsets from which it continues in the queues of `rows`.
fn write_group(
    out: &mut Vec<u8>,
    name: &GroupName,
    used_at: Timestamp,
    rows: impl Iterator<Item = (QueueKey, Position)>,
) {
    let (resets, committed): (Vec<_>, Vec<_>) = rows.partition(|(_, position)| position.is_reset);
    if !committed.is_empty() || resets.is_empty() {
        write_rows(out, name, FactKind::Offsets, used_at, &committed);
    }
    if !resets.is_empty() {
        write_rows(out, name, FactKind::Resets, used_at, &resets);
    }
}

fn write_rows(
    out: &mut Vec<u8>,
    name: &GroupName,
    says: FactKind,
    used_at: Timestamp,
    rows: &[(QueueKey, Position)],
) {
    write_head(out, name, says, used_at, rows.len() as u32);
    for (queue, position) in rows {
        let (topic, queue) = (U32::new(queue.topic), U32::new(queue.queue.0));
        let row = OffsetRow { topic, queue, offset: U64::new(position.offset.0) };
        out.extend_from_slice(row.as_bytes());
    }
}

fn write_head(out: &mut Vec<u8>, name: &GroupName, says: FactKind, used_at: Timestamp, rows: u32) {
    let begin = out.len();
    let name = name.as_str().as_bytes();
    let head = GroupHead {
        says: says as u8,
        reserved: 0,
        name_size: U16::new(name.len() as u16),
        row_count: U32::new(rows),
        used_at_ms: U64::new(used_at.0),
    };
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(name);
    facts::pad(out, begin);
}

impl Offsets {
    /// Applies a fact.
    pub fn apply(&mut self, fact: &Fact<'_>) -> Result<(), String> {
        let mut rest = fact.payload;
        while !rest.is_empty() {
            let cut = || format!("they are cut {} bytes before their end", rest.len());
            let (head, behind) = GroupHead::read_from_prefix(rest).map_err(|_| cut())?;
            let mut behind = behind;
            let name = facts::take_padded(&mut behind, usize::from(head.name_size.get()));
            let name = name.and_then(|name| std::str::from_utf8(name).ok()).ok_or_else(cut)?;
            let count = head.row_count.get() as usize;
            let (rows, behind) =
                <[OffsetRow]>::ref_from_prefix_with_elems(behind, count).map_err(|_| cut())?;
            let name = GroupName::new(name.to_owned()).map_err(|error| error.to_string())?;
            let used_at = Timestamp(head.used_at_ms.get());
            match head.says {
                says if says == FactKind::Offsets as u8 => {
                    self.apply_rows(name, rows, used_at, false)
                }
                says if says == FactKind::Resets as u8 => {
                    self.apply_rows(name, rows, used_at, true)
                }
                says if says == FactKind::Forgotten as u8 => self.forget(&name),
                says => return Err(format!("of a group it says {says}")),
            }
            rest = behind;
        }
        Ok(())
    }

    fn apply_rows(
        &mut self,
        name: GroupName,
        rows: &[OffsetRow],
        used_at: Timestamp,
        is_reset: bool,
    ) {
        let known = self.groups.get_key_value(&name);
        let name = known.map_or(name, |(known, _)| known.clone());
        for row in rows {
            let queue = QueueKey { topic: row.topic.get(), queue: QueueId(row.queue.get()) };
            let logged = Position { offset: QueueOffset(row.offset.get()), is_reset };
            // What has changed meanwhile is not in the log yet, and stays.
            let newer = self.row(&name, queue).filter(|row| row.is_changed());
            let newest = newer.map_or(logged, |row| row.newest);
            self.put(&name, queue, Row { newest, logged: Some(logged) });
        }
        self.touched.remove(&name);
        let group = self.groups.entry(name).or_default();
        group.used_at = group.used_at.max(used_at);
        if !rows.is_empty() {
            group.committed_at = group.committed_at.max(Some(used_at));
        }
    }

    /// A group may have very many rows, so only those that need it are visited.
    fn forget(&mut self, name: &GroupName) {
        let Some(group) = self.groups.remove(name) else { return };
        self.count -= group.rows.len();
        self.touched.remove(name);
        if self.pending_count > 0 {
            self.pending_count -= group.rows.values().filter(|row| row.newest.is_reset).count();
        }
        let first = QueueKey { topic: 0, queue: QueueId(0) };
        let of_group = self.changed.range((name.clone(), first)..);
        let of_group = of_group.take_while(|(changed, _)| changed == name).cloned();
        for key in of_group.collect::<Vec<_>>() {
            self.changed.remove(&key);
        }
    }
}

/// The progress of adding all logged rows to a snapshot.
#[derive(Default)]
pub struct AllOffsets(Walk);

impl AllOffsets {
    pub fn add(&mut self, offsets: &Offsets, facts: &mut Facts) -> bool {
        let (mut left, mut has_more) = (ITEMS_PER_SLICE, true);
        facts.push(OFFSETS, 0, |out| {
            while has_more && left > 0 {
                let step = self.0.step(&offsets.groups, &mut left);
                has_more = step.is_some();
                if let Some(Step { name, group, rows, .. }) = step {
                    let logged =
                        rows.into_iter().filter_map(|(queue, row)| Some((queue, row.logged?)));
                    write_group(out, name, group.used_at, logged);
                }
            }
        });
        has_more
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::facts::SEVERAL;
    use crate::model::LogOffset;

    fn key(queue: u32) -> QueueKey {
        QueueKey { topic: 1, queue: QueueId(queue) }
    }

    fn name(text: &str) -> GroupName {
        GroupName::new(text.to_owned()).unwrap()
    }

    fn write(offsets: &mut Offsets, facts: &Facts) {
        let (kind, subject, payload) = facts.entry();
        let (entry_offset, payload_offset) = (LogOffset(0), LogOffset(0));
        let fact = Fact { kind, subject, entry_offset, payload_offset, payload };
        offsets.apply(&fact).unwrap();
    }

    /// Writes all unlogged offsets; returns the number of facts.
    fn flush(offsets: &mut Offsets, now: u64) -> usize {
        let mut count = 0;
        while offsets.has_changes() {
            let facts = offsets.next_fact(Timestamp(now));
            assert!(facts.size() < crate::storage::PAYLOAD_SIZE_MAX);
            write(offsets, &facts);
            count += 1;
        }
        count
    }

    /// Group, queue and offset of all logged rows.
    fn logged(offsets: &Offsets) -> Vec<(String, u32, u64)> {
        let rows = |(name, group): (&GroupName, &Group)| {
            let name = name.to_string();
            let logged = |(queue, row): (&QueueKey, &Row)| {
                Some((name.clone(), queue.queue.0, row.logged?.offset.0))
            };
            group.rows.iter().filter_map(logged).collect::<Vec<_>>()
        };
        offsets.groups.iter().flat_map(rows).collect()
    }

    #[test]
    fn a_group_may_go_back_and_only_the_last_offset_is_written() {
        let (mut offsets, group) = (Offsets::default(), name("g"));
        assert_eq!(offsets.find(&group, key(0)), None);
        for offset in [5, 9, 3] {
            offsets.commit(&group, key(0), QueueOffset(offset)).unwrap();
            assert_eq!(offsets.find(&group, key(0)), Some(QueueOffset(offset)));
            assert_eq!(logged(&offsets), [], "the log does not say so yet");
        }
        assert_eq!(flush(&mut offsets, 1), 1);
        assert_eq!(logged(&offsets), [("g".into(), 0, 3)]);
        offsets.commit(&group, key(0), QueueOffset(3)).unwrap();
        assert!(!offsets.has_changes(), "the same offset again is no change");
        offsets.commit(&group, key(0), QueueOffset(4)).unwrap();
        offsets.commit(&group, key(0), QueueOffset(3)).unwrap();
        assert!(!offsets.has_changes(), "nor is one that was taken back");
    }

    #[test]
    fn what_changes_while_a_fact_is_on_its_way_is_written_with_the_next() {
        let (mut offsets, group) = (Offsets::default(), name("g"));
        offsets.commit(&group, key(0), QueueOffset(5)).unwrap();
        let facts = offsets.next_fact(Timestamp(1));
        offsets.commit(&group, key(0), QueueOffset(6)).unwrap();
        write(&mut offsets, &facts);
        assert_eq!(offsets.find(&group, key(0)), Some(QueueOffset(6)));
        assert_eq!((flush(&mut offsets, 2), logged(&offsets)), (1, vec![("g".into(), 0, 6)]));
    }

    #[test]
    fn groups_and_offsets_are_bounded_and_who_is_known_goes_on() {
        let mut offsets = Offsets::default();
        let group = |number: usize| name(&format!("g{number}"));
        for number in 0..GROUPS_MAX {
            offsets.commit(&group(number), key(0), QueueOffset(1)).unwrap();
        }
        let what = "groups with committed offsets";
        let full = Err(Refusal::Full { what, count_max: GROUPS_MAX });
        assert_eq!(offsets.commit(&group(GROUPS_MAX), key(0), QueueOffset(1)), full);
        let more = (OFFSETS_MAX - GROUPS_MAX) as u32;
        for queue in 1..=more {
            offsets.commit(&group(0), key(queue), QueueOffset(1)).unwrap();
        }
        let full = Err(Refusal::Full { what: "committed offsets", count_max: OFFSETS_MAX });
        assert_eq!(offsets.commit(&group(0), key(more + 1), QueueOffset(1)), full);
        assert_eq!(offsets.commit(&group(0), key(more), QueueOffset(2)), Ok(()));
        write(&mut offsets, &forgotten(&[group(1)], Timestamp(1)));
        assert_eq!(offsets.commit(&group(0), key(more + 1), QueueOffset(1)), Ok(()));
    }

    /// Remoting reference, 5.7.
    #[test]
    fn a_reset_holds_against_commits_until_the_first_pull_of_its_queue() {
        let (mut offsets, group) = (Offsets::default(), name("g"));
        for queue in [0, 1] {
            offsets.commit(&group, key(queue), QueueOffset(5)).unwrap();
            flush(&mut offsets, 1);
            offsets.reset(&group, key(queue), QueueOffset(5)).unwrap();
            assert!(offsets.is_changed(&group, key(queue)), "it is to be in the log");
        }
        assert_eq!(offsets.end_reset(&name("other"), key(0)), None);
        for queue in [0, 1] {
            offsets.commit(&group, key(queue), QueueOffset(9)).unwrap();
            assert_eq!(offsets.find(&group, key(queue)), Some(QueueOffset(5)));
        }
        assert_eq!(offsets.end_reset(&group, key(0)), Some(QueueOffset(5)));
        assert_eq!(offsets.end_reset(&group, key(0)), None, "once");
        for (queue, expected) in [(0, 9), (1, 5)] {
            offsets.commit(&group, key(queue), QueueOffset(9)).unwrap();
            assert_eq!(offsets.find(&group, key(queue)), Some(QueueOffset(expected)));
        }
    }

    /// The state after the facts of `from`, or after its snapshot.
    fn restored(facts: &[Facts]) -> Offsets {
        let mut offsets = Offsets::default();
        facts.iter().for_each(|facts| write(&mut offsets, facts));
        offsets
    }

    /// The log and a snapshot say that a reset is pending, until the next fact after it was noticed.
    #[test]
    fn a_reset_is_pending_again_after_a_restart_unless_the_log_knows_that_it_was_noticed() {
        let (mut offsets, group) = (Offsets::default(), name("g"));
        offsets.commit(&group, key(0), QueueOffset(9)).unwrap();
        offsets.reset(&group, key(1), QueueOffset(5)).unwrap();
        let mut log = vec![offsets.next_fact(Timestamp(1))];
        write(&mut offsets, &log[0]);
        assert_eq!(offsets.end_reset(&group, key(1)), Some(QueueOffset(5)));
        let mut snapshot = Facts::default();
        assert!(!AllOffsets::default().add(&offsets, &mut snapshot));
        for mut restarted in [restored(&log), restored(&[snapshot])] {
            assert!(!restarted.has_changes());
            assert_eq!(logged(&restarted), [("g".into(), 0, 9), ("g".into(), 1, 5)]);
            assert_eq!(restarted.end_reset(&group, key(0)), None);
            assert_eq!(restarted.end_reset(&group, key(1)), Some(QueueOffset(5)));
        }
        log.push(offsets.next_fact(Timestamp(2)));
        assert_eq!(restored(&log).end_reset(&group, key(1)), None);
    }

    #[test]
    fn pending_resets_are_bounded_and_those_of_what_is_gone_do_not_count() {
        let mut offsets = Offsets::default();
        let group = |number: u32| name(&format!("g{}", number % 2));
        for number in 0..RESETS_MAX as u32 {
            offsets.check_resets(1).unwrap();
            offsets.reset(&group(number), key(number), QueueOffset(5)).unwrap();
        }
        let full = Err(Refusal::Full { what: "unnoticed resets", count_max: RESETS_MAX });
        assert_eq!(offsets.check_resets(1), full);
        write(&mut offsets, &forgotten(&[group(0)], Timestamp(1)));
        assert_eq!(offsets.check_resets(RESETS_MAX / 2), Ok(()));
        assert!(offsets.check_resets(RESETS_MAX / 2 + 1).is_err());
        offsets.end_reset(&group(1), key(1)).unwrap();
        assert_eq!(offsets.check_resets(RESETS_MAX / 2 + 1), Ok(()));
    }

    /// A group's name is stored in memory once, however many of its offsets have changed.
    #[test]
    fn what_changed_shares_the_name_of_its_group() {
        let mut offsets = Offsets::default();
        let group = name(&"g".repeat(255));
        for queue in 0..2 {
            offsets.commit(&group.detached(), key(queue), QueueOffset(1)).unwrap();
        }
        let known = offsets.groups.keys().next().unwrap().as_str().as_ptr();
        assert!(offsets.changed.iter().all(|(group, _)| group.as_str().as_ptr() == known));
    }

    const RETENTION_MS: u64 = 8_000;

    /// One step of a sweep at `now`; groups whose name begins with `active` have members.
    fn step(offsets: &mut Offsets, walk: Walk, now: u64, has_topic: bool) -> Swept {
        let rule = SweepRule {
            now: Timestamp(now),
            retention_ms: RETENTION_MS,
            has_topic: &|_| has_topic,
            is_active: &|group| group.as_str().starts_with("active"),
        };
        offsets.sweep(walk, &rule)
    }

    /// One whole sweep at `now`.
    fn sweep(offsets: &mut Offsets, now: u64, has_topic: bool) -> Vec<String> {
        let (mut walk, mut expired) = (Walk::default(), Vec::new());
        loop {
            let swept = step(offsets, walk, now, has_topic);
            expired.extend(swept.expired.iter().map(ToString::to_string));
            write(offsets, &forgotten(&swept.expired, Timestamp(now)));
            match swept.rest {
                Some(rest) => walk = rest,
                None => return expired,
            }
        }
    }

    #[test]
    fn offsets_of_groups_that_nobody_uses_go_after_the_retention_time() {
        let mut offsets = Offsets::default();
        for group in ["active", "idle"] {
            offsets.commit(&name(group), key(0), QueueOffset(5)).unwrap();
        }
        flush(&mut offsets, 1_000);
        assert!(sweep(&mut offsets, 2_000, true).is_empty());
        assert!(!offsets.has_changes(), "the log knows that it is in use");
        assert!(sweep(&mut offsets, 9_000, true).is_empty());
        // A group with members commits nothing when no messages arrive, but is in use.
        assert_eq!((offsets.has_changes(), flush(&mut offsets, 9_000)), (true, 1));
        assert_eq!(sweep(&mut offsets, 9_001, true), ["idle"]);
        assert_eq!(logged(&offsets), [("active".into(), 0, 5)]);
        assert_eq!(offsets.groups[&name("active")].used_at, Timestamp(9_000));
    }

    #[test]
    fn a_sweep_drops_what_is_left_of_topics_that_are_gone_a_little_at_a_time() {
        let mut offsets = Offsets::default();
        let count = 2 * ITEMS_PER_SLICE;
        for number in 0..count {
            let group = name(&format!("g{number}"));
            offsets.commit(&group, key(0), QueueOffset(1)).unwrap();
        }
        assert!(flush(&mut offsets, 1) > 1);
        offsets.commit(&name("g1"), key(0), QueueOffset(2)).unwrap();
        offsets.reset(&name("g2"), key(0), QueueOffset(2)).unwrap();
        let first = step(&mut offsets, Walk::default(), 1, false);
        assert!(first.rest.is_some() && offsets.groups.len() >= count / 2);
        // What is written between two steps no longer names what the first one has dropped: g1.
        assert_eq!(flush(&mut offsets, 1), 1);
        assert!(logged(&offsets).iter().all(|(group, ..)| group != "g1"));
        sweep(&mut offsets, 1, false);
        let Offsets { groups, changed, touched, count, pending_count } = &offsets;
        assert!(groups.is_empty() && changed.is_empty() && touched.is_empty());
        assert_eq!((*count, *pending_count), (0, 0));
    }

    /// A group may have as many rows as there are queues.
    #[test]
    fn a_step_of_a_sweep_visits_a_part_of_a_large_group() {
        let (mut offsets, large) = (Offsets::default(), name("large"));
        let count = 3 * ITEMS_PER_SLICE;
        for queue in 0..count as u32 {
            offsets.commit(&large, key(queue), QueueOffset(1)).unwrap();
        }
        flush(&mut offsets, 1);
        let first = step(&mut offsets, Walk::default(), 1, false);
        assert!(first.rest.is_some() && offsets.count >= count - ITEMS_PER_SLICE);
        assert_eq!(sweep(&mut offsets, 1 + RETENTION_MS + 1, true), ["large"], "it is judged once");
        assert!(offsets.groups.is_empty() && offsets.count == 0);
    }

    #[test]
    fn a_group_that_a_snapshot_names_without_offsets_is_dropped() {
        let mut offsets = Offsets::default();
        offsets.commit(&name("active"), key(0), QueueOffset(1)).unwrap();
        let mut snapshot = Facts::default();
        AllOffsets::default().add(&offsets, &mut snapshot);
        let mut restarted = restored(&[snapshot]);
        assert!(restarted.has(&name("active")), "it commits again soon");
        assert!(sweep(&mut restarted, 1, true).is_empty());
        assert!(!restarted.has(&name("active")) && !restarted.has_changes());
    }

    #[test]
    fn no_byte_of_a_fact_may_be_missing_unnoticed() {
        let mut offsets = Offsets::default();
        for (group, queue) in [("a", 0), ("b", 0), ("b", 1)] {
            offsets.commit(&name(group), key(queue), QueueOffset(7)).unwrap();
        }
        let facts = offsets.next_fact(Timestamp(1));
        let (kind, subject, payload) = facts.entry();
        assert_ne!(kind, SEVERAL);
        let first_group = size_of::<GroupHead>() + 8 + size_of::<OffsetRow>();
        for cut in 1..payload.len() {
            let (entry_offset, payload_offset) = (LogOffset(0), LogOffset(0));
            let payload = &payload[..cut];
            let fact = Fact { kind, subject, entry_offset, payload_offset, payload };
            let applied = Offsets::default().apply(&fact);
            assert_eq!(applied.is_ok(), cut == first_group, "cut at {cut}: {applied:?}");
        }
    }
}
