//! One group: its members, and what they subscribe to.

use std::collections::BTreeMap;

use super::ledger::Ledger;
use super::member::Member;
use super::subscription::{Changes, Subscriptions};
use crate::model::request::{ConsumeType, ConsumerData, MessageModel};
use crate::model::{ClientId, Refusal};

#[derive(Debug, Default)]
pub struct Group {
    /// By client id, so every shard lists the same members in the same order.
    pub members: BTreeMap<ClientId, Member>,
    /// Only for consumers.
    pub subscriptions: Subscriptions,
    /// From its last heartbeat.
    pub model: MessageModel,
    pub consume_type: ConsumeType,
}

impl Group {
    /// Updates the subscriptions of `client`, a member, and what the group's heartbeats agree on.
    /// Notes in `changes` what has changed, also if a limit is reached halfway.
    pub fn subscribe(
        &mut self,
        client: &ClientId,
        consumer: &ConsumerData,
        changes: &mut Changes,
        ledger: &mut Ledger,
    ) -> Result<(), Refusal> {
        let ConsumerData { model, consume_type, subscriptions, .. } = consumer;
        changes.any |= (self.model, self.consume_type) != (*model, *consume_type);
        (self.model, self.consume_type) = (*model, *consume_type);
        let is_shared = self.members.get(client).is_some_and(Member::is_shared);
        self.subscriptions.replace(client, is_shared, subscriptions, changes, ledger)
    }

    /// Removes a member.
    pub fn leave(&mut self, client: &ClientId, ledger: &mut Ledger) {
        if self.members.remove(client).is_some() {
            ledger.members -= 1;
            self.subscriptions.remove_member(client, ledger);
        }
    }

    pub fn is_broadcasting(&self) -> bool {
        self.model == MessageModel::Broadcasting
    }
}
