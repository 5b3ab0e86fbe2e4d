//! The kinds of deadlines in a broker.

use std::cell::Cell;
use std::rc::Rc;

use super::clients::CallId;
use super::held::HeldId;
use super::walk::Walk;
use crate::storage::signal::Signal;

/// What is due at a deadline.
pub enum Due {
    /// A held pull times out.
    Pull(HeldId),
    /// A call to a client times out.
    Call(CallId),
    /// An operation has waited for room long enough.
    RoomLimit(Rc<Reached>),
    FlushOffsets,
    NotifyMembers,
    ForgetClients,
    /// Continue the sweep of consume offsets.
    Sweep(Walk),
    /// Continue the sweep of queue locks.
    SweepLocks(Walk),
}

impl From<HeldId> for Due {
    fn from(id: HeldId) -> Self {
        Self::Pull(id)
    }
}

impl From<CallId> for Due {
    fn from(id: CallId) -> Self {
        Self::Call(id)
    }
}

/// Whether a time limit is reached.
#[derive(Default)]
pub struct Reached {
    is_reached: Cell<bool>,
    /// Wakes the operation whose limit this is, and no other.
    signal: Signal,
}

impl Reached {
    pub fn set(&self) {
        self.is_reached.set(true);
        self.signal.notify();
    }

    pub async fn wait(&self) {
        self.signal.wait(|| self.is_reached.get().then_some(())).await;
    }
}
