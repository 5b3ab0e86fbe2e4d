//! The vote of a replica: durable once written, at any power cut, and on a full disk.

use ringmq::sim::{Rng, SimDisk, run};
use ringmq::storage::StoredVote;
use ringmq::storage::vote::VoteError;

use super::shard::{Shard, config};

fn vote(term: u64) -> StoredVote {
    StoredVote { term, voted_for: 1 + term % 3, is_committed: term.is_multiple_of(2) }
}

/// Writes votes until power is lost. Returns the term of the last one that was written, and of the
/// last one that may have been.
fn vote_until_dark(disk: &SimDisk, from: u64, steps: u64) -> (u64, u64) {
    let shard = run(Shard::open(disk, config())).unwrap();
    run(shard.store.open_votes()).unwrap();
    disk.lose_power_after(steps);
    let mut term = from;
    while run(shard.store.write_vote(vote(term + 1))).is_ok() {
        term += 1;
    }
    (term, term + 1)
}

#[test]
fn a_vote_is_there_after_a_power_cut_at_any_step() {
    for seed in 0..300 {
        let mut rng = Rng::from_seed(seed);
        let mut disk = SimDisk::new(seed);
        let mut term = 0;
        for _ in 0..4 {
            let (written, begun) = vote_until_dark(&disk, term, rng.below(12));
            let left = rng.next_u64();
            disk = if rng.coin() { disk.after_crash(left) } else { disk.after_kill(left) };
            let found = run(async {
                let shard = Shard::open(&disk, config()).await.unwrap();
                shard.store.open_votes().await.unwrap()
            });
            term = found.map_or(0, |found| found.term);
            assert!((written..=begun).contains(&term), "seed {seed}: {found:?}, written {written}");
            assert_eq!(found, Some(vote(term)).filter(|_| term > 0), "seed {seed}");
        }
    }
}

#[test]
fn a_full_disk_takes_votes() {
    let disk = SimDisk::new(1);
    let shard = run(Shard::open(&disk, config())).unwrap();
    assert_eq!(run(shard.store.open_votes()).unwrap(), None, "it has not voted");
    disk.limit(0);
    run(shard.store.write_vote(vote(5))).unwrap();
    assert_eq!(run(shard.store.open_votes()).unwrap(), Some(vote(5)));
}

#[test]
fn one_damaged_block_loses_no_vote_and_two_are_an_error() {
    let disk = SimDisk::new(1);
    let shard = run(Shard::open(&disk, config())).unwrap();
    run(shard.store.open_votes()).unwrap();
    for block in [0, 4096] {
        run(shard.store.write_vote(vote(4))).unwrap();
        disk.make_unreadable("election.vote", block);
        assert_eq!(run(shard.store.open_votes()).unwrap(), Some(vote(4)), "block at {block}");
    }
    for block in [0, 4096] {
        run(shard.store.write_vote(vote(5))).unwrap();
        disk.damage("election.vote", block + 9, b"?");
        assert_eq!(run(shard.store.open_votes()).unwrap(), Some(vote(5)), "block at {block}");
    }
    disk.damage("election.vote", 9, b"?");
    let lost = run(shard.store.open_votes());
    assert!(matches!(lost, Err(VoteError::Damaged(_))), "{lost:?}");
}
