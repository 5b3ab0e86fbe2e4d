use proptest::prelude::*;

use super::*;

const LINGER_MS: u64 = 5;

fn options() -> OutboxOptions {
    OutboxOptions {
        linger_ms: LINGER_MS,
        batch_size_max: 4 * (MESSAGE_OVERHEAD + 10),
        batch_count_max: 3,
        delivery_timeout_ms: 1_000,
        backoff_ms: 10,
        ..OutboxOptions::default()
    }
}

fn key(queue: u32) -> LaneKey {
    let topic = TopicName::new("T").unwrap();
    LaneKey { topic, broker: "b".into(), queue: QueueId(queue) }
}

fn message(ticket: u64, size: usize) -> Queued {
    let (body, properties) = (vec![0; size].into(), Bytes::new());
    Queued { ticket: Ticket(ticket), body, properties, born_at: Timestamp(0) }
}

fn outbox() -> (Outbox, usize) {
    let mut outbox = Outbox::new(options());
    let lane = outbox.lane(&key(0)).unwrap();
    (outbox, lane)
}

fn tickets(batch: &Batch) -> Vec<u64> {
    batch.messages.iter().map(|message| message.ticket.0).collect()
}

fn busy() -> Attempt {
    let retry = Retry::UntilTimeout { after_ms: 0 };
    Attempt::Refused { code: Some(2), reason: "busy".to_owned(), retry }
}

fn refused(retry: Retry) -> Attempt {
    Attempt::Refused { code: Some(1), reason: "no".to_owned(), retry }
}

fn stored(first: u64) -> Attempt {
    Attempt::Stored { first: QueueOffset(first), position: Some(LogOffset(100)), code: 0 }
}

/// The outcomes of the tickets, one letter each.
fn fates(outbox: &mut Outbox) -> Vec<(u64, char)> {
    let letter = |delivery: &Delivery| match delivery {
        Delivery::Stored { .. } => 'S',
        Delivery::Refused { .. } => 'R',
        Delivery::Unknown { .. } => 'U',
    };
    let outcomes = outbox.take_outcomes();
    outcomes.iter().map(|outcome| (outcome.ticket.0, letter(&outcome.delivery))).collect()
}

#[test]
fn a_batch_leaves_when_it_lingered_or_is_full() {
    type Row = (&'static str, &'static [usize], bool, Timestamp, Option<&'static [u64]>);
    let rows: [Row; 6] = [
        ("one waits", &[10], false, Timestamp(LINGER_MS - 1), None),
        ("and lingers no longer", &[10], false, Timestamp(LINGER_MS), Some(&[0])),
        ("enough of them leave at once", &[10, 10, 10], false, Timestamp(0), Some(&[0, 1, 2])),
        ("or large ones", &[10, 500], false, Timestamp(0), Some(&[0])),
        ("or one that is too large", &[1_000], false, Timestamp(0), Some(&[0])),
        ("or when told so", &[10], true, Timestamp(0), Some(&[0])),
    ];
    for (case, sizes, is_flushing, now, expected) in rows {
        let (mut outbox, lane) = outbox();
        for (ticket, &size) in (0..).zip(sizes) {
            outbox.push(lane, message(ticket, size), false, Timestamp(0));
        }
        outbox.flush(is_flushing);
        let left = outbox.poll_batch(now).as_ref().map(tickets);
        assert_eq!(left.as_deref(), expected, "{case}");
    }
}

#[test]
fn each_message_learns_where_it_was_stored() {
    let (mut outbox, lane) = outbox();
    (0..3).for_each(|ticket| outbox.push(lane, message(ticket, 10), false, Timestamp(0)));
    assert!(outbox.waiting_bytes() > 0);
    let batch = outbox.poll_batch(Timestamp(0)).unwrap();
    assert!(outbox.handle_attempt(batch, stored(7), Timestamp(1)).is_none());
    let outcome = |ticket, offset| Outcome {
        ticket: Ticket(ticket),
        delivery: Delivery::Stored {
            broker: "b".into(),
            queue: QueueId(0),
            offset: QueueOffset(offset),
            position: (ticket == 0).then_some(LogOffset(100)),
            code: 0,
        },
    };
    assert_eq!(outbox.take_outcomes(), [outcome(0, 7), outcome(1, 8), outcome(2, 9)]);
    assert_eq!((outbox.waiting_count(), outbox.waiting_bytes()), (0, 0));
}

#[test]
fn pinned_messages_keep_their_order_through_repetitions() {
    let (mut outbox, lane) = outbox();
    (0..6).for_each(|ticket| outbox.push(lane, message(ticket, 10), true, Timestamp(0)));
    let first = outbox.poll_batch(Timestamp(0)).unwrap();
    assert!(outbox.poll_batch(Timestamp(0)).is_none(), "one at a time");
    assert!(outbox.handle_attempt(first, busy(), Timestamp(0)).is_none());
    assert!(outbox.poll_batch(Timestamp(9)).is_none(), "not before the first has been tried again");
    assert_eq!(outbox.poll_timeout(), Some(Timestamp(10)));
    let again = outbox.poll_batch(Timestamp(10)).unwrap();
    assert_eq!(tickets(&again), [0, 1, 2]);
    outbox.handle_attempt(again, stored(0), Timestamp(10));
    let second = outbox.poll_batch(Timestamp(10)).unwrap();
    assert_eq!(tickets(&second), [3, 4, 5]);
}

#[test]
fn what_is_given_up_says_why_it_was_not_taken() {
    let (mut outbox, lane) = outbox();
    outbox.push(lane, message(0, 10), true, Timestamp(0));
    let batch = outbox.poll_batch(Timestamp(LINGER_MS)).unwrap();
    outbox.handle_attempt(batch, busy(), Timestamp(LINGER_MS));
    assert!(outbox.poll_batch(Timestamp(1 << 40)).is_none());
    let delivery = outbox.take_outcomes().remove(0).delivery;
    let Delivery::Refused { code, reason } = delivery else { panic!("{delivery:?}") };
    assert_eq!(code, Some(2), "it was reached");
    assert!(reason.starts_with("not sent within") && reason.ends_with(": busy"), "{reason}");
}

#[test]
fn what_may_go_anywhere_comes_back_for_another_lane() {
    let (mut outbox, lane) = outbox();
    let other = outbox.lane(&key(1)).unwrap();
    outbox.push(lane, message(0, 10), false, Timestamp(0));
    let batch = outbox.poll_batch(Timestamp(LINGER_MS)).unwrap();
    let batch = outbox.handle_attempt(batch, busy(), Timestamp(LINGER_MS)).unwrap();
    outbox.requeue(batch, other, Timestamp(LINGER_MS));
    let batch = outbox.poll_batch(Timestamp(LINGER_MS)).unwrap();
    assert_eq!(batch.lane, other);
    outbox.handle_attempt(batch, stored(0), Timestamp(LINGER_MS));
    let delivery = outbox.take_outcomes().remove(0).delivery;
    assert!(matches!(delivery, Delivery::Stored { queue: QueueId(1), .. }));
}

/// One row: the attempts in order, and the outcome of the message once it has one.
#[test]
fn the_fate_of_a_message_follows_from_all_its_attempts() {
    let unknown = |is_repeated| Attempt::Unknown { reason: "lost".to_owned(), is_repeated };
    let few = || refused(Retry::AFewTimes);
    let rows = [
        ("stored at last", vec![busy(), busy(), stored(0)], 'S'),
        ("final refusal", vec![refused(Retry::No)], 'R'),
        ("refused too often", vec![few(), few(), few(), few()], 'R'),
        ("unknown", vec![unknown(false)], 'U'),
        ("stored after all", vec![unknown(true), stored(0)], 'S'),
        ("maybe stored before it was refused", vec![unknown(true), refused(Retry::No)], 'U'),
    ];
    for (case, attempts, fate) in rows {
        let (mut outbox, lane) = outbox();
        outbox.push(lane, message(0, 10), true, Timestamp(0));
        let mut now = Timestamp(LINGER_MS);
        for attempt in attempts {
            assert_eq!(fates(&mut outbox), [], "{case}");
            now = now.max(outbox.poll_timeout().unwrap());
            let batch = outbox.poll_batch(now).unwrap();
            outbox.handle_attempt(batch, attempt, now);
        }
        assert_eq!(fates(&mut outbox), [(0, fate)], "{case}");
        assert_eq!(outbox.poll_timeout(), None, "{case}");
    }
}

#[test]
fn a_message_is_given_up_when_its_time_is_over() {
    let (mut outbox, lane) = outbox();
    outbox.push(lane, message(0, 10), true, Timestamp(0));
    let mut attempts = 0;
    while let Some(due) = outbox.poll_timeout() {
        assert!(due < Timestamp(1_000));
        let batch = outbox.poll_batch(due).unwrap();
        outbox.handle_attempt(batch, busy(), due);
        attempts += 1;
    }
    assert_eq!(fates(&mut outbox), [(0, 'R')]);
    assert!((5..20).contains(&attempts), "{attempts} attempts, further and further apart");

    outbox.push(lane, message(1, 10), true, Timestamp(0));
    assert!(outbox.poll_batch(Timestamp(1_000)).is_none(), "too late for the first attempt");
    assert_eq!(fates(&mut outbox), [(1, 'R')]);
}

#[test]
fn a_held_lane_waits_until_it_is_released() {
    let (mut outbox, lane) = outbox();
    outbox.flush(true);
    outbox.push(lane, message(0, 10), false, Timestamp(0));
    let batch = outbox.poll_batch(Timestamp(0)).unwrap();
    outbox.hold(batch);
    assert_eq!(outbox.poll_timeout(), None);
    assert!(outbox.poll_batch(Timestamp(500)).is_none());
    outbox.release();
    assert_eq!(outbox.poll_batch(Timestamp(0)).as_ref().map(tickets), Some(vec![0]));
}

proptest! {
    /// Whatever happens, in whatever order, every message gets one outcome.
    #[test]
    fn every_message_gets_one_outcome(steps in prop::collection::vec((0..6u8, 0..4u32), 1..200)) {
        let mut outbox = Outbox::new(OutboxOptions { in_flight_max: 2, ..options() });
        let lanes: Vec<usize> = (0..4).map(|queue| outbox.lane(&key(queue)).unwrap()).collect();
        let (mut now, mut pushed) = (Timestamp(0), 0);
        let mut in_flight: Vec<Batch> = Vec::new();
        let mut seen = Vec::new();
        for (step, choice) in steps {
            let index = choice as usize;
            match step {
                0 | 1 => {
                    outbox.push(lanes[index], message(pushed, 10 * index), step == 0, now);
                    pushed += 1;
                }
                2 => in_flight.extend(outbox.poll_batch(now)),
                3 if !in_flight.is_empty() => {
                    let batch = in_flight.swap_remove(index % in_flight.len());
                    let attempts = [
                        stored(0),
                        busy(),
                        refused(Retry::AFewTimes),
                        Attempt::Unknown { reason: String::new(), is_repeated: pushed % 2 == 0 },
                    ];
                    let attempt = attempts[index].clone();
                    if let Some(batch) = outbox.handle_attempt(batch, attempt, now) {
                        outbox.requeue(batch, lanes[(index + 1) % 4], now);
                    }
                }
                4 if !in_flight.is_empty() => outbox.hold(in_flight.remove(0)),
                _ => {
                    outbox.release();
                    now = now.plus_ms(u64::from(choice) * 100);
                }
            }
            seen.extend(fates(&mut outbox));
        }
        outbox.release();
        outbox.flush(true);
        for batch in in_flight {
            outbox.handle_attempt(batch, refused(Retry::No), now);
        }
        while let Some(due) = outbox.poll_timeout() {
            now = now.max(due);
            if let Some(batch) = outbox.poll_batch(now) {
                outbox.handle_attempt(batch, stored(0), now);
            }
        }
        seen.extend(fates(&mut outbox));
        seen.sort_unstable();
        let tickets: Vec<u64> = seen.iter().map(|(ticket, _)| *ticket).collect();
        prop_assert_eq!(tickets, (0..pushed).collect::<Vec<_>>());
        prop_assert_eq!((outbox.waiting_count(), outbox.waiting_bytes()), (0, 0));
    }
}
