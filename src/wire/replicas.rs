//! Operators' requests about the replicas of a shard. The command is ours; other brokers refuse it.

use bytes::Bytes;

use crate::model::replicas::ReplicaOrder;
use crate::model::{Refusal, Request, excerpt};
use crate::wire::header::fields::FieldWriter;
use crate::wire::header::head::Fields;

/// Maximum length of an unknown action in a remark, characters.
const SHOWN_MAX: usize = 64;
/// Maximum length of an address, bytes.
const ADDRESS_SIZE_MAX: usize = 270;

/// REPLICAS.
pub fn decode(fields: &mut Fields<'_>, _: &Bytes) -> Result<Request, Refusal> {
    let action = fields.needed("action")?;
    match &*action {
        "show" => Ok(Request::Replicas),
        "transfer" => {
            let to = fields.needed_number("replica")?;
            Ok(Request::ChangeReplicas(ReplicaOrder::Transfer { to }))
        }
        "add" => {
            let address = fields.needed("address")?;
            if address.is_empty() || address.len() > ADDRESS_SIZE_MAX {
                return Err(Refusal::Malformed(format!(
                    "field address has {} bytes, not 1 to {ADDRESS_SIZE_MAX}",
                    address.len()
                )));
            }
            let (replica, address) = (fields.needed_number("replica")?, address.into());
            Ok(Request::ChangeReplicas(ReplicaOrder::Add { replica, address }))
        }
        "remove" | "force-remove" => {
            let (replica, is_forced) =
                (fields.needed_number("replica")?, &*action == "force-remove");
            Ok(Request::ChangeReplicas(ReplicaOrder::Remove { replica, is_forced }))
        }
        _ => {
            let action = excerpt(&action, SHOWN_MAX);
            Err(Refusal::Malformed(format!(
                "field action is {action:?}, not show, transfer, add, remove or force-remove"
            )))
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
        ReplicaOrder::Add { replica, address } => {
            fields.text("action", "add");
            fields.number("replica", *replica);
            fields.text("address", address);
        }
        ReplicaOrder::Remove { replica, is_forced } => {
            fields.text("action", if *is_forced { "force-remove" } else { "remove" });
            fields.number("replica", *replica);
        }
        ReplicaOrder::StepDown => unreachable!("it does not leave the process"),
    }
}
