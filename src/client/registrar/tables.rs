//! The topic tables of a broker's shards, as registered with NameServers.
//!
//! A shard submits its changes; each NameServer's thread asks what its NameServer is missing. The
//! cost of a change does not depend on the size of the table:
//!
//! ```text
//!   shard ── TopicChange ──▶ Table ── Update::Part ───▶ NameServer that had the table before it
//!                              └────── Update::Whole ──▶ one that had not, or must forget topics
//! ```
//!
//! Every table has its own lock, held for a change or for a slice of a copy, so a shard never waits
//! for a table to be copied.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::nameserver::{BrokerId, Registration};
use crate::model::topic::{TopicChange, WHOLE_TABLE_MARK};
use crate::model::{DataVersion, TopicConfig, TopicName};

/// Number of changes that a table remembers. A NameServer that is further behind gets the whole
/// table.
const CHANGES_KEPT_MAX: usize = 1_024;
/// Number of topics copied at a time; meanwhile a shard may have to wait.
const COPIED_AT_ONCE: usize = 256;

/// A number of changes that a table has had; a NameServer has the table up to such a position.
pub type Position = u64;

#[derive(Debug)]
pub struct Table {
    broker: BrokerId,
    ha_address: String,
    lease_ms: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    version: DataVersion,
    /// The role of this replica of the shard, if it has replicas.
    role: Option<Role>,
    topics: BTreeMap<TopicName, TopicConfig>,
    /// Topics of the newest changes, oldest first.
    changed: VecDeque<TopicName>,
    position: Position,
    /// The position after the newest removal.
    removed_at: Position,
}

/// The role in which a replica of a shard registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A NameServer lets a later epoch take over the name from an earlier one, but not vice versa
    /// (remoting reference, 2.3).
    Leader {
        epoch: i64,
    },
    Follower {
        id: u64,
    },
    /// No longer a replica: it is unregistered.
    Removed {
        id: u64,
    },
}

impl Role {
    /// The broker id: 0 is the leader.
    fn id(self) -> u64 {
        match self {
            Self::Leader { .. } => 0,
            Self::Follower { id } | Self::Removed { id } => id,
        }
    }

    fn epoch(self) -> i64 {
        match self {
            Self::Leader { epoch } => epoch,
            Self::Follower { .. } | Self::Removed { .. } => 0,
        }
    }
}

/// What to send to a NameServer. A stock one never removes a topic from a broker's routes because a
/// registration does not list it, and ours only if the table is marked as whole, so removing topics
/// requires sending the whole table (remoting reference, 2.3).
#[derive(Debug, PartialEq)]
pub enum Update {
    Nothing,
    Part(Registration),
    Whole(Registration),
    /// It is not to be registered.
    Gone(BrokerId),
}

impl Table {
    pub fn new(registration: Registration) -> Self {
        let Registration { broker, ha_address, lease_ms, version, topics, .. } = registration;
        let is_topic = |topic: &TopicConfig| topic.name.as_str() != WHOLE_TABLE_MARK;
        let named = |topic: TopicConfig| (topic.name.clone(), topic);
        let state = State {
            version,
            role: None,
            topics: topics.into_iter().filter(is_topic).map(named).collect(),
            changed: VecDeque::new(),
            position: 0,
            removed_at: 0,
        };
        Self { broker, ha_address, lease_ms, state: Mutex::new(state) }
    }

    pub fn apply(&self, version: DataVersion, changes: Vec<TopicChange>) {
        let mut state = self.state();
        state.version = version;
        for change in changes {
            state.apply(change);
        }
    }

    pub fn version(&self) -> DataVersion {
        self.state().version()
    }

    /// Sets the role. Every NameServer gets the whole table again, under the new id.
    pub fn set_role(&self, role: Role) {
        let mut state = self.state();
        state.role = Some(role);
        state.position += 1;
        state.removed_at = state.position;
        state.changed.clear();
    }

    pub fn is_replicated(&self) -> bool {
        self.state().role.is_some()
    }

    /// Whether it is to be registered.
    pub fn is_listed(&self) -> bool {
        !matches!(self.state().role, Some(Role::Removed { .. }))
    }

    pub fn broker(&self) -> BrokerId {
        let id = self.state().role.map_or(self.broker.id, Role::id);
        BrokerId { id, ..self.broker.clone() }
    }

    /// What to send to a NameServer that has the table up to `known`, and up to where it has it
    /// then.
    pub fn update(&self, known: Option<Position>) -> (Update, Position) {
        let state = self.state();
        let position = state.position;
        if let Some(Role::Removed { id }) = state.role {
            let gone = || Update::Gone(BrokerId { id, ..self.broker.clone() });
            return (if known == Some(position) { Update::Nothing } else { gone() }, position);
        }
        let names = known.and_then(|known| state.changed_since(known));
        let Some(names) = names else {
            drop(state);
            return self.whole();
        };
        if names.is_empty() {
            return (Update::Nothing, position);
        }
        let topics = names.iter().filter_map(|name| state.topics.get(*name)).cloned().collect();
        let version = state.version();
        drop(state);
        (Update::Part(self.registration(version, topics)), position)
    }

    /// A copy, made in slices. Concurrent changes may be in it or not, and are sent again after it.
    fn whole(&self) -> (Update, Position) {
        let (version, position) = {
            let state = self.state();
            (state.version(), state.position)
        };
        let mut topics: Vec<TopicConfig> = Vec::new();
        loop {
            let state = self.state();
            let begin = topics.last().map_or(Bound::Unbounded, |last| Bound::Excluded(&last.name));
            let slice: Vec<TopicConfig> = state
                .topics
                .range::<TopicName, _>((begin, Bound::Unbounded))
                .take(COPIED_AT_ONCE)
                .map(|(_, topic)| topic.clone())
                .collect();
            drop(state);
            if slice.is_empty() {
                break;
            }
            topics.extend(slice);
        }
        topics.push(whole_table_mark());
        (Update::Whole(self.registration(version, topics)), position)
    }

    fn registration(&self, version: DataVersion, topics: Vec<TopicConfig>) -> Registration {
        let (broker, ha_address, lease_ms) =
            (self.broker(), self.ha_address.clone(), self.lease_ms);
        let (skipped, misnamed) = (Vec::new(), Vec::new());
        Registration { broker, ha_address, lease_ms, version, topics, skipped, misnamed }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn version(&self) -> DataVersion {
        let state_version = self.role.map_or(self.version.state_version, Role::epoch);
        DataVersion { state_version, ..self.version }
    }

    fn apply(&mut self, change: TopicChange) {
        self.position += 1;
        let name = match change {
            TopicChange::Set(topic) => {
                let name = topic.name.clone();
                self.topics.insert(name.clone(), topic);
                name
            }
            TopicChange::Removed(name) => {
                self.topics.remove(&name);
                self.removed_at = self.position;
                name
            }
        };
        self.changed.push_back(name);
        if self.changed.len() > CHANGES_KEPT_MAX {
            self.changed.pop_front();
        }
    }

    /// Topics that were set after `known`; `None` if a partial table is not enough.
    fn changed_since(&self, known: Position) -> Option<BTreeSet<&TopicName>> {
        let behind = (self.position - known) as usize;
        let is_part = self.removed_at <= known && behind <= self.changed.len();
        is_part.then(|| self.changed.iter().rev().take(behind).collect())
    }
}

/// Marks a whole table; see [`WHOLE_TABLE_MARK`].
fn whole_table_mark() -> TopicConfig {
    let name = TopicName::new(WHOLE_TABLE_MARK).expect("it is a legal name");
    TopicConfig { perm: 0, ..TopicConfig::new(name, 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> TopicConfig {
        TopicConfig::new(TopicName::new(name.to_owned()).unwrap(), 4)
    }

    fn table(topic_count: usize) -> Table {
        let broker = BrokerId {
            cluster: "c".into(),
            name: "s00-a".into(),
            address: "10.0.0.1:10911".into(),
            id: 0,
        };
        let topics = (0..topic_count).map(|number| topic(&format!("t{number:06}"))).collect();
        Table::new(Registration {
            broker,
            ha_address: String::new(),
            lease_ms: None,
            version: DataVersion::default(),
            topics,
            skipped: Vec::new(),
            misnamed: Vec::new(),
        })
    }

    fn version(counter: i64) -> DataVersion {
        DataVersion { counter, ..DataVersion::default() }
    }

    /// `+` before a part, `=` before a whole table.
    fn told(update: &Update) -> String {
        let (sign, registration) = match update {
            Update::Nothing => return String::new(),
            Update::Part(registration) => ('+', registration),
            Update::Whole(registration) => ('=', registration),
            Update::Gone(broker) => return format!("-{}", broker.id),
        };
        let names: Vec<&str> =
            registration.topics.iter().map(|topic| topic.name.as_str()).collect();
        format!("{sign}{}", names.join(","))
    }

    #[test]
    fn who_knows_the_table_is_told_what_changed() {
        let table = table(2);
        let (update, known) = table.update(None);
        assert_eq!(told(&update), "=t000000,t000001,SELF_TEST_TOPIC");
        assert_eq!(table.update(Some(known)), (Update::Nothing, known));

        let set = |name: &str| TopicChange::Set(topic(name));
        table.apply(version(1), vec![set("b"), set("a")]);
        table.apply(version(2), vec![set("b")]);
        let (update, newer) = table.update(Some(known));
        assert_eq!(told(&update), "+a,b");
        let Update::Part(registration) = update else { panic!("it is a part") };
        assert_eq!(registration.version, version(2));
        assert_eq!(table.update(Some(newer)).0, Update::Nothing);

        table.apply(version(3), vec![TopicChange::Removed(topic("a").name), set("c")]);
        let (update, newest) = table.update(Some(newer));
        assert_eq!(told(&update), "=b,c,t000000,t000001,SELF_TEST_TOPIC");
        table.apply(version(4), vec![set("d")]);
        assert_eq!(told(&table.update(Some(newest)).0), "+d");
    }

    /// A change of leader is an update even if no topic has changed.
    #[test]
    fn a_new_role_is_registered_with_the_whole_table() {
        let table = table(1);
        table.apply(version(7), vec![]);
        let known = table.update(None).1;
        for (role, id, epoch) in
            [(Role::Follower { id: 2 }, 2, 0), (Role::Leader { epoch: 5 }, 0, 5)]
        {
            table.set_role(role);
            let (Update::Whole(whole), _) = table.update(Some(known)) else { panic!("all of it") };
            assert_eq!(whole.broker.id, id);
            assert_eq!((whole.version.state_version, whole.version.counter), (epoch, 7));
        }
        let (_, known) = table.update(None);
        assert_eq!(table.update(Some(known)).0, Update::Nothing);
    }

    #[test]
    fn a_removed_copy_is_unregistered_once_and_registered_when_it_is_a_copy_again() {
        let table = table(1);
        table.set_role(Role::Follower { id: 2 });
        let known = table.update(None).1;
        table.set_role(Role::Removed { id: 2 });
        let (update, gone) = table.update(Some(known));
        assert_eq!((told(&update).as_str(), table.is_listed()), ("-2", false));
        assert_eq!(table.update(Some(gone)).0, Update::Nothing);
        assert_eq!(told(&table.update(None).0), "-2", "a NameServer that may have an older table");
        table.set_role(Role::Follower { id: 2 });
        assert_eq!(told(&table.update(Some(gone)).0), "=t000000,SELF_TEST_TOPIC");
    }

    #[test]
    fn who_is_too_far_behind_is_told_everything() {
        let table = table(1);
        let known = table.update(None).1;
        for number in 0..CHANGES_KEPT_MAX {
            table.apply(version(1), vec![TopicChange::Set(topic(&format!("n{}", number % 3)))]);
        }
        assert_eq!(told(&table.update(Some(known)).0), "+n0,n1,n2");
        table.apply(version(2), vec![TopicChange::Set(topic("n3"))]);
        let (update, _) = table.update(Some(known));
        assert_eq!(told(&update), "=n0,n1,n2,n3,t000000,SELF_TEST_TOPIC");
    }

    #[test]
    fn a_copy_in_slices_has_every_topic_once() {
        for count in [0, 1, COPIED_AT_ONCE, COPIED_AT_ONCE + 1, 3 * COPIED_AT_ONCE] {
            let (Update::Whole(whole), _) = table(count).update(None) else { panic!("all of it") };
            let names: BTreeSet<&TopicName> =
                whole.topics.iter().map(|topic| &topic.name).collect();
            assert_eq!((whole.topics.len(), names.len()), (count + 1, count + 1));
        }
    }
}
