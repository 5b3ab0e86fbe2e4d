//! Power cuts at random steps: every acknowledged change survives.

use super::*;

/// Everything that was acknowledged to a run, and everything that it tried.
#[derive(Default)]
struct Promised {
    /// Acknowledged bodies, by queue and offset.
    messages: BTreeMap<(String, u32, u64), Vec<u8>>,
    /// The last acknowledged offset, then those tried after it.
    offsets: BTreeMap<(String, u32), Vec<i64>>,
    acknowledged_offsets: BTreeSet<(String, u32)>,
    sent: Vec<Vec<u8>>,
}

/// Sends, commits offsets and creates topics until the disk loses power.
async fn run_until_power_is_lost(disk: &SimDisk, rng: &mut Rng, promised: &mut Promised) {
    let opened = Broker::open(disk.clone(), store_config(), broker_config(true)).await;
    let Ok((broker, _)) = opened else { return };
    for _ in 0..40 {
        let (mut waiting, mut commits) = (Vec::new(), Vec::new());
        for _ in 0..=rng.below(4) {
            let name = ["a", "b", "c"][rng.below(3) as usize];
            let queue_id = rng.below(3) as u32;
            let body = vec![rng.below(256) as u8; 1 + rng.below(9_000) as usize];
            if rng.below(5) == 0 {
                let offset = rng.below(100) as i64;
                let tried = promised.offsets.entry((name.to_owned(), queue_id)).or_default();
                tried.push(offset);
                let queue = queue(name, queue_id);
                let request = Request::CommitOffset { group: group(), queue, offset };
                let broker = &broker;
                let operation = async move { broker.operate(&request, &Here).await.reply };
                let mut operation = Box::pin(operation);
                if poll_once(&mut operation).await.is_none() {
                    commits.push((operation, name, queue_id, offset));
                }
                continue;
            }
            promised.sent.push(body.clone());
            let request = Request::Produce(produce(name, queue_id, "A", &body));
            let handled = try_ask(&broker, request);
            if let Handled::Done(Outcome::Committed { mark, reply: Reply::Produced(produced) }) =
                handled
            {
                waiting.push((mark, name, queue_id, body, produced.queue_offset.0));
            }
        }
        if rng.below(3) > 0 {
            let moment = broker.next_deadline().unwrap();
            broker.act(Now { moment, ..NOW });
        }
        while broker.store().committed() < broker.store().end() {
            if broker.store().commit_step().await.is_err() {
                break;
            }
        }
        for (mark, name, queue_id, body, offset) in waiting {
            if mark > broker.store().committed() {
                return;
            }
            promised.messages.insert((name.to_owned(), queue_id, offset), body);
        }
        for (mut operation, name, queue_id, offset) in commits {
            // An operation without a reply is dropped, as when its connection closes.
            if poll_once(&mut operation).await != Some(Ok(Reply::Done)) {
                continue;
            }
            let tried = promised.offsets.entry((name.to_owned(), queue_id)).or_default();
            let acknowledged = tried.iter().rposition(|one| *one == offset).unwrap();
            tried.drain(..acknowledged);
            promised.acknowledged_offsets.insert((name.to_owned(), queue_id));
        }
        broker.advance();
        if rng.below(3) == 0 && broker.maintain(NOW, rng.below(4) == 0).await.is_err() {
            return;
        }
    }
}

async fn check(disk: &SimDisk, promised: &Promised, seed: u64) {
    let broker = open(disk).await;
    for name in ["a", "b", "c"] {
        for queue_id in 0..3 {
            let known = answer(&broker, Request::MaxOffset(queue(name, queue_id))).await.reply;
            let found = match known {
                Ok(_) => read_all(&broker, name, queue_id).await,
                Err(_) => Vec::new(),
            };
            for (nth, one) in found.iter().enumerate() {
                assert_eq!(one.offset, nth as u64, "seed {seed}: a gap in {name} {queue_id}");
                assert!(promised.sent.contains(&one.body), "seed {seed}: an invented message");
            }
            let place = (name.to_owned(), queue_id, 0);
            for ((other, queue, offset), body) in promised.messages.range(place..) {
                if (other.as_str(), *queue) != (name, queue_id) {
                    break;
                }
                let one = found.get(*offset as usize).map(|one| &one.body);
                assert!(one == Some(body), "seed {seed}: lost {name} {queue_id} {offset}");
            }
        }
    }
    for (name, queue_id) in &promised.acknowledged_offsets {
        let possible = &promised.offsets[&(name.clone(), *queue_id)];
        let queue = queue(name, *queue_id);
        let request = Request::CommittedOffset { group: group(), queue, zero_if_missing: false };
        let reply = answer(&broker, request).await.reply;
        let Ok(Reply::Offset(found)) = reply else {
            panic!("seed {seed}: lost offsets: {reply:?}")
        };
        assert!(possible.contains(&(found.0 as i64)), "seed {seed}: {found}, not of {possible:?}");
    }
}

/// Three lives, each ended by a power cut at a random step, on a disk with concurrent writes. At
/// the end, everything acknowledged in any of them is in its place, and nothing is there that was
/// never sent.
#[test]
fn acknowledged_changes_survive_power_cuts() {
    for seed in 0..500 {
        let mut rng = Rng::from_seed(seed);
        let mut disk = SimDisk::new(seed);
        let mut promised = Promised::default();
        for life in 0..3 {
            disk.slow(rng.below(4) as u32);
            disk.lose_power_after(1 + rng.below(120));
            sim::run(run_until_power_is_lost(&disk, &mut rng, &mut promised));
            disk.lose_power();
            disk = disk.after_crash(seed * 3 + life);
        }
        sim::run(check(&disk, &promised, seed));
    }
}
