//! How a stream chooses queues: round-robin, or by key with a skewed popularity.
//!
//! A key belongs to one queue of one broker, whatever its producer, and each producer is connected
//! to one broker. So the generator does not draw a key and look for a producer. It sums the
//! popularity of the keys per queue in advance: the producers of a broker get the share of its
//! keys, and draw a queue by the share of that queue's keys. Splitting a Poisson process by key
//! gives Poisson processes, so the load is the same, and removing a producer (`--part`) does not
//! change the others.

use crate::plan::schedule::SplitMix64;

/// The popularity of keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeySpace {
    /// Key number K (from 1) of `count` has a popularity proportional to 1 / K^`exponent`.
    Zipf { exponent: f64, count: u32 },
    /// All `count` keys are equally popular.
    Uniform { count: u32 },
    /// `hot` keys get the share `share`; all others of `count` get the rest.
    Hot { hot: u32, share: f64, count: u32 },
}

/// How a stream chooses queues.
#[derive(Clone, Debug, PartialEq)]
pub enum Keys {
    /// Each producer uses the queues of its broker round-robin.
    None,
    /// By key; the popularity changes at these times, the first at 0.
    Drawn(Vec<(u64, KeySpace)>),
}

impl KeySpace {
    /// The popularity of key number `key` (from 0), not normalized.
    fn weight(&self, key: u32) -> f64 {
        match *self {
            Self::Zipf { exponent, .. } => f64::from(key + 1).powf(-exponent),
            Self::Uniform { .. } => 1.0,
            Self::Hot { hot, share, .. } if key < hot => share / f64::from(hot),
            Self::Hot { hot, share, count } => (1.0 - share) / f64::from((count - hot).max(1)),
        }
    }

    fn count(&self) -> u32 {
        match *self {
            Self::Zipf { count, .. } | Self::Uniform { count } | Self::Hot { count, .. } => count,
        }
    }

    /// The share of all messages that the most popular key gets.
    pub fn top_share(&self) -> f64 {
        let total: f64 = (0..self.count()).map(|key| self.weight(key)).sum();
        self.weight(0) / total
    }

    /// The share of all messages that each of `queues` queues gets.
    fn by_queue(&self, queues: usize) -> Vec<f64> {
        let mut sums = vec![0.0; queues];
        for key in 0..self.count() {
            // Any fixed hash will do; a client would hash the text of the key.
            let place = SplitMix64::of(0, key).number() % queues as u64;
            sums[place as usize] += self.weight(key);
        }
        let total: f64 = sums.iter().sum();
        sums.iter_mut().for_each(|sum| *sum /= total);
        sums
    }
}

/// [`Keys`] applied to the queues that exist.
#[derive(Clone, Debug)]
pub struct QueueChoice {
    /// For each start time: each broker's share of the load, and the cumulative shares of its
    /// queues. Empty: round-robin.
    tables: Vec<(u64, Vec<BrokerKeys>)>,
}

#[derive(Clone, Debug)]
struct BrokerKeys {
    part: f64,
    up_to: Vec<f64>,
}

impl QueueChoice {
    /// `queue_counts` are the numbers of queues, by broker.
    pub fn new(keys: &Keys, queue_counts: &[u32]) -> Self {
        let Keys::Drawn(spaces) = keys else { return Self { tables: Vec::new() } };
        let all = queue_counts.iter().map(|count| *count as usize).sum();
        let table = |&(from_ns, ref space): &(u64, KeySpace)| {
            let mut rest = &space.by_queue(all)[..];
            let broker = |count: &u32| {
                let (mine, others) = rest.split_at(*count as usize);
                rest = others;
                BrokerKeys::new(mine)
            };
            (from_ns, queue_counts.iter().map(broker).collect())
        };
        Self { tables: spaces.iter().map(table).collect() }
    }

    /// The share of the load for `broker` of `brokers`, by start time.
    pub fn parts(&self, broker: usize, brokers: usize) -> Vec<(u64, f64)> {
        if self.tables.is_empty() {
            return vec![(0, 1.0 / brokers as f64)];
        }
        self.tables.iter().map(|(from_ns, all)| (*from_ns, all[broker].part)).collect()
    }

    /// The queue of a message that is due at `due_ns`; `None`: round-robin.
    pub fn draw(&self, broker: usize, due_ns: u64, random: &mut SplitMix64) -> Option<u32> {
        let after = self.tables.partition_point(|(from_ns, _)| *from_ns <= due_ns);
        let (_, brokers) = self.tables.get(after.checked_sub(1)?)?;
        let up_to = &brokers[broker].up_to;
        let at = random.fraction();
        let queue = up_to.partition_point(|bound| *bound < at);
        Some(queue.min(up_to.len() - 1) as u32)
    }
}

impl BrokerKeys {
    fn new(parts: &[f64]) -> Self {
        let part: f64 = parts.iter().sum();
        let mut sum = 0.0;
        let up_to = parts.iter().map(|queue| {
            sum += queue / part.max(f64::MIN_POSITIVE);
            sum
        });
        Self { up_to: up_to.collect(), part }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn popularity_is_as_defined() {
        let sellers = KeySpace::Zipf { exponent: 1.0, count: 1_000_000 };
        assert!((0.06..0.08).contains(&sellers.top_share()), "{}", sellers.top_share());
        let items = KeySpace::Zipf { exponent: 1.3, count: 1_000_000 };
        assert!((0.22..0.28).contains(&items.top_share()), "{}", items.top_share());
        let hot = KeySpace::Hot { hot: 1, share: 0.5, count: 1_000 };
        assert!((hot.top_share() - 0.5).abs() < 1e-9);
        let even = KeySpace::Uniform { count: 100 };
        assert!((even.top_share() - 0.01).abs() < 1e-9);
    }

    /// The shares of the brokers add up to 1, and draws follow the keys.
    #[test]
    fn queues_are_drawn_as_their_keys_weigh() {
        let space = KeySpace::Hot { hot: 1, share: 0.5, count: 10_000 };
        let choice = QueueChoice::new(&Keys::Drawn(vec![(0, space)]), &[4, 2]);
        let parts: Vec<f64> = (0..2).map(|broker| choice.parts(broker, 2)[0].1).collect();
        assert!((parts.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        let by_queue = space.by_queue(6);
        let mut random = SplitMix64::of(3, 3);
        for (broker, queues) in [(0, 0..4), (1, 4..6)] {
            let mut counts = vec![0.0; queues.len()];
            for _ in 0..50_000 {
                let queue = choice.draw(broker, 0, &mut random).unwrap();
                counts[queue as usize] += parts[broker] / 50_000.0;
            }
            for (count, wanted) in counts.iter().zip(&by_queue[queues]) {
                assert!((count - wanted).abs() < 0.01, "{counts:?} {by_queue:?}");
            }
        }
    }

    #[test]
    fn popularity_changes_with_time() {
        let alike = KeySpace::Uniform { count: 100_000 };
        let one = KeySpace::Hot { hot: 1, share: 1.0, count: 2 };
        let choice = QueueChoice::new(&Keys::Drawn(vec![(0, one), (1_000, alike)]), &[8]);
        let mut random = SplitMix64::of(4, 4);
        let mut drawn = |due_ns| -> std::collections::BTreeSet<_> {
            (0..1_000).map(|_| choice.draw(0, due_ns, &mut random)).collect()
        };
        assert_eq!(drawn(999).len(), 1);
        assert_eq!(drawn(1_000).len(), 8);
    }

    #[test]
    fn without_keys_queues_come_in_turn() {
        let choice = QueueChoice::new(&Keys::None, &[4, 4]);
        assert_eq!(choice.draw(0, 5, &mut SplitMix64::of(0, 0)), None);
        assert_eq!(choice.parts(1, 2), [(0, 0.5)]);
    }
}
