//! The schedule: which message is due when. Options and seed determine it before anything is sent,
//! and the target cannot change it: that is what prevents coordinated omission.
//!
//! Every producer draws its arrivals from its own random number generator. So the schedule of a
//! part (`--part I/N`, one process of several) or of a thread is the whole schedule without the
//! other producers: parts are disjoint, and together they are the whole.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::plan::curve::RateCurve;

/// The arrival process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Independent arrivals, as those of many customers are.
    Poisson,
    /// Evenly spaced over all producers.
    Uniform,
    /// This many requests of one producer at the same time, then a pause.
    Burst(u32),
}

/// One due request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arrival {
    pub due_ns: u64,
    /// Index of its producer in the schedule.
    pub source: u32,
}

/// The producer's input to the schedule.
#[derive(Clone, Debug)]
pub struct Source {
    /// Unique in the run; seeds its random number generator.
    pub number: u32,
    /// Requests per second of all producers that share this curve.
    pub curve: Arc<RateCurve>,
    /// Its index among them, `index < count`.
    pub index: u32,
    pub count: u32,
}

/// The arrivals of some producers, in the order in which they are due.
#[derive(Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    producers: Vec<Producer>,
    /// Next arrival of each producer that has one, with the producer's index.
    next: BinaryHeap<Reverse<(u64, u32)>>,
}

#[derive(Debug)]
struct Producer {
    source: Source,
    /// Number of requests drawn so far.
    drawn: u64,
    /// Position on the curve, in expected requests.
    at: f64,
    random: SplitMix64,
}

impl Schedule {
    pub fn new(arrivals: Arrivals, seed: u64, sources: impl IntoIterator<Item = Source>) -> Self {
        let producer = |source: Source| {
            let random = SplitMix64::of(seed, source.number);
            Producer { source, drawn: 0, at: 0.0, random }
        };
        let producers: Vec<Producer> = sources.into_iter().map(producer).collect();
        let count = producers.len() as u32;
        let mut schedule = Self { arrivals, next: BinaryHeap::new(), producers };
        (0..count).for_each(|index| schedule.draw(index));
        schedule
    }

    /// When the next request is due.
    pub fn next_due_ns(&self) -> Option<u64> {
        self.next.peek().map(|Reverse((due_ns, _))| *due_ns)
    }

    fn draw(&mut self, index: u32) {
        let producer = &mut self.producers[index as usize];
        let count = producer.advance(self.arrivals);
        if let Some(due_ns) = producer.source.curve.time_of(count) {
            self.next.push(Reverse((due_ns, index)));
        }
    }
}

impl Iterator for Schedule {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let Reverse((due_ns, source)) = self.next.pop()?;
        self.draw(source);
        Some(Arrival { due_ns, source })
    }
}

impl Producer {
    /// Position of this producer's next request, in expected requests of all producers that share
    /// its curve.
    fn advance(&mut self, arrivals: Arrivals) -> f64 {
        let (drawn, count) = (self.drawn as f64, f64::from(self.source.count));
        let index = f64::from(self.source.index);
        self.drawn += 1;
        match arrivals {
            Arrivals::Uniform => drawn * count + index,
            Arrivals::Burst(size) => {
                let size = f64::from(size);
                ((drawn / size).floor() * count + index) * size
            }
            Arrivals::Poisson => {
                self.at += -self.random.fraction().ln() * count;
                self.at
            }
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014). Implemented here because a schedule must be the same
/// in every version and on every machine that takes part in a run.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A separate generator for each producer of a seed.
    pub fn of(seed: u64, number: u32) -> Self {
        let mut mixer = Self(seed ^ (u64::from(number) << 32 | u64::from(number)));
        Self(mixer.number())
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In (0, 1].
    pub fn fraction(&mut self) -> f64 {
        ((self.number() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KINDS: [Arrivals; 3] = [Arrivals::Poisson, Arrivals::Uniform, Arrivals::Burst(8)];

    /// The arrivals as (due time, producer number).
    fn schedule(arrivals: Arrivals, seed: u64, numbers: &[u32]) -> Vec<(u64, u32)> {
        let curve = Arc::new(RateCurve::constant(10_000.0, Duration::from_secs(2)));
        let source =
            |&number: &u32| Source { number, curve: curve.clone(), index: number, count: 12 };
        let schedule = Schedule::new(arrivals, seed, numbers.iter().map(source));
        schedule.map(|it| (it.due_ns, numbers[it.source as usize])).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule_in_order() {
        let all: Vec<u32> = (0..12).collect();
        for kind in KINDS {
            let once = schedule(kind, 7, &all);
            assert_eq!(once, schedule(kind, 7, &all), "{kind:?}");
            assert!(once.is_sorted_by_key(|arrival| arrival.0), "{kind:?}");
        }
        assert_ne!(schedule(Arrivals::Poisson, 7, &all), schedule(Arrivals::Poisson, 8, &all));
    }

    #[test]
    fn parts_are_disjoint_and_their_union_is_the_whole() {
        for kind in KINDS {
            let mut whole = schedule(kind, 7, &(0..12).collect::<Vec<_>>());
            let mut union: Vec<_> = (0..3)
                .flat_map(|part| schedule(kind, 7, &[part, part + 3, part + 6, part + 9]))
                .collect();
            whole.sort_unstable();
            union.sort_unstable();
            assert_eq!(union, whole, "{kind:?}");
        }
    }

    /// 20,000 are expected; a Poisson count is within five standard deviations of that.
    #[test]
    fn the_rate_is_the_one_asked_for() {
        let all: Vec<u32> = (0..12).collect();
        for seed in 0..20 {
            let count = schedule(Arrivals::Poisson, seed, &all).len() as f64;
            assert!((count - 20_000.0).abs() < 5.0 * 20_000f64.sqrt(), "seed {seed}: {count}");
        }
        assert_eq!(schedule(Arrivals::Uniform, 0, &all).len(), 20_000);
        assert_eq!(schedule(Arrivals::Burst(8), 0, &all).len(), 20_000);
    }

    #[test]
    fn bursts_of_one_producer_are_due_at_once() {
        let arrivals = schedule(Arrivals::Burst(8), 7, &(0..12).collect::<Vec<_>>());
        for burst in arrivals.chunks(8) {
            assert!(burst.iter().all(|arrival| *arrival == burst[0]));
        }
    }

    /// Gaps of a Poisson process are exponential: their mean equals their standard deviation.
    #[test]
    fn poisson_gaps_are_exponential() {
        let arrivals = schedule(Arrivals::Poisson, 3, &(0..12).collect::<Vec<_>>());
        let gaps: Vec<f64> =
            arrivals.windows(2).map(|pair| (pair[1].0 - pair[0].0) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{}", variance.sqrt() / mean);
    }
}
