use std::sync::atomic::AtomicUsize;

use super::*;
use crate::client::blocking::testing::{Scripted, Server, dead_address, until};
use crate::model::nameserver::RouteBroker;
use crate::model::{NameServerReply, Refusal, TopicConfig, TopicName};

/// The requests that a NameServer got, in order: `+name:topics`, `-name`, and `?name` when it was
/// asked whether it knows the table, which it does.
type Told = Arc<Mutex<Vec<String>>>;

fn note(told: &Told, request: &NameServerRequest) -> Scripted<NameServerReply> {
    let line = match request {
        NameServerRequest::RegisterBroker(registration) => {
            let topics: Vec<&str> =
                registration.topics.iter().map(|topic| topic.name.as_str()).collect();
            format!("+{}:{}", registration.broker.name, topics.join(","))
        }
        NameServerRequest::UnregisterBroker(broker) => format!("-{}", broker.name),
        NameServerRequest::QueryDataVersion { broker, version } => {
            told.lock().unwrap().push(format!("?{}", broker.name));
            let known = NameServerReply::DataVersion { is_changed: false, known: Some(*version) };
            return Scripted::Give(Ok(known));
        }
        NameServerRequest::ClusterInfo => {
            return Scripted::Give(Ok(NameServerReply::ClusterInfo(ClusterInfo::default())));
        }
        other => panic!("{other:?}"),
    };
    told.lock().unwrap().push(line);
    Scripted::Give(Ok(NameServerReply::Registered))
}

fn nameserver() -> (Server, Told) {
    let told = Told::default();
    let noted = told.clone();
    (Server::start_nameserver(move |request| note(&noted, request)), told)
}

fn lines(told: &Told) -> Vec<String> {
    told.lock().unwrap().clone()
}

fn topic(name: &str) -> TopicConfig {
    TopicConfig::new(TopicName::new(name.to_owned()).unwrap(), 4)
}

fn shard(name: &str, topics: &[&str]) -> Registration {
    Registration {
        broker: BrokerId {
            cluster: "c".to_owned(),
            name: name.to_owned(),
            address: "10.0.0.1:10911".to_owned(),
            id: 0,
        },
        ha_address: String::new(),
        lease_ms: None,
        version: DataVersion::default(),
        topics: topics.iter().map(|name| topic(name)).collect(),
        skipped: Vec::new(),
        misnamed: Vec::new(),
    }
}

fn options(nameservers: &[&str]) -> RegistrarOptions {
    RegistrarOptions {
        backoff_ms: 5,
        backoff_max_ms: 20,
        watch_ms: 10,
        ..RegistrarOptions::new(nameservers.join(";"))
    }
}

fn next_report(registrar: &Registrar) -> Report {
    registrar.reports().recv_timeout(Duration::from_secs(20)).unwrap()
}

#[test]
fn every_nameserver_is_told_of_every_shard_and_every_change() {
    let ((a, told_a), (b, told_b)) = (nameserver(), nameserver());
    let shards = vec![shard("s0", &["T"]), shard("s1", &[])];
    let options = options(&[&a.address, &b.address]);
    let registrar = Registrar::start(&options, shards).unwrap();
    let first = ["+s0:T,SELF_TEST_TOPIC", "+s1:SELF_TEST_TOPIC"];
    for told in [&told_a, &told_b] {
        until("both shards are registered", || lines(told) == first);
    }
    for _ in 0..2 {
        assert_eq!(next_report(&registrar).state, State::Registered);
    }
    registrar.publisher().publish(vec![shard("s1", &["T", "U"])]);
    let change = ["-s0", "+s1:T,U,SELF_TEST_TOPIC"];
    for told in [&told_a, &told_b] {
        until("the change is known", || lines(told)[2..] == change);
    }
    registrar.stop();
    for told in [&told_a, &told_b] {
        assert_eq!(lines(told)[4..], ["-s1"]);
    }
}

#[test]
fn leases_are_renewed() {
    let (server, told) = nameserver();
    let options = RegistrarOptions { period_ms: 10, ..options(&[&server.address]) };
    let registrar = Registrar::start(&options, vec![shard("s0", &[])]).unwrap();
    until("it is asked twice", || lines(&told).len() >= 3);
    assert_eq!(lines(&told)[..3], ["+s0:SELF_TEST_TOPIC", "?s0", "?s0"]);
    registrar.stop();
}

/// However many topics the table has, a NameServer that has it is sent only the new one.
#[test]
fn a_change_is_all_that_is_told_of() {
    let (server, told) = nameserver();
    let names: Vec<String> = (0..1_000).map(|number| format!("t{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let shards = vec![shard("s0", &names), shard("s1", &names)];
    let registrar = Registrar::start(&options(&[&server.address]), shards).unwrap();
    assert_eq!(registrar.wait_registered(20_000), Ok(()));
    assert!(lines(&told).iter().all(|line| line.ends_with("SELF_TEST_TOPIC")));
    let version = DataVersion { counter: 1, ..DataVersion::default() };
    let publisher = registrar.publisher();
    let receipt = publisher.change(1, version, vec![TopicChange::Set(topic("new"))]);
    until("it is delivered", || is_delivered(&receipt));
    assert_eq!(lines(&told)[2..], ["+s1:new"]);
    let gone = TopicChange::Removed(topic("t7").name);
    let receipt = publisher.change(0, version, vec![gone]);
    until("it is delivered", || is_delivered(&receipt));
    let whole = lines(&told).pop().unwrap();
    assert!(whole.starts_with("+s0:t0,") && whole.ends_with("SELF_TEST_TOPIC"), "{whole}");
    assert!(!whole.contains("t7,") && whole.contains("t999,"), "{whole}");
    registrar.stop();
}

/// The NameServer has let the lease expire, or lost a change.
#[test]
fn one_that_does_not_know_the_table_is_told_all_of_it() {
    let told = Told::default();
    let noted = told.clone();
    let server = Server::start_nameserver(move |request| match request {
        NameServerRequest::QueryDataVersion { .. } => {
            let known = NameServerReply::DataVersion { is_changed: true, known: None };
            Scripted::Give(Ok(known))
        }
        other => note(&noted, other),
    });
    let options = RegistrarOptions { period_ms: 10, ..options(&[&server.address]) };
    let registrar = Registrar::start(&options, vec![shard("s0", &["T"])]).unwrap();
    until("it is told twice", || lines(&told).len() >= 2);
    assert_eq!(lines(&told)[..2], ["+s0:T,SELF_TEST_TOPIC", "+s0:T,SELF_TEST_TOPIC"]);
    registrar.stop();
}

#[test]
fn a_nameserver_that_comes_back_is_told_at_once() {
    let (server, told) = nameserver();
    let address = server.address.clone();
    let registrar = Registrar::start(&options(&[&address]), vec![shard("s0", &[])]).unwrap();
    assert_eq!(next_report(&registrar).state, State::Registered);
    drop(server);
    let report = next_report(&registrar);
    assert!(matches!(report.state, State::Failing(_)), "{report:?}");
    let before = lines(&told).len();
    // What changes meanwhile is registered once it is back.
    registrar.publisher().publish(vec![shard("s0", &["T"])]);
    let noted = told.clone();
    let _server = Server::start_nameserver_at(&address, move |request| note(&noted, request));
    until("it is told", || lines(&told).len() > before);
    assert_eq!(lines(&told)[before..], ["+s0:T,SELF_TEST_TOPIC"]);
    until("and the registrar says so", || next_report(&registrar).state == State::Registered);
    registrar.stop();
}

#[test]
fn one_nameserver_that_is_gone_does_not_concern_the_others() {
    let (server, told) = nameserver();
    let gone = dead_address();
    let options = options(&[&gone, &server.address]);
    let registrar = Registrar::start(&options, vec![shard("s0", &[])]).unwrap();
    until("the other one is told", || !lines(&told).is_empty());
    let mut reports = [next_report(&registrar), next_report(&registrar)];
    reports.sort_by_key(|report| report.nameserver == gone);
    assert_eq!(reports[0].state, State::Registered);
    assert!(matches!(reports[1].state, State::Failing(_)), "{reports:?}");
    registrar.stop();
}

/// Otherwise a starting broker, and every topic change, would wait for dead NameServers.
#[test]
fn a_receipt_does_not_wait_for_a_nameserver_that_is_gone() {
    let (server, told) = nameserver();
    let options = options(&[&dead_address(), &server.address]);
    let registrar = Registrar::start(&options, Vec::new()).unwrap();
    let receipt = registrar.publisher().publish(vec![shard("s0", &[])]);
    until("it is delivered", || is_delivered(&receipt));
    assert!(!lines(&told).is_empty(), "not before the other one knows");
    registrar.stop();
}

fn is_delivered(receipt: &Receipt) -> bool {
    receipt.0.iter().all(|delivery| delivery.done.is_disconnected())
}

/// It accepts connections and requests, and never replies. Otherwise every topic change would wait
/// for it again.
#[test]
fn a_nameserver_that_hangs_is_waited_for_once() {
    let (server, told) = nameserver();
    let asked = Arc::new(AtomicBool::new(false));
    let note_asked = asked.clone();
    let hanging = Server::start_nameserver(move |_| {
        note_asked.store(true, Ordering::SeqCst);
        Scripted::Silence
    });
    let options = RegistrarOptions {
        call_timeout_ms: 60_000,
        ..options(&[&hanging.address, &server.address])
    };
    let registrar = Registrar::start(&options, Vec::new()).unwrap();
    let receipt = registrar.publisher().publish(vec![shard("s0", &[])]);
    let [to_hanging, to_other] = &receipt.0[..] else { panic!("two are told") };
    until("the other one knows", || to_other.done.is_disconnected());
    until("it is asked", || asked.load(Ordering::SeqCst));
    assert!(!to_hanging.done.is_disconnected(), "it may still answer");
    receipt.give_up();
    let receipt = registrar.publisher().publish(vec![shard("s0", &["T"])]);
    until("it is delivered", || is_delivered(&receipt));
    assert_eq!(lines(&told).len(), 2, "not before the other one knows");
    drop(hanging);
    registrar.stop();
}

/// A retry, which may take as long as a call, does not make a topic change wait either.
#[test]
fn a_nameserver_that_failed_is_not_waited_for_until_it_has_answered() {
    let is_silent = Arc::new(AtomicBool::new(true));
    let (silent, told) = (is_silent.clone(), Told::default());
    let noted = told.clone();
    let server = Server::start_nameserver(move |request| match silent.load(Ordering::SeqCst) {
        true => Scripted::Silence,
        false => note(&noted, request),
    });
    let options = RegistrarOptions { call_timeout_ms: 50, ..options(&[&server.address]) };
    let registrar = Registrar::start(&options, vec![shard("s0", &[])]).unwrap();
    assert!(matches!(next_report(&registrar).state, State::Failing(_)));
    assert!(is_delivered(&registrar.publisher().publish(vec![shard("s0", &["T"])])));

    is_silent.store(false, Ordering::SeqCst);
    assert_eq!(next_report(&registrar).state, State::Registered);
    let receipt = registrar.publisher().publish(vec![shard("s0", &["T", "U"])]);
    until("it is delivered", || is_delivered(&receipt));
    assert_eq!(lines(&told).last().unwrap(), "+s0:T,U,SELF_TEST_TOPIC");
    registrar.stop();
}

#[test]
fn a_start_waits_for_one_nameserver_and_for_so_long() {
    let (server, _told) = nameserver();
    let gone = dead_address();
    let shards = vec![shard("s0", &[])];
    let some = options(&[&gone, &server.address]);
    let registrar = Registrar::start(&some, shards.clone()).unwrap();
    assert_eq!(registrar.wait_registered(20_000), Ok(()));
    registrar.stop();
    let registrar = Registrar::start(&options(&[&gone]), shards).unwrap();
    let failing = registrar.wait_registered(1_000).unwrap_err();
    assert_eq!(failing.len(), 1, "{failing:?}");
    assert_eq!(failing[0].nameserver, gone);
    registrar.stop();
}

#[test]
fn a_refusal_is_reported_in_the_nameservers_words() {
    let refusal = || Refusal::Registration("no room".to_owned());
    let server = Server::start_nameserver(move |_| Scripted::Give(Err(refusal())));
    let registrar = Registrar::start(&options(&[&server.address]), vec![shard("s0", &[])]).unwrap();
    let State::Failing(error) = next_report(&registrar).state else { panic!("it was refused") };
    assert!(error.to_string().contains("no room"), "{error}");
    registrar.stop();
}

#[test]
fn nobody_to_register_is_no_success() {
    let (server, told) = nameserver();
    let registrar = Registrar::start(&options(&[&server.address]), Vec::new()).unwrap();
    assert_eq!(registrar.wait_registered(100), Err(Vec::new()));
    registrar.publisher().publish(vec![shard("s0", &[])]);
    assert_eq!(registrar.wait_registered(20_000), Ok(()));
    assert_eq!(lines(&told), ["+s0:SELF_TEST_TOPIC"]);
    registrar.stop();
}

/// A thread that is behind finds only the newest order, and nothing supersedes Stop.
#[test]
fn orders_do_not_pile_up() {
    let (put, take) = flume::bounded(1);
    let slot = Slot { put, take: take.clone(), is_prompt: Arc::new(AtomicBool::new(true)) };
    let publisher = Publisher { tables: Arc::default(), slots: vec![slot] };
    for topic in ["A", "B", "C"] {
        publisher.publish(vec![shard("s0", &[topic])]);
    }
    let Ok(Order::Register(waiting)) = take.try_recv() else { panic!("tables were published") };
    assert_eq!(waiting.len(), 3);
    let (Update::Whole(table), _) = newest(&publisher.tables)[0].update(None) else {
        panic!("all")
    };
    assert_eq!(table.topics[0].name.as_str(), "C");
    assert!(take.is_empty());
    publisher.slots[0].order(Order::Stop);
    publisher.publish(vec![shard("s0", &[])]);
    assert!(matches!(take.try_recv(), Ok(Order::Stop)));
}

/// The NameServer accepts each of them in turn, so clients reach sometimes one, sometimes the
/// other.
#[test]
fn a_broker_of_the_same_name_is_reported_once_while_it_is_there() {
    let registered_at = Arc::new(Mutex::new("10.0.0.2:10911".to_owned()));
    let (there, looks) = (registered_at.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = looks.clone();
    let server = Server::start_nameserver(move |request| match request {
        NameServerRequest::ClusterInfo => {
            counted.fetch_add(1, Ordering::SeqCst);
            let addresses = vec![(0, there.lock().unwrap().clone())];
            let (cluster, name) = ("c".to_owned(), "s0".to_owned());
            let broker = RouteBroker { cluster, name, addresses };
            Scripted::Give(Ok(NameServerReply::ClusterInfo(ClusterInfo { brokers: vec![broker] })))
        }
        _ => Scripted::Give(Ok(NameServerReply::Registered)),
    });
    let options = RegistrarOptions { period_ms: 10, ..options(&[&server.address]) };
    let shards = vec![shard("s0", &[]), shard("s1", &[])];
    let registrar = Registrar::start(&options, shards).unwrap();
    let look_again = |count| {
        let before = looks.load(Ordering::SeqCst);
        until("it looks again", || looks.load(Ordering::SeqCst) >= before + count);
    };
    let rival =
        |address: &str| Rival { name: "s0".to_owned(), address: format!("10.0.0.{address}:10911") };
    assert_eq!(next_report(&registrar).state, State::Contested(rival("2")));
    assert_eq!(next_report(&registrar).state, State::Registered);
    look_again(3);
    *registered_at.lock().unwrap() = shard("s0", &[]).broker.address;
    look_again(2);
    *registered_at.lock().unwrap() = rival("3").address;
    assert_eq!(next_report(&registrar).state, State::Contested(rival("3")));
    registrar.stop();
}

/// A broker with our name at another address alternates with us in the route; one with another name
/// at our address, such as one left behind by an earlier release of this broker, makes clients read
/// queues twice.
#[test]
fn rivals_have_our_name_or_our_address() {
    let broker = |name: &str, addresses: &[(u64, &str)]| RouteBroker {
        cluster: "c".to_owned(),
        name: name.to_owned(),
        addresses: addresses.iter().map(|(id, address)| (*id, (*address).to_owned())).collect(),
    };
    let ours = shard("s00-a", &[]);
    let at = ours.broker.address.as_str();
    let rows = [
        (broker("s00-a", &[(0, at)]), None),
        (broker("s00-a", &[(0, "10.0.0.2:1")]), Some("s00-a at 10.0.0.2:1")),
        (broker("s00-a", &[(1, "10.0.0.2:1")]), None),
        (broker("a-00", &[(0, at)]), Some("a-00 at 10.0.0.1:10911")),
        (broker("s00-b", &[(0, "10.0.0.2:1")]), None),
    ];
    for (registered, expected) in rows {
        let info = ClusterInfo { brokers: vec![registered] };
        let found = rivals(&[Table::new(ours.clone())], &info);
        let found: Vec<String> =
            found.iter().map(|rival| format!("{} at {}", rival.name, rival.address)).collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{info:?}");
    }
}
