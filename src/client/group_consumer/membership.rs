//! What a member of a group does when: heartbeats, which queues it reads, what it commits.
//!
//! ```text
//!   routes ─────────┐                        ┌─▶ Heartbeat      to every broker of its topics
//!   notifications ──┤                        ├─▶ AskMembers     then the queues are divided
//!   replies ────────┼─▶ Membership + now ────┼─▶ LookUp ─▶ Read a new queue, from its offset
//!   acknowledgements┤                        ├─▶ Stop           a queue that another member has now
//!   resets ─────────┘                        └─▶ Commit         what was acknowledged
//! ```
//!
//! Does no I/O and reads no clock. The rules are those of stock clients (remoting reference, 5.6,
//! 5.24, 6.2), so that a group may have members of both kinds.
//!
//! Invariants:
//! - An offset is committed only when everything before it was acknowledged.
//! - What was handed out under an assignment can be acknowledged only while that assignment lasts: a
//!   queue that was lost, moved or reset has a new one, or none.
//! - Members are asked for only after the brokers of the topic have answered a heartbeat, because
//!   before that the list lacks this member.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::assignment::average;
use super::ledger::Ledger;
use crate::client::consumer::QueueRef;
use crate::model::{QueueOffset, Timestamp, TopicName};

/// Periods of stock clients, ms (remoting reference, 6.1).
const HEARTBEAT_PERIOD_MS: u64 = 30_000;
const REBALANCE_PERIOD_MS: u64 = 20_000;
const COMMIT_PERIOD_MS: u64 = 5_000;
/// Delay before a failed request is repeated, ms.
const RETRY_MS: u64 = 1_000;
/// The same for the offset of a queue, which nobody consumes meanwhile.
const LOOK_UP_RETRY_MS: u64 = 200;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Heartbeat {
        address: String,
    },
    AskMembers {
        topic: TopicName,
        address: String,
    },
    /// Find out where the group is in a queue.
    LookUp {
        queue: QueueRef,
        assignment: u64,
    },
    Read {
        queue: QueueRef,
        offset: QueueOffset,
    },
    Stop {
        queue: QueueRef,
    },
    Commit {
        queue: QueueRef,
        assignment: u64,
        offset: QueueOffset,
    },
}

/// Identifies a batch that was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub queue: QueueRef,
    assignment: u64,
    first: QueueOffset,
}

#[derive(Debug)]
pub struct Membership {
    client: String,
    topics: BTreeMap<TopicName, Topic>,
    brokers: BTreeMap<String, Broker>,
    owned: BTreeMap<QueueRef, Owned>,
    actions: VecDeque<Action>,
    commit_at: Timestamp,
    next_assignment: u64,
}

#[derive(Debug, Default)]
struct Topic {
    /// Sorted.
    queues: Vec<QueueRef>,
    /// The brokers that have them.
    addresses: Vec<String>,
    ask_at: Timestamp,
    is_asking: bool,
    /// Something has changed since the members were asked for.
    is_outdated: bool,
    /// The last list lacked this member.
    was_missing: bool,
    /// Number of failed requests, which selects the broker to ask next.
    failures: usize,
}

#[derive(Debug, Default)]
struct Broker {
    /// The connection over which it answered a heartbeat. Another one is another membership.
    line: Option<u64>,
    is_joined: bool,
    is_beating: bool,
    has_failed: bool,
    beat_at: Timestamp,
}

#[derive(Debug)]
struct Owned {
    assignment: u64,
    state: State,
    /// The commit that is in flight.
    committing: Option<QueueOffset>,
}

#[derive(Debug)]
enum State {
    LookingUp,
    LookUpAt(Timestamp),
    Reading(Ledger),
}

impl Membership {
    pub fn new(client: &str, topics: impl IntoIterator<Item = TopicName>, now: Timestamp) -> Self {
        Self {
            client: client.to_owned(),
            topics: topics.into_iter().map(|topic| (topic, Topic::default())).collect(),
            brokers: BTreeMap::new(),
            owned: BTreeMap::new(),
            actions: VecDeque::new(),
            commit_at: now.plus_ms(COMMIT_PERIOD_MS),
            next_assignment: 0,
        }
    }

    /// The brokers of all topics.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.brokers.keys().map(String::as_str)
    }

    /// The queues that this member has, and the offset up to which they were handed out.
    pub fn owned(&self) -> impl Iterator<Item = (&QueueRef, Option<QueueOffset>)> {
        self.owned.iter().map(|(queue, owned)| (queue, owned.ledger().map(Ledger::position)))
    }

    /// The offset of each queue of `topic` before which everything is acknowledged.
    pub fn settled(&self, topic: &TopicName) -> Vec<(QueueRef, QueueOffset)> {
        let of_topic = self.owned.iter().filter(|(queue, _)| queue.topic == *topic);
        let settled =
            of_topic.filter_map(|(queue, owned)| Some((queue.clone(), owned.ledger()?.settled())));
        settled.collect()
    }

    /// The queues of a topic, and the addresses of their brokers.
    pub fn handle_route(
        &mut self,
        topic: &TopicName,
        mut queues: Vec<QueueRef>,
        addresses: Vec<String>,
        now: Timestamp,
    ) {
        let Some(known) = self.topics.get_mut(topic) else { return };
        queues.sort();
        queues.dedup();
        if queues != known.queues {
            known.ask(now);
        }
        (known.queues, known.addresses) = (queues, addresses);
        let named = self.topics.values().flat_map(|topic| &topic.addresses);
        let named: BTreeSet<&String> = named.collect();
        self.brokers.retain(|address, _| named.contains(address));
        for address in named {
            self.brokers.entry(address.clone()).or_default();
        }
    }

    /// The number of the connection to a broker. A broker forgets a member whose connection closes.
    pub fn handle_line(&mut self, address: &str, line: Option<u64>, now: Timestamp) {
        let Some(broker) = self.brokers.get_mut(address) else { return };
        if broker.is_joined && broker.line != line {
            broker.is_joined = false;
            broker.beat_at = now;
        }
    }

    /// A broker answered a heartbeat, over this connection, or did not.
    pub fn handle_heartbeat(&mut self, address: &str, answered: Result<u64, ()>, now: Timestamp) {
        let Some(broker) = self.brokers.get_mut(address) else { return };
        broker.is_beating = false;
        broker.has_failed = answered.is_err();
        let Ok(line) = answered else {
            broker.is_joined = false;
            broker.beat_at = now.plus_ms(RETRY_MS);
            return;
        };
        broker.beat_at = now.plus_ms(HEARTBEAT_PERIOD_MS);
        let is_new = !broker.is_joined || broker.line != Some(line);
        (broker.is_joined, broker.line) = (true, Some(line));
        if is_new {
            let has = |topic: &&mut Topic| topic.addresses.iter().any(|one| one == address);
            self.topics.values_mut().filter(has).for_each(|topic| topic.ask(now));
        }
    }

    /// A broker has notified us that members or their topics have changed.
    pub fn handle_notified(&mut self, now: Timestamp) {
        self.topics.values_mut().for_each(|topic| topic.ask(now));
    }

    /// The members of the group, as the broker that was asked about `topic` knows them.
    pub fn handle_members(
        &mut self,
        topic: &TopicName,
        members: Result<Vec<String>, ()>,
        now: Timestamp,
    ) {
        let Some(known) = self.topics.get_mut(topic) else { return };
        known.is_asking = false;
        let Ok(mut members) = members else {
            known.failures += 1;
            known.ask_at = now.plus_ms(RETRY_MS);
            return;
        };
        let period_ms = if known.is_outdated { 0 } else { REBALANCE_PERIOD_MS };
        known.ask_at = now.plus_ms(period_ms);
        known.is_outdated = false;
        members.sort_unstable();
        members.dedup();
        let is_missing = !members.contains(&self.client);
        if is_missing && !std::mem::replace(&mut known.was_missing, true) {
            // The broker has forgotten us, for instance because it was restarted. The queues stay
            // ours until it has answered the next heartbeat.
            known.ask_at = now.plus_ms(RETRY_MS);
            for address in &known.addresses {
                let broker = self.brokers.get_mut(address).expect("each address has a broker");
                (broker.is_joined, broker.beat_at) = (false, now);
            }
            return;
        }
        known.was_missing = is_missing;
        let mine = average(&self.client, &members, &known.queues).to_vec();
        self.divide(topic, mine);
    }

    fn divide(&mut self, topic: &TopicName, mine: Vec<QueueRef>) {
        let of_topic = self.owned.keys().filter(|queue| queue.topic == *topic);
        let lost: Vec<QueueRef> = of_topic.filter(|queue| !mine.contains(queue)).cloned().collect();
        lost.iter().for_each(|queue| self.lose(queue));
        for queue in mine {
            if !self.owned.contains_key(&queue) {
                let assignment = self.new_assignment();
                let owned = Owned { assignment, state: State::LookingUp, committing: None };
                self.owned.insert(queue.clone(), owned);
                self.actions.push_back(Action::LookUp { queue, assignment });
            }
        }
    }

    fn new_assignment(&mut self) -> u64 {
        self.next_assignment += 1;
        self.next_assignment
    }

    /// Whoever has the queue next begins at what is committed now.
    fn lose(&mut self, queue: &QueueRef) {
        let Some(owned) = self.owned.remove(queue) else { return };
        let State::Reading(ledger) = owned.state else { return };
        self.actions.push_back(Action::Stop { queue: queue.clone() });
        if let Some(offset) = ledger.uncommitted() {
            let (queue, assignment) = (queue.clone(), owned.assignment);
            self.actions.push_back(Action::Commit { queue, assignment, offset });
        }
    }

    /// Where the group begins in a queue, and whether it is committed already.
    pub fn handle_looked_up(
        &mut self,
        queue: &QueueRef,
        assignment: u64,
        found: Result<(QueueOffset, bool), ()>,
        now: Timestamp,
    ) {
        let owned = self.owned.get_mut(queue).filter(|owned| owned.assignment == assignment);
        let Some(owned) = owned else { return };
        owned.state = match found {
            Ok((offset, is_committed)) => {
                self.actions.push_back(Action::Read { queue: queue.clone(), offset });
                State::Reading(Ledger::new(offset, is_committed.then_some(offset)))
            }
            Err(()) => State::LookUpAt(now.plus_ms(LOOK_UP_RETRY_MS)),
        };
    }

    /// Messages up to `next` are about to be handed out.
    pub fn handle_fetched(&mut self, queue: &QueueRef, next: QueueOffset) -> Option<Receipt> {
        let owned = self.owned.get_mut(queue)?;
        let State::Reading(ledger) = &mut owned.state else { return None };
        let (assignment, first) = (owned.assignment, ledger.handle_fetched(next));
        Some(Receipt { queue: queue.clone(), assignment, first })
    }

    /// No message up to `next` matches the filter.
    pub fn handle_passed(&mut self, queue: &QueueRef, next: QueueOffset) {
        if let Some(State::Reading(ledger)) =
            self.owned.get_mut(queue).map(|owned| &mut owned.state)
        {
            ledger.handle_passed(next);
        }
    }

    /// The user has dealt with the messages of a batch that come before `offset`. Ignored if the
    /// queue's assignment is over: another member, or this one, gets them again.
    pub fn handle_acknowledged(&mut self, receipt: &Receipt, offset: QueueOffset) {
        let Receipt { queue, assignment, first } = receipt;
        let owned = self.owned.get_mut(queue).filter(|owned| owned.assignment == *assignment);
        if let Some(State::Reading(ledger)) = owned.map(|owned| &mut owned.state) {
            ledger.handle_acknowledged(*first, offset);
        }
    }

    /// The offset before which everything in a queue is acknowledged, and whether to read on.
    pub fn reading(&self, queue: &QueueRef) -> Option<(QueueOffset, bool)> {
        let ledger = self.owned.get(queue)?.ledger()?;
        Some((ledger.settled(), !ledger.is_full()))
    }

    /// The broker made us go on at another offset: the queue does not have ours, or was reset.
    pub fn handle_moved(&mut self, queue: &QueueRef, to: QueueOffset) {
        let assignment = self.new_assignment();
        if let Some(owned) = self.owned.get_mut(queue) {
            let state = State::Reading(Ledger::new(to, None));
            *owned = Owned { assignment, state, committing: None };
        }
    }

    /// An operator has reset the group's offset in a queue.
    pub fn handle_reset(&mut self, queue: &QueueRef, to: QueueOffset) {
        if self.owned.contains_key(queue) {
            self.handle_moved(queue, to);
            self.actions.push_back(Action::Read { queue: queue.clone(), offset: to });
        }
    }

    pub fn handle_committed(
        &mut self,
        queue: &QueueRef,
        assignment: u64,
        offset: QueueOffset,
        is_done: bool,
    ) {
        let owned = self.owned.get_mut(queue).filter(|owned| owned.assignment == assignment);
        let Some(owned) = owned else { return };
        owned.committing = None;
        if let State::Reading(ledger) = &mut owned.state
            && is_done
        {
            ledger.handle_committed(offset);
        }
    }

    /// Gives up all queues. The brokers are still to be told.
    pub fn leave(&mut self) {
        let queues: Vec<QueueRef> = self.owned.keys().cloned().collect();
        self.actions.clear();
        queues.iter().for_each(|queue| self.lose(queue));
        self.topics.clear();
    }

    /// What to do now.
    pub fn poll(&mut self, now: Timestamp) -> Vec<Action> {
        if !self.topics.is_empty() {
            self.beat(now);
            self.ask_members(now);
            self.look_up(now);
            self.commit(now);
        }
        self.actions.drain(..).collect()
    }

    /// When to poll next, unless something happens before.
    pub fn poll_timeout(&self) -> Timestamp {
        if !self.actions.is_empty() {
            return Timestamp(0);
        }
        let brokers = self.brokers.values().filter(|broker| !broker.is_beating);
        let beats = brokers.map(|broker| broker.beat_at);
        let topics = self.topics.values().filter(|topic| self.may_ask(topic));
        let asks = topics.map(|topic| topic.ask_at);
        let look_ups = self.owned.values().filter_map(|owned| match owned.state {
            State::LookUpAt(at) => Some(at),
            _ => None,
        });
        beats.chain(asks).chain(look_ups).fold(self.commit_at, Timestamp::min)
    }

    fn beat(&mut self, now: Timestamp) {
        for (address, broker) in &mut self.brokers {
            if !broker.is_beating && broker.beat_at <= now {
                broker.is_beating = true;
                self.actions.push_back(Action::Heartbeat { address: address.clone() });
            }
        }
    }

    /// Whether every broker of the topic has answered a heartbeat or does not answer, and one can
    /// be asked.
    fn may_ask(&self, topic: &Topic) -> bool {
        let mut brokers = topic.addresses.iter().map(|address| &self.brokers[address]);
        let is_any_joined = brokers.clone().any(|broker| broker.is_joined);
        !topic.is_asking && is_any_joined && brokers.all(|one| one.is_joined || one.has_failed)
    }

    fn ask_members(&mut self, now: Timestamp) {
        let due =
            self.topics.iter().filter(|(_, topic)| topic.ask_at <= now && self.may_ask(topic));
        let due: Vec<TopicName> = due.map(|(name, _)| name.clone()).collect();
        for name in due {
            let topic = self.topics.get_mut(&name).expect("it was just found");
            let is_joined = |address: &&String| self.brokers[*address].is_joined;
            let joined: Vec<&String> = topic.addresses.iter().filter(is_joined).collect();
            let address = joined[topic.failures % joined.len()].clone();
            topic.is_asking = true;
            topic.is_outdated = false;
            self.actions.push_back(Action::AskMembers { topic: name, address });
        }
    }

    fn look_up(&mut self, now: Timestamp) {
        for (queue, owned) in &mut self.owned {
            if matches!(owned.state, State::LookUpAt(at) if at <= now) {
                owned.state = State::LookingUp;
                let (queue, assignment) = (queue.clone(), owned.assignment);
                self.actions.push_back(Action::LookUp { queue, assignment });
            }
        }
    }

    fn commit(&mut self, now: Timestamp) {
        if now < self.commit_at {
            return;
        }
        self.commit_at = now.plus_ms(COMMIT_PERIOD_MS);
        for (queue, owned) in &mut self.owned {
            let offset = owned.ledger().and_then(Ledger::uncommitted);
            if let Some(offset) = offset.filter(|_| owned.committing.is_none()) {
                owned.committing = Some(offset);
                let (queue, assignment) = (queue.clone(), owned.assignment);
                self.actions.push_back(Action::Commit { queue, assignment, offset });
            }
        }
    }
}

impl Topic {
    fn ask(&mut self, now: Timestamp) {
        self.ask_at = now;
        self.is_outdated = self.is_asking;
    }
}

impl Owned {
    fn ledger(&self) -> Option<&Ledger> {
        match &self.state {
            State::Reading(ledger) => Some(ledger),
            State::LookingUp | State::LookUpAt(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
