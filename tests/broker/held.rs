//! Held pulls: however many are woken or end at the same time, they are answered in steps of bounded
//! length, and each exactly once, whatever happens between two steps.

use super::replicas::{Decided, commit_all, open_driven, put, write_all};
use super::*;

/// The bound of one step.
const STEP_MAX: usize = 64;
const COUNT: u64 = 10_000;
const HOLD_MS: u64 = 1_000;

/// Holds a pull of `request`; returns false if it was answered.
fn hold(broker: &Broker<SimDisk>, request: Pull, connection: u64, ticket: u64, now: Now) -> bool {
    let origin = Origin { connection, ticket, ..Origin::default() };
    match broker.handle(&Request::Pull(request), origin, now) {
        Handled::Done(Outcome::Held) => true,
        Handled::Done(_) => false,
        other => panic!("{other:?}"),
    }
}

fn pull_of(name: &str, queue_id: u32, offset: u64, tag: &str) -> Pull {
    let subscription = Some(Expression { kind: "TAG".into(), text: tag.into() });
    Pull { hold_ms: Some(HOLD_MS), subscription, ..pull(name, queue_id, offset as i64) }
}

/// A broker with one message in topic `t`, behind which pulls on seven connections wait: tickets 0 to
/// `count`, each for the tag that `tag_of` says.
async fn holding(count: u64, tag_of: impl Fn(u64) -> &'static str) -> Broker<SimDisk> {
    let broker = open_driven(&SimDisk::new(1)).await;
    put(&broker, "t", 0).await;
    commit_all(&broker).await;
    for ticket in 0..count {
        assert!(hold(&broker, pull_of("t", 0, 1, tag_of(ticket)), ticket % 7, ticket, NOW));
    }
    broker
}

fn tickets(released: &[Released]) -> Vec<u64> {
    released.iter().map(|one| one.origin.ticket).collect()
}

/// Repeats a step until nothing is left; returns the tickets of the answered pulls.
fn answered_in_steps(mut step: impl FnMut() -> Vec<Released>) -> Vec<u64> {
    let mut answered = Vec::new();
    loop {
        let released = step();
        assert!(released.len() <= STEP_MAX, "{} pulls were answered in one step", released.len());
        if released.is_empty() {
            return answered;
        }
        answered.extend(tickets(&released));
    }
}

#[test]
fn however_many_wait_for_a_message_a_step_answers_few_in_order_of_arrival() {
    sim::run(async {
        let broker = holding(COUNT, |_| "*").await;
        put(&broker, "t", 0).await;
        write_all(&broker).await;
        broker.store().commit_to(broker.store().end());
        let answered = answered_in_steps(|| broker.advance());
        assert_eq!(answered, Vec::from_iter(0..COUNT));
        assert!(!broker.has_woken());
    });
}

#[test]
fn however_many_end_at_the_same_time_a_step_answers_few() {
    sim::run(async {
        let broker = holding(COUNT, |_| "*").await;
        let later = Now { moment: NOW.moment.plus_ms(HOLD_MS), ..NOW };
        let is_due = || broker.next_deadline().is_some_and(|due| due <= later.moment);
        let answered = answered_in_steps(|| if is_due() { broker.act(later) } else { Vec::new() });
        assert_eq!(answered, Vec::from_iter(0..COUNT));
    });
}

#[test]
fn however_many_wait_on_a_deleted_topic_a_step_refuses_few() {
    sim::run(async {
        let broker = holding(COUNT, |_| "*").await;
        let deletion = Request::DeleteTopic { topic: topic("t") };
        let mut deletion = pin!(broker.operate(&deletion, &Here));
        assert!(poll_once(&mut deletion).await.is_none());
        assert!(broker.advance().is_empty(), "the deletion is not committed");
        write_all(&broker).await;
        broker.store().commit_to(broker.store().end());
        let answered = answered_in_steps(|| broker.advance());
        assert_eq!(answered, Vec::from_iter(0..COUNT));
    });
}

/// One that arrives between two steps waits behind those that were there before, although they are
/// held again after it.
#[test]
fn pulls_that_are_held_again_keep_their_order() {
    sim::run(async {
        let count = 3 * STEP_MAX as u64;
        let broker = holding(count, |_| "B").await;
        put(&broker, "t", 0).await;
        assert!(commit_all(&broker).await.is_empty(), "its tag is not the one they want");
        assert!(broker.has_woken(), "some have not seen it yet");
        assert!(hold(&broker, pull_of("t", 0, 2, "B"), 1, count, NOW));
        while broker.has_woken() {
            assert!(broker.advance().is_empty());
        }
        ask(&broker, Request::Produce(produce("t", 0, "B", b"t")));
        write_all(&broker).await;
        broker.store().commit_to(broker.store().end());
        assert_eq!(answered_in_steps(|| broker.advance()), Vec::from_iter(0..=count));
    });
}

/// A message is there, so "nothing new" would be wrong.
#[test]
fn a_pull_whose_deadline_comes_after_it_was_woken_gets_the_message() {
    sim::run(async {
        let count = 2 * STEP_MAX as u64;
        let broker = holding(count, |ticket| if ticket % 2 == 0 { "*" } else { "B" }).await;
        put(&broker, "t", 0).await;
        let mut answered = tickets(&commit_all(&broker).await);
        let later = Now { moment: NOW.moment.plus_ms(HOLD_MS), ..NOW };
        while broker.next_deadline().is_some_and(|due| due <= later.moment) {
            answered.extend(tickets(&broker.act(later)));
        }
        let released = broker.advance();
        assert!(!released.is_empty() && !broker.has_woken());
        for Released { origin, outcome } in &released {
            let Outcome::Now(Answer { reply: Ok(Reply::Pulled(pulled)), .. }) = outcome else {
                panic!("{outcome:?}")
            };
            // The others do not wait any more.
            let expected = [PullStatus::Found, PullStatus::NothingMatched];
            assert_eq!(pulled.status, expected[origin.ticket as usize % 2]);
        }
        answered.extend(tickets(&released));
        answered.sort_unstable();
        assert_eq!(answered, Vec::from_iter(0..count));
    });
}

/// The change is not committed yet, so they wait for that, and get the message if it is cut off.
#[test]
fn a_topic_or_group_that_is_deleted_between_two_steps_ends_the_pulls_that_are_left() {
    let deletions = [
        (Request::DeleteTopic { topic: topic("t") }, Refusal::UnknownTopic(topic("t"))),
        (
            Request::DeleteGroup { group: group(), with_offsets: false },
            Refusal::UnknownGroup(group()),
        ),
    ];
    for ((deletion, refusal), is_cut) in deletions.iter().flat_map(|d| [(d, false), (d, true)]) {
        sim::run(async {
            let count = 2 * STEP_MAX as u64;
            let broker = holding(count, |_| "*").await;
            put(&broker, "t", 0).await;
            let mut answered = tickets(&commit_all(&broker).await);
            let kept = broker.store().newest_ordinal();
            let mut operation = pin!(broker.operate(deletion, &Here));
            assert!(poll_once(&mut operation).await.is_none());
            assert!(broker.advance().is_empty() && !broker.has_woken(), "{deletion:?}");
            write_all(&broker).await;
            match is_cut {
                true => broker.cut_to(kept, NOW.wall).await.unwrap(),
                false => broker.store().commit_to(broker.store().end()),
            }
            let released = broker.advance();
            for Released { outcome, .. } in &released {
                let is_refused = matches!(
                    outcome,
                    Outcome::Now(Answer { reply: Err(reply), .. }) if reply == refusal
                );
                let is_found = match outcome {
                    Outcome::Now(Answer { reply: Ok(Reply::Pulled(pulled)), .. }) => {
                        pulled.status == PullStatus::Found
                    }
                    // The cut has emptied the cache.
                    Outcome::Cold(_) => true,
                    _ => false,
                };
                assert_eq!((is_refused, is_found), (!is_cut, is_cut), "{outcome:?}");
            }
            answered.extend(tickets(&released));
            assert_eq!(answered, Vec::from_iter(0..count), "{deletion:?}, cut: {is_cut}");
        });
    }
}

const TOPICS: [&str; 2] = ["a", "b"];

/// Random requests, commits, cuts, deadlines and changes of the lease between the steps.
struct Scene {
    broker: Broker<SimDisk>,
    standing: Rc<Cell<Standing>>,
    rng: Rng,
    seed: u64,
    moment: Moment,
    /// The ordinal of the last committed entry.
    kept: u64,
    next_ticket: u64,
    /// Pulls that wait: their connection and topic.
    waiting: BTreeMap<u64, (u64, &'static str)>,
    answered: usize,
}

impl Scene {
    async fn open(seed: u64) -> Self {
        let broker = open_driven(&SimDisk::new(seed)).await;
        let standing = Rc::new(Cell::new(Standing::Leads));
        broker.set_leadership(Box::new(Decided(standing.clone())));
        let rng = Rng::from_seed(seed);
        let mut scene = Self {
            broker,
            standing,
            rng,
            seed,
            moment: NOW.moment,
            kept: 0,
            next_ticket: 0,
            waiting: BTreeMap::new(),
            answered: 0,
        };
        for name in TOPICS {
            put(&scene.broker, name, 0).await;
        }
        scene.commit().await;
        scene
    }

    fn now(&self) -> Now {
        Now { moment: self.moment, ..NOW }
    }

    async fn commit(&mut self) {
        write_all(&self.broker).await;
        self.broker.store().commit_to(self.broker.store().end());
        self.kept = self.broker.store().newest_ordinal();
    }

    /// Begins an operation, whose client leaves before it is answered.
    async fn begin(&mut self, request: Request) {
        poll_once(&mut pin!(self.broker.operate(&request, &Here))).await;
    }

    async fn change(&mut self) {
        let name = TOPICS[self.rng.below(2) as usize];
        match self.rng.below(24) {
            0..=3 => self.hold_some(name).await,
            4..=7 => {
                let tag = ["A", "B"][self.rng.below(2) as usize];
                let request = produce(name, self.rng.below(4) as u32, tag, name.as_bytes());
                try_ask(&self.broker, Request::Produce(request));
            }
            8..=10 => self.commit().await,
            11..=15 => {
                let released = self.broker.advance();
                self.note(released);
            }
            16..=17 => {
                self.moment = self.moment.plus_ms(self.rng.below(HOLD_MS / 2));
                let released = self.broker.act(self.now());
                self.note(released);
            }
            18 => {
                let connection = self.rng.below(4);
                self.broker.connection_closed(connection, self.moment);
                self.waiting.retain(|_, (of, _)| *of != connection);
            }
            19 => self.begin(Request::DeleteTopic { topic: topic(name) }).await,
            20 => {
                let queue_count = 1 + self.rng.below(4) as u32;
                let config = TopicConfig::new(topic(name), queue_count);
                self.begin(Request::UpdateTopic(config)).await;
            }
            21 => {
                self.begin(Request::DeleteGroup { group: group(), with_offsets: false }).await;
            }
            22 => {
                let standings = [Standing::Leads, Standing::Elected];
                self.standing.set(standings[self.rng.below(2) as usize]);
                self.broker.end_holds_without_lease(self.moment);
            }
            _ => {
                write_all(&self.broker).await;
                self.broker.cut_to(self.kept, NOW.wall).await.unwrap();
            }
        }
    }

    async fn hold_some(&mut self, name: &'static str) {
        let of = queue(name, self.rng.below(4) as u32);
        let request = Request::MaxOffset(of.clone());
        let answer = poll_once(&mut pin!(self.broker.operate(&request, &Here))).await;
        let Some(Ok(Reply::Offset(end))) = answer.map(|answer| answer.reply) else { return };
        for _ in 0..self.rng.below(3 * STEP_MAX as u64) {
            let tag = ["A", "B", "*"][self.rng.below(3) as usize];
            let group = self.rng.chance(1, 2).then(group);
            let request = Pull { group, ..pull_of(name, of.queue.0, end.0, tag) };
            let (connection, ticket) = (self.rng.below(4), self.next_ticket);
            self.next_ticket += 1;
            if hold(&self.broker, request, connection, ticket, self.now()) {
                self.waiting.insert(ticket, (connection, name));
            }
        }
    }

    fn note(&mut self, released: Vec<Released>) {
        let seed = self.seed;
        assert!(released.len() <= STEP_MAX, "seed {seed}");
        for Released { origin, outcome } in released {
            let waiting = self.waiting.remove(&origin.ticket);
            let (_, name) = waiting.unwrap_or_else(|| panic!("seed {seed}: answered again"));
            self.answered += 1;
            let Outcome::Now(answer) = outcome else { continue };
            for chunk in &answer.chunks {
                let record = RecordView::parse(chunk).unwrap();
                assert_eq!(record.topic, name, "seed {seed}");
            }
        }
    }

    /// Lets everything end.
    async fn end(&mut self) {
        self.standing.set(Standing::Leads);
        self.commit().await;
        self.moment = self.moment.plus_ms(10 * HOLD_MS);
        while self.broker.next_deadline().is_some_and(|due| due <= self.moment) {
            let released = self.broker.act(self.now());
            self.note(released);
        }
        loop {
            let released = self.broker.advance();
            self.note(released);
            if !self.broker.has_woken() {
                break;
            }
        }
        assert!(self.waiting.is_empty(), "seed {}: {} wait", self.seed, self.waiting.len());
    }
}

#[test]
fn every_held_pull_is_answered_once_whatever_happens_between_two_steps() {
    sim::run(async {
        let mut answered = 0;
        for seed in 0..60 {
            let mut scene = Scene::open(seed).await;
            for _ in 0..300 {
                scene.change().await;
            }
            scene.end().await;
            answered += scene.answered;
        }
        assert!(answered > 10_000, "only {answered} waited");
    });
}
