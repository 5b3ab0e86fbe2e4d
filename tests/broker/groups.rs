//! Consumer groups: how they are created, configured and deleted.

use ringmq::model::GroupConfig;
use ringmq::model::request::{ResetGroup, ResetTo};

use super::*;

async fn group_config(broker: &Broker<SimDisk>, group: &GroupName) -> Result<GroupConfig, Refusal> {
    match answer(broker, Request::GroupConfig { group: group.clone() }).await.reply {
        Ok(Reply::GroupConfig(config)) => Ok(config),
        Err(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

/// Returns the number of queues of a topic, or `None` if it does not exist.
async fn queue_count(broker: &Broker<SimDisk>, topic: TopicName) -> Option<usize> {
    match answer(broker, Request::TopicStats { topic }).await.reply {
        Ok(Reply::TopicStats(stats)) => Some(stats.queues.len()),
        Err(Refusal::UnknownTopic(_)) => None,
        other => panic!("{other:?}"),
    }
}

async fn done(broker: &Broker<SimDisk>, request: Request) {
    assert_eq!(answer(broker, request).await.reply, Ok(Reply::Done));
}

/// Remoting reference, 5.23: the group and its retry topic exist before the heartbeat gets its
/// reply, and later heartbeats write nothing.
#[test]
fn the_first_heartbeat_creates_the_group_and_its_retry_topic_for_good() {
    sim::run(async {
        let disk = SimDisk::new(80);
        let broker = open(&disk).await;
        let unknown = Err(Refusal::UnknownGroup(group()));
        assert_eq!(group_config(&broker, &group()).await, unknown);
        broker.published_topics();
        let beat = heartbeat("a", &["t"]);
        assert_eq!(broker.missing_groups(&beat), [group()]);
        let taken = answer_to(&broker, beat.clone(), &From(1)).await.reply;
        assert_eq!(taken, Ok(Reply::HeartbeatTaken));
        assert_eq!(broker.store().committed(), broker.store().end(), "it is durable by then");
        let retry = TopicConfig::new(TopicName::retry_of(&group()), 1);
        assert_eq!(broker.take_topic_changes().1, [TopicChange::Set(retry)]);
        let end = broker.store().end();
        answer_to(&broker, beat.clone(), &From(1)).await.reply.unwrap();
        assert_eq!((broker.missing_groups(&beat), broker.store().end()), (vec![], end));
        drop(broker);

        let broker = open(&disk.after_crash(1)).await;
        assert_eq!(group_config(&broker, &group()).await, Ok(GroupConfig::new(group())));
        assert_eq!(queue_count(&broker, TopicName::retry_of(&group())).await, Some(1));
    });
}

#[test]
fn a_group_with_the_longest_name_has_a_retry_topic_that_can_be_read() {
    sim::run(async {
        let broker = open(&SimDisk::new(81)).await;
        let long = GroupName::new("g".repeat(255)).unwrap();
        done(&broker, Request::CreateGroups { groups: vec![long.clone()] }).await;
        let retry = TopicName::retry_of(&long);
        let message = Produce { topic: retry.clone(), ..produce("t", 0, "A", b"again") };
        assert_eq!(send(&broker, message).await, Ok(QueueOffset(0)));
        let queue = QueueOf { topic: retry.clone(), queue: QueueId(0) };
        let answer = answer(&broker, Request::Pull(Pull { queue, ..pull("t", 0, 0) })).await;
        let bytes: Vec<u8> = answer.chunks.iter().flat_map(|chunk| chunk.to_vec()).collect();
        let record = RecordView::parse(&bytes).unwrap();
        assert_eq!((record.topic, record.body), (retry.as_str(), &b"again"[..]));
    });
}

/// A queue that is no longer written to may still hold messages.
#[test]
fn fewer_retry_queues_take_no_queue_away_from_consumers() {
    sim::run(async {
        let broker = open(&SimDisk::new(82)).await;
        let retry = TopicName::retry_of(&group());
        broker.published_topics();
        for (count, read, write) in [(3, 3, 3), (1, 3, 1), (2, 3, 2), (5, 5, 5)] {
            let config = GroupConfig { retry_queue_count: count, ..GroupConfig::new(group()) };
            done(&broker, Request::UpdateGroup(config.clone())).await;
            assert_eq!(group_config(&broker, &group()).await, Ok(config.clone()));
            let topic =
                TopicConfig { write_queue_count: write, ..TopicConfig::new(retry.clone(), read) };
            assert_eq!(broker.take_topic_changes().1, [TopicChange::Set(topic)], "{count} queues");
            let end = broker.store().end();
            done(&broker, Request::UpdateGroup(config)).await;
            assert_eq!(broker.store().end(), end, "the same again writes nothing");
        }
    });
}

#[test]
fn several_groups_are_configured_together_or_not_at_all() {
    sim::run(async {
        let broker = open(&SimDisk::new(84)).await;
        let config = |name: &str, retry_queue_count| GroupConfig {
            retry_queue_count,
            ..GroupConfig::new(GroupName::new(name.to_owned()).unwrap())
        };
        broker.published_topics();
        done(&broker, Request::UpdateGroup(config("b", 1))).await;
        broker.take_topic_changes();
        let retry = |name: &str| TopicName::retry_of(&config(name, 1).name);
        let groups = vec![config("a", 2), config("b", 3), config("c", 1), config("c", 4)];
        done(&broker, Request::UpdateGroups(groups)).await;
        for (name, count) in [("a", 2), ("b", 3), ("c", 4)] {
            let known = group_config(&broker, &config(name, 1).name).await;
            assert_eq!(known, Ok(config(name, count)), "the last one counts");
        }
        let topics = [("a", 2), ("b", 3), ("c", 4)]
            .map(|(name, count)| TopicChange::Set(TopicConfig::new(retry(name), count)));
        assert_eq!(broker.take_topic_changes().1, topics);

        let end = broker.store().end();
        let groups = vec![config("d", 1), config("e", u32::MAX)];
        let refused = answer(&broker, Request::UpdateGroups(groups)).await.reply;
        assert!(matches!(refused, Err(Refusal::Malformed(_))), "{refused:?}");
        assert_eq!(broker.store().end(), end);
    });
}

#[test]
fn a_group_may_be_forbidden_to_consume() {
    sim::run(async {
        let broker = open(&SimDisk::new(83)).await;
        send(&broker, produce("t", 0, "A", b"one")).await.unwrap();
        let closed = GroupConfig { may_consume: false, ..GroupConfig::new(group()) };
        done(&broker, Request::UpdateGroup(closed)).await;
        let refused = answer(&broker, Request::Pull(pull("t", 0, 0))).await.reply;
        assert_eq!(refused, Err(Refusal::NotConsumable(group())));
        let other = Some(GroupName::new("others").unwrap());
        let pulled = answer(&broker, Request::Pull(Pull { group: other, ..pull("t", 0, 0) })).await;
        assert!(pulled.reply.is_ok());

        let clustered = GroupConfig { may_broadcast: false, ..GroupConfig::new(group()) };
        done(&broker, Request::UpdateGroup(clustered)).await;
        let by_heartbeat = Request::Pull(Pull { subscription: None, ..pull("t", 0, 0) });
        let Request::Heartbeat(mut beat) = heartbeat("a", &["t"]) else { panic!() };
        for (model, is_refused) in
            [(MessageModel::Clustering, false), (MessageModel::Broadcasting, true)]
        {
            beat.consumers[0].model = model;
            answer_to(&broker, Request::Heartbeat(beat.clone()), &From(1)).await.reply.unwrap();
            let reply = answer(&broker, by_heartbeat.clone()).await.reply;
            let refusal = Err(Refusal::NotBroadcast(group()));
            assert_eq!(reply == refusal, is_refused, "{model:?}: {reply:?}");
        }
    });
}

#[test]
fn a_deleted_group_is_gone_with_its_offsets_if_so_wished_and_may_return() {
    sim::run(async {
        let disk = SimDisk::new(84);
        let broker = open(&disk).await;
        set_topic(&broker, TopicConfig::new(topic("t"), 1)).await;
        done(&broker, Request::CreateGroups { groups: vec![group()] }).await;
        done(&broker, Request::CommitOffset { group: group(), queue: queue("t", 0), offset: 7 })
            .await;
        let offset = || Request::CommittedOffset {
            group: group(),
            queue: queue("t", 0),
            zero_if_missing: false,
        };
        for (with_offsets, expected) in
            [(false, Ok(Reply::Offset(QueueOffset(7)))), (true, Err(Refusal::NoOffset(group())))]
        {
            done(&broker, Request::DeleteGroup { group: group(), with_offsets }).await;
            let unknown = Err(Refusal::UnknownGroup(group()));
            assert_eq!(group_config(&broker, &group()).await, unknown);
            assert_eq!(answer(&broker, offset()).await.reply, expected);
        }
        done(&broker, Request::CreateGroups { groups: vec![group()] }).await;
        assert!(group_config(&broker, &group()).await.is_ok());
        let all = answer(&broker, Request::GroupConfigs { first: 0, count_max: usize::MAX }).await;
        let configs = vec![GroupConfig::new(group())];
        assert_eq!(all.reply, Ok(Reply::GroupConfigs { configs, count: 1 }));
    });
}

fn reset(to: ResetTo) -> ResetGroup {
    ResetGroup { group: group(), topic: topic("t"), queue: None, to, is_forced: true }
}

async fn committed(broker: &Broker<SimDisk>) -> Result<Reply, Refusal> {
    let request =
        Request::CommittedOffset { group: group(), queue: queue("t", 0), zero_if_missing: false };
    answer(broker, request).await.reply
}

/// Remoting reference, 5.7: a member that continues from its old offset is sent back once, and does
/// not undo the reset.
#[test]
fn a_reset_holds_online_and_offline_and_after_a_crash() {
    sim::run(async {
        let disk = SimDisk::new(85);
        let broker = open(&disk).await;
        set_topic(&broker, TopicConfig::new(topic("t"), 1)).await;
        for number in 0..6 {
            send(&broker, produce("t", 0, "A", &[number])).await.unwrap();
        }
        let refused = async |reset| answer(&broker, Request::ResetGroup(reset)).await.reply;
        let unknown = Err(Refusal::UnknownGroup(group()));
        assert_eq!(refused(reset(ResetTo::End)).await, unknown);
        answer_to(&broker, heartbeat("a", &["t"]), &From(1)).await.reply.unwrap();
        let _ = told(&broker);
        done(&broker, Request::CommitOffset { group: group(), queue: queue("t", 0), offset: 4 })
            .await;
        let beyond = reset(ResetTo::Offset(QueueOffset(7)));
        assert!(matches!(refused(beyond).await, Err(Refusal::Malformed(_))));

        let mut expected = 4;
        let rows = [
            (ResetTo::Offset(QueueOffset(2)), true, 2),
            (ResetTo::End, false, 2),
            (ResetTo::End, true, 6),
            (ResetTo::Time(Timestamp(0)), false, 0),
        ];
        for (to, is_forced, target) in rows {
            let request = Request::ResetGroup(ResetGroup { is_forced, ..reset(to) });
            let named = vec![(
                BrokerQueue { broker_name: "s00-broker-a".into(), queue: queue("t", 0) },
                target as i64,
            )];
            let reply = answer(&broker, request).await.reply;
            assert_eq!(reply, Ok(Reply::OffsetsReset(named.clone())), "{to:?}");
            let outgoing = std::iter::from_fn(|| broker.take_outgoing());
            let sent: Vec<_> = outgoing
                .filter_map(|outgoing| match outgoing.request {
                    ClientRequest::ResetOffsets(reset) => {
                        Some((outgoing.connection, reset.offsets))
                    }
                    _ => None,
                })
                .collect();
            assert_eq!(sent, [(1, named)]);
            // The member has not noticed the reset yet.
            let commit = Request::CommitOffset { group: group(), queue: queue("t", 0), offset: 5 };
            done(&broker, commit).await;
            assert_eq!(committed(&broker).await, Ok(Reply::Offset(QueueOffset(target))));
            let pulled = answer(&broker, Request::Pull(pull("t", 0, expected))).await.reply;
            let Ok(Reply::Pulled(pulled)) = pulled else { panic!("{pulled:?}") };
            if expected as u64 != target {
                assert_eq!(pulled.status, PullStatus::OffsetMoved, "{to:?}");
                assert_eq!(pulled.next_offset, QueueOffset(target));
            }
            let pulled = answer(&broker, Request::Pull(pull("t", 0, target as i64))).await.reply;
            let Ok(Reply::Pulled(pulled)) = pulled else { panic!("{pulled:?}") };
            assert_ne!(pulled.status, PullStatus::OffsetMoved, "only once");
            expected = target as i64;
        }
        done(&broker, Request::CommitOffset { group: group(), queue: queue("t", 0), offset: 5 })
            .await;
        assert_eq!(committed(&broker).await, Ok(Reply::Offset(QueueOffset(5))));
        broker.connection_closed(1, NOW.moment);
        let offline = Request::ResetGroup(reset(ResetTo::Offset(QueueOffset(3))));
        assert!(answer(&broker, offline).await.reply.is_ok());
        drop(broker);
        let broker = open(&disk.after_crash(2)).await;
        assert_eq!(committed(&broker).await, Ok(Reply::Offset(QueueOffset(3))));
    });
}

/// A broker whose group was at offset 5 and has been reset to offset 2, as the log says; a member has
/// not noticed.
async fn open_reset(disk: &SimDisk) -> Broker<SimDisk> {
    let broker = open(disk).await;
    set_topic(&broker, TopicConfig::new(topic("t"), 1)).await;
    for number in 0..6 {
        send(&broker, produce("t", 0, "A", &[number])).await.unwrap();
    }
    done(&broker, commit_offset("t", 5)).await;
    let request = Request::ResetGroup(reset(ResetTo::Offset(QueueOffset(2))));
    assert!(matches!(answer(&broker, request).await.reply, Ok(Reply::OffsetsReset(_))));
    broker
}

/// Status and next offset of a pull.
async fn pulled_at(broker: &Broker<SimDisk>, offset: i64) -> (PullStatus, u64) {
    let (pulled, _) = read(broker, pull("t", 0, offset)).await;
    (pulled.status, pulled.next_offset.0)
}

/// Remoting reference, 5.7: also if the broker crashes before the member notices.
#[test]
fn a_member_that_has_not_noticed_a_reset_is_sent_back_after_a_crash() {
    sim::run(async {
        for is_in_snapshot in [false, true] {
            let disk = SimDisk::new(87);
            let broker = open_reset(&disk).await;
            if is_in_snapshot {
                broker.maintain(NOW, true).await.unwrap();
            }
            drop(broker);
            let disk = disk.after_crash(1);
            let broker = open(&disk).await;
            done(&broker, commit_offset("t", 6)).await;
            assert_eq!(committed(&broker).await, Ok(Reply::Offset(QueueOffset(2))));
            assert_eq!(pulled_at(&broker, 6).await, (PullStatus::OffsetMoved, 2));
            // It has noticed, and goes on from there.
            assert_eq!(pulled_at(&broker, 2).await, (PullStatus::Found, 6));
            done(&broker, commit_offset("t", 4)).await;
            drop(broker);
            let broker = open(&disk.after_crash(2)).await;
            assert_eq!(committed(&broker).await, Ok(Reply::Offset(QueueOffset(4))));
            assert_eq!(pulled_at(&broker, 6).await, (PullStatus::NothingNew, 6), "only once");
        }
    });
}

/// The log learns that a member has noticed, also if the member commits nothing.
#[test]
fn a_crash_long_after_a_member_has_noticed_a_reset_does_not_send_it_back_again() {
    sim::run(async {
        for is_logged in [false, true] {
            let disk = SimDisk::new(88);
            let broker = open_reset(&disk).await;
            assert_eq!(pulled_at(&broker, 5).await, (PullStatus::OffsetMoved, 2));
            if is_logged {
                go_on(&broker).await;
            }
            drop(broker);
            let broker = open(&disk.after_crash(1)).await;
            let expected = match is_logged {
                true => (PullStatus::Found, 6),
                false => (PullStatus::OffsetMoved, 2),
            };
            assert_eq!(pulled_at(&broker, 4).await, expected);
        }
    });
}

/// A reset that is answered is in the log.
#[test]
fn a_reset_is_answered_when_its_fact_is_committed() {
    sim::run(async {
        let disk = SimDisk::new(89);
        let broker = open_reset(&disk).await;
        let request = Request::ResetGroup(reset(ResetTo::Offset(QueueOffset(2))));
        assert_eq!(pulled_at(&broker, 5).await, (PullStatus::OffsetMoved, 2));
        go_on(&broker).await;
        // The offset is the same as before, but that it was reset is new.
        let mut operation = pin!(broker.operate(&request, &Here));
        assert!(poll_once(&mut operation).await.is_none());
        let end = broker.store().end();
        let moment = broker.next_deadline().unwrap();
        broker.act(Now { moment, ..NOW });
        assert!(broker.store().end() > end);
        assert!(poll_once(&mut operation).await.is_none(), "it is not committed");
        commit(&broker).await;
        assert!(matches!(
            poll_once(&mut operation).await.unwrap().reply,
            Ok(Reply::OffsetsReset(_))
        ));
    });
}

#[test]
fn operators_see_members_and_progress() {
    sim::run(async {
        let broker = open(&SimDisk::new(86)).await;
        set_topic(&broker, TopicConfig::new(topic("t"), 2)).await;
        for number in 0..5 {
            send(&broker, produce("t", 0, "A", &[number])).await.unwrap();
        }
        let consumers = Request::Consumers { group: group() };
        assert_eq!(
            answer(&broker, consumers.clone()).await.reply,
            Err(Refusal::NotOnline(group()))
        );
        answer_to(&broker, heartbeat("a", &["t"]), &From(1)).await.reply.unwrap();
        let Ok(Reply::Consumers(found)) = answer(&broker, consumers).await.reply else { panic!() };
        assert_eq!((&*found.members[0].client, found.subscriptions.len()), ("a", 1));
        done(&broker, Request::CommitOffset { group: group(), queue: queue("t", 0), offset: 2 })
            .await;
        let groups = Request::GroupsOf { topic: topic("t") };
        assert_eq!(answer(&broker, groups).await.reply, Ok(Reply::Groups(vec![group()])));
        let progress = Request::GroupProgress { group: group(), topic: None };
        let reply = answer(&broker, progress).await.reply;
        let Ok(Reply::Progress(progress)) = reply else { panic!("{reply:?}") };
        assert!(progress.committed_at.is_some());
        let of = |queue: usize| {
            let of = &progress.queues[queue];
            (of.committed.map(|offset| offset.0), of.end.0, of.last_at, of.waiting_since)
        };
        assert_eq!(of(0), (Some(2), 5, Some(NOW.wall), Some(NOW.wall)));
        assert_eq!(of(1), (None, 0, None, None));
    });
}
