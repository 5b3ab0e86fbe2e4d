//! Queue locks of orderly consumers: which client of a group owns a queue (remoting reference, 5.14).
//!
//! ```text
//!   free ──lock──▶ owned ──unlock, or the owner leaves the group──▶ free
//!                   │ ▲
//!                   └─┘ lock by the owner: renewed
//!   owned, not renewed for LOCK_LEASE_MS ──lock by another client──▶ owned by that one
//! ```
//!
//! A client believes that it owns a queue until 30 s after its last successful lock request. A change
//! of owner is a fact; a renewal only sets [`Row::renewed_at`]. After a restart it is unknown which
//! locks were renewed, so every lock counts as renewed at the start: no queue is granted while
//! another client may still believe that it owns it. For the same reason a closed connection
//! releases nothing, unlike an explicit leave.
//!
//! Requests of one client can be executed in a different order than they were sent: an unlock may
//! wait for room in the log, or arrive on an older connection that is read later. [`Row::claim`]
//! and [`Row::connection`] detect this, and the unlock is then ignored.
//!
//! ```text
//!   LOCKS     LockHead, group, padding, client, padding, LockRow, LockRow, …    as many heads as follow
//! ```
//!
//! Invariants: `count` is the number of rows, and a row always has an owner. Rows of deleted topics
//! are unreachable, because topic numbers are not reused, and are removed by the next
//! [`sweep`](Locks::sweep).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::mem::size_of;

use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::facts::{self, Fact, Facts, ITEMS_PER_SLICE, LOCKS};
use super::walk::Walk;
use crate::model::{ClientId, GroupName, Moment, QueueId};
use crate::storage::QueueKey;

/// A lock that has not been renewed for longer than this may be granted to another client, ms
/// (remoting reference, 5.14). Clients renew every 20 s.
pub const LOCK_LEASE_MS: u64 = 60_000;
/// Maximum number of locked queues of all groups of a shard.
pub const LOCKS_MAX: usize = 200_000;
/// Maximum number of rows per fact.
const ROWS_PER_FACT: usize = 1_000;
/// Maximum number of rows that a snapshot takes at a time: with long names, 100 KiB.
const ROWS_PER_STEP: usize = 200;

/// Precedes the rows of one owner. Followed by the group's name and the client's id, each with zeros
/// up to a multiple of 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LockHead {
    pub group_size: U16,
    /// 0: the queues have no owner.
    pub client_size: U16,
    pub row_count: U32,
}

/// One queue.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LockRow {
    pub topic: U32,
    pub queue: U32,
}

const _: () = {
    assert!(size_of::<LockHead>() == 8);
    assert!(size_of::<LockRow>() == 8);
};

#[derive(Debug, Default)]
pub struct Locks {
    /// Sorted rather than hashed, because clients choose the names and could provoke collisions.
    groups: BTreeMap<GroupName, BTreeMap<QueueKey, Row>>,
    count: usize,
    /// Number of claims so far.
    claims: u64,
    /// No lock counts as renewed before this.
    started: Moment,
    /// When the facts that are applied next were produced.
    now: Cell<Moment>,
}

#[derive(Clone, Debug)]
struct Row {
    owner: ClientId,
    /// Not durable, like the fields below.
    renewed_at: Moment,
    /// The newest connection on which the owner has locked the queue.
    connection: u64,
    /// Number of the owner's newest claim: its last lock request for the queue.
    claim: u64,
}

/// A client's ownership of a queue at the time when it requested to release it.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    queue: QueueKey,
    claim: u64,
}

/// The sender of a lock or unlock request.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    pub group: &'a GroupName,
    pub client: &'a ClientId,
    /// Connections are numbered in the order in which they were accepted.
    pub connection: u64,
}

impl Locks {
    /// Sets the time at which the process started, or at which this state replaced another one.
    pub fn start(&mut self, now: Moment) {
        self.started = now;
    }

    /// Continues from `before`, whose log was cut: a lock that the cut has restored may have been
    /// renewed at any time until then.
    pub fn succeed(&mut self, before: &Self) {
        self.start(before.started.max(before.now.get()));
    }

    fn row(&self, group: &GroupName, queue: QueueKey) -> Option<&Row> {
        self.groups.get(group)?.get(&queue)
    }

    /// Whether `client` owns a queue.
    pub fn is_owner(&self, group: &GroupName, client: &ClientId, queue: QueueKey) -> bool {
        self.row(group, queue).is_some_and(|row| row.owner == *client)
    }

    /// Whether a group owns any queue, which means that it consumes in order.
    pub fn has_owner(&self, group: &GroupName, now: Moment) -> bool {
        let rows = self.groups.get(group).into_iter().flat_map(|rows| rows.values());
        rows.into_iter().any(|row| !self.is_expired(row, now))
    }

    fn is_expired(&self, row: &Row, now: Moment) -> bool {
        now.ms_since(row.renewed_at.max(self.started)) > LOCK_LEASE_MS
    }

    /// Renews the locks of `asker` on `queues`.
    pub fn renew(&mut self, asker: Asker<'_>, queues: &[QueueKey], now: Moment) {
        let Some(rows) = self.groups.get_mut(asker.group) else { return };
        self.claims += 1;
        for queue in queues {
            let row = rows.get_mut(queue).filter(|row| row.owner == *asker.client);
            if let Some(row) = row {
                row.renewed_at = row.renewed_at.max(now);
                row.connection = row.connection.max(asker.connection);
                row.claim = self.claims;
            }
        }
    }

    /// The facts that make `asker` the owner of `queues`, except those that another client may
    /// still believe it owns; as many as fit.
    pub fn granted(&self, asker: Asker<'_>, queues: &[QueueKey], now: Moment) -> Facts {
        self.now.set(self.now.get().max(now));
        let mut new_count = 0;
        let mut is_granted = |queue| match self.row(asker.group, queue) {
            Some(row) => row.owner != *asker.client && self.is_expired(row, now),
            None => {
                new_count += 1;
                self.count + new_count <= LOCKS_MAX
            }
        };
        let queues: Vec<QueueKey> =
            queues.iter().copied().filter(|queue| is_granted(*queue)).collect();
        set(asker.group, asker.client, &queues)
    }

    pub fn is_full(&self) -> bool {
        self.count >= LOCKS_MAX
    }

    /// The claims of `asker` on `queues`, or on all queues of the group, except queues that it has
    /// locked again on a newer connection.
    pub fn claims(&self, asker: Asker<'_>, queues: Option<&[QueueKey]>) -> Vec<Claim> {
        let Some(rows) = self.groups.get(asker.group) else { return Vec::new() };
        let is_owned = |row: &Row| row.owner == *asker.client && row.connection <= asker.connection;
        let claim = |(&queue, row): (&QueueKey, &Row)| {
            is_owned(row).then_some(Claim { queue, claim: row.claim })
        };
        match queues {
            Some(queues) => {
                queues.iter().filter_map(|queue| claim(rows.get_key_value(queue)?)).collect()
            }
            None => rows.iter().filter_map(claim).collect(),
        }
    }

    /// The facts that release the queues in `claims` that `client` has not locked again since.
    pub fn released(&self, group: &GroupName, client: &ClientId, claims: &[Claim]) -> Facts {
        let is_same = |claim: &&Claim| {
            let row = self.row(group, claim.queue);
            row.is_some_and(|row| row.owner == *client && row.claim == claim.claim)
        };
        let queues: Vec<QueueKey> =
            claims.iter().filter(is_same).map(|claim| claim.queue).collect();
        set(group, &ClientId::default(), &queues)
    }

    /// Continues a sweep for a bounded time: drops rows of deleted topics, and returns facts that
    /// release expired locks.
    pub fn sweep(&mut self, mut walk: Walk, now: Moment, has_topic: impl Fn(u32) -> bool) -> Swept {
        let (mut released, mut left) = (Facts::default(), ITEMS_PER_SLICE);
        while left > 0 {
            let Some(step) = walk.step(&self.groups, &mut left) else {
                return Swept { released, rest: None };
            };
            let (gone, kept): (Vec<_>, Vec<_>) =
                step.rows.into_iter().partition(|(queue, _)| !has_topic(queue.topic));
            let expired = kept.into_iter().filter(|(_, row)| self.is_expired(row, now));
            let expired: Vec<QueueKey> = expired.map(|(queue, _)| queue).collect();
            add(&mut released, step.name, &ClientId::default(), &expired);
            let name = step.name.clone();
            let gone: Vec<QueueKey> = gone.into_iter().map(|(queue, _)| queue).collect();
            gone.into_iter().for_each(|queue| self.remove(&name, queue));
        }
        Swept { released, rest: Some(walk) }
    }

    fn remove(&mut self, name: &GroupName, queue: QueueKey) {
        let Some(rows) = self.groups.get_mut(name) else { return };
        self.count -= usize::from(rows.remove(&queue).is_some());
        if rows.is_empty() {
            self.groups.remove(name);
        }
    }

    /// Applies a fact.
    pub fn apply(&mut self, fact: &Fact<'_>) -> Result<(), String> {
        let mut rest = fact.payload;
        while !rest.is_empty() {
            let cut = || format!("they are cut {} bytes before their end", rest.len());
            let (head, mut behind) = LockHead::read_from_prefix(rest).map_err(|_| cut())?;
            let mut text = |size: U16| {
                let text = facts::take_padded(&mut behind, usize::from(size.get()));
                text.and_then(|text| std::str::from_utf8(text).ok()).ok_or_else(cut)
            };
            let (group, client) = (text(head.group_size)?, text(head.client_size)?);
            let count = head.row_count.get() as usize;
            let (rows, behind) =
                <[LockRow]>::ref_from_prefix_with_elems(behind, count).map_err(|_| cut())?;
            let group = GroupName::new(group.to_owned()).map_err(|error| error.to_string())?;
            self.apply_owner(group, client, rows);
            rest = behind;
        }
        Ok(())
    }

    fn apply_owner(&mut self, group: GroupName, client: &str, rows: &[LockRow]) {
        // One copy for all rows.
        let owner = ClientId::from(client);
        self.claims += 1;
        let known = self.groups.entry(group.clone()).or_default();
        for row in rows {
            let queue = QueueKey { topic: row.topic.get(), queue: QueueId(row.queue.get()) };
            let before = match owner.is_empty() {
                true => known.remove(&queue),
                false => {
                    let (owner, renewed_at) = (owner.clone(), self.now.get());
                    known
                        .insert(queue, Row { owner, renewed_at, connection: 0, claim: self.claims })
                }
            };
            self.count -= usize::from(before.is_some());
            self.count += usize::from(!owner.is_empty());
        }
        if known.is_empty() {
            self.groups.remove(&group);
        }
    }
}

/// The result of one step of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    pub released: Facts,
    /// `None` when all groups have been visited.
    pub rest: Option<Walk>,
}

/// The facts that make `owner` the owner of queues of a group; an empty id releases them.
fn set(group: &GroupName, owner: &ClientId, queues: &[QueueKey]) -> Facts {
    let mut facts = Facts::default();
    add(&mut facts, group, owner, queues);
    facts
}

fn add(facts: &mut Facts, group: &GroupName, owner: &ClientId, queues: &[QueueKey]) {
    for queues in queues.chunks(ROWS_PER_FACT) {
        facts.push(LOCKS, 0, |out| write_rows(out, group, owner, queues.iter().copied()));
    }
}

fn write_rows(
    out: &mut Vec<u8>,
    group: &GroupName,
    owner: &ClientId,
    queues: impl ExactSizeIterator<Item = QueueKey>,
) {
    let head = LockHead {
        group_size: U16::new(group.as_str().len() as u16),
        client_size: U16::new(owner.len() as u16),
        row_count: U32::new(queues.len() as u32),
    };
    out.extend_from_slice(head.as_bytes());
    for text in [group.as_str(), owner] {
        let begin = out.len();
        out.extend_from_slice(text.as_bytes());
        facts::pad(out, begin);
    }
    for queue in queues {
        let row = LockRow { topic: U32::new(queue.topic), queue: U32::new(queue.queue.0) };
        out.extend_from_slice(row.as_bytes());
    }
}

/// The progress of adding all locks to a snapshot.
#[derive(Default)]
pub struct AllLocks(Walk);

impl AllLocks {
    pub fn add(&mut self, locks: &Locks, facts: &mut Facts) -> bool {
        let mut left = ITEMS_PER_SLICE;
        while left > 0 && !facts.fill_a_slice() {
            // Each row may have another owner, so a few already fill a slice.
            let mut items = left.min(ROWS_PER_STEP);
            left -= items;
            let Some(step) = self.0.step(&locks.groups, &mut items) else { return false };
            left += items;
            for of_owner in step.rows.chunk_by(|(_, a), (_, b)| a.owner == b.owner) {
                let queues: Vec<QueueKey> = of_owner.iter().map(|(queue, _)| *queue).collect();
                add(facts, step.name, &of_owner[0].1.owner, &queues);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LogOffset;

    fn write(locks: &mut Locks, facts: &Facts) {
        let (kind, subject, payload) = facts.entry();
        let (entry_offset, payload_offset) = (LogOffset(0), LogOffset(0));
        let fact = Fact { kind, subject, entry_offset, payload_offset, payload };
        fact.each().for_each(|fact| locks.apply(&fact.unwrap()).unwrap());
    }

    /// An unlock request may wait for room in the log while a later lock request is answered.
    #[test]
    fn an_unlock_request_has_no_effect_on_what_its_client_has_locked_since() {
        let (group, client) = (GroupName::new("g").unwrap(), ClientId::from("c"));
        let on = |connection| Asker { group: &group, client: &client, connection };
        let queues = [0, 1, 2].map(|queue| QueueKey { topic: 1, queue: QueueId(queue) });
        let mut locks = Locks::default();
        let granted = locks.granted(on(5), &queues, Moment(1));
        write(&mut locks, &granted);
        locks.renew(on(5), &queues, Moment(1));
        assert!(
            locks.claims(on(4), Some(&queues)).is_empty(),
            "sent before the client reconnected"
        );

        let claims = locks.claims(on(5), Some(&queues));
        locks.renew(on(5), &queues[..1], Moment(2));
        let released = locks.released(&group, &client, &claims);
        write(&mut locks, &released);
        assert_eq!(
            queues.map(|queue| locks.is_owner(&group, &client, queue)),
            [true, false, false]
        );
        // The same if the queue has been free in between.
        let granted = locks.granted(on(6), &queues, Moment(3));
        write(&mut locks, &granted);
        assert!(locks.released(&group, &client, &claims).is_empty());
        assert_eq!(locks.claims(on(6), None).len(), 3);
    }

    #[test]
    fn a_step_of_a_sweep_releases_a_part_of_what_has_expired() {
        let (group, client) = (GroupName::new("g").unwrap(), ClientId::from("c"));
        let by = Asker { group: &group, client: &client, connection: 1 };
        let count = 2 * ITEMS_PER_SLICE;
        let all: Vec<QueueKey> = (0..count as u32)
            .map(|queue| QueueKey { topic: queue % 2, queue: QueueId(queue) })
            .collect();
        let mut locks = Locks::default();
        let granted = locks.granted(by, &all, Moment(0));
        write(&mut locks, &granted);
        let late = Moment(LOCK_LEASE_MS + 1);
        let (mut walk, mut left) = (Some(Walk::default()), vec![count]);
        while let Some(rest) = walk {
            let swept = locks.sweep(rest, late, |topic| topic == 1);
            if !swept.released.is_empty() {
                write(&mut locks, &swept.released);
            }
            left.push(locks.count);
            walk = swept.rest;
        }
        let steps = left.windows(2).map(|two| two[0] - two[1]);
        assert!(steps.max().unwrap() <= ITEMS_PER_SLICE, "{left:?}");
        assert!(locks.groups.is_empty() && locks.count == 0);
    }

    #[test]
    fn the_table_has_a_bound_and_those_who_are_in_it_stay() {
        let group = GroupName::new("g").unwrap();
        let clients = [ClientId::from("c"), ClientId::from("d")];
        let by = |nth: usize| Asker { group: &group, client: &clients[nth], connection: 1 };
        let queue = |queue| QueueKey { topic: 1, queue: QueueId(queue) };
        let most: Vec<QueueKey> = (1..LOCKS_MAX as u32).map(queue).collect();
        let mut locks = Locks::default();
        let granted = locks.granted(by(0), &most, Moment(0));
        write(&mut locks, &granted);
        assert!(!locks.is_full());
        let beyond: Vec<QueueKey> =
            (0..1).chain(LOCKS_MAX as u32..LOCKS_MAX as u32 + 5).map(queue).collect();
        let granted = locks.granted(by(1), &beyond, Moment(0));
        write(&mut locks, &granted);
        assert!(locks.is_full());
        let owned = |nth: usize, queue| locks.is_owner(&group, &clients[nth], queue);
        assert!(owned(1, queue(0)) && !owned(1, beyond[1]) && owned(0, most[0]));
        // Expired locks still change their owner.
        let late = locks.granted(by(1), &most[..1], Moment(LOCK_LEASE_MS + 1));
        assert!(!late.is_empty());
    }
}
