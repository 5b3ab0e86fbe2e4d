//! Topics: permissions, queues that are removed and return, repeated changes.

use super::*;

/// The broker checks permissions: writing needs bit 2, reading bit 4.
#[test]
fn permissions_of_a_topic_are_enforced() {
    sim::run(async {
        for (perm, may_write, may_read) in
            [(0, false, false), (2, true, false), (4, false, true), (6, true, true)]
        {
            let broker = open(&SimDisk::new(61)).await;
            let open_topic = TopicConfig::new(topic("t"), 2);
            set_topic(&broker, open_topic.clone()).await;
            send(&broker, produce("t", 0, "A", b"before")).await.unwrap();
            set_topic(&broker, TopicConfig { perm, ..open_topic }).await;
            let fixed = Request::ProduceRecords(records(&produce("t", 0, "A", b"fixed")));
            let stored = [
                send(&broker, produce("t", 0, "A", b"x")).await,
                send_request(&broker, fixed).await,
            ];
            for stored in stored {
                let refused = stored.as_ref().err() == Some(&Refusal::NotWritable(topic("t")));
                assert_eq!(
                    (stored.is_ok(), refused),
                    (may_write, !may_write),
                    "{perm}: {stored:?}"
                );
            }
            let pulled = answer(&broker, Request::Pull(pull("t", 0, 0))).await.reply;
            let refused = pulled.as_ref().err() == Some(&Refusal::NotReadable(topic("t")));
            assert_eq!((pulled.is_ok(), refused), (may_read, !may_read), "{perm}: {pulled:?}");
        }
    });
}

#[test]
fn messages_of_a_removed_queue_return_with_it() {
    sim::run(async {
        let disk = SimDisk::new(26);
        let broker = open(&disk).await;
        let with = |count| TopicConfig::new(topic("t"), count);
        set_topic(&broker, with(4)).await;
        for _ in 0..5 {
            send(&broker, produce("t", 3, "A", b"kept")).await.unwrap();
        }
        set_topic(&broker, with(2)).await;
        broker.maintain(NOW, true).await.unwrap();
        let broker = open(&disk).await;
        set_topic(&broker, with(4)).await;
        assert_eq!(read_all(&broker, "t", 3).await.len(), 5);
    });
}

/// A reply that a topic exists, or is deleted, is reliable even if another client requested the
/// same a moment ago.
#[test]
fn repeated_changes_of_a_topic_are_acknowledged_when_durable() {
    sim::run(async {
        let broker = open(&SimDisk::new(27)).await;
        let set = Request::UpdateTopic(TopicConfig::new(topic("t"), 4));
        let delete = Request::DeleteTopic { topic: topic("t") };
        for request in [set.clone(), set, delete.clone(), delete] {
            let (mut first, mut again) =
                (pin!(broker.operate(&request, &Here)), pin!(broker.operate(&request, &Here)));
            let is_new = poll_once(&mut first).await.is_none();
            assert_eq!(is_new, broker.store().committed() < broker.store().end());
            // The entry with that change may not be committed yet.
            let early = poll_once(&mut again).await;
            assert_eq!(early.is_none(), is_new);
            commit(&broker).await;
            for operation in [&mut first, &mut again].into_iter().filter(|_| is_new) {
                let answer = poll_once(operation).await.expect("all is committed");
                assert_eq!(answer.reply, Ok(Reply::Done));
            }
        }
    });
}
