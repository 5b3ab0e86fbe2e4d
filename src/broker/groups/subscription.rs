//! What the members of one group subscribe to, and which of their subscriptions is in effect.
//!
//! A group has one subscription per topic. During a change its members disagree; then the one with
//! the highest [`Rank`] is in effect, so an older member's heartbeat never undoes a newer member's
//! change (remoting reference, 5.5). Every member's own subscriptions are kept, so when a member
//! leaves, the newest of those that stay is in effect immediately.
//!
//! Invariants: `by_topic` has no topic without a subscription; `by_member` lists exactly the same
//! subscriptions, each under its current rank; the ledger counts them.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::ledger::{Ledger, SUBSCRIPTIONS_MAX, TAGS_MAX, full};
use crate::broker::filter::TagFilter;
use crate::model::request::{self, SubscriptionData};
use crate::model::{ClientId, Refusal, TopicName, excerpt};

/// Maximum number of characters kept of an expression, to show it to an operator.
const SHOWN_MAX: usize = 256;

#[derive(Debug, Default)]
pub struct Subscriptions {
    by_topic: BTreeMap<TopicName, BTreeMap<Rank, Subscription>>,
    by_member: BTreeMap<ClientId, BTreeMap<TopicName, i64>>,
    /// Whether it has been noted that members disagree.
    has_differed: bool,
}

/// Orders the members' subscriptions to a topic. Equal on all shards once they have received the
/// same heartbeats.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// At least the version of the subscription. A member's precedence never falls: versions come
    /// from the clients' clocks, and a member whose clock went backwards may still change its
    /// subscription.
    precedence: i64,
    client: ClientId,
}

/// A member's subscription to a topic.
#[derive(Clone, Debug)]
struct Subscription {
    /// Members with the same expression share it.
    expression: Rc<Expression>,
    /// Creation time by the client's clock (remoting reference, 5.5).
    version: i64,
}

#[derive(Debug, PartialEq, Eq)]
struct Expression {
    /// The filter, or the reason why the group's pulls are refused.
    filter: Result<TagFilter, Refusal>,
    /// The expression, shortened.
    shown: Box<str>,
}

impl Expression {
    /// An invalid expression is refused when the group pulls; it must not fail the heartbeat.
    fn new(expression: &request::Expression) -> Self {
        let shown = excerpt(&expression.text, SHOWN_MAX).into();
        Self { filter: TagFilter::parse(expression), shown }
    }

    fn tag_count(&self) -> usize {
        self.filter.as_ref().map_or(0, TagFilter::tag_count)
    }
}

/// The changes made by a heartbeat.
#[derive(Debug, Default)]
pub struct Changes {
    /// A topic was added to the group or removed from it.
    pub of_topics: bool,
    /// Anything at all.
    pub any: bool,
    /// Another member that subscribes differently, and a topic of it: noted once for each group.
    pub differs: Option<(ClientId, TopicName)>,
}

/// The subscription in effect for a topic.
#[derive(Debug)]
pub struct InEffect<'a> {
    pub filter: &'a Result<TagFilter, Refusal>,
    /// The version of no member's known subscription is higher.
    pub version_max: i64,
}

impl Subscriptions {
    /// Replaces the subscriptions of `client` by those in its heartbeat. Notes in `changes` what
    /// has changed. If a limit is reached, what fits is replaced, and the refusal is for the first
    /// that does not. `is_shared`: two processes use the client id, so the newer subscriptions count
    /// and none is dropped.
    pub fn replace(
        &mut self,
        client: &ClientId,
        is_shared: bool,
        wanted: &[SubscriptionData],
        changes: &mut Changes,
        ledger: &mut Ledger,
    ) -> Result<(), Refusal> {
        let expression =
            |data: &SubscriptionData| (Expression::new(&data.expression), data.version);
        let wanted: BTreeMap<_, _> =
            wanted.iter().map(|data| (&data.topic, expression(data))).collect();
        changes.differs = self.difference(client, &wanted);
        self.has_differed |= changes.differs.is_some();
        let known = self.by_member.get(client).into_iter().flat_map(BTreeMap::keys);
        let dropped: Vec<TopicName> =
            known.filter(|topic| !is_shared && !wanted.contains_key(topic)).cloned().collect();
        for topic in dropped {
            changes.any = true;
            changes.of_topics |= self.remove(client, &topic, ledger);
        }
        let mut outcome = Ok(());
        for (topic, (expression, version)) in wanted {
            let known = self.find(client, topic);
            if is_shared && known.is_some_and(|(_, known)| version < known.version) {
                continue;
            }
            let is_new = !self.by_topic.contains_key(topic);
            match self.set(client, topic, expression, version, ledger) {
                Ok(is_changed) => {
                    changes.any |= is_changed;
                    changes.of_topics |= is_new;
                }
                Err(refusal) => outcome = outcome.and(Err(refusal)),
            }
        }
        outcome
    }

    /// Removes the subscriptions of a member that leaves.
    pub fn remove_member(&mut self, client: &ClientId, ledger: &mut Ledger) {
        for topic in self.by_member.get(client).cloned().unwrap_or_default().keys() {
            self.remove(client, topic, ledger);
        }
    }

    /// Returns whether the group no longer subscribes to the topic.
    fn remove(&mut self, client: &ClientId, topic: &TopicName, ledger: &mut Ledger) -> bool {
        let Some(known) = self.by_member.get_mut(client) else { return false };
        let Some(precedence) = known.remove(topic) else { return false };
        if known.is_empty() {
            self.by_member.remove(client);
        }
        let members = self.by_topic.get_mut(topic).expect("both lists have the subscription");
        let removed = members.remove(&Rank { precedence, client: client.clone() });
        let removed = removed.expect("both lists have the subscription");
        ledger.subscriptions -= 1;
        ledger.tags -= own_tags(&removed.expression);
        let is_last = members.is_empty();
        if is_last {
            self.by_topic.remove(topic);
        }
        is_last
    }

    /// Returns whether anything has changed.
    fn set(
        &mut self,
        client: &ClientId,
        topic: &TopicName,
        wanted: Expression,
        version: i64,
        ledger: &mut Ledger,
    ) -> Result<bool, Refusal> {
        let known = self.find(client, topic);
        let precedence = match known {
            Some((precedence, known)) if version <= precedence => {
                let is_same = *known.expression == wanted;
                if is_same && known.version == version {
                    return Ok(false);
                }
                precedence.saturating_add(i64::from(!is_same))
            }
            _ => version,
        };
        let expressions = [known.map(|(_, known)| known), self.in_effect(topic)];
        let shared = expressions.into_iter().flatten().find(|shared| *shared.expression == wanted);
        let new_tags = if shared.is_some() { 0 } else { wanted.tag_count() };
        let shared = shared.map(|shared| shared.expression.clone());
        let old_tags = known.map_or(0, |(_, known)| own_tags(&known.expression));
        if known.is_none() && ledger.subscriptions >= SUBSCRIPTIONS_MAX {
            return full("subscriptions", SUBSCRIPTIONS_MAX);
        }
        if new_tags > 0 && ledger.tags - old_tags + new_tags > TAGS_MAX {
            return full("tags of subscriptions", TAGS_MAX);
        }
        self.remove(client, topic, ledger);
        ledger.subscriptions += 1;
        ledger.tags += new_tags;
        let expression = shared.unwrap_or_else(|| Rc::new(wanted));
        let known = self.by_topic.get_key_value(topic);
        let topic = known.map_or_else(|| topic.detached(), |(topic, _)| topic.clone());
        self.by_member.entry(client.clone()).or_default().insert(topic.clone(), precedence);
        let rank = Rank { precedence, client: client.clone() };
        self.by_topic.entry(topic).or_default().insert(rank, Subscription { expression, version });
        Ok(true)
    }

    /// A member's subscription to a topic, with its precedence.
    fn find(&self, client: &ClientId, topic: &TopicName) -> Option<(i64, &Subscription)> {
        let precedence = *self.by_member.get(client)?.get(topic)?;
        let rank = Rank { precedence, client: client.clone() };
        Some((precedence, self.by_topic.get(topic)?.get(&rank)?))
    }

    fn in_effect(&self, topic: &TopicName) -> Option<&Subscription> {
        self.by_topic.get(topic)?.last_key_value().map(|(_, subscription)| subscription)
    }

    pub fn get(&self, topic: &TopicName) -> Option<InEffect<'_>> {
        let (rank, Subscription { expression, .. }) = self.by_topic.get(topic)?.last_key_value()?;
        Some(InEffect { filter: &expression.filter, version_max: rank.precedence })
    }

    /// The subscriptions in effect.
    pub fn iter(&self) -> impl Iterator<Item = SubscriptionData> {
        self.by_topic.iter().filter_map(|(topic, members)| {
            let (_, Subscription { expression, version }) = members.last_key_value()?;
            let text = expression.shown.to_string();
            let expression = request::Expression { kind: "TAG".into(), text };
            Some(SubscriptionData { topic: topic.clone(), expression, version: *version })
        })
    }

    /// A topic for which `client` wants another filter than the one in effect, or none, and the
    /// member whose subscription is in effect.
    fn difference(
        &self,
        client: &ClientId,
        wanted: &BTreeMap<&TopicName, (Expression, i64)>,
    ) -> Option<(ClientId, TopicName)> {
        if self.has_differed {
            return None;
        }
        self.by_topic.iter().find_map(|(topic, members)| {
            let (Rank { client: owner, .. }, known) = members.last_key_value()?;
            let own = wanted.get(topic).map(|(expression, _)| &expression.filter);
            let differs = owner != client && own != Some(&known.expression.filter);
            differs.then(|| (owner.clone(), topic.clone()))
        })
    }

    /// The numbers of subscriptions and of tags, counted.
    #[cfg(test)]
    pub fn count(&self) -> (usize, usize) {
        let mut expressions = BTreeMap::new();
        let mut subscriptions = 0;
        for (topic, members) in &self.by_topic {
            assert!(!members.is_empty());
            for (rank, subscription) in members {
                assert_eq!(self.by_member[&rank.client][topic], rank.precedence);
                assert!(rank.precedence >= subscription.version);
                let Subscription { expression, .. } = subscription;
                expressions.insert(Rc::as_ptr(expression), expression.tag_count());
                subscriptions += 1;
            }
        }
        assert_eq!(self.by_member.values().map(BTreeMap::len).sum::<usize>(), subscriptions);
        (subscriptions, expressions.values().sum())
    }
}

/// The number of tags that go with the last subscription of this expression.
fn own_tags(expression: &Rc<Expression>) -> usize {
    if Rc::strong_count(expression) == 1 { expression.tag_count() } else { 0 }
}
