//! The consumer against scripted servers: one broker with one queue, and a NameServer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::*;
use crate::client::blocking::testing::{Scripted, Server, record, route_to};
use crate::model::record::{Host, PROPERTY_RETRY_TOPIC, PROPERTY_TAGS, push_property};
use crate::model::reply::{MemberList, Produced, PullStatus, Pulled};
use crate::model::request::Pull;
use crate::model::{ClientId, LogOffset, NameServerReply, NameServerRequest, Refusal, Reply};

/// What a broker with one queue of topic `T` and one of the retry topic has seen.
#[derive(Clone, Default)]
struct Broker(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Tag and body of each message of `T`; of the retry topic, one message for each that came back.
    messages: Vec<(&'static str, String)>,
    returned: Vec<String>,
    committed: BTreeMap<String, i64>,
    members: Vec<ClientId>,
    heartbeats: usize,
    unregistered: bool,
    /// The first offset that is retained.
    begin: u64,
    /// What it does with messages that are sent back, and with copies of them.
    on_return: OnReturn,
    on_copy: OnReturn,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum OnReturn {
    #[default]
    Takes,
    Refuses,
    /// Takes it, and its reply is lost.
    TakesInSilence,
}

fn group() -> GroupName {
    GroupName::new("g").unwrap()
}

impl Broker {
    fn of(messages: &[(&'static str, &str)]) -> Self {
        let broker = Self::default();
        let owned = messages.iter().map(|(tag, body)| (*tag, (*body).to_owned()));
        broker.0.lock().unwrap().messages = owned.collect();
        broker
    }

    fn serve(&self) -> Server {
        let state = self.0.clone();
        Server::start(move |request, encoding| {
            assert_eq!(encoding, HeaderEncoding::Json, "{request:?}");
            state.lock().unwrap().answer(request)
        })
    }

    fn committed(&self) -> Option<i64> {
        self.0.lock().unwrap().committed.get("T").copied()
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Scripted {
        let reply = match request {
            Request::Heartbeat(heartbeat) => {
                self.heartbeats += 1;
                if !self.members.contains(&heartbeat.client) {
                    self.members.push(heartbeat.client.clone());
                }
                Reply::HeartbeatTaken
            }
            Request::GroupMembers { .. } => {
                Reply::Members(Arc::new(MemberList::new(self.members.clone())))
            }
            Request::CommittedOffset { group, queue, .. } => {
                match self.committed.get(queue.topic.as_str()) {
                    Some(offset) => Reply::Offset(QueueOffset(*offset as u64)),
                    None if self.begin == 0 => Reply::Offset(QueueOffset(0)),
                    None => return Scripted::Give(Err(Refusal::NoOffset(group.clone()))),
                }
            }
            Request::MaxOffset(_) => Reply::Offset(QueueOffset(self.messages.len() as u64)),
            Request::CommitOffset { queue, offset, .. } => {
                self.committed.insert(queue.topic.to_string(), *offset);
                Reply::Done
            }
            Request::SendBack(back) => {
                if self.on_return == OnReturn::Refuses {
                    return Scripted::Give(Err(Refusal::NoMessage(back.offset)));
                }
                let (_, body) = &self.messages[back.offset.0 as usize];
                self.returned.push(body.clone());
                if self.on_return == OnReturn::TakesInSilence {
                    return Scripted::HangUp;
                }
                Reply::Done
            }
            Request::Produce(copy) => {
                assert_eq!(copy.topic.as_str(), "%RETRY%g");
                assert_eq!(copy.reconsume_times, 1);
                if self.on_copy == OnReturn::Refuses {
                    return Scripted::Give(Err(Refusal::DiskFull));
                }
                self.returned.push(String::from_utf8(copy.body.to_vec()).unwrap());
                let (queue, queue_offset) = (QueueId(0), QueueOffset(0));
                let store_host = Host { address: [127, 0, 0, 1], port: 1.into() };
                let positions = smallvec::smallvec![LogOffset(0)];
                Reply::Produced(Produced {
                    queue,
                    queue_offset,
                    positions,
                    store_host,
                    recall_handle: None,
                })
            }
            Request::Unregister { consumer, .. } => {
                self.unregistered |= consumer.as_ref() == Some(&group());
                Reply::Done
            }
            Request::Pull(pull) => return self.pull(pull),
            other => panic!("{other:?}"),
        };
        Scripted::Give(Ok(reply))
    }

    fn pull(&self, pull: &Pull) -> Scripted {
        assert_eq!(pull.group, Some(group()));
        let is_retry = pull.queue.topic.retrying_group().is_some();
        let end = if is_retry { self.returned.len() } else { self.messages.len() } as u64;
        let from = pull.offset as u64;
        let next = end.min(from + u64::from(pull.count_max));
        let status = if next > from { PullStatus::Found } else { PullStatus::NothingNew };
        let records: Vec<u8> = (from..next).flat_map(|offset| self.record(pull, offset)).collect();
        let pulled = Pulled {
            status,
            next_offset: QueueOffset(next),
            min_offset: QueueOffset(self.begin),
            max_offset: QueueOffset(end),
            count: (next - from) as u32,
            read_from: 0,
        };
        Scripted::GiveWith(Reply::Pulled(pulled), records)
    }

    fn record(&self, pull: &Pull, offset: u64) -> Vec<u8> {
        let mut properties = Vec::new();
        let body = match pull.queue.topic.retrying_group() {
            Some(_) => {
                push_property(&mut properties, PROPERTY_RETRY_TOPIC, b"T");
                &self.returned[offset as usize]
            }
            None => {
                let (tag, body) = &self.messages[offset as usize];
                push_property(&mut properties, PROPERTY_TAGS, tag.as_bytes());
                body
            }
        };
        let Pull { queue, .. } = pull;
        record(queue.topic.as_str(), queue.queue, QueueOffset(offset), &properties, body.as_bytes())
    }
}

fn nameserver(broker: &str) -> Server {
    nameserver_of([("b".to_owned(), broker)])
}

fn nameserver_of<'a>(brokers: impl IntoIterator<Item = (String, &'a str)>) -> Server {
    let route = route_to(brokers, 1, 6);
    Server::start_nameserver(move |request| match request {
        NameServerRequest::Route { topic } if topic == "absent" => {
            Scripted::Give(Err(Refusal::UnknownRoute(topic.to_string())))
        }
        _ => Scripted::Give(Ok(NameServerReply::Route(route.clone()))),
    })
}

fn options(nameserver: &Server, tags: &str) -> GroupOptions {
    let client = ClientOptions::new(&*nameserver.address);
    // The servers here never hold a request.
    let options = GroupOptions { hold_ms: 0, count_max: 2, ..GroupOptions::new(client, group()) };
    options.subscribe(TopicName::new("T").unwrap(), tags)
}

/// Polls until `count` messages are there, as `topic:body`; acknowledges with `acknowledge`.
fn receive(
    consumer: &mut GroupConsumer,
    count: usize,
    mut acknowledge: impl FnMut(&mut GroupConsumer, &Batch),
) -> Vec<String> {
    let mut received = Vec::new();
    let deadline = consumer.now().plus_ms(20_000);
    while received.len() < count {
        assert!(consumer.now() < deadline, "{received:?}");
        for event in consumer.poll(50) {
            let GroupEvent::Messages(batch) = event else { panic!("{event:?}") };
            received.extend(batch.messages().map(|message| {
                let message = message.unwrap();
                format!("{}:{}", message.topic, String::from_utf8_lossy(message.body))
            }));
            acknowledge(consumer, &batch);
        }
    }
    received
}

#[test]
fn a_group_receives_everything_and_commits_what_was_acknowledged_when_it_closes() {
    let broker = Broker::of(&[("x", "0"), ("x", "1"), ("x", "2"), ("x", "3"), ("x", "4")]);
    let server = broker.serve();
    let nameserver = nameserver(&server.address);
    let mut consumer = GroupConsumer::join(options(&nameserver, "*")).unwrap();
    let mut left = 3_u64;
    let received = receive(&mut consumer, 5, |consumer, batch| {
        let first = batch.next_offset().0 - batch.messages().count() as u64;
        let upto = batch.next_offset().0.min(first + left);
        consumer.acknowledge_before(batch, QueueOffset(upto));
        left -= upto - first;
    });
    assert_eq!(received, ["T:0", "T:1", "T:2", "T:3", "T:4"]);
    consumer.close().unwrap();
    assert_eq!(broker.committed(), Some(3));
    assert!(broker.0.lock().unwrap().unregistered);

    broker.0.lock().unwrap().members.clear();
    let mut consumer = GroupConsumer::join(options(&nameserver, "*")).unwrap();
    let received = receive(&mut consumer, 2, GroupConsumer::acknowledge);
    assert_eq!(received, ["T:3", "T:4"], "what was not acknowledged comes again");
    consumer.close().unwrap();
    assert_eq!(broker.committed(), Some(5));
}

#[test]
fn nothing_is_handed_out_without_end_if_nothing_is_acknowledged() {
    let many: Vec<(&str, &str)> = vec![("x", "m"); 30];
    let broker = Broker::of(&many);
    let server = broker.serve();
    let nameserver = nameserver(&server.address);
    let mut consumer = GroupConsumer::join(options(&nameserver, "*")).unwrap();
    let mut batches = Vec::new();
    let deadline = consumer.now().plus_ms(20_000);
    while batches.len() < ledger::OPEN_BATCHES_MAX {
        assert!(consumer.now() < deadline);
        batches.extend(consumer.poll(50));
    }
    batches.extend(consumer.poll(50));
    assert_eq!(batches.len(), ledger::OPEN_BATCHES_MAX);
    for event in batches {
        let GroupEvent::Messages(batch) = event else { panic!("{event:?}") };
        consumer.acknowledge(&batch);
    }
    let rest = 30 - 2 * ledger::OPEN_BATCHES_MAX;
    assert_eq!(receive(&mut consumer, rest, GroupConsumer::acknowledge).len(), rest);
}

/// Their hash is the same, so the broker cannot tell them apart: the consumer must.
#[test]
fn only_messages_with_the_subscribed_tags_are_handed_out() {
    let broker = Broker::of(&[("Aa", "no"), ("Aa", "no"), ("BB", "yes"), ("Aa", "no")]);
    let server = broker.serve();
    let nameserver = nameserver(&server.address);
    let mut consumer = GroupConsumer::join(options(&nameserver, "BB || other")).unwrap();
    assert_eq!(receive(&mut consumer, 1, GroupConsumer::acknowledge), ["T:yes"]);
    consumer.close().unwrap();
    assert_eq!(broker.committed(), Some(4), "also what is not for this group");
}

#[test]
fn a_message_that_is_sent_back_comes_again_with_its_own_topic() {
    let broker = Broker::of(&[("x", "poison"), ("x", "good")]);
    let server = broker.serve();
    let nameserver = nameserver(&server.address);
    let mut consumer = GroupConsumer::join(options(&nameserver, "*")).unwrap();
    let mut is_first = true;
    let mut received = receive(&mut consumer, 3, |consumer, batch| {
        let poison = batch.messages().next().unwrap().unwrap();
        if std::mem::take(&mut is_first) {
            consumer.send_back(batch, &poison, 0).unwrap();
        }
        consumer.acknowledge(batch);
    });
    received.sort();
    assert_eq!(received, ["T:good", "T:poison", "T:poison"]);
    consumer.close().unwrap();
    assert_eq!(broker.0.lock().unwrap().committed["%RETRY%g"], 1);
}

/// Remoting reference, 3.6: the consumer sends a copy. After a lost reply the message comes twice.
#[test]
fn a_message_that_its_broker_does_not_take_back_comes_again_all_the_same() {
    for (on_return, count) in [(OnReturn::Refuses, 2), (OnReturn::TakesInSilence, 3)] {
        let broker = Broker::of(&[("x", "poison")]);
        broker.0.lock().unwrap().on_return = on_return;
        let server = broker.serve();
        let nameserver = nameserver(&server.address);
        let mut consumer = GroupConsumer::join(options(&nameserver, "*")).unwrap();
        let mut is_first = true;
        let received = receive(&mut consumer, count, |consumer, batch| {
            let poison = batch.messages().next().unwrap().unwrap();
            if std::mem::take(&mut is_first) {
                consumer.send_back(batch, &poison, 0).unwrap();
            }
            consumer.acknowledge(batch);
        });
        assert_eq!(received, vec!["T:poison"; count], "{on_return:?}");
    }
}

#[test]
fn a_copy_goes_to_another_broker_first_and_to_its_own_if_no_other_takes_it() {
    for (on_copy, expected) in [(OnReturn::Takes, [0, 1]), (OnReturn::Refuses, [1, 0])] {
        let brokers = [Broker::of(&[("x", "poison")]), Broker::of(&[])];
        brokers[0].0.lock().unwrap().on_return = OnReturn::Refuses;
        brokers[1].0.lock().unwrap().on_copy = on_copy;
        let servers = [brokers[0].serve(), brokers[1].serve()];
        let names = ["a", "b"].map(str::to_owned).into_iter();
        let nameserver =
            nameserver_of(names.zip(servers.iter().map(|server| server.address.as_str())));
        let mut consumer = GroupConsumer::join(options(&nameserver, "*")).unwrap();
        receive(&mut consumer, 1, |consumer, batch| {
            let poison = batch.messages().next().unwrap().unwrap();
            consumer.send_back(batch, &poison, 0).unwrap();
        });
        let returned = [0, 1].map(|nth: usize| brokers[nth].0.lock().unwrap().returned.len());
        assert_eq!(returned, expected, "{on_copy:?}");
    }
}

/// The user may not acknowledge the message, and learns why.
#[test]
fn a_message_that_no_broker_takes_in_any_way_is_not_sent_back() {
    let broker = Broker::of(&[("x", "poison")]);
    {
        let state = &mut *broker.0.lock().unwrap();
        (state.on_return, state.on_copy) = (OnReturn::Refuses, OnReturn::Refuses);
    }
    let server = broker.serve();
    let nameserver = nameserver(&server.address);
    let mut consumer = GroupConsumer::join(options(&nameserver, "*")).unwrap();
    receive(&mut consumer, 1, |consumer, batch| {
        let poison = batch.messages().next().unwrap().unwrap();
        let error = consumer.send_back(batch, &poison, 0).unwrap_err();
        assert!(matches!(error, ClientError::Refused { code: SYSTEM_ERROR, .. }), "{error:?}");
    });
    assert_eq!(broker.0.lock().unwrap().returned.len(), 0);
}

#[test]
fn a_lost_connection_is_a_lost_membership_which_is_renewed_at_once() {
    let broker = Broker::of(&[("x", "0")]);
    let server = broker.serve();
    let nameserver = nameserver(&server.address);
    let mut consumer = GroupConsumer::join(options(&nameserver, "*")).unwrap();
    receive(&mut consumer, 1, GroupConsumer::acknowledge);
    let before = broker.0.lock().unwrap().heartbeats;
    server.cut_connections();
    let deadline = consumer.now().plus_ms(20_000);
    while broker.0.lock().unwrap().heartbeats == before {
        assert!(consumer.now() < deadline, "no heartbeat over the new connection");
        consumer.poll(20);
    }
}

#[test]
fn where_a_new_group_begins_in_a_queue_that_has_lost_its_first_message() {
    for (start_at, expected) in [(StartAt::First, 5), (StartAt::Last, 1)] {
        let broker = Broker::of(&[("x", "0"), ("x", "1"), ("x", "2"), ("x", "3")]);
        broker.0.lock().unwrap().begin = 1;
        let server = broker.serve();
        let nameserver = nameserver(&server.address);
        let options = GroupOptions { start_at, ..options(&nameserver, "*") };
        let mut consumer = GroupConsumer::join(options).unwrap();
        let deadline = consumer.now().plus_ms(20_000);
        while !consumer.owned().any(|(queue, at)| queue.topic.as_str() == "T" && at.is_some()) {
            assert!(consumer.now() < deadline);
            for event in consumer.poll(0) {
                if let GroupEvent::Messages(batch) = event {
                    assert_eq!(start_at, StartAt::First, "{batch:?}");
                }
            }
        }
        if start_at == StartAt::Last {
            broker.0.lock().unwrap().messages.push(("x", "4".to_owned()));
            assert_eq!(receive(&mut consumer, expected, GroupConsumer::acknowledge), ["T:4"]);
        }
    }
}

#[test]
fn a_topic_that_does_not_exist_is_an_error_at_once() {
    let server = Broker::of(&[]).serve();
    let nameserver = nameserver(&server.address);
    let options = options(&nameserver, "*").subscribe(TopicName::new("absent").unwrap(), "*");
    let error = GroupConsumer::join(options).err().unwrap();
    assert_eq!(error, ClientError::UnknownTopic("absent".to_owned()));
}

#[test]
fn a_user_with_a_rate_of_its_own_decides_how_much_is_requested() {
    let many: Vec<(&str, &str)> = vec![("x", "m"); 5];
    let broker = Broker::of(&many);
    let server = broker.serve();
    let nameserver = nameserver(&server.address);
    let mut consumer = GroupConsumer::join(options(&nameserver, "*")).unwrap();
    consumer.limit(0);
    let deadline = consumer.now().plus_ms(20_000);
    while consumer.owned().count() < 2 {
        assert!(consumer.now() < deadline);
        assert_eq!(consumer.poll(20).len(), 0);
    }
    assert_eq!(consumer.requested(), Requested::default(), "it is a member that does not pull");
    consumer.limit(1);
    let received = receive(&mut consumer, 5, |consumer, batch| {
        assert_eq!(batch.messages().count(), 1);
        consumer.acknowledge(batch);
    });
    let Requested { all, ended } = consumer.requested();
    assert!(received.len() as u64 <= ended && ended <= all, "{ended} of {all}");
    consumer.limit(0);
    while consumer.requested().ended < all {
        consumer.poll(20);
    }
}
