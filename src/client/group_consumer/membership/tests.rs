use super::*;
use crate::model::QueueId;

const BROKER: &str = "10.0.0.1:10911";
const OTHER: &str = "10.0.0.2:10911";

fn topic() -> TopicName {
    TopicName::new("T").unwrap()
}

fn queue(number: u32) -> QueueRef {
    QueueRef { topic: topic(), broker: "b".to_owned(), queue: QueueId(number) }
}

fn at(offset: u64) -> QueueOffset {
    QueueOffset(offset)
}

fn ms(ms: u64) -> Timestamp {
    Timestamp(ms)
}

fn beat(address: &str) -> Action {
    Action::Heartbeat { address: address.to_owned() }
}

fn ask(address: &str) -> Action {
    Action::AskMembers { topic: topic(), address: address.to_owned() }
}

fn read(number: u32, offset: u64) -> Action {
    Action::Read { queue: queue(number), offset: at(offset) }
}

fn stop(number: u32) -> Action {
    Action::Stop { queue: queue(number) }
}

fn members(names: &[&str]) -> Result<Vec<String>, ()> {
    Ok(names.iter().map(|name| (*name).to_owned()).collect())
}

/// The offsets in commits, by queue number, and all other actions.
fn commits(actions: Vec<Action>) -> (Vec<(u32, u64)>, Vec<Action>) {
    let mut found = Vec::new();
    let others = actions.into_iter().filter(|action| match action {
        Action::Commit { queue, offset, .. } => {
            found.push((queue.queue.0, offset.0));
            false
        }
        _ => true,
    });
    let others = others.collect();
    (found, others)
}

/// A member `b` of a group on a topic with `queue_count` queues, whose brokers do not know it yet.
fn newcomer(queue_count: u32, addresses: &[&str]) -> Membership {
    let mut membership = Membership::new("b", [topic()], ms(0));
    let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
    membership.handle_route(&topic(), (0..queue_count).map(queue).collect(), addresses, ms(0));
    membership
}

/// Divides the queues among these members, and answers look-ups with offset 100.
fn divide(membership: &mut Membership, names: &[&str], now: Timestamp) -> Vec<Action> {
    membership.handle_members(&topic(), members(names), now);
    let mut others = Vec::new();
    for action in membership.poll(now) {
        match action {
            Action::LookUp { queue, assignment } => {
                membership.handle_looked_up(&queue, assignment, Ok((at(100), true)), now);
            }
            other => others.push(other),
        }
    }
    others.extend(membership.poll(now));
    others
}

/// The only member: it reads both queues of a topic from offset 100.
fn alone() -> Membership {
    let mut membership = newcomer(2, &[BROKER]);
    assert_eq!(membership.poll(ms(0)), [beat(BROKER)]);
    membership.handle_heartbeat(BROKER, Ok(1), ms(0));
    assert_eq!(membership.poll(ms(0)), [ask(BROKER)]);
    assert_eq!(divide(&mut membership, &["b"], ms(0)), [read(0, 100), read(1, 100)]);
    membership
}

#[test]
fn a_member_is_known_to_all_brokers_before_the_queues_are_divided() {
    let mut membership = newcomer(3, &[BROKER, OTHER]);
    assert_eq!(membership.poll(ms(0)), [beat(BROKER), beat(OTHER)]);
    membership.handle_heartbeat(OTHER, Ok(2), ms(5));
    assert_eq!(membership.poll(ms(5)), [], "one has not answered");
    membership.handle_heartbeat(BROKER, Ok(1), ms(9));
    assert_eq!(membership.poll(ms(9)), [ask(BROKER)]);
    let started = divide(&mut membership, &["c", "b", "a"], ms(10));
    assert_eq!(started, [read(1, 100)], "the second of three, in whatever order they are listed");
}

#[test]
fn a_broker_that_does_not_answer_does_not_hold_up_the_others() {
    let mut membership = newcomer(1, &[BROKER, OTHER]);
    membership.poll(ms(0));
    membership.handle_heartbeat(BROKER, Err(()), ms(3_000));
    membership.handle_heartbeat(OTHER, Ok(2), ms(3_000));
    assert_eq!(membership.poll(ms(3_000)), [ask(OTHER)]);
    assert_eq!(membership.poll_timeout(), ms(3_000 + RETRY_MS));
    assert_eq!(membership.poll(ms(3_000 + RETRY_MS)), [beat(BROKER)]);
    membership.handle_members(&topic(), Err(()), ms(4_000));
    membership.handle_heartbeat(BROKER, Ok(3), ms(4_100));
    let asked = membership.poll(ms(4_100));
    assert_eq!(asked, [ask(OTHER)], "again, now that all brokers know us; another one than before");
}

#[test]
fn heartbeats_go_on_and_a_new_connection_needs_one_at_once() {
    let mut membership = alone();
    membership.handle_line(BROKER, Some(1), ms(10));
    assert_eq!(membership.poll(ms(10)), []);
    membership.handle_line(BROKER, None, ms(20));
    assert_eq!(membership.poll(ms(20)), [beat(BROKER)]);
    membership.handle_heartbeat(BROKER, Ok(2), ms(30));
    assert_eq!(membership.poll(ms(30)), [ask(BROKER)], "the members may have changed");
    membership.handle_members(&topic(), members(&["b"]), ms(30));
    assert_eq!(membership.poll(ms(30)), [], "the queues stayed ours");
    let later = ms(30 + HEARTBEAT_PERIOD_MS);
    let is_beat = |action: &Action| *action == beat(BROKER);
    assert!(membership.poll(later).iter().any(is_beat));
    membership.handle_heartbeat(BROKER, Ok(2), later);
    assert_eq!(membership.poll(later), [], "it knew us already");
}

#[test]
fn members_are_asked_for_periodically_and_when_notified() {
    let mut membership = alone();
    membership.handle_notified(ms(100));
    assert_eq!(membership.poll(ms(100)), [ask(BROKER)]);
    membership.handle_notified(ms(110));
    assert_eq!(membership.poll(ms(110)), [], "one request at a time");
    membership.handle_members(&topic(), members(&["b"]), ms(120));
    assert_eq!(membership.poll(ms(120)), [ask(BROKER)], "the reply may be from before the change");
    membership.handle_members(&topic(), members(&["b"]), ms(130));
    let due = ms(130 + REBALANCE_PERIOD_MS);
    let is_ask = |action: &Action| *action == ask(BROKER);
    assert!(!membership.poll(ms(due.0 - 1)).iter().any(is_ask));
    assert!(membership.poll(due).iter().any(is_ask));
}

#[test]
fn more_queues_are_divided_at_once() {
    let mut membership = alone();
    let queues = (0..3).map(queue).collect();
    membership.handle_route(&topic(), queues, vec![BROKER.to_owned()], ms(50));
    assert_eq!(membership.poll(ms(50)), [ask(BROKER)]);
    assert_eq!(divide(&mut membership, &["b"], ms(60)), [read(2, 100)]);
}

#[test]
fn what_was_acknowledged_is_committed_periodically() {
    let mut membership = alone();
    let first = membership.handle_fetched(&queue(0), at(110)).unwrap();
    let second = membership.handle_fetched(&queue(0), at(120)).unwrap();
    membership.handle_acknowledged(&first, at(110));
    membership.handle_acknowledged(&second, at(115));
    let round = |nth: u64| ms(nth * COMMIT_PERIOD_MS);
    assert_eq!(membership.poll(ms(COMMIT_PERIOD_MS - 1)), []);
    let actions = membership.poll(round(1));
    let Some(Action::Commit { queue: of, assignment, offset }) = actions.first().cloned() else {
        panic!("{actions:?}")
    };
    assert_eq!((actions.len(), &of, offset), (1, &queue(0), at(115)), "queue 1 has nothing new");

    membership.handle_acknowledged(&second, at(120));
    assert_eq!(membership.poll(round(2)), [], "one commit per queue at a time");
    membership.handle_committed(&of, assignment, offset, false);
    let (again, _) = commits(membership.poll(round(3)));
    assert_eq!(again, [(0, 120)], "one that failed is repeated, with what is new");
    membership.handle_committed(&of, assignment, at(120), true);
    assert_eq!(commits(membership.poll(round(4))).0, []);
}

#[test]
fn a_lost_queue_is_committed_and_what_comes_later_does_not_count() {
    let mut membership = alone();
    let receipt = membership.handle_fetched(&queue(0), at(110)).unwrap();
    membership.handle_acknowledged(&receipt, at(105));
    membership.handle_notified(ms(10));
    membership.poll(ms(10));
    let (committed, others) = commits(divide(&mut membership, &["a", "b"], ms(10)));
    assert_eq!((committed, others), (vec![(0, 105)], vec![stop(0)]), "queue 1 stays");
    assert_eq!(membership.handle_fetched(&queue(0), at(120)), None, "a late reply");

    membership.handle_notified(ms(20));
    membership.poll(ms(20));
    assert_eq!(divide(&mut membership, &["b"], ms(20)), [read(0, 100)]);
    // The same messages are out again.
    let again = membership.handle_fetched(&queue(0), at(110)).unwrap();
    membership.handle_acknowledged(&receipt, at(110));
    let (committed, _) = commits(membership.poll(ms(COMMIT_PERIOD_MS)));
    assert_eq!(committed, [], "it was handed out under an earlier assignment");
    membership.handle_acknowledged(&again, at(110));
    let (committed, _) = commits(membership.poll(ms(2 * COMMIT_PERIOD_MS)));
    assert_eq!(committed, [(0, 110)]);
}

#[test]
fn a_failed_look_up_is_repeated_and_an_outdated_one_is_ignored() {
    let mut membership = newcomer(1, &[BROKER]);
    membership.poll(ms(0));
    membership.handle_heartbeat(BROKER, Ok(1), ms(0));
    membership.poll(ms(0));
    membership.handle_members(&topic(), members(&["b"]), ms(0));
    let look_up = membership.poll(ms(0));
    let [Action::LookUp { queue: of, assignment }] = look_up.as_slice() else {
        panic!("{look_up:?}")
    };
    membership.handle_looked_up(of, *assignment, Err(()), ms(0));
    assert_eq!(membership.poll(ms(LOOK_UP_RETRY_MS - 1)), []);
    assert_eq!(membership.poll(ms(LOOK_UP_RETRY_MS)), look_up);
    membership.handle_looked_up(of, assignment + 1, Ok((at(7), true)), ms(LOOK_UP_RETRY_MS));
    assert_eq!(membership.poll(ms(LOOK_UP_RETRY_MS)), []);
    membership.handle_looked_up(of, *assignment, Ok((at(7), true)), ms(LOOK_UP_RETRY_MS));
    assert_eq!(membership.poll(ms(LOOK_UP_RETRY_MS)), [read(0, 7)]);
}

/// The broker was restarted, say. Giving up the queues at once would hand them out twice.
#[test]
fn a_member_that_is_not_listed_beats_before_it_gives_up_its_queues() {
    let mut membership = alone();
    membership.handle_notified(ms(10));
    membership.poll(ms(10));
    membership.handle_members(&topic(), members(&["a"]), ms(10));
    assert_eq!(membership.poll(ms(10)), [beat(BROKER)]);
    membership.handle_heartbeat(BROKER, Ok(1), ms(20));
    assert_eq!(membership.poll(ms(20)), [ask(BROKER)]);
    let (committed, others) = commits(divide(&mut membership, &["a"], ms(20)));
    assert_eq!((committed, others), (vec![], vec![stop(0), stop(1)]), "it is not wanted");
}

#[test]
fn a_reset_starts_over_at_another_offset_and_voids_what_is_out() {
    let mut membership = alone();
    let receipt = membership.handle_fetched(&queue(0), at(110)).unwrap();
    membership.handle_reset(&queue(0), at(5));
    membership.handle_reset(&queue(9), at(5));
    assert_eq!(membership.poll(ms(0)), [read(0, 5)], "not of a queue of others");
    membership.handle_acknowledged(&receipt, at(110));
    assert_eq!(membership.reading(&queue(0)), Some((at(5), true)));
    assert_eq!(commits(membership.poll(ms(COMMIT_PERIOD_MS))).0, [(0, 5)]);
}

#[test]
fn who_leaves_commits_everything_and_does_nothing_more() {
    let mut membership = alone();
    let receipt = membership.handle_fetched(&queue(1), at(110)).unwrap();
    membership.handle_acknowledged(&receipt, at(110));
    membership.handle_notified(ms(10));
    membership.leave();
    let (committed, others) = commits(membership.poll(ms(10)));
    assert_eq!((committed, others), (vec![(1, 110)], vec![stop(0), stop(1)]));
    assert_eq!(membership.poll(ms(100_000)), []);
    assert_eq!(membership.addresses().collect::<Vec<_>>(), [BROKER], "to be told");
}

/// Whatever happens in which order, an offset is committed only when everything before it was
/// acknowledged, and the queues of all members are each queue exactly once as soon as they agree.
#[test]
fn no_order_of_events_commits_what_was_not_acknowledged() {
    for seed in 0..500 {
        let mut random = Random(seed * 2 + 1);
        let mut membership = alone();
        let mut acknowledged = [100_u64; 2];
        let mut out: Vec<(Receipt, u64, u64)> = Vec::new();
        let mut ends = [100_u64; 2];
        let mut now = 0;
        for _ in 0..60 {
            now += random.below(2_000);
            let number = random.below(2) as u32;
            let place = number as usize;
            match random.below(5) {
                0 => {
                    let end = ends[place] + 1 + random.below(9);
                    if let Some(receipt) = membership.handle_fetched(&queue(number), at(end)) {
                        out.push((receipt, ends[place], end));
                        ends[place] = end;
                    }
                }
                1 if !out.is_empty() => {
                    let (receipt, _, end) = out.remove(random.below(out.len() as u64) as usize);
                    membership.handle_acknowledged(&receipt, at(end));
                    let of = receipt.queue.queue.0;
                    let open = out.iter().filter(|(other, ..)| other.queue.queue.0 == of);
                    let settled = open.map(|(_, first, _)| *first).min();
                    acknowledged[of as usize] = settled.unwrap_or(ends[of as usize]);
                }
                2 => membership.handle_notified(ms(now)),
                3 => {
                    let names: &[&str] = if random.below(2) == 0 { &["b"] } else { &["a", "b"] };
                    membership.handle_members(&topic(), members(names), ms(now));
                }
                _ => membership.handle_heartbeat(BROKER, Ok(random.below(2)), ms(now)),
            }
            for action in membership.poll(ms(now)) {
                match action {
                    Action::Commit { queue, offset, assignment } => {
                        let place = queue.queue.0 as usize;
                        assert!(
                            offset.0 <= acknowledged[place],
                            "seed {seed}: {offset} of {place}"
                        );
                        membership.handle_committed(&queue, assignment, offset, true);
                    }
                    // The broker has what was committed; what is out is void.
                    Action::LookUp { queue, assignment } => {
                        let place = queue.queue.0 as usize;
                        let offset = acknowledged[place];
                        ends[place] = offset;
                        out.retain(|(receipt, ..)| receipt.queue != queue);
                        let found = Ok((at(offset), true));
                        membership.handle_looked_up(&queue, assignment, found, ms(now));
                    }
                    _ => {}
                }
            }
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
