//! Delayed messages that producers have recalled, as durable state.
//!
//! ```text
//!   RECALLED   RecalledRow, …      their keys, in an entry with the DELAYS fact that counts them out
//! ```
//!
//! Such a message must not count as the first attempt of a later one: a producer may recall a message
//! and send it again. So its key in [`sent`](super::sent) is forgotten.
//!
//! A recalled message stays in the index, so its key is remembered until the cursor has passed it:
//! 24 bytes of memory each, [`RECALLED_MAX`] at most.

use std::collections::BTreeSet;
use std::mem::size_of;
use std::ops::Bound;

use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::delay_key::Key;
use super::facts::{Fact, Facts, ITEMS_PER_SLICE, RECALLED};
use super::sent;

/// Maximum number of recalled messages of a shard whose time has not come yet.
pub const RECALLED_MAX: usize = 200_000;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RecalledRow {
    pub due_ms: U64,
    /// Queue offset in the bucket of `due_ms`.
    pub offset: U64,
    /// Its key in [`sent`](super::sent); zeros in a snapshot, or if it has none.
    pub sent_key: [u8; 16],
}

const _: () = assert!(size_of::<RecalledRow>() == 32);

#[derive(Clone, Debug, Default)]
pub struct Recalled {
    keys: BTreeSet<Key>,
}

impl Recalled {
    pub fn contains(&self, key: Key) -> bool {
        self.keys.contains(&key)
    }

    /// Whether no more keys fit, once those below `cursor` are forgotten.
    pub fn is_full(&self, cursor: Key) -> bool {
        self.keys.len() >= RECALLED_MAX && self.keys.first().is_none_or(|first| *first >= cursor)
    }

    pub fn insert(&mut self, key: Key) {
        self.keys.insert(key);
    }

    /// Forgets the keys below the cursor.
    pub fn forget_below(&mut self, cursor: Key) {
        if self.keys.first().is_some_and(|first| *first < cursor) {
            self.keys = self.keys.split_off(&cursor);
        }
    }
}

/// The rows of a [`RECALLED`] fact.
pub fn rows<'a>(fact: &Fact<'a>) -> Result<&'a [RecalledRow], String> {
    <[RecalledRow]>::ref_from_bytes(fact.payload)
        .map_err(|_| format!("{} bytes are not a whole number of rows", fact.payload.len()))
}

impl RecalledRow {
    pub fn new(key: Key, sent_key: Option<sent::Key>) -> Self {
        let Key { due_ms, offset } = key;
        let sent_key = sent_key.unwrap_or_default();
        Self { due_ms: due_ms.into(), offset: offset.into(), sent_key }
    }

    pub fn key(&self) -> Key {
        Key { due_ms: self.due_ms.get(), offset: self.offset.get() }
    }
}

/// Adds the fact that messages have been recalled.
pub fn push(facts: &mut Facts, rows: impl Iterator<Item = RecalledRow>) {
    facts.push(RECALLED, 0, |out| rows.for_each(|row| out.extend_from_slice(row.as_bytes())));
}

/// All keys: the progress of adding them to a snapshot.
#[derive(Default)]
pub struct AllRecalled {
    after: Option<Key>,
}

impl AllRecalled {
    pub fn add(&mut self, recalled: &Recalled, facts: &mut Facts) -> bool {
        let from = self.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut keys = recalled.keys.range((from, Bound::Unbounded)).copied().peekable();
        if keys.peek().is_none() {
            return false;
        }
        let mut last = None;
        let slice = keys.by_ref().take(ITEMS_PER_SLICE).inspect(|key| last = Some(*key));
        push(facts, slice.map(|key| RecalledRow::new(key, None)));
        let has_more = keys.peek().is_some();
        self.after = last;
        has_more
    }
}
