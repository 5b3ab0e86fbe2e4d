//! Clients: heartbeats, notifications, and requests from the broker to its clients.

use super::*;

/// Remoting reference, 5.23: a new member is notified before it gets its reply, the others a moment
/// later. Members are notified of a change of topics, but not of a change of tags only.
#[test]
fn members_are_notified_when_their_group_changes() {
    sim::run(async {
        let broker = open(&SimDisk::new(65)).await;
        let beat = async |connection: u64, client: &str, topics: &[&str]| {
            let answer = answer_to(&broker, heartbeat(client, topics), &From(connection)).await;
            assert_eq!(answer.reply, Ok(Reply::HeartbeatTaken));
            told(&broker)
        };
        let later = || {
            broker.act(Now { moment: NOW.moment.plus_ms(100), ..NOW });
            told(&broker)
        };
        assert_eq!((beat(1, "a", &["t"]).await, later()), (vec![1], vec![1]));
        assert_eq!((beat(1, "a", &["t"]).await, later()), (vec![], vec![]), "nothing is new");
        assert_eq!((beat(2, "b", &["t"]).await, later()), (vec![2], vec![1, 2]));
        assert_eq!((beat(2, "b", &["t", "u"]).await, later()), (vec![2], vec![1, 2]));
        broker.connection_closed(1, NOW.moment);
        assert_eq!(later(), [2]);
        broker.connection_closed(2, NOW.moment);
        assert_eq!(later(), Vec::<u64>::new(), "nobody is left");
    });
}

/// The broker's requests reach the user of our client unchanged, and a reply reaches the operation
/// that waits for it.
#[test]
fn our_own_client_understands_requests_of_the_broker() {
    sim::run(async {
        let broker = open(&SimDisk::new(66)).await;
        let mut client = Session::default();
        let mut deliver = |broker: &Broker<SimDisk>| {
            let Outgoing { connection, request, call } = broker.take_outgoing().unwrap();
            let mut bytes = Vec::new();
            wire::encode_client_request(
                &mut bytes,
                wire::header::head::Dialect::default(),
                7,
                &request,
            )
            .unwrap();
            client.handle_bytes(&bytes).unwrap();
            let received = client.poll_server_request().unwrap();
            assert_eq!((connection, &received.request), (3, &request));
            (call, received.reply_to)
        };
        let at = BrokerQueue { broker_name: "s00-broker-a".into(), queue: queue("t", 1) };
        let reset = ClientRequest::ResetOffsets(ResetOffsets {
            topic: topic("t"),
            group: group(),
            at: Some(NOW.wall),
            is_forced: true,
            offsets: vec![(at.clone(), 41)],
        });
        for one_way in [ClientRequest::MembersChanged { group: group() }, reset] {
            assert!(broker.notify_client(3, one_way));
            assert_eq!(deliver(&broker).0, None);
        }

        let status = ClientRequest::ConsumerStatus { topic: topic("t"), group: group() };
        let until = NOW.moment.plus_ms(500);
        let mut answered = pin!(broker.call_client(3, status.clone(), until));
        let mut late = pin!(broker.call_client(3, status.clone(), until));
        let mut lost = pin!(broker.call_client(4, status, until));
        for call in [&mut answered, &mut late] {
            assert!(poll_once(call).await.is_none());
        }
        let (call, _) = deliver(&broker);
        deliver(&broker);
        assert!(poll_once(&mut lost).await.is_none());
        let reply = ClientReply::ConsumerStatus(vec![(at, 41)]);
        broker.reply_arrived(call.unwrap(), Ok(reply.clone()));
        assert_eq!(poll_once(&mut answered).await, Some(Ok(reply)));
        broker.connection_closed(4, NOW.moment);
        assert_eq!(poll_once(&mut lost).await, Some(Err(CallError::Closed)));
        broker.act(Now { moment: until, ..NOW });
        assert_eq!(poll_once(&mut late).await, Some(Err(CallError::TimedOut)));
    });
}

/// Remoting reference, 3.9.
#[test]
fn a_reply_is_handed_to_the_client_that_waits_for_it() {
    sim::run(async {
        let broker = open(&SimDisk::new(63)).await;
        let waiting = Produce {
            properties: Bytes::from_static(b"REPLY_TO_CLIENT\x01asker\x02CORRELATION_ID\x017\x02"),
            ..produce("t", 0, "A", b"question")
        };
        send(&broker, waiting.clone()).await.unwrap();
        let stored = answer(&broker, Request::Pull(pull("t", 0, 0))).await;
        let record = RecordView::parse(&stored.chunks[0]).unwrap();
        assert_eq!(property(record.properties, "CLUSTER"), Some(&b"DefaultCluster"[..]));
        let properties = [&waiting.properties[..], b"DELAY\x011\x02"].concat().into();
        let delayed = Request::Produce(Produce { properties, ..waiting.clone() });
        let Outcome::Committed { reply: Reply::Produced(produced), .. } = ask(&broker, delayed)
        else {
            panic!()
        };
        commit(&broker).await;
        let pending = Request::MessageByOffset { offset: produced.positions[0] };
        let pending = answer(&broker, pending).await;
        let record = RecordView::parse(&pending.chunks[0]).unwrap();
        assert_eq!(property(record.properties, "CLUSTER"), Some(&b"DefaultCluster"[..]));
        let reply_topic = topic("DefaultCluster_REPLY_TOPIC");
        let routed = broker.published_topics().1.into_iter().find(|one| one.name == reply_topic);
        assert_eq!(routed, Some(TopicConfig::new(reply_topic.clone(), 1)));

        let reply = Request::SendReply(Produce { topic: reply_topic, ..waiting });
        let refused = answer(&broker, reply.clone()).await.reply;
        assert!(matches!(refused, Err(Refusal::NoRequester { .. })), "{refused:?}");
        let beat = Heartbeat {
            client: "asker".into(),
            producers: vec![GroupName::new("askers").unwrap()],
            ..Heartbeat::default()
        };
        broker.operate(&Request::Heartbeat(beat), &From(9)).await.reply.unwrap();
        for (confirmation, is_taken) in
            [(Ok(ClientReply::Done), true), (Err(CallError::TimedOut), false)]
        {
            let mut sent = pin!(broker.operate(&reply, &Here));
            assert!(poll_once(&mut sent).await.is_none());
            let outgoing = broker.take_outgoing().unwrap();
            assert_eq!(outgoing.connection, 9);
            let ClientRequest::PushReply(pushed) = outgoing.request else { panic!() };
            let properties = &pushed.message.properties;
            assert!(property(properties, "PUSH_REPLY_TIME").is_some());
            assert_eq!(property(properties, "CORRELATION_ID"), Some(&b"7"[..]));
            broker.reply_arrived(outgoing.call.unwrap(), confirmation);
            let answered = poll_once(&mut sent).await.unwrap().reply;
            assert_eq!(answered.is_ok(), is_taken, "{answered:?}");
        }
    });
}

/// Returns the next request that expects a reply.
fn next_call(broker: &Broker<SimDisk>) -> Option<Outgoing> {
    std::iter::from_fn(|| broker.take_outgoing()).find(|outgoing| outgoing.call.is_some())
}

/// Remoting reference, 3.12: 307 and 309.
#[test]
fn an_operator_asks_the_members_of_a_group() {
    sim::run(async {
        let broker = open(&SimDisk::new(67)).await;
        for (connection, client) in [(1, "a"), (2, "b"), (3, "b")] {
            answer_to(&broker, heartbeat(client, &["t"]), &From(connection)).await.reply.unwrap();
        }
        let info = |client: &str| RunningInfo {
            group: group(),
            client: client.to_owned().into(),
            with_stacks: false,
        };
        let asked = Request::RunningInfo(info("b"));
        let said = Bytes::from_static(b"{of: b}");
        let refused = CallError::Refused { code: 1, remark: "no".into() };
        for (reply, expected) in [
            (Some(Ok(ClientReply::Relayed(said.clone()))), Ok(Reply::Relayed(said))),
            (Some(Ok(ClientReply::Done)), Err(2017)),
            (Some(Err(refused)), Err(3015)),
            (None, Err(3016)),
        ] {
            let mut asking = pin!(broker.operate(&asked, &Here));
            assert!(poll_once(&mut asking).await.is_none());
            let outgoing = next_call(&broker).unwrap();
            assert_eq!(outgoing.connection, 3, "its latest");
            assert_eq!(outgoing.request, ClientRequest::RunningInfo(info("b")));
            match reply {
                Some(reply) => broker.reply_arrived(outgoing.call.unwrap(), reply),
                None => _ = broker.act(Now { moment: NOW.moment.plus_ms(10_000), ..NOW }),
            }
            let reply = poll_once(&mut asking).await.unwrap().reply;
            assert_eq!(reply.map_err(|refusal| refusal.number()), expected);
        }
        let no_operation = broker.operate(&Request::Pull(pull("t", 0, 0)), &Here).await.reply;
        assert_eq!(no_operation.unwrap_err().number(), 2017);
        let absent = answer(&broker, Request::RunningInfo(info("c"))).await.reply;
        assert_eq!(absent.unwrap_err().number(), 3015);

        send(&broker, produce("t", 0, "A", b"consume me")).await.unwrap();
        let stored = answer(&broker, Request::Pull(pull("t", 0, 0))).await;
        let record = Bytes::copy_from_slice(&stored.chunks[0]);
        let what = |offset| ConsumeDirectly {
            group: group(),
            client: "a".into(),
            message_id: "id".into(),
            offset,
        };
        let none = answer(&broker, Request::ConsumeDirectly(what(LogOffset(1)))).await.reply;
        assert_eq!(none, Err(Refusal::NoMessage(LogOffset(1))));
        let what = what(RecordView::parse(&record).unwrap().physical_offset);
        let asked = Request::ConsumeDirectly(what.clone());
        let mut consuming = pin!(broker.operate(&asked, &Here));
        let outgoing = loop {
            assert!(poll_once(&mut consuming).await.is_none());
            if let Some(outgoing) = next_call(&broker) {
                break outgoing;
            }
        };
        let broker_name = "s00-broker-a".into();
        let expected = ClientRequest::ConsumeDirectly { what, broker_name, record };
        assert_eq!((outgoing.connection, outgoing.request), (1, expected));
    });
}

/// Otherwise `n` outstanding calls would cost `n * n` wake-ups.
#[test]
fn a_call_is_woken_by_its_own_reply_and_by_its_own_client_only() {
    sim::run(async {
        let broker = open(&SimDisk::new(67)).await;
        let name = |nth: u64| format!("c{nth}");
        for nth in 0..20 {
            let beat = heartbeat(&name(nth), &["t"]);
            answer_to(&broker, beat, &From(nth)).await.reply.unwrap();
        }
        let asked: Vec<Request> = (0..20)
            .map(|nth| {
                let client = name(nth).into();
                Request::RunningInfo(RunningInfo { group: group(), client, with_stacks: false })
            })
            .collect();
        let ask = |request| Watched::new(broker.operate(request, &Here));
        let mut asking: Vec<_> = asked.iter().map(ask).collect();
        assert!(asking.iter_mut().all(|one| one.poll().is_none()));
        let calls: Vec<Outgoing> = std::iter::from_fn(|| next_call(&broker)).collect();
        assert_eq!(calls.len(), 20);

        let said = ClientReply::Relayed(Bytes::from_static(b"{}"));
        broker.reply_arrived(calls[3].call.unwrap(), Ok(said.clone()));
        let mut expected = vec![3];
        assert_eq!(woken(&asking), expected, "by the reply");
        broker.connection_closed(5, NOW.moment);
        expected.push(5);
        assert_eq!(woken(&asking), expected, "by the end of the connection");
        let leaving =
            Request::Unregister { client: name(7).into(), producer: None, consumer: Some(group()) };
        answer_to(&broker, leaving, &From(7)).await.reply.unwrap();
        expected.push(7);
        assert_eq!(woken(&asking), expected, "because the client has left the group");
        answer_to(&broker, heartbeat(&name(9), &["t"]), &From(100)).await.reply.unwrap();
        expected.push(9);
        assert_eq!(woken(&asking), expected, "because the client uses another connection");
        answer_to(&broker, heartbeat("another", &["t"]), &From(101)).await.reply.unwrap();
        answer(&broker, Request::MaxOffset(queue("t", 0))).await;
        assert_eq!(woken(&asking), expected, "others do not matter");
        for nth in expected {
            let reply = asking[nth].poll().expect("it has ended").reply;
            assert_eq!(reply.is_ok(), nth == 3, "{reply:?}");
            assert_eq!(asking[nth].wakes(), 1);
        }
        assert!(asking[0].poll().is_none());
    });
}

/// The members are asked concurrently, and one that does not reply does not hold up the others.
#[test]
fn members_that_do_not_say_where_they_are_are_left_out() {
    sim::run(async {
        let broker = open(&SimDisk::new(68)).await;
        let asked = |client| Request::ConsumerStatus { topic: topic("t"), group: group(), client };
        let nobody = answer(&broker, asked(None)).await.reply;
        assert_eq!(nobody, Err(Refusal::NoConsumer(group())));
        for (connection, client) in [(1, "a"), (2, "b"), (3, "c")] {
            answer_to(&broker, heartbeat(client, &["t"]), &From(connection)).await.reply.unwrap();
        }
        let at = BrokerQueue { broker_name: "s00-broker-a".into(), queue: queue("t", 1) };
        let offsets = vec![(at, 41)];
        let question = ClientRequest::ConsumerStatus { topic: topic("t"), group: group() };
        for (client, connections) in [(None, vec![1, 2, 3]), (Some("b".into()), vec![2])] {
            let request = asked(client);
            let mut asking = pin!(broker.operate(&request, &Here));
            assert!(poll_once(&mut asking).await.is_none());
            let sent: Vec<Outgoing> = std::iter::from_fn(|| next_call(&broker)).collect();
            let to: Vec<u64> = sent.iter().map(|outgoing| outgoing.connection).collect();
            assert_eq!(to, connections);
            for outgoing in sent.into_iter().filter(|outgoing| outgoing.connection > 1) {
                assert_eq!(outgoing.request, question);
                let reply = ClientReply::ConsumerStatus(offsets.clone());
                broker.reply_arrived(outgoing.call.unwrap(), Ok(reply));
            }
            broker.act(Now { moment: NOW.moment.plus_ms(3_000), ..NOW });
            let reply = poll_once(&mut asking).await.unwrap().reply;
            let heard = |client: &&str| connections.len() > 1 || *client == "b";
            let of = |client: &str| (client.to_owned().into(), offsets.clone());
            let expected = ["b", "c"].iter().copied().filter(heard).map(of).collect();
            assert_eq!(reply, Ok(Reply::ConsumerStatus(expected)));
        }
    });
}
