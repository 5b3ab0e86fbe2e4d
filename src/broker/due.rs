//! What falls due in a broker.

use super::clients::CallId;
use super::held::HeldId;
use crate::model::GroupName;

/// What is due at a deadline.
#[derive(Clone, Debug)]
pub enum Due {
    /// A held pull is to be answered.
    Pull(HeldId),
    /// A request to a client was not answered.
    Call(CallId),
    FlushOffsets,
    TellMembers,
    ForgetClients,
    /// Look at the groups behind this one; at all when there is none.
    Sweep(Option<GroupName>),
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
