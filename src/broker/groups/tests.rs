//! Members and subscriptions of one shard, and of several that report to each other.

use super::ledger::{SUBSCRIPTIONS_MAX, TAGS_MAX};
use super::*;
use crate::model::record::Host;
use crate::model::request::{ConsumeType, Expression, MessageModel, Presence, SubscriptionData};
#[cfg(test)] // Tests may use modules of higher layers.
use crate::sim::Rng;

fn group() -> GroupName {
    GroupName::new("g").unwrap()
}

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

fn heartbeat(client: &str, version: i64) -> Heartbeat {
    let expression = Expression { kind: "TAG".into(), text: "A".into() };
    let subscriptions = vec![SubscriptionData { topic: topic(), expression, version }];
    let consumer = ConsumerData {
        group: group(),
        consume_type: ConsumeType::Passively,
        model: MessageModel::Clustering,
        subscriptions,
    };
    Heartbeat {
        client: client.to_owned().into(),
        consumers: vec![consumer],
        ..Heartbeat::default()
    }
}

fn beats(
    groups: &mut Groups,
    heartbeat: &Heartbeat,
    connection: u64,
    at: u64,
) -> Result<(), Refusal> {
    let host = Host { address: [127, 0, 0, 1], port: (connection as u32).into() };
    let peer = Peer { host, language: 0, version: 409 };
    groups.heartbeat(heartbeat, Sender { connection, peer, now: Moment(at) })
}

fn members(groups: &mut Groups) -> Vec<String> {
    let members = groups.members(&group()).unwrap_or_default();
    let known = groups.consumers.groups.get(&group()).into_iter().flat_map(|of| of.members.keys());
    assert!(members.iter().eq(known), "an outdated list");
    members.iter().map(|member| member.to_string()).collect()
}

#[test]
fn members_come_with_heartbeats_and_go_with_connections_and_time() {
    let mut groups = Groups::default();
    assert_eq!(groups.members(&group()), Err(Refusal::NoConsumer(group())));
    beats(&mut groups, &heartbeat("b", 1), 1, 0).unwrap();
    beats(&mut groups, &heartbeat("a", 1), 2, 60_000).unwrap();
    assert_eq!(members(&mut groups), ["a", "b"]);
    groups.expire(Moment(CLIENT_LEASE_MS));
    assert_eq!(members(&mut groups), ["a"]);
    groups.connection_closed(2);
    assert!(members(&mut groups).is_empty());
}

#[test]
fn a_client_that_comes_back_on_another_connection_survives_the_old_one() {
    let mut groups = Groups::default();
    beats(&mut groups, &heartbeat("a", 1), 1, 0).unwrap();
    beats(&mut groups, &heartbeat("a", 1), 2, 1).unwrap();
    groups.connection_closed(1);
    assert_eq!(members(&mut groups), ["a"]);
}

#[test]
fn a_pull_with_a_newer_subscription_waits_for_the_heartbeat() {
    let mut groups = Groups::default();
    assert!(matches!(groups.filter(&group(), &topic(), 0), Err(Refusal::NotSubscribed { .. })));
    beats(&mut groups, &heartbeat("a", 5), 1, 0).unwrap();
    assert!(groups.filter(&group(), &topic(), 5).is_ok());
    assert_eq!(groups.filter(&group(), &topic(), 6), Err(Refusal::SubscriptionOutdated(group())));
}

/// `client` subscribes to `topics`, each with a tag and a version.
fn subscribes(client: &str, topics: &[(&str, &str, i64)]) -> Heartbeat {
    let mut beat = heartbeat(client, 0);
    let subscription = |&(topic, tag, version): &(&str, &str, i64)| SubscriptionData {
        topic: TopicName::new(topic.to_owned()).unwrap(),
        expression: Expression { kind: "TAG".into(), text: tag.into() },
        version,
    };
    beat.consumers[0].subscriptions = topics.iter().map(subscription).collect();
    beat
}

/// The tag and version in effect for a topic of the group.
fn subscribed(groups: &Groups, topic: &str) -> Option<(TagFilter, i64)> {
    let group = groups.consumers.groups.get(&group())?;
    let topic = TopicName::new(topic.to_owned()).unwrap();
    let filter = group.subscriptions.get(&topic)?.filter.clone().unwrap();
    let mut all = group.subscriptions.iter();
    Some((filter, all.find(|data| data.topic == topic)?.version))
}

fn only(tag: &str, version: i64) -> Option<(TagFilter, i64)> {
    let expression = Expression { kind: "TAG".into(), text: tag.into() };
    Some((TagFilter::parse(&expression).unwrap(), version))
}

/// One step of a subscription change, and the subscriptions in effect for topics `t` and `u`
/// after it.
enum Step {
    Beats(&'static str, &'static [(&'static str, &'static str, i64)]),
    Leaves(&'static str),
}

/// Remoting reference, 5.5: the higher version wins for each topic.
#[test]
fn an_older_member_never_undoes_what_a_newer_one_has_changed() {
    use Step::*;
    type Counts = (Option<(&'static str, i64)>, Option<(&'static str, i64)>);
    let steps: [(Step, Counts); 12] = [
        (Beats("old", &[("t", "A", 5)]), (Some(("A", 5)), None)),
        (Beats("new", &[("t", "B", 7), ("u", "B", 7)]), (Some(("B", 7)), Some(("B", 7)))),
        (Beats("old", &[("t", "A", 5)]), (Some(("B", 7)), Some(("B", 7)))),
        // The member's clock went backwards; its change counts anyway.
        (Beats("new", &[("t", "C", 6), ("u", "B", 7)]), (Some(("C", 6)), Some(("B", 7)))),
        (Beats("old", &[("t", "A", 5)]), (Some(("C", 6)), Some(("B", 7)))),
        // The member drops the second topic, which it had added itself.
        (Beats("new", &[("t", "C", 6)]), (Some(("C", 6)), None)),
        (Beats("old", &[("t", "A", 5), ("u", "A", 5)]), (Some(("C", 6)), Some(("A", 5)))),
        (Beats("new", &[("t", "C", 6)]), (Some(("C", 6)), Some(("A", 5)))),
        // A member that has left binds no one.
        (Leaves("new"), (Some(("A", 5)), Some(("A", 5)))),
        (Beats("late", &[("t", "D", 1)]), (Some(("A", 5)), Some(("A", 5)))),
        (Leaves("old"), (Some(("D", 1)), None)),
        (Beats("late", &[("t", "D", 1)]), (Some(("D", 1)), None)),
    ];
    let mut groups = Groups::default();
    for (at, (step, (t, u))) in steps.into_iter().enumerate() {
        match step {
            Beats(client, topics) => {
                beats(&mut groups, &subscribes(client, topics), 1, 0).unwrap();
            }
            Leaves(client) => _ = groups.unregister(&client.into(), None, Some(&group()), Some(1)),
        }
        let expected = [t, u].map(|one| one.and_then(|(tag, version)| only(tag, version)));
        let found = ["t", "u"].map(|topic| subscribed(&groups, topic));
        assert_eq!(found, expected, "step {at}");
        assert_eq!(groups.ledger, counted(&groups), "step {at}");
    }
}

/// While members of three versions run, the newest one ends; the others' pulls go on.
#[test]
fn when_the_newest_member_leaves_the_newest_of_the_others_counts() {
    let mut groups = Groups::default();
    for (client, tag, version) in [("a", "A", 8), ("b", "B", 9), ("c", "C", 10)] {
        beats(&mut groups, &subscribes(client, &[("t", tag, version)]), version as u64, 0).unwrap();
    }
    groups.connection_closed(10);
    for _ in 0..2 {
        assert_eq!(subscribed(&groups, "t"), only("B", 9));
        for version in [8, 9] {
            assert!(groups.filter(&group(), &topic(), version).is_ok(), "version {version}");
        }
        beats(&mut groups, &subscribes("a", &[("t", "A", 8)]), 8, 1).unwrap();
    }
    groups.connection_closed(9);
    assert_eq!(subscribed(&groups, "t"), only("A", 8));
}

/// Versions come from the clients' clocks; a client's clock may be set back by more than the
/// members' versions differ.
#[test]
fn a_change_counts_although_the_clock_of_its_member_went_backwards() {
    let mut groups = Groups::default();
    beats(&mut groups, &subscribes("a", &[("t", "A", 8)]), 1, 0).unwrap();
    beats(&mut groups, &subscribes("b", &[("t", "B", 9)]), 2, 0).unwrap();
    beats(&mut groups, &subscribes("b", &[("t", "C", 2)]), 2, 1).unwrap();
    beats(&mut groups, &subscribes("a", &[("t", "A", 8)]), 1, 2).unwrap();
    assert_eq!(subscribed(&groups, "t"), only("C", 2));
    for version in [2, 8] {
        assert!(groups.filter(&group(), &topic(), version).is_ok(), "version {version}");
    }
}

/// Members whose clients do not version their subscriptions.
#[test]
fn among_equal_versions_the_last_change_counts() {
    let mut groups = Groups::default();
    for (client, connection) in [("a", 1), ("b", 2)] {
        beats(&mut groups, &subscribes(client, &[("t", "A", 0)]), connection, 0).unwrap();
    }
    beats(&mut groups, &subscribes("a", &[("t", "B", 0)]), 1, 1).unwrap();
    beats(&mut groups, &subscribes("b", &[("t", "A", 0)]), 2, 2).unwrap();
    assert_eq!(subscribed(&groups, "t"), only("B", 0));
}

/// Two processes with one client id, one of which has an older subscription.
#[test]
fn processes_with_one_client_id_do_not_take_turns() {
    let mut groups = Groups::default();
    let old = subscribes("a", &[("t", "A", 8)]);
    let new = subscribes("a", &[("t", "B", 9), ("u", "B", 9)]);
    for (beat, connection) in [(&old, 1), (&new, 2), (&old, 1), (&new, 2), (&old, 1)] {
        beats(&mut groups, beat, connection, 0).unwrap();
        if connection == 2 {
            assert_eq!(subscribed(&groups, "t"), only("B", 9));
        }
    }
    for topic in ["t", "u"] {
        assert_eq!(subscribed(&groups, topic), only("B", 9), "{topic}");
    }
    // Once one of them has ended, the other's topics are the group's.
    groups.connection_closed(2);
    beats(&mut groups, &old, 1, 1).unwrap();
    assert_eq!(subscribed(&groups, "u"), None);
}

fn names(count: usize) -> Vec<GroupName> {
    (0..count).map(|number| GroupName::new(format!("g{number}")).unwrap()).collect()
}

fn producers_of(client: String, producers: &[GroupName]) -> Heartbeat {
    Heartbeat { client: client.into(), producers: producers.to_vec(), ..Heartbeat::default() }
}

/// The ledger, recomputed.
fn counted(groups: &Groups) -> Ledger {
    let mut ledger = Ledger::default();
    for table in [&groups.producers, &groups.consumers] {
        for (name, group) in &table.groups {
            assert!(!group.members.is_empty());
            let (subscriptions, tags) = group.subscriptions.count();
            ledger.subscriptions += subscriptions;
            ledger.tags += tags;
            ledger.members += group.members.len();
            for (client, member) in &group.members {
                assert!(!member.is_gone());
                let (group, client) = (name.clone(), client.clone());
                let membership = Membership { role: table.role, group, client };
                for line in member.lines() {
                    ledger.connected(line.connection, membership.clone());
                }
            }
        }
    }
    ledger
}

fn counts(ledger: &Ledger) -> (usize, usize, usize) {
    (ledger.members, ledger.subscriptions, ledger.tags)
}

/// Clients connect, reconnect, unregister, fall silent and lose connections.
#[test]
fn the_ledger_says_what_the_groups_hold() {
    let (mut groups, mut rng) = (Groups::default(), Rng::from_seed(3));
    let all = names(4);
    for step in 0..5_000 {
        let (client, connection) = (format!("c{}", rng.below(6)), rng.below(5));
        let of = all[rng.below(4) as usize].clone();
        match rng.below(8) {
            0..4 => {
                let tags = ["A", "B||C", "B||C||D", "*"];
                let topics = ["t", "u", "v"]
                    .map(|topic| (topic, tags[rng.below(4) as usize], rng.below(4) as i64));
                let mut beat = subscribes(&client, &topics[rng.below(4) as usize..]);
                beat.consumers[0].group = of.clone();
                beat.producers = all[rng.below(4) as usize..].to_vec();
                beats(&mut groups, &beat, connection, step).unwrap();
            }
            4 => groups.connection_closed(connection),
            5 => _ = groups.unregister(&client.into(), Some(&of), None, Some(connection)),
            6 => _ = groups.unregister(&client.into(), None, Some(&of), Some(connection)),
            _ => groups.expire(Moment(step + CLIENT_LEASE_MS - rng.below(20))),
        }
        assert_eq!(groups.ledger, counted(&groups), "step {step}");
    }
    (0..5).for_each(|connection| groups.connection_closed(connection));
    assert_eq!(groups.ledger, Ledger::default());
    assert!(groups.producers.groups.is_empty() && groups.consumers.groups.is_empty());
}

#[test]
fn all_groups_of_a_client_hold_one_copy_of_its_id() {
    let mut groups = Groups::default();
    let groups_of_it = names(3);
    beats(&mut groups, &producers_of("c".repeat(200), &groups_of_it), 1, 0).unwrap();
    let members = groups_of_it.iter().map(|group| &groups.producers.groups[group].members);
    let places: Vec<*const u8> =
        members.map(|members| members.first_key_value().unwrap().0.as_ptr()).collect();
    assert_eq!(places, [places[0]; 3]);
}

#[test]
fn what_is_full_takes_no_more_and_keeps_what_it_has() {
    let full = |what, count_max| Err(Refusal::Full { what, count_max });
    let mut groups = Groups::default();
    let all = names(GROUPS_MAX + 1);
    let beat = |groups: &mut Groups, client: &str, of: &[GroupName], at| {
        beats(groups, &producers_of(client.to_owned(), of), 1, at)
    };
    assert_eq!(beat(&mut groups, "c0", &all, 0), full("groups", GROUPS_MAX));
    assert_eq!(groups.producers.groups.len(), GROUPS_MAX);
    for client in 1..MEMBERS_MAX / GROUPS_MAX {
        beat(&mut groups, &format!("c{client}"), &all[..GROUPS_MAX], 0).unwrap();
    }
    let full_members = full("members of groups", MEMBERS_MAX);
    assert_eq!(beat(&mut groups, "late", &all[..1], 0), full_members);
    assert_eq!(beats(&mut groups, &heartbeat("late", 1), 1, 0), full_members);
    assert!(groups.consumers.groups.is_empty(), "a group that nobody could join is not kept");
    assert_eq!(beat(&mut groups, "c0", &all[..1], 9), Ok(()), "who is known stays known");
    assert_eq!(groups.ledger, counted(&groups));
    groups.expire(Moment(CLIENT_LEASE_MS + 1));
    assert_eq!(counts(&groups.ledger), (1, 0, 0));
    assert_eq!(groups.ledger, counted(&groups));
}

#[test]
fn subscriptions_and_their_tags_are_counted() {
    let mut groups = Groups::default();
    let with = |client: &str, topics: std::ops::Range<usize>, tags: usize| {
        let mut one = heartbeat(client, 1);
        let text = vec!["t"; tags].join("||");
        let expression = Expression { kind: "TAG".into(), text };
        one.consumers[0].subscriptions = topics
            .map(|number| SubscriptionData {
                topic: TopicName::new(format!("t{number}")).unwrap(),
                expression: expression.clone(),
                version: 1,
            })
            .collect();
        one
    };
    let mut beat = |one: &Heartbeat| {
        let taken = beats(&mut groups, one, 1, 0);
        assert_eq!(groups.ledger, counted(&groups));
        (taken.is_ok(), groups.ledger.subscriptions, groups.ledger.tags)
    };
    assert_eq!(beat(&with("a", 0..10, 3)), (true, 10, 30));
    assert_eq!(beat(&with("a", 0..5, 4)), (true, 5, 20), "its last heartbeat counts");
    let (subscriptions, tags) = (SUBSCRIPTIONS_MAX, SUBSCRIPTIONS_MAX + 15);
    assert_eq!(beat(&with("b", 5..SUBSCRIPTIONS_MAX + 1, 1)), (false, subscriptions, tags));
    assert_eq!(beat(&with("b", 0..0, 1)), (true, 5, 20));
    assert_eq!(beat(&with("b", 0..5, 4)), (true, 10, 20), "the same expressions are kept once");
    assert_eq!(beat(&with("b", 0..5, 2)), (true, 10, 30));
    assert_eq!(beat(&with("b", 0..0, 1)), (true, 5, 20));
    let fits = (TAGS_MAX - 20) / 256;
    let (subscriptions, tags) = (5 + fits, 20 + fits * 256);
    assert_eq!(beat(&with("b", 5..5 + fits + 1, 256)), (false, subscriptions, tags));
    // A topic that does not fit does not keep out those behind it.
    let mut mixed = with("c", 900_000..900_002, 256);
    mixed.consumers[0].subscriptions[1].expression.text = "t".into();
    assert_eq!(beat(&mixed), (false, subscriptions + 1, tags + 1));
    assert_eq!(beat(&with("c", 0..0, 1)), (true, subscriptions, tags));
    assert_eq!(beat(&with("b", 5..6, 1)), (true, 6, 21));
    for client in ["a", "b", "c"] {
        groups.unregister(&client.into(), None, Some(&group()), Some(1));
    }
    assert_eq!(groups.ledger, Ledger::default());
}

/// Several shards of a process; the test decides when their messages to each other are delivered.
struct Shards(Vec<Groups>);

impl Shards {
    fn new(count: u16) -> Self {
        Self((0..count).map(|_| Groups::default()).collect())
    }

    fn beat(&mut self, shard: usize, client: &str, connection: u64, at: u64) {
        beats(&mut self.0[shard], &heartbeat(client, 1), connection, at).unwrap();
    }

    /// The changes that shard `shard` has not reported yet.
    fn news(&mut self, shard: usize) -> Vec<Presence> {
        self.0[shard].take_presences(ShardId(shard as u16))
    }

    /// Delivers all reports.
    fn settle(&mut self) {
        for from in 0..self.0.len() {
            for news in self.news(from) {
                for to in (0..self.0.len()).filter(|to| *to != from) {
                    self.0[to].learn(&news).unwrap();
                }
            }
        }
        for (shard, groups) in self.0.iter().enumerate() {
            assert_eq!(groups.ledger, counted(groups), "shard {shard}");
            assert!(groups.unreported.is_empty(), "shard {shard} repeats another shard's report");
        }
    }

    fn members(&mut self) -> Vec<Vec<String>> {
        self.0.iter_mut().map(members).collect()
    }
}

#[test]
fn a_heartbeat_to_any_shard_counts_for_all_until_the_last_one_forgets_the_client() {
    let mut shards = Shards::new(3);
    shards.beat(1, "b", 7, 0);
    shards.settle();
    shards.beat(0, "a", 1, 0);
    shards.beat(2, "a", 1, 60_000);
    shards.settle();
    assert_eq!(shards.members(), [["a", "b"]; 3]);
    let filter = shards.0[2].filter(&group(), &topic(), 1);
    assert!(filter.is_ok(), "also their subscriptions");
    // Its connection to one shard ends, but it is still connected to another.
    shards.0[0].connection_closed(1);
    shards.settle();
    assert_eq!(shards.members(), [["a", "b"]; 3]);
    for groups in &mut shards.0 {
        groups.take_changed();
        groups.expire(Moment(CLIENT_LEASE_MS + 1));
    }
    shards.settle();
    assert_eq!(shards.members(), [["a"]; 3]);
    assert!(shards.0.iter().all(|groups| groups.has_changed(&group())));
    shards.0[2].connection_closed(1);
    shards.settle();
    assert!(shards.0.iter().all(|groups| groups.remote.is_empty() && groups.here.is_empty()));
    assert!(shards.members().concat().is_empty());
}

#[test]
fn only_changes_are_reported_and_late_reports_are_ignored() {
    let mut shards = Shards::new(2);
    shards.beat(0, "a", 1, 0);
    let first = shards.news(0);
    assert_eq!(first.len(), 1);
    shards.beat(0, "a", 1, 1);
    assert!(shards.news(0).is_empty(), "the same heartbeat again");
    beats(&mut shards.0[0], &heartbeat("a", 2), 1, 2).unwrap();
    assert_eq!(shards.news(0).len(), 1, "a newer subscription");
    let of_two = |groups: &mut Groups| {
        let others = GroupName::new("others").unwrap();
        (members(groups).len(), groups.members(&others).map_or(0, |members| members.len()))
    };
    let mut in_two = heartbeat("a", 2);
    let other = GroupName::new("others").unwrap();
    in_two.consumers.push(ConsumerData { group: other, ..in_two.consumers[0].clone() });
    beats(&mut shards.0[0], &in_two, 1, 3).unwrap();
    let second = shards.news(0);
    for news in [&second, &first, &second] {
        shards.0[1].learn(&news[0]).unwrap();
        assert_eq!(of_two(&mut shards.0[1]), (1, 1));
    }
    shards.0[0].unregister(&"a".into(), None, Some(&group()), Some(1));
    shards.settle();
    assert_eq!(of_two(&mut shards.0[1]), (0, 1));
}

/// The client unregisters at one shard, which passes that on if no second process has the id.
#[test]
fn signing_off_counts_for_all_shards_unless_a_second_process_has_the_id() {
    let sign_off = |shards: &mut Shards, shard: usize, connection: u64| {
        let is_gone =
            shards.0[shard].unregister(&"a".into(), None, Some(&group()), Some(connection));
        if is_gone {
            for other in (0..shards.0.len()).filter(|other| *other != shard) {
                shards.0[other].unregister(&"a".into(), None, Some(&group()), None);
            }
        }
        (is_gone, shards.members())
    };
    // One process that has reconnected to the first shard.
    let mut shards = Shards::new(2);
    for (shard, connection) in [(0, 1), (1, 1), (0, 2)] {
        shards.beat(shard, "a", connection, 0);
    }
    shards.settle();
    assert_eq!(sign_off(&mut shards, 0, 2), (true, vec![vec![], vec![]]), "at once");
    shards.settle();
    assert!(shards.members().concat().is_empty());

    // Two processes.
    for (shard, connection) in [(0, 1), (0, 2), (0, 1), (1, 1), (1, 2), (1, 1), (0, 2)] {
        shards.beat(shard, "a", connection, 0);
    }
    shards.settle();
    assert_eq!(sign_off(&mut shards, 0, 1), (false, vec![vec!["a".to_owned()]; 2]));
    shards.settle();
    assert_eq!(sign_off(&mut shards, 1, 1), (false, vec![vec!["a".to_owned()]; 2]));
    shards.settle();
    assert_eq!(sign_off(&mut shards, 1, 2), (true, vec![vec![], vec![]]));
}

#[test]
fn two_processes_with_one_client_id_are_noted_and_neither_removes_the_other() {
    let mut shards = Shards::new(2);
    let noted = |groups: &mut Groups| {
        let notes = groups.take_notes();
        let is_of_a = |note: &Note| matches!(note, Note::Shared { client, .. } if client == "a");
        assert!(notes.iter().all(is_of_a), "{notes:?}");
        !notes.is_empty()
    };
    for connection in [1, 2] {
        shards.beat(0, "a", connection, 0);
        assert!(!noted(&mut shards.0[0]), "it may have connected anew");
    }
    shards.beat(0, "a", 1, 1);
    assert!(noted(&mut shards.0[0]), "an older connection is used after a newer one");
    shards.settle();
    assert!(noted(&mut shards.0[1]));
    let found = shards.0[1].consumers(&group()).unwrap().members;
    assert!(found[0].is_shared && found[0].peers.len() == 2, "{found:?}");
    shards.0[0].connection_closed(2);
    shards.settle();
    assert_eq!(shards.members(), [["a"]; 2]);
    let found = shards.0[1].consumers(&group()).unwrap().members;
    assert!(!found[0].is_shared && found[0].peers.len() == 1, "{found:?}");
}

#[test]
fn members_that_subscribe_differently_are_noted_once_and_each_pulls_on() {
    let mut groups = Groups::default();
    let differ = |members: [&str; 2], topic: &str| Note::Differ {
        group: group(),
        members: members.map(ClientId::from),
        topic: TopicName::new(topic.to_owned()).unwrap(),
    };
    beats(&mut groups, &subscribes("a", &[("t", "A", 7)]), 1, 0).unwrap();
    beats(&mut groups, &subscribes("b", &[("t", "A", 5)]), 2, 0).unwrap();
    assert_eq!(groups.take_notes(), [], "different versions of the same");
    for _ in 0..3 {
        beats(&mut groups, &subscribes("a", &[("t", "A", 7)]), 1, 0).unwrap();
        beats(&mut groups, &subscribes("b", &[("u", "*", 8)]), 2, 0).unwrap();
        for (topic, version) in [("t", 7), ("u", 8)] {
            let topic = TopicName::new(topic).unwrap();
            assert!(groups.filter(&group(), &topic, version).is_ok(), "{topic}");
        }
    }
    assert_eq!(groups.take_notes(), [differ(["a", "b"], "t")]);
}

/// Heartbeats, closed connections, silent clients and unregistrations, on three shards whose
/// messages arrive late, some of them twice. In the end all shards agree, and the members are the
/// clients that are connected to any shard.
#[test]
fn in_the_end_all_shards_agree() {
    for seed in 0..1_000 {
        let (mut shards, mut rng) = (Shards::new(3), Rng::from_seed(seed));
        let mut under_way: Vec<(usize, Presence)> = Vec::new();
        for step in 0..120 {
            let shard = rng.below(3) as usize;
            let client = format!("c{}", rng.below(4));
            match rng.below(8) {
                0..4 => shards.beat(shard, &client, rng.below(5), step),
                4..6 => shards.0[shard].connection_closed(rng.below(5)),
                6 => {
                    let (client, connection) = (client.into(), Some(rng.below(5)));
                    if shards.0[shard].unregister(&client, None, Some(&group()), connection) {
                        for other in (0..3).filter(|other| *other != shard) {
                            shards.0[other].unregister(&client, None, Some(&group()), None);
                        }
                    }
                }
                _ => shards.0[shard].expire(Moment(step + CLIENT_LEASE_MS - rng.below(20))),
            }
            for from in 0..3 {
                for news in shards.news(from) {
                    let others = (0..3).filter(|to| *to != from);
                    under_way.extend(others.map(|to| (to, news.clone())));
                }
            }
            while !under_way.is_empty() && rng.below(2) == 0 {
                let next = under_way.remove(0);
                shards.0[next.0].learn(&next.1).unwrap();
                if rng.below(8) == 0 {
                    shards.0[next.0].learn(&next.1).unwrap();
                }
            }
        }
        for (to, news) in under_way {
            shards.0[to].learn(&news).unwrap();
        }
        shards.settle();
        let connected: BTreeSet<String> = shards
            .0
            .iter()
            .flat_map(|groups| groups.here.keys().map(ToString::to_string))
            .collect();
        let connected: Vec<String> = connected.into_iter().collect();
        assert_eq!(shards.members(), vec![connected; 3], "seed {seed}");
    }
}
