//! Clients: heartbeats, notifications, and requests of the broker to its clients.

use super::*;

/// Remoting reference, 5.23: a newcomer is notified before its reply, the others a moment later. A
/// change of topics is notified, a change of only tags is not.
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
