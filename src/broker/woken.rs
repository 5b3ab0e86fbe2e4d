//! Held pulls that have been woken, and those that will be once a change is committed. Waking and
//! answering them is in [`waking`](super::waking), ending them in [`gone`](super::gone).
//!
//! ```text
//!   held ─┬─ messages for its queue ────────────────────────▶ woken ─▶ tried again, by `advance`
//!         ├─ its topic or group changes ─▶ ended ─┬─ commit ──▶ woken ─▶ refused
//!         │                                       └─ cut ─────▶ woken ─▶ tried again
//!         └─ its deadline ─▶ answered, by `act`
//! ```
//!
//! Invariants:
//! - A held pull is in one set of ids: that of its queue in [`Held`](super::held::Held), if it has seen
//!   everything that is visible, or that of one [`Woken`]. Waking moves the set as a whole, so it
//!   costs the same however many wait.
//! - A pull that is held again keeps its id, and with it its place among the pulls of its queue.
//! - Ids of pulls that are gone, because their connection was closed, stay in a [`Woken`] and are
//!   skipped.

use std::collections::BTreeSet;

use super::held::HeldId;
use crate::model::{LogOffset, Refusal};
use crate::storage::QueueKey;

/// Pulls of a queue that are answered in the next steps, the longest held first.
#[derive(Debug)]
pub struct Woken {
    pub queue: QueueKey,
    pub ids: BTreeSet<HeldId>,
    pub then: Then,
}

/// What is done with a woken pull.
#[derive(Clone, Debug)]
pub enum Then {
    /// It is tried again, and held again if nothing matches.
    Retry,
    /// It is answered as at its deadline.
    End,
    Refuse(Refusal),
}

/// Pulls that a change of their topic or group ends.
#[derive(Debug)]
pub struct Ended {
    /// The change is committed once the log is, up to here.
    pub mark: LogOffset,
    pub woken: Woken,
}

impl Woken {
    pub fn is_refused(&self) -> bool {
        matches!(self.then, Then::Refuse(_))
    }
}
