//! What operators ask of the replicas of a shard. A command of ours; other brokers refuse it.

use bytes::Bytes;

use crate::model::replicas::ReplicaOrder;
use crate::model::{Refusal, Request, excerpt};
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::Fields;

/// Maximum length of an unknown action in a remark, characters.
const SHOWN_MAX: usize = 64;

/// REPLICAS.
pub fn decode(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    let action = fields.needed("action")?;
    match &*action {
        "show" => Ok(Request::Replicas),
        "transfer" => {
            let to = fields.needed_number("replica")?;
            Ok(Request::ChangeReplicas(ReplicaOrder::Transfer { to }))
        }
        _ => {
            let action = excerpt(&action, SHOWN_MAX);
            Err(Refusal::Malformed(format!("field action is {action:?}, not show or transfer")))
        }
    }
}

pub fn encode_show(fields: &mut FieldWriter<'_>) {
    fields.text("action", "show");
}

pub fn encode_order(fields: &mut FieldWriter<'_>, order: &ReplicaOrder) {
    match order {
        ReplicaOrder::Transfer { to } => {
            fields.text("action", "transfer");
            fields.number("replica", *to);
        }
        ReplicaOrder::StepDown => unreachable!("it does not leave the process"),
    }
}
