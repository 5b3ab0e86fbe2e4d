//! One group: its members, and its subscriptions.
//!
//! A group has one subscription per topic, whichever member sent it. During a change the members
//! disagree; [`Subscription::yields_to`] decides which one counts, so an older member's heartbeat
//! never undoes a newer member's change.

use std::collections::BTreeMap;

use super::ledger::{Ledger, SUBSCRIPTIONS_MAX, TAGS_MAX, full};
use super::member::Member;
use crate::broker::filter::TagFilter;
use crate::model::request::{
    ConsumeType, ConsumerData, Expression, MessageModel, SubscriptionData,
};
use crate::model::{ClientId, Refusal, TopicName, excerpt};

/// Maximum number of characters kept of an expression, to show it to an operator.
const SHOWN_MAX: usize = 256;

#[derive(Debug, Default)]
pub struct Group {
    /// By client id, so every shard lists the same members in the same order.
    pub members: BTreeMap<ClientId, Member>,
    /// Only for consumers.
    subscriptions: BTreeMap<TopicName, Subscription>,
    /// From its last heartbeat.
    pub model: MessageModel,
    pub consume_type: ConsumeType,
    /// Whether it has been noted that members disagree.
    has_differed: bool,
}

/// A group's subscription to one topic.
#[derive(Clone, Debug)]
struct Subscription {
    /// The filter, or the reason why the group's pulls are refused.
    filter: Result<TagFilter, Refusal>,
    /// The expression, shortened.
    shown: Box<str>,
    /// Creation time by the client's clock (remoting reference, 5.5).
    version: i64,
    /// The member that sent it, which may have left since.
    owner: ClientId,
}

impl Subscription {
    /// Whether `other` replaces this subscription: the higher version wins (remoting reference,
    /// 5.5). Versions come from the clients' clocks, so two cases must not depend on them: a member
    /// may always replace its own subscription, even after its clock went backwards, and a member
    /// that has left binds no one.
    fn yields_to(&self, other: &Self, members: &BTreeMap<ClientId, Member>) -> bool {
        other.version > self.version
            || other.owner == self.owner
            || !members.contains_key(&self.owner)
    }

    fn tag_count(&self) -> usize {
        self.filter.as_ref().map_or(0, TagFilter::tag_count)
    }
}

/// The changes made by a member's subscriptions.
#[derive(Debug, Default)]
pub struct Changes {
    /// A topic was added to the group or removed from it.
    pub of_topics: bool,
    /// Anything at all.
    pub any: bool,
    /// Another member that subscribes differently, and a topic of it: noted once for each group.
    pub differs: Option<(ClientId, TopicName)>,
}

impl Group {
    /// Updates the subscriptions of `client`. A topic that the client does not list any more is
    /// removed if its subscription came from this client or from a member that has left.
    pub fn subscribe(
        &mut self,
        client: &ClientId,
        consumer: &ConsumerData,
        ledger: &mut Ledger,
    ) -> Result<Changes, Refusal> {
        let mut changes = Changes::default();
        let as_before = (self.model, self.consume_type);
        (self.model, self.consume_type) = (consumer.model, consumer.consume_type);
        changes.any = as_before != (self.model, self.consume_type);
        let mut wanted = BTreeMap::new();
        for SubscriptionData { topic, expression, version } in &consumer.subscriptions {
            // An invalid expression is refused when the group pulls; it must not fail the
            // heartbeat.
            let filter = TagFilter::parse(expression);
            let (version, owner) = (*version, client.clone());
            let shown = excerpt(&expression.text, SHOWN_MAX).into();
            wanted.insert(topic, Subscription { filter, shown, version, owner });
        }
        changes.differs = self.difference(client, &wanted);
        self.has_differed |= changes.differs.is_some();
        let is_dropped = |topic: &TopicName, known: &Subscription| {
            let is_mine = known.owner == *client || !self.members.contains_key(&known.owner);
            is_mine && !wanted.contains_key(topic)
        };
        let dropped: Vec<TopicName> = self
            .subscriptions
            .iter()
            .filter(|(topic, known)| is_dropped(topic, known))
            .map(|(topic, _)| topic.clone())
            .collect();
        changes.of_topics = !dropped.is_empty();
        for topic in dropped {
            self.remove(&topic, ledger);
        }
        for (topic, wanted) in wanted {
            changes.of_topics |= !self.subscriptions.contains_key(topic);
            changes.any |= self.set(topic, wanted, ledger)?;
        }
        changes.any |= changes.of_topics;
        Ok(changes)
    }

    /// A member whose topics or tags differ from those of `client`, and a topic of it.
    fn difference(
        &self,
        client: &ClientId,
        wanted: &BTreeMap<&TopicName, Subscription>,
    ) -> Option<(ClientId, TopicName)> {
        if self.has_differed || self.members.len() < 2 {
            return None;
        }
        let differs = |(topic, known): &(&TopicName, &Subscription)| {
            let is_others = known.owner != *client && self.members.contains_key(&known.owner);
            is_others && wanted.get(topic).is_none_or(|wanted| wanted.filter != known.filter)
        };
        let (topic, known) = self.subscriptions.iter().find(differs)?;
        Some((known.owner.clone(), topic.clone()))
    }

    /// Returns whether anything has changed.
    fn set(
        &mut self,
        topic: &TopicName,
        wanted: Subscription,
        ledger: &mut Ledger,
    ) -> Result<bool, Refusal> {
        let known = self.subscriptions.get(topic);
        if known.is_some_and(|known| !known.yields_to(&wanted, &self.members)) {
            return Ok(false);
        }
        let is_same = known.is_some_and(|known| {
            (known.version, &known.owner, &known.filter)
                == (wanted.version, &wanted.owner, &wanted.filter)
        });
        if is_same {
            return Ok(false);
        }
        let (known_count, known_tags) = known.map_or((0, 0), |known| (1, known.tag_count()));
        let tag_count = wanted.tag_count();
        if ledger.subscriptions + 1 - known_count > SUBSCRIPTIONS_MAX {
            return full("subscriptions", SUBSCRIPTIONS_MAX);
        }
        if ledger.tags - known_tags + tag_count > TAGS_MAX {
            return full("tags of subscriptions", TAGS_MAX);
        }
        ledger.subscriptions += 1 - known_count;
        ledger.tags = ledger.tags - known_tags + tag_count;
        self.subscriptions.insert(topic.detached(), wanted);
        Ok(true)
    }

    fn remove(&mut self, topic: &TopicName, ledger: &mut Ledger) {
        if let Some(known) = self.subscriptions.remove(topic) {
            ledger.subscriptions -= 1;
            ledger.tags -= known.tag_count();
        }
    }

    /// Filter and version of the subscription to a topic.
    pub fn subscription(&self, topic: &TopicName) -> Option<(&Result<TagFilter, Refusal>, i64)> {
        self.subscriptions.get(topic).map(|known| (&known.filter, known.version))
    }

    pub fn subscriptions(&self) -> impl Iterator<Item = SubscriptionData> {
        self.subscriptions.iter().map(|(topic, known)| SubscriptionData {
            topic: topic.clone(),
            expression: Expression { kind: "TAG".into(), text: known.shown.to_string() },
            version: known.version,
        })
    }

    pub fn is_broadcasting(&self) -> bool {
        self.model == MessageModel::Broadcasting
    }

    /// Removes the group, which has no members left, from the ledger.
    pub fn close(&self, ledger: &mut Ledger) {
        ledger.subscriptions -= self.subscription_count();
        ledger.tags -= self.tag_count();
    }

    pub fn subscription_count(&self) -> usize {
        self.subscriptions.len()
    }

    pub fn tag_count(&self) -> usize {
        self.subscriptions.values().map(Subscription::tag_count).sum()
    }
}
