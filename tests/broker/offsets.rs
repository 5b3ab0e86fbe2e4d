//! Consume offsets: where groups start, and how commits are logged.

use super::*;

/// Remoting reference, 5.6.
#[test]
fn a_new_group_begins_at_the_first_message_and_a_known_one_at_its_offset() {
    sim::run(async {
        let broker = open(&SimDisk::new(5)).await;
        send(&broker, produce("t", 0, "A", b"one")).await.unwrap();
        let query = |zero_if_missing| Request::CommittedOffset {
            group: group(),
            queue: queue("t", 0),
            zero_if_missing,
        };
        let missing = Err(Refusal::NoOffset(group()));
        assert_eq!(answer(&broker, query(true)).await.reply, Ok(Reply::Offset(QueueOffset(0))));
        assert_eq!(answer(&broker, query(false)).await.reply, missing);
        for (offset, expected) in [(1, 1), (-1, 1), (0, 0)] {
            let request = Request::CommitOffset { group: group(), queue: queue("t", 0), offset };
            assert_eq!(answer(&broker, request).await.reply, Ok(Reply::Done));
            let found = answer(&broker, query(false)).await.reply;
            assert_eq!(found, Ok(Reply::Offset(QueueOffset(expected))), "after {offset}");
        }
    });
}

/// Remoting reference, 5.6: a group learns of a queue that is added to its topic only after messages
/// may have been sent to it, and skips none of them, wherever it begins in topics that it does not
/// know.
#[test]
fn a_known_group_begins_at_the_first_message_of_a_queue_that_is_added_later() {
    sim::run(async {
        let broker = open(&SimDisk::new(71)).await;
        set_topic(&broker, TopicConfig::new(topic("t"), 1)).await;
        send(&broker, produce("t", 0, "A", b"before")).await.unwrap();
        assert_eq!(answer(&broker, commit_offset("t", 1)).await.reply, Ok(Reply::Done));
        set_topic(&broker, TopicConfig::new(topic("t"), 3)).await;
        for body in [&b"first"[..], b"second"] {
            send(&broker, produce("t", 2, "A", body)).await.unwrap();
        }
        for (queue_id, expected) in [(0, 1), (1, 0), (2, 0)] {
            let query = Request::CommittedOffset {
                group: group(),
                queue: queue("t", queue_id),
                zero_if_missing: true,
            };
            let begin = answer(&broker, query).await.reply;
            assert_eq!(begin, Ok(Reply::Offset(QueueOffset(expected))), "queue {queue_id}");
        }
        let seen = read_all(&broker, "t", 2).await;
        assert_eq!(
            seen.iter().map(|one| &one.body[..]).collect::<Vec<_>>(),
            [&b"first"[..], b"second"]
        );
    });
}

/// However often groups commit, the log gets one entry per second for it, and waiting commits are
/// acknowledged with that entry.
#[test]
fn commits_of_a_second_share_one_entry() {
    sim::run(async {
        let broker = open(&SimDisk::new(63)).await;
        send(&broker, produce("t", 0, "A", b"one")).await.unwrap();
        let appends = || broker.store().stats().appends;
        let before = appends();
        let at = |ms| Now { moment: NOW.moment.plus_ms(ms), ..NOW };
        let requests: Vec<Request> = (0..30)
            .map(|nth: i64| {
                let group = GroupName::new(format!("g{}", nth % 10)).unwrap();
                Request::CommitOffset { group, queue: queue("t", 0), offset: nth + 1 }
            })
            .collect();
        let mut waiting: Vec<_> =
            requests.iter().map(|one| Box::pin(broker.operate(one, &Here))).collect();
        // The first is written immediately, the others with the next entry.
        assert!(poll_once(&mut waiting[0]).await.is_none());
        assert_eq!(appends() - before, 1);
        for operation in &mut waiting[1..] {
            assert!(poll_once(operation).await.is_none());
        }
        broker.act(at(999));
        commit(&broker).await;
        assert_eq!(appends() - before, 1);
        assert!(poll_once(&mut waiting[0]).await.is_some());
        assert!(poll_once(&mut waiting[1]).await.is_none(), "it is not in the log");
        broker.act(at(1000));
        commit(&broker).await;
        assert_eq!(appends() - before, 2);
        for operation in &mut waiting[1..] {
            assert_eq!(poll_once(operation).await.unwrap().reply, Ok(Reply::Done));
        }
        broker.act(at(5000));
        assert_eq!(appends() - before, 2, "nothing has changed since");
    });
}

/// However many have changed, they are in the log before the deadline's tick is over, and no step writes
/// more than one entry.
#[test]
fn thousands_of_changed_offsets_reach_the_log_in_steps() {
    const GROUPS: i64 = 5_500;
    sim::run(async {
        let broker = open(&SimDisk::new(67)).await;
        send(&broker, produce("t", 0, "A", b"one")).await.unwrap();
        let before = broker.store().stats().appends;
        for nth in 0..GROUPS {
            let group = Some(GroupName::new(format!("g{nth}")).unwrap());
            ask(&broker, Request::Pull(Pull { group, commit: Some(1), ..pull("t", 0, 0) }));
        }
        let tick = Now { moment: NOW.moment.plus_ms(1_000), ..NOW };
        let later = Now { moment: tick.moment.plus_ms(7), ..tick };
        let mut appends = broker.store().stats().appends;
        assert_eq!(appends - before, 1, "the first one is written at once");
        let mut steps = 0;
        while broker.next_deadline().is_some_and(|due| due <= tick.moment) {
            broker.act(later);
            commit(&broker).await;
            let now = broker.store().stats().appends;
            assert!(now - appends <= 1, "{} entries in one step", now - appends);
            (appends, steps) = (now, steps + 1);
        }
        assert_eq!((appends - before, steps), (1 + 6, 6));
    });
}

/// A consumer gets its messages even if the offset table is full.
#[test]
fn a_full_offset_table_does_not_keep_messages_from_consumers() {
    sim::run(async {
        let broker = open(&SimDisk::new(64)).await;
        send(&broker, produce("t", 0, "A", b"one")).await.unwrap();
        let pull_of = |group: usize| {
            let group = Some(GroupName::new(format!("g{group}")).unwrap());
            Request::Pull(Pull { group, commit: Some(1), ..pull("t", 0, 0) })
        };
        for group in 0..100_001 {
            let outcome = ask(&broker, pull_of(group));
            let Outcome::Now(Answer { reply: Ok(Reply::Pulled(pulled)), .. }) = outcome else {
                panic!("group {group}: {outcome:?}")
            };
            assert_eq!(pulled.count, 1);
        }
        let group = GroupName::new("g100000").unwrap();
        let explicit = Request::CommitOffset { group, queue: queue("t", 0), offset: 1 };
        let refused = answer(&broker, explicit).await.reply;
        assert!(matches!(refused, Err(Refusal::Full { .. })), "{refused:?}");
    });
}

/// A commit that cannot be written is refused immediately, instead of waiting until it can.
#[test]
fn a_commit_that_cannot_be_logged_is_refused() {
    sim::run(async {
        let disk = SimDisk::new(67);
        let broker = open(&disk).await;
        send(&broker, produce("t", 0, "A", b"one")).await.unwrap();
        disk.inject(On::nth(Operation::Write, 0), Fault::io_error());
        let stored = ask(&broker, Request::Produce(produce("t", 0, "A", b"two")));
        assert!(matches!(stored, Outcome::Committed { .. }));
        broker.store().commit_step().await.unwrap_err();
        let request = Request::CommitOffset { group: group(), queue: queue("t", 0), offset: 1 };
        let refused = answer(&broker, request).await.reply;
        assert_eq!(refused, Err(Refusal::Fenced));
    });
}
