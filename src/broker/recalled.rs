//! Delayed messages that producers have recalled, as durable state.
//!
//! ```text
//!   RECALLED   RecalledRow, …      their keys, in an entry with the DELAYS fact that counts them out
//! ```
//!
//! A recalled message stays in the index, so its key is remembered until the cursor has passed it:
//! 24 bytes of memory each, [`RECALLED_MAX`] at most.

use std::collections::BTreeSet;
use std::mem::size_of;
use std::ops::Bound;

use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::delays::Key;
use super::facts::{Fact, Facts, ITEMS_PER_SLICE, RECALLED};

/// Maximum number of recalled messages of a shard whose time has not come yet.
pub const RECALLED_MAX: usize = 200_000;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RecalledRow {
    pub due_ms: U64,
    /// Queue offset in the bucket of `due_ms`.
    pub offset: U64,
}

const _: () = assert!(size_of::<RecalledRow>() == 16);

#[derive(Clone, Debug, Default)]
pub struct Recalled {
    keys: BTreeSet<Key>,
}

impl Recalled {
    pub fn contains(&self, key: Key) -> bool {
        self.keys.contains(&key)
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Applies [`RECALLED`].
    pub fn apply(&mut self, fact: &Fact<'_>) -> Result<(), String> {
        let rows = <[RecalledRow]>::ref_from_bytes(fact.payload)
            .map_err(|_| format!("{} bytes are not a whole number of rows", fact.payload.len()))?;
        self.keys.extend(
            rows.iter().map(|row| Key { due_ms: row.due_ms.get(), offset: row.offset.get() }),
        );
        Ok(())
    }

    /// Forgets the keys below the cursor.
    pub fn forget_below(&mut self, cursor: Key) {
        if self.keys.first().is_some_and(|first| *first < cursor) {
            self.keys = self.keys.split_off(&cursor);
        }
    }
}

/// Adds the fact that messages have been recalled.
pub fn push(facts: &mut Facts, keys: impl Iterator<Item = Key>) {
    facts.push(RECALLED, 0, |out| {
        for Key { due_ms, offset } in keys {
            let row = RecalledRow { due_ms: due_ms.into(), offset: offset.into() };
            out.extend_from_slice(row.as_bytes());
        }
    });
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
        push(facts, keys.by_ref().take(ITEMS_PER_SLICE).inspect(|key| last = Some(*key)));
        let has_more = keys.peek().is_some();
        self.after = last;
        has_more
    }
}
