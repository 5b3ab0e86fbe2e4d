//! Messages: sending, pulling, filtering, holding, and reading from a damaged disk.

use super::*;

#[test]
fn messages_come_back_as_they_were_sent_and_only_when_they_are_committed() {
    sim::run(async {
        let broker = open(&SimDisk::new(1)).await;
        let outcome = ask(&broker, Request::Produce(produce("t", 0, "A", b"one")));
        let Outcome::Committed { mark, .. } = outcome else { panic!("{outcome:?}") };
        assert!(mark > broker.store().committed());
        let (pulled, seen) = read(&broker, pull("t", 0, 0)).await;
        assert_eq!((pulled.status, seen.len()), (PullStatus::NothingNew, 0), "not committed yet");

        commit(&broker).await;
        assert!(mark <= broker.store().committed());
        let (pulled, seen) = read(&broker, pull("t", 0, 0)).await;
        assert_eq!(pulled.status, PullStatus::Found);
        assert_eq!((pulled.next_offset, pulled.max_offset), (QueueOffset(1), QueueOffset(1)));
        assert_eq!(seen, [Seen { offset: 0, tag: "A".into(), body: b"one".to_vec() }]);
    });
}

/// Remoting reference, 5.3: the rows of the table there, for a queue that holds offsets 0 to 3.
#[test]
fn pulls_outside_a_queue_learn_its_bounds() {
    sim::run(async {
        let broker = open(&SimDisk::new(2)).await;
        for nth in 0..4u8 {
            send(&broker, produce("t", 0, "A", &[nth])).await.unwrap();
        }
        let rows = [
            (0, 0, PullStatus::Found, 4),
            (0, 3, PullStatus::Found, 4),
            (0, 4, PullStatus::NothingNew, 4),
            (0, 5, PullStatus::OffsetMoved, 4),
            (0, -1, PullStatus::OffsetMoved, 0),
            (1, 0, PullStatus::NothingNew, 0),
            (1, 7, PullStatus::OffsetMoved, 0),
        ];
        for (queue_id, offset, status, next) in rows {
            let (pulled, _) = read(&broker, pull("t", queue_id, offset)).await;
            let case = format!("queue {queue_id} offset {offset}");
            assert_eq!((pulled.status, pulled.next_offset.0), (status, next), "{case}");
        }
        let refusals = [
            (pull("unknown", 0, 0), Refusal::UnknownTopic(topic("unknown"))),
            (
                pull("t", 9, 0),
                Refusal::UnknownQueue { topic: topic("t"), queue: QueueId(9), count: 4 },
            ),
        ];
        for (request, refusal) in refusals {
            assert_eq!(answer(&broker, Request::Pull(request)).await.reply, Err(refusal));
        }
    });
}

#[test]
fn a_filter_passes_its_tags_and_skips_the_others() {
    sim::run(async {
        let broker = open(&SimDisk::new(3)).await;
        for tag in ["A", "B", "A", "C"] {
            send(&broker, produce("t", 0, tag, tag.as_bytes())).await.unwrap();
        }
        let with = |text: &str| Pull {
            subscription: Some(Expression { kind: "TAG".into(), text: text.into() }),
            ..pull("t", 0, 0)
        };
        let (pulled, seen) = read(&broker, with("A || C")).await;
        assert_eq!(pulled.next_offset, QueueOffset(4));
        assert_eq!(seen.iter().map(|one| one.offset).collect::<Vec<_>>(), [0, 2, 3]);
        let (pulled, _) = read(&broker, with("D")).await;
        assert_eq!(pulled.status, PullStatus::NothingMatched);
        assert_eq!(pulled.next_offset, QueueOffset(4));
        let sql = Expression { kind: "SQL92".into(), text: "a > 1".into() };
        let request = Pull { subscription: Some(sql), ..pull("t", 0, 0) };
        let refused = answer(&broker, Request::Pull(request)).await.reply;
        assert_eq!(refused, Err(Refusal::UnsupportedFilter("SQL92".into())));
    });
}

/// A consumer that pulls with the expression from its heartbeat is told why it gets nothing.
#[test]
fn filters_that_are_not_supported_are_refused_wherever_they_come_from() {
    sim::run(async {
        let broker = open(&SimDisk::new(62)).await;
        send(&broker, produce("t", 0, "A", b"one")).await.unwrap();
        let sql = Expression { kind: "SQL92".into(), text: "a > 1".into() };
        let no_tag = Expression { kind: "TAG".into(), text: "||".into() };
        let refusals = [
            (&sql, Refusal::UnsupportedFilter("SQL92".into())),
            (&no_tag, Refusal::BadSubscription("no tag in \"||\"".into())),
        ];
        for (expression, refusal) in refusals {
            let check = Request::CheckFilter(expression.clone());
            assert_eq!(answer(&broker, check).await.reply, Err(refusal.clone()));
            let Request::Heartbeat(mut heartbeat) = heartbeat("a", &["t"]) else { unreachable!() };
            heartbeat.consumers[0].subscriptions[0].expression = expression.clone();
            assert!(answer(&broker, Request::Heartbeat(heartbeat)).await.reply.is_ok());
            let request = Request::Pull(Pull { subscription: None, ..pull("t", 0, 0) });
            assert_eq!(answer(&broker, request).await.reply, Err(refusal));
        }
        let tags = Expression { kind: "TAG".into(), text: "A || B".into() };
        assert_eq!(answer(&broker, Request::CheckFilter(tags)).await.reply, Ok(Reply::Done));
    });
}

#[test]
fn a_held_pull_is_answered_by_the_first_match_or_by_its_deadline() {
    sim::run(async {
        let broker = open(&SimDisk::new(4)).await;
        send(&broker, produce("t", 0, "A", b"old")).await.unwrap();
        let hold = |text: &str| {
            let subscription = Some(Expression { kind: "TAG".into(), text: text.into() });
            Request::Pull(Pull { hold_ms: Some(1000), subscription, ..pull("t", 0, 1) })
        };
        let origin = |ticket| Origin { connection: 1, ticket, ..Origin::default() };
        for (ticket, text) in [(1, "B"), (2, "C")] {
            let handled = broker.handle(&hold(text), origin(ticket), NOW);
            assert!(matches!(handled, Handled::Done(Outcome::Held)));
        }

        ask(&broker, Request::Produce(produce("t", 0, "B", b"new")));
        assert!(broker.advance().is_empty(), "nothing is committed yet");
        while broker.store().committed() < broker.store().end() {
            broker.store().commit_step().await.unwrap();
        }
        let released = broker.advance();
        assert_eq!(released.iter().map(|one| one.origin.ticket).collect::<Vec<_>>(), [1]);

        let after = |ms| Now { moment: NOW.moment.plus_ms(ms), ..NOW };
        assert_eq!(broker.next_deadline(), Some(after(1000).moment));
        assert!(broker.act(after(999)).is_empty());
        let expired = broker.act(after(1000));
        assert_eq!(expired.len(), 1);
        let Outcome::Now(Answer { reply: Ok(Reply::Pulled(pulled)), .. }) = &expired[0].outcome
        else {
            panic!("{expired:?}")
        };
        assert_eq!(pulled.status, PullStatus::NothingMatched, "it saw a message it did not want");
        assert_eq!(pulled.next_offset, QueueOffset(2));
    });
}

#[test]
fn invalid_messages_are_refused_and_leave_no_trace() {
    sim::run(async {
        let disk = SimDisk::new(6);
        let broker = Broker::open(disk, store_config(), broker_config(false)).await.unwrap().0;
        let unknown = send(&broker, produce("t", 0, "A", b"x")).await;
        assert_eq!(unknown, Err(Refusal::UnknownTopic(topic("t"))), "no automatic creation");

        set_topic(&broker, TopicConfig::new(topic("t"), 2)).await;
        let end = broker.store().end();
        let too_large = vec![0; (4 << 20) + 1];
        let rows = [
            (produce("t", 0, "A", b""), "the message has no body"),
            (produce("t", 0, "A", &too_large), "message body of 4194305 bytes"),
            (produce("t", 2, "A", b"x"), "2 queues on this shard, not queue 2"),
            (produce("TBW102", 0, "A", b"x"), "reserved"),
            (Produce { is_batch: true, ..produce("t", 0, "A", b"\0\0\0\x09") }, "batch refused"),
            (Produce { is_batch: true, ..produce("t", 0, "A", b"") }, "batch refused"),
        ];
        for (request, expected) in rows {
            let refusal = send(&broker, request).await.unwrap_err().to_string();
            assert!(refusal.contains(expected), "{refusal}");
        }
        assert_eq!(broker.store().end(), end, "nothing was appended");
    });
}

/// The broker determines the layout of a record: a client that claims an IPv6 host changes nothing.
#[test]
fn system_flags_of_clients_do_not_change_how_a_record_is_read() {
    sim::run(async {
        let disk = SimDisk::new(21);
        let broker = open(&disk).await;
        let flags = (0..31).map(|bit| 1 << bit).filter(|flag| *flag != 4);
        let mut sent = 0;
        for flag in flags {
            let request = Produce { system_flag: flag, ..produce("t", 0, "A", b"one") };
            send(&broker, request).await.unwrap();
            sent += 1;
        }
        assert_eq!(read_all(&broker, "t", 0).await.len(), sent);
        let again = open(&disk).await;
        assert_eq!(read_all(&again, "t", 0).await.len(), sent);
    });
}

/// What happens to a sent message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Visible,
    Delayed,
    Refused(u16),
}

/// A half message of a transaction must never become visible, and a delayed message not yet.
#[test]
fn what_consumers_must_not_see_yet_is_delayed_or_refused() {
    use Fate::{Delayed, Refused, Visible};
    let rows: [(i32, &[u8], Fate); 26] = [
        (0, b"TAGS\x01A\x02", Visible),
        (0, b"TRAN_MSG\x01true\x02PGROUP\x01g\x02", Refused(1012)),
        (0, b"UNIQ_KEY\x01u\x02TRAN_MSG\x01TRUE", Refused(1012)),
        (0, b"TRAN_MSG\x01false\x02", Visible),
        (4, b"", Refused(1012)),
        (12, b"", Refused(1012)),
        (8, b"", Visible),
        (0, b"DELAY\x013\x02", Delayed),
        (0, b"DELAY\x0199\x02", Delayed),
        (0, b"DELAY\x010\x02", Visible),
        (0, b"DELAY\x01-1\x02", Visible),
        (0, b"DELAY\x01soon\x02", Refused(1015)),
        (0, b"K\x01v\x02TIMER_DELIVER_MS\x011700000000000\x02", Visible),
        (0, b"TIMER_DELIVER_MS\x011700000000001", Delayed),
        (0, b"TIMER_DELIVER_MS\x01-1", Visible),
        (0, b"TIMER_DELIVER_MS\x011700259200000", Delayed),
        (0, b"TIMER_DELIVER_MS\x011700259200001", Refused(1015)),
        (0, b"TIMER_DELIVER_MS\x019223372036854775807", Refused(1015)),
        (0, b"TIMER_DELIVER_MS\x019223372036854775808", Refused(1015)),
        (0, b"TIMER_DELAY_SEC\x01259200", Delayed),
        (0, b"TIMER_DELAY_SEC\x01259201", Refused(1015)),
        (0, b"TIMER_DELAY_SEC\x019223372036854775807", Refused(1015)),
        (0, b"TIMER_DELAY_SEC\x010\x02TIMER_DELAY_MS\x0110", Visible),
        (0, b"DELAY\x011\x02TIMER_DELAY_SEC\x01x", Delayed),
        (0, b"TIMER_DELAY_SEC\x015\x02TIMER_DEL_UNIQKEY\x01t+u", Refused(1015)),
        (0, b"DELAYED\x013\x02TIMER\x011\x02", Visible),
    ];
    sim::run(async move {
        let broker = open(&SimDisk::new(22)).await;
        set_topic(&broker, TopicConfig::new(topic("t"), 1)).await;
        for (system_flag, properties, expected) in rows {
            let visible = read_all(&broker, "t", 0).await.len();
            let properties = Bytes::from_static(properties);
            let what = format!("{system_flag} {properties:?}");
            let sent =
                send(&broker, Produce { system_flag, properties, ..produce("t", 0, "A", b"body") });
            let fate = match sent.await {
                Ok(_) if read_all(&broker, "t", 0).await.len() > visible => Visible,
                Ok(_) => Delayed,
                Err(refusal) => Refused(refusal.number()),
            };
            assert_eq!(fate, expected, "{what}");
        }
        let delays = topic("SCHEDULE_TOPIC_XXXX");
        let published = broker.published_topics().1;
        let known = published.into_iter().find(|config| config.name == delays).unwrap();
        assert_eq!((known.perm, known.queue_count()), (0, 1), "for operators only");
        let Ok(Reply::TopicStats(stats)) =
            answer(&broker, Request::TopicStats { topic: delays }).await.reply
        else {
            panic!()
        };
        let delayed = rows.iter().filter(|row| row.2 == Delayed).count() as u64;
        let [all] = &stats.queues[..] else { panic!("{stats:?}") };
        assert_eq!((all.min_offset.0, all.max_offset.0), (0, delayed));
        for (name, expected) in [("t", delayed), ("other", 0)] {
            let request = Request::TopicStats { topic: topic(name) };
            set_topic(&broker, TopicConfig::new(topic(name), 4)).await;
            let Ok(Reply::TopicStats(stats)) = answer(&broker, request).await.reply else {
                panic!()
            };
            let delayed = DelayedCounts { delayed: expected, retries: 0 };
            assert_eq!(stats.delayed, Some(delayed), "{name}");
        }
    });
}

/// The numbers of delayed messages of some topics that exist.
async fn delayed_counts(broker: &Broker<SimDisk>, names: [&str; 2]) -> [Option<u64>; 2] {
    let mut counts = [None; 2];
    for (count, name) in counts.iter_mut().zip(names) {
        let request = Request::TopicStats { topic: topic(name) };
        let reply = answer(broker, request).await.reply;
        let Ok(Reply::TopicStats(stats)) = reply else { panic!("{reply:?}") };
        *count = stats.delayed.map(|counts| counts.delayed);
    }
    counts
}

/// Messages of a topic that is deleted go to one that is created with its name, and count for it.
#[test]
fn the_numbers_of_delayed_messages_survive_a_crash_and_their_topic() {
    sim::run(async {
        for is_in_snapshot in [false, true] {
            let disk = SimDisk::new(24);
            let broker = open(&disk).await;
            for name in ["a", "b", "a"] {
                let properties = Bytes::from_static(b"DELAY\x012\x02");
                send(&broker, Produce { properties, ..produce(name, 0, "A", b"x") }).await.unwrap();
            }
            assert_eq!(delayed_counts(&broker, ["a", "b"]).await, [Some(2), Some(1)]);
            if is_in_snapshot {
                broker.maintain(NOW, true).await.unwrap();
            }
            drop(broker);
            let broker = open(&disk.after_crash(1)).await;
            assert_eq!(delayed_counts(&broker, ["a", "b"]).await, [Some(2), Some(1)]);
            let deletion = Request::DeleteTopic { topic: topic("a") };
            assert_eq!(answer(&broker, deletion).await.reply, Ok(Reply::Done));
            set_topic(&broker, TopicConfig::new(topic("a"), 4)).await;
            assert_eq!(delayed_counts(&broker, ["a", "b"]).await, [Some(2), Some(1)]);
        }
    });
}

/// Which messages the damaged part of the log has settled is unknown, so earlier ones are counted no
/// longer.
#[test]
fn after_damage_the_numbers_are_known_when_what_was_pending_is_delivered() {
    sim::run(async {
        let disk = SimDisk::new(25);
        let broker = open(&disk).await;
        let delayed = |name, body| Produce {
            properties: Bytes::from_static(b"DELAY\x011\x02"),
            ..produce(name, 0, "A", body)
        };
        for (name, body, due_ms) in [("a", b"first", 3_000), ("b", b"other", 6_000)] {
            send(&broker, delayed(name, body)).await.unwrap();
            deliver(&broker, due_ms).await;
            // Recovery finds the log again at the next block.
            send(&broker, produce("t", 0, "A", &[7; 9_000])).await.unwrap();
        }
        send(&broker, delayed("a", b"third")).await.unwrap();
        assert_eq!(delayed_counts(&broker, ["a", "b"]).await, [Some(1), Some(0)]);
        let name = format!("{:020}", 0);
        let contents = disk.contents(&name).unwrap();
        let of_first = contents.windows(5).enumerate().filter(|(_, bytes)| bytes == b"first");
        let [_, (delivered, _)] = of_first.collect::<Vec<_>>()[..] else { panic!("stored twice") };
        disk.damage(&name, delivered as u64, &[0xFF]);
        drop(broker);
        let broker = open(&disk.after_crash(1)).await;
        assert_eq!(delayed_counts(&broker, ["a", "b"]).await, [None, None]);
        deliver(&broker, 9_000).await;
        assert_eq!(delayed_counts(&broker, ["a", "b"]).await, [Some(0), Some(0)]);
    });
}

/// Whether it is lost while the broker runs or before it starts.
#[test]
fn a_delayed_message_that_is_lost_is_pending_until_the_others_are_delivered() {
    sim::run(async {
        for is_restarted in [false, true] {
            let disk = SimDisk::new(26);
            let store = || StoreConfig { tail_cache_bytes: 0, ..store_config() };
            let open =
                async |disk| Broker::open(disk, store(), broker_config(true)).await.unwrap().0;
            let mut broker = open(disk.clone()).await;
            for (name, body) in [("a", b"first"), ("b", b"other")] {
                let properties = Bytes::from_static(b"DELAY\x011\x02");
                let delayed = Produce { properties, ..produce(name, 0, "A", body) };
                send(&broker, delayed).await.unwrap();
                send(&broker, produce("t", 0, "A", &[7; 9_000])).await.unwrap();
            }
            let name = format!("{:020}", 0);
            let contents = disk.contents(&name).unwrap();
            let at = contents.windows(5).position(|bytes| bytes == b"first").unwrap();
            disk.damage(&name, at as u64, &[0xFF]);
            if is_restarted {
                drop(broker);
                broker = open(disk.after_crash(1)).await;
            }
            deliver(&broker, 3_000).await;
            assert_eq!(delayed_counts(&broker, ["a", "b"]).await, [Some(0), Some(0)]);
            let all = Request::TopicStats { topic: topic("SCHEDULE_TOPIC_XXXX") };
            let reply = answer(&broker, all).await.reply;
            let Ok(Reply::TopicStats(stats)) = reply else { panic!("{reply:?}") };
            let offsets = (stats.queues[0].min_offset.0, stats.queues[0].max_offset.0);
            assert_eq!(offsets, (2, 2), "nothing is pending");
        }
    });
}

/// A separator is added between a message's own properties and those of its batch.
#[test]
fn a_batch_whose_properties_just_do_not_fit_is_refused() {
    sim::run(async {
        let broker = open(&SimDisk::new(23)).await;
        send(&broker, produce("t", 0, "A", b"one")).await.unwrap();
        let shared = b"WAIT\x01true\x02";
        for (room, fits) in [(0, false), (1, true)] {
            let own = vec![b'p'; 32_767 - shared.len() - room];
            let mut body = Vec::new();
            BatchItem { flag: 0, body: b"x", properties: &own }.write(&mut body);
            let request = Produce {
                is_batch: true,
                properties: Bytes::from_static(shared),
                ..produce("t", 0, "A", &body)
            };
            let sent = send(&broker, request).await;
            assert_eq!(sent.is_ok(), fits, "{sent:?}");
        }
    });
}

#[test]
fn a_pull_that_filters_more_index_pages_than_the_cache_holds_is_answered() {
    sim::run(async {
        let store = StoreConfig { index_cache_bytes: 64 << 10, ..store_config() };
        let opened = Broker::open(SimDisk::new(24), store, broker_config(true)).await;
        let broker = opened.unwrap().0;
        fill_segments(&broker, "A", 4).await;
        let subscription = Some(Expression { kind: "TAG".into(), text: "Z".into() });
        let filtered = Request::Pull(Pull { subscription, ..pull("t", 0, 0) });
        let answer = answer(&broker, filtered).await;
        let Ok(Reply::Pulled(pulled)) = answer.reply else { panic!("{answer:?}") };
        assert_eq!(pulled.status, PullStatus::NothingMatched);
    });
}

/// A message rots while the broker runs. The consumer gets the messages before it, then continues
/// after it.
#[test]
fn a_consumer_gets_past_a_rotten_message() {
    sim::run(async {
        let disk = SimDisk::new(4);
        let store = StoreConfig { tail_cache_bytes: 0, ..store_config() };
        let broker = Broker::open(disk.clone(), store, broker_config(true)).await.unwrap().0;
        for nth in 0..10u8 {
            send(&broker, produce("t", 0, "A", &[nth; 4000])).await.unwrap();
        }
        let name = format!("{:020}", 0);
        let contents = disk.contents(&name).unwrap();
        let at = contents.windows(100).position(|bytes| bytes == [7u8; 100]).unwrap();
        disk.damage(&name, at as u64 + 50, &[0xFF]);
        let rows = [
            (0, PullStatus::Found, 7),
            (7, PullStatus::OffsetMoved, 8),
            (7, PullStatus::OffsetMoved, 8),
            (8, PullStatus::Found, 10),
        ];
        for (from, status, next) in rows {
            let reply = answer(&broker, Request::Pull(pull("t", 0, from))).await.reply;
            let Ok(Reply::Pulled(pulled)) = reply else { panic!("from {from}: {reply:?}") };
            assert_eq!((pulled.status, pulled.next_offset), (status, QueueOffset(next)));
        }
    });
}

/// A disk error is a system error, not the client's mistake; reads work again afterwards.
#[test]
fn a_disk_error_is_not_the_clients_mistake() {
    sim::run(async {
        let disk = SimDisk::new(5);
        let store = StoreConfig { tail_cache_bytes: 0, ..store_config() };
        let broker = Broker::open(disk.clone(), store, broker_config(true)).await.unwrap().0;
        send(&broker, produce("t", 0, "A", &[7; 4000])).await.unwrap();
        // Fails the requested read, and the reads that check whether only one block is bad.
        for skip in 0..1_000 {
            disk.inject(On::nth(Operation::Read, skip), Fault::io_error());
        }
        let refused = answer(&broker, Request::Pull(pull("t", 0, 0))).await.reply;
        assert_eq!(refused, Err(Refusal::DiskFault { shard: 0 }));
        while disk.faults_left() > 0 {
            _ = answer(&broker, Request::Pull(pull("t", 0, 0))).await;
        }
        let (pulled, _) = read(&broker, pull("t", 0, 0)).await;
        assert_eq!((pulled.status, pulled.count), (PullStatus::Found, 1));
    });
}

/// The figures that stock tools request come from the metrics and include all of them.
#[test]
fn the_work_of_a_shard_is_counted_and_reported() {
    sim::run(async {
        let broker = open(&SimDisk::new(64)).await;
        for body in [b"one", b"two"] {
            send(&broker, produce("t", 0, "A", body)).await.unwrap();
        }
        assert_eq!(read_all(&broker, "t", 0).await.len(), 2);
        let Ok(Reply::RuntimeInfo(table)) = answer(&broker, Request::RuntimeInfo).await.reply
        else {
            panic!("request 28 gives a table")
        };
        let table: BTreeMap<String, String> = table.into_iter().collect();
        let end = broker.store().end().0.to_string();
        for (name, expected) in [
            ("msgPutTotalTodayNow", "2"),
            ("msgGetTotalTodayNow", "2"),
            ("ringmq_messages_stored_total", "2"),
            ("ringmq_messages_pulled_total", "2"),
            ("ringmq_pulls_found_total", "1"),
            ("ringmq_pulls_missed_total", "1"),
            ("ringmq_log_end", &end),
            ("ringmq_log_durable", &end),
            ("ringmq_fenced", "0"),
        ] {
            assert_eq!(table[name], expected, "{name}");
        }
        let number = |name: &str| table[name].parse::<u64>().unwrap();
        assert_eq!(number("ringmq_log_write_ns.count"), number("ringmq_log_writes_total"));
        assert_eq!(number("ringmq_log_write_bytes.count"), number("ringmq_log_writes_total"));
        assert!(number("ringmq_log_write_ns.p50") > 0 && number("ringmq_log_writes_total") > 0);
    });
}

/// Remoting reference, 5.11.
#[test]
fn messages_have_a_region_while_there_is_a_topic_for_traces() {
    async fn stored(broker: &Broker<SimDisk>, request: &Produce) -> Vec<Vec<u8>> {
        let offset = send(broker, request.clone()).await.unwrap();
        let pull = pull(request.topic.as_str(), 0, offset.0 as i64);
        let found = answer(broker, Request::Pull(pull)).await;
        let (mut rest, mut all) = (&found.chunks[0][..], Vec::new());
        while let Ok(record) = RecordView::parse(rest) {
            all.push(record.properties.to_vec());
            rest = &rest[record.size..];
        }
        all
    }
    const REGION: &[u8] = b"MSG_REGION\x01DefaultRegion\x02";
    sim::run(async {
        let disk = SimDisk::new(65);
        let broker = open(&disk).await;
        let plain = produce("t", 0, "A", b"x");
        let own = plain.properties.to_vec();
        let with =
            |properties: &[u8]| Produce { properties: properties.to_vec().into(), ..plain.clone() };
        assert_eq!(stored(&broker, &plain).await, std::slice::from_ref(&own), "nobody traces");

        let traces = "RMQ_SYS_TRACE_TOPIC";
        set_topic(&broker, TopicConfig::new(topic(traces), 1)).await;
        assert_eq!(stored(&broker, &plain).await, [[&own, REGION].concat()]);
        let open_ended = own.strip_suffix(b"\x02").unwrap();
        assert_eq!(stored(&broker, &with(open_ended)).await, [[&own, REGION].concat()]);
        let given = [&own[..], b"MSG_REGION\x01north\x02"].concat();
        assert_eq!(stored(&broker, &with(&given)).await, [given], "it has one");
        let filling = [b"K\x01", &[b'k'; 32_767 - 3][..], b"\x02"].concat();
        assert_eq!(stored(&broker, &with(&filling)).await, [filling], "there is no room");
        let mut item = Vec::new();
        BatchItem { flag: 0, body: b"x", properties: &own }.write(&mut item);
        let batch = Produce { is_batch: true, body: item.into(), ..with(b"") };
        assert_eq!(stored(&broker, &batch).await, std::slice::from_ref(&own), "of a batch");
        let trace = Produce { topic: topic(traces), ..plain.clone() };
        assert_eq!(
            stored(&broker, &trace).await,
            std::slice::from_ref(&own),
            "a trace is not traced"
        );
        set_topic(&broker, TopicConfig::new(topic(traces), 2)).await;
        drop(broker);
        let broker = open(&disk).await;
        assert_eq!(stored(&broker, &plain).await, [[&own, REGION].concat()], "after a restart");

        let deletion = Request::DeleteTopic { topic: topic(traces) };
        answer(&broker, deletion).await.reply.unwrap();
        assert_eq!(stored(&broker, &plain).await, [own]);
    });
}
