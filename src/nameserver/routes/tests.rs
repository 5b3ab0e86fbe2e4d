use super::*;
use crate::model::topic::{PERM_READ, PERM_WRITE};

const MINUTE_MS: u64 = 60_000;

/// A NameServer, with helpers for requests.
#[derive(Default)]
struct World {
    routes: Routes,
    now: Moment,
}

impl World {
    fn with(limits: Limits) -> Self {
        Self { routes: Routes::new(limits), now: Moment(0) }
    }

    fn ask(
        &mut self,
        connection: u64,
        request: NameServerRequest,
    ) -> Result<NameServerReply, Refusal> {
        self.routes.handle(&request, ConnectionId(connection), self.now)
    }

    fn register(
        &mut self,
        connection: u64,
        registration: Registration,
    ) -> Result<NameServerReply, Refusal> {
        self.ask(connection, NameServerRequest::RegisterBroker(registration))
    }

    fn route(&mut self, topic: &str) -> Result<Route, Refusal> {
        match self.ask(0, NameServerRequest::Route { topic: topic.into() })? {
            NameServerReply::Route(route) => Ok(route),
            other => panic!("{other:?}"),
        }
    }

    /// The brokers a topic is routed to, as `name=id@address,…`.
    fn served_by(&mut self, topic: &str) -> Vec<String> {
        let Ok(route) = self.route(topic) else { return Vec::new() };
        let queues: Vec<_> = route.queues.iter().map(|queues| &queues.broker_name).collect();
        let brokers: Vec<_> = route.brokers.iter().map(|broker| &broker.name).collect();
        assert_eq!(queues, brokers);
        let text = |broker: &RouteBroker| {
            let addresses: Vec<String> =
                broker.addresses.iter().map(|(id, address)| format!("{id}@{address}")).collect();
            format!("{}={}", broker.name, addresses.join(","))
        };
        route.brokers.iter().map(text).collect()
    }

    fn topics(&mut self) -> Vec<String> {
        match self.ask(0, NameServerRequest::TopicList).unwrap() {
            NameServerReply::TopicList(topics) => topics.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn delete_route(&mut self, topic: &str, cluster: Option<&str>) {
        let cluster = cluster.map(Into::into);
        let reply =
            self.ask(0, NameServerRequest::DeleteTopicRoute { topic: topic.into(), cluster });
        assert_eq!(reply, Ok(NameServerReply::Done));
    }

    /// Checks the invariants of the module by brute force.
    fn check(&self) {
        let Routes { brokers, topics, entry_count, .. } = &self.routes;
        let by_broker: BTreeSet<(&TopicName, &Arc<str>)> = brokers
            .iter()
            .flat_map(|(name, broker)| broker.topics.keys().map(move |topic| (topic, name)))
            .collect();
        let by_topic: BTreeSet<(&TopicName, &Arc<str>)> = topics
            .iter()
            .flat_map(|(topic, names)| names.iter().map(move |name| (topic, name)))
            .collect();
        assert_eq!(by_broker, by_topic);
        assert_eq!(*entry_count, by_topic.len());
        assert!(topics.values().all(|names| !names.is_empty()));
        assert!(brokers.values().all(|broker| !broker.members.is_empty()));
    }
}

fn broker(name: &str, id: u64, address: &str) -> BrokerId {
    let [cluster, name, address] = ["c", name, address].map(str::to_owned);
    BrokerId { cluster, name, address, id }
}

fn topic(name: &str) -> TopicConfig {
    TopicConfig::new(TopicName::new(name.to_owned()).unwrap(), 4)
}

fn mark() -> TopicConfig {
    TopicConfig { perm: 0, ..topic(crate::model::topic::WHOLE_TABLE_MARK) }
}

fn version(counter: i64) -> DataVersion {
    DataVersion { counter, ..DataVersion::default() }
}

/// A stock broker's registration.
fn says(broker: BrokerId, counter: i64, topics: &[&str]) -> Registration {
    let topics = topics.iter().map(|name| topic(name)).collect();
    Registration {
        broker,
        ha_address: String::new(),
        lease_ms: None,
        version: version(counter),
        topics,
        skipped: Vec::new(),
        misnamed: Vec::new(),
    }
}

/// Our broker's registration.
fn says_all(broker: BrokerId, counter: i64, topics: &[&str]) -> Registration {
    let mut registration = says(broker, counter, topics);
    registration.topics.push(mark());
    registration
}

fn a() -> BrokerId {
    broker("a", 0, "10.0.0.1:10911")
}

fn a_standby() -> BrokerId {
    broker("a", 1, "10.0.0.2:10911")
}

fn b() -> BrokerId {
    broker("b", 0, "10.0.0.3:10911")
}

#[test]
fn a_route_names_all_brokers_of_a_topic_in_order() {
    let mut world = World::default();
    world.register(2, says_all(b(), 1, &["T"])).unwrap();
    world.register(3, says_all(a_standby(), 1, &["T"])).unwrap();
    world.register(1, says_all(a(), 1, &["T", "U"])).unwrap();
    world.check();
    let queues = |name: &str| RouteQueues {
        broker_name: name.to_owned(),
        read_queue_count: 4,
        write_queue_count: 4,
        perm: PERM_READ | PERM_WRITE,
        system_flag: 0,
    };
    let address = |id, address: &str| (id, address.to_owned());
    let served = |name: &str, addresses| RouteBroker {
        cluster: "c".to_owned(),
        name: name.to_owned(),
        addresses,
    };
    let brokers = vec![
        served("a", vec![address(0, "10.0.0.1:10911"), address(1, "10.0.0.2:10911")]),
        served("b", vec![address(0, "10.0.0.3:10911")]),
    ];
    let expected = Route { queues: vec![queues("a"), queues("b")], brokers: brokers.clone() };
    assert_eq!(world.route("T"), Ok(expected));
    assert_eq!(world.topics(), ["T", "U"]);
    let info = world.ask(0, NameServerRequest::ClusterInfo);
    assert_eq!(info, Ok(NameServerReply::ClusterInfo(ClusterInfo { brokers })));
}

#[test]
fn a_closed_topic_is_routed_and_one_without_a_master_is_unknown() {
    let mut world = World::default();
    let mut closed = says_all(a(), 1, &["Open"]);
    closed.topics.push(TopicConfig { perm: 0, ..topic("Closed") });
    world.register(1, closed).unwrap();
    world.register(2, says_all(a_standby(), 1, &["OnlyOnStandby"])).unwrap();
    let rows = [("Open", true), ("Closed", true), ("OnlyOnStandby", false), ("Never", false)];
    for (name, is_known) in rows {
        let expected = Err(Refusal::UnknownRoute(name.to_owned()));
        assert_eq!(world.route(name) != expected, is_known, "{name}");
    }
    assert_eq!(world.topics(), ["Closed", "Open"], "the mark is no topic");
}

/// A row: the registrations in order, and the topics that are routed at the end.
#[test]
fn only_a_certainly_complete_table_removes_topics() {
    let rows: [(&str, Vec<Registration>, &[&str]); 7] = [
        ("first is whole", vec![says(a(), 1, &["T", "U"])], &["T", "U"]),
        (
            "a stock broker's change adds",
            vec![says(a(), 1, &["T", "U"]), says(a(), 2, &["V"])],
            &["T", "U", "V"],
        ),
        (
            "a stock broker's shorter table takes nothing",
            vec![says(a(), 1, &["T", "U", "V"]), says(a(), 2, &["T", "U"])],
            &["T", "U", "V"],
        ),
        (
            "our shorter table does",
            vec![says_all(a(), 1, &["T", "U"]), says_all(a(), 2, &["U", "V"])],
            &["U", "V"],
        ),
        ("also the last topic", vec![says_all(a(), 1, &["T"]), says_all(a(), 2, &[])], &[]),
        (
            "an equal version says nothing new",
            vec![says_all(a(), 1, &["T"]), says_all(a(), 1, &[])],
            &["T"],
        ),
        (
            "unless it completes a change",
            vec![says(a(), 1, &["T", "U"]), says(a(), 2, &["V"]), says(a(), 2, &["T", "V", "W"])],
            &["T", "U", "V", "W"],
        ),
    ];
    for (case, registrations, expected) in rows {
        let mut world = World::default();
        for registration in registrations {
            world.register(1, registration).unwrap();
            world.check();
        }
        assert_eq!(world.topics(), expected, "{case}");
    }
}

/// Broker `b` of cluster `c` has topics with the names of others, registered before or after them.
#[test]
fn a_topic_named_after_another_broker_or_cluster_is_not_routed() {
    let elsewhere = BrokerId { cluster: "d".to_owned(), ..broker("e", 0, "10.0.0.5:10911") };
    let taker = says_all(b(), 1, &["a", "d", "d_REPLY_TOPIC", "c", "b", "T"]);
    let owners = [
        says_all(a(), 1, &["a", "c", "c_REPLY_TOPIC"]),
        says_all(elsewhere, 1, &["d", "d_REPLY_TOPIC"]),
    ];
    let [at_a, at_b, at_e] = ["a=0@10.0.0.1:10911", "b=0@10.0.0.3:10911", "e=0@10.0.0.5:10911"];
    for is_first in [true, false] {
        let mut world = World::default();
        if is_first {
            world.register(9, taker.clone()).unwrap();
            assert_eq!(world.served_by("a"), [at_b], "no broker has this name yet");
        }
        for (nth, owner) in owners.iter().enumerate() {
            world.register(nth as u64, owner.clone()).unwrap();
        }
        world.register(9, taker.clone()).unwrap();
        world.check();
        assert_eq!(world.served_by("a"), [at_a]);
        assert_eq!(world.served_by("d"), [at_e]);
        assert_eq!(world.served_by("d_REPLY_TOPIC"), [at_e]);
        assert_eq!(world.served_by("c"), [at_a, at_b], "both are of this cluster");
        assert_eq!(world.served_by("b"), [at_b], "its own name");
        assert_eq!(world.served_by("T"), [at_b]);
        let shadowed = world.routes.shadowed();
        let shadowed: Vec<_> =
            shadowed.iter().map(|(topic, broker)| (topic.as_str(), &**broker)).collect();
        assert_eq!(shadowed, [("a", "b"), ("d", "b"), ("d_REPLY_TOPIC", "b")]);
        let all = ["T", "a", "b", "c", "c_REPLY_TOPIC", "d", "d_REPLY_TOPIC"];
        assert_eq!(world.topics(), all);
        // The owner's table does not have the name.
        world.register(0, says_all(a(), 2, &["c"])).unwrap();
        assert!(world.route("a").is_err());
        assert!(!world.topics().contains(&"a".to_owned()));
        // The hidden topic may be deleted, those of the owners may not.
        let delete = |world: &mut World, topic: &str| {
            let request =
                NameServerRequest::DeleteTopicRoute { topic: topic.into(), cluster: None };
            world.routes.handle(&request, ConnectionId(3), Moment(0)).is_ok()
        };
        assert!(!delete(&mut world, "d") && delete(&mut world, "a"));
        world.register(9, says_all(b(), 2, &["a"])).unwrap();
        // The name is free again.
        world.routes.connection_closed(ConnectionId(0));
        assert_eq!(world.served_by("a"), [at_b]);
        world.check();
    }
}

#[test]
fn a_single_topic_is_no_first_registration_unless_marked_as_all() {
    let mut world = World::default();
    let refused = world.register(1, says(a(), 1, &["T"]));
    assert!(matches!(refused, Err(Refusal::Registration(_))), "{refused:?}");
    assert_eq!(world.routes.counts(), (0, 0));
    world.register(1, says_all(a(), 1, &["T"])).unwrap();
    assert_eq!(world.topics(), ["T"]);
}

#[test]
fn changed_queue_counts_replace_the_old_ones() {
    let mut world = World::default();
    world.register(1, says_all(a(), 1, &["T"])).unwrap();
    let mut wider = says_all(a(), 2, &["T"]);
    wider.topics[0].write_queue_count = 16;
    world.register(1, wider).unwrap();
    assert_eq!(world.route("T").unwrap().queues[0].write_queue_count, 16);
}

#[test]
fn an_address_counts_under_its_latest_id() {
    let mut world = World::default();
    world.register(1, says_all(a(), 1, &["T"])).unwrap();
    world.register(2, says_all(a_standby(), 1, &["T"])).unwrap();
    let promoted = BrokerId { id: 0, ..a_standby() };
    world.register(2, says_all(promoted, 2, &["T"])).unwrap();
    assert_eq!(world.served_by("T"), ["a=0@10.0.0.2:10911"]);
    world.check();
}

#[test]
fn an_older_state_version_does_not_take_a_name_over() {
    let mut world = World::default();
    let mut current = says_all(a(), 1, &["T"]);
    current.version.state_version = 2;
    world.register(1, current).unwrap();
    let impostor = broker("a", 0, "10.0.0.9:10911");
    assert!(world.register(2, says_all(impostor.clone(), 9, &["T"])).is_err());
    let mut successor = says_all(impostor, 9, &["T"]);
    successor.version.state_version = 2;
    world.register(2, successor).unwrap();
    assert_eq!(world.served_by("T"), ["a=0@10.0.0.9:10911"]);
}

#[test]
fn a_leader_that_was_elected_does_not_contest_the_name() {
    let mut world = World::default();
    world.register(1, says_all(a(), 1, &["T"])).unwrap();
    let mut other = says_all(broker("a", 0, "10.0.0.9:10911"), 1, &["T"]);
    assert_eq!(world.routes.contested_by(&other), Some("10.0.0.1:10911"));
    other.version.state_version = 1;
    assert_eq!(world.routes.contested_by(&other), None);
    assert_eq!(world.routes.contested_by(&says_all(a(), 2, &["T"])), None, "itself");
}

#[test]
fn one_name_belongs_to_one_cluster() {
    let mut world = World::default();
    world.register(1, says_all(a(), 1, &["T"])).unwrap();
    let elsewhere = BrokerId { cluster: "d".to_owned(), ..broker("a", 0, "10.0.0.9:10911") };
    assert!(world.register(2, says_all(elsewhere.clone(), 1, &["T"])).is_err());
    let moved = BrokerId { cluster: "d".to_owned(), ..a() };
    world.register(1, says_all(moved, 1, &["T"])).unwrap();
    assert_eq!(world.route("T").unwrap().brokers[0].cluster, "d");
}

#[test]
fn a_lease_ends_unless_it_is_renewed() {
    let renewals: [(&str, Option<NameServerRequest>, bool); 6] = [
        ("nothing", None, false),
        ("registration", Some(NameServerRequest::RegisterBroker(says_all(a(), 1, &["T"]))), true),
        ("heartbeat", Some(NameServerRequest::BrokerHeartbeat { broker: a() }), true),
        ("heartbeat of another", Some(NameServerRequest::BrokerHeartbeat { broker: b() }), false),
        (
            "equal version",
            Some(NameServerRequest::QueryDataVersion { broker: a(), version: version(1) }),
            true,
        ),
        (
            "other version",
            Some(NameServerRequest::QueryDataVersion { broker: a(), version: version(2) }),
            false,
        ),
    ];
    for (case, renewal, is_alive) in renewals {
        let mut world = World::default();
        world.register(1, says_all(a(), 1, &["T"])).unwrap();
        world.now = Moment(MINUTE_MS);
        if let Some(renewal) = renewal {
            world.ask(1, renewal).unwrap();
        }
        assert_eq!(world.routes.expire(Moment(2 * MINUTE_MS - 1)), [], "{case}");
        let gone = world.routes.expire(Moment(2 * MINUTE_MS));
        assert_eq!(gone.is_empty(), is_alive, "{case}");
        assert_eq!(world.route("T").is_ok(), is_alive, "{case}");
        assert_eq!(world.topics().is_empty(), !is_alive, "{case}");
        world.check();
    }
}

#[test]
fn a_broker_may_request_its_own_lease() {
    let rows = [(Some(10_000), 10_000), (Some(0), 1_000), (Some(u64::MAX), 3_600_000)];
    for (lease_ms, lasts_ms) in rows {
        let mut world = World::default();
        world.register(1, Registration { lease_ms, ..says_all(a(), 1, &["T"]) }).unwrap();
        assert_eq!(world.routes.expire(Moment(lasts_ms - 1)), [], "{lease_ms:?}");
        assert_eq!(world.routes.expire(Moment(lasts_ms)), [a()], "{lease_ms:?}");
    }
}

#[test]
fn a_closed_connection_removes_its_brokers() {
    let mut world = World::default();
    world.register(1, says_all(a(), 1, &["T"])).unwrap();
    world.register(1, says_all(b(), 1, &["T"])).unwrap();
    world.register(2, says_all(b(), 1, &["T"])).unwrap();
    assert_eq!(world.routes.connection_closed(ConnectionId(7)), []);
    assert_eq!(world.routes.connection_closed(ConnectionId(1)), [a()]);
    assert_eq!(world.served_by("T"), ["b=0@10.0.0.3:10911"], "b has come over another since");
    assert_eq!(world.routes.connection_closed(ConnectionId(2)), [b()]);
    assert_eq!(world.topics(), [""; 0]);
    world.check();
}

#[test]
fn topics_stay_while_a_standby_lives() {
    let mut world = World::default();
    world.register(1, says_all(a(), 1, &["T"])).unwrap();
    world.register(2, says_all(a_standby(), 1, &["T"])).unwrap();
    assert_eq!(world.ask(1, NameServerRequest::UnregisterBroker(a())), Ok(NameServerReply::Done));
    assert_eq!(world.served_by("T"), ["a=1@10.0.0.2:10911"]);
    assert_eq!(
        world.ask(2, NameServerRequest::UnregisterBroker(a_standby())),
        Ok(NameServerReply::Done)
    );
    assert_eq!(
        world.ask(2, NameServerRequest::UnregisterBroker(a_standby())),
        Ok(NameServerReply::Done)
    );
    assert!(world.route("T").is_err());
    world.check();
}

#[test]
fn a_deleted_route_stays_away_until_the_table_changes() {
    let mut world = World::default();
    let elsewhere = BrokerId { cluster: "d".to_owned(), ..b() };
    world.register(1, says_all(a(), 1, &["T", "U"])).unwrap();
    world.register(2, says_all(elsewhere, 1, &["T"])).unwrap();
    world.delete_route("T", Some("d"));
    assert_eq!(world.served_by("T"), ["a=0@10.0.0.1:10911"]);
    world.delete_route("T", None);
    world.delete_route("Never", None);
    world.check();
    world.register(1, says_all(a(), 1, &["T", "U"])).unwrap();
    assert_eq!(world.topics(), ["U"]);
    world.register(1, says_all(a(), 2, &["T", "U"])).unwrap();
    assert_eq!(world.topics(), ["T", "U"]);
}

#[test]
fn versions_are_compared_with_what_was_applied() {
    let mut world = World::default();
    let ask =
        |counter| NameServerRequest::QueryDataVersion { broker: a(), version: version(counter) };
    let answer = |is_changed, known: Option<i64>| {
        Ok(NameServerReply::DataVersion { is_changed, known: known.map(version) })
    };
    assert_eq!(world.ask(1, ask(1)), answer(true, None));
    world.register(1, says_all(a(), 1, &["T"])).unwrap();
    assert_eq!(world.ask(1, ask(1)), answer(false, Some(1)));
    assert_eq!(world.ask(1, ask(2)), answer(true, Some(1)));
}

#[test]
fn what_exceeds_a_limit_is_refused_and_the_rest_stays() {
    let mut world = World::with(Limits { members_max: 1, entries_max: 2, ..Limits::default() });
    world.register(1, says_all(a(), 1, &["T", "U"])).unwrap();
    assert!(world.register(2, says_all(b(), 1, &[])).is_err(), "one broker too many");
    world.now = Moment(MINUTE_MS);
    assert!(world.register(1, says_all(a(), 2, &["T", "U", "V"])).is_err(), "one topic too many");
    assert_eq!(world.topics(), ["T", "U"]);
    assert_eq!(world.routes.expire(Moment(2 * MINUTE_MS)), [], "the broker itself is alive");
    world.register(1, says_all(a(), 3, &["V", "U"])).unwrap();
    assert_eq!(world.topics(), ["U", "V"], "room is counted after what leaves");
    world.check();
}

/// Brokers share topics, so only the number of distinct topics counts.
#[test]
fn a_topic_beyond_the_limit_is_refused_from_any_broker() {
    let mut world = World::with(Limits { topics_max: 2, ..Limits::default() });
    world.register(1, says_all(a(), 1, &["T", "U"])).unwrap();
    world.register(2, says_all(b(), 1, &["U", "T"])).unwrap();
    assert!(world.register(2, says_all(b(), 2, &["U", "V"])).is_err(), "T stays with a");
    assert_eq!(world.topics(), ["T", "U"]);
    world.register(1, says_all(a(), 2, &["U"])).unwrap();
    world.register(2, says_all(b(), 3, &["U", "V"])).unwrap();
    assert_eq!(world.topics(), ["U", "V"], "room is counted after what leaves");
    world.check();
}

#[test]
fn all_brokers_of_a_topic_hold_one_copy_of_its_name() {
    let mut world = World::default();
    world.register(1, says_all(a(), 1, &["T"])).unwrap();
    world.register(2, says_all(b(), 1, &["T"])).unwrap();
    let names = world.routes.brokers.values().flat_map(|broker| broker.topics.keys());
    let places: Vec<*const u8> = names.map(|name| name.as_str().as_ptr()).collect();
    assert_eq!(places, [places[0]; 2]);
}
