//! The kinds of deadlines in a broker.

use std::cell::Cell;
use std::rc::Rc;

use super::clients::CallId;
use super::held::HeldId;
use super::walk::Walk;

/// What is due at a deadline.
#[derive(Clone, Debug)]
pub enum Due {
    /// A held pull times out.
    Pull(HeldId),
    /// A call to a client times out.
    Call(CallId),
    /// An operation has waited for room long enough; set to tell it so.
    RoomLimit(Rc<Cell<bool>>),
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
