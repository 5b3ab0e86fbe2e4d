//! Message sizes: a mixture of a few fixed sizes.
//!
//! There is one request template per size, so a continuous distribution is approximated by the
//! medians of equally likely pieces.

use crate::engine::payload::MESSAGE_SIZE_MIN;
use crate::plan::schedule::SplitMix64;

/// Maximum number of sizes in a mixture: each has a template per topic.
pub const CLASSES_MAX: usize = 64;

/// A mixture of message sizes, bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Size, and the cumulative share of the messages up to and including this class; ascending to
    /// 1.
    classes: Vec<(usize, f64)>,
}

impl Sizes {
    pub fn fixed(size: usize) -> Self {
        Self { classes: vec![(size, 1.0)] }
    }

    /// Sizes with weights, which need not add up to 1. Sizes too small for the stamp are raised to
    /// its size.
    ///
    /// # Panics
    /// If there are no sizes, or more than [`CLASSES_MAX`], or if a weight is not positive. Files
    /// are validated before.
    pub fn mixed(weighted: &[(usize, f64)]) -> Self {
        assert!((1..=CLASSES_MAX).contains(&weighted.len()), "some sizes, and not too many");
        assert!(weighted.iter().all(|(_, weight)| *weight > 0.0), "weights are positive");
        let total: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        let mut up_to = 0.0;
        let class = |&(size, weight): &(usize, f64)| {
            up_to += weight / total;
            (size.max(MESSAGE_SIZE_MIN), up_to)
        };
        Self { classes: weighted.iter().map(class).collect() }
    }

    /// The assumed sizes of a shop's messages, since none are on record: 35 % of 128 B, 45 %
    /// log-normal around 1 KiB, 15 % of 4 KiB, 4.9 % of 16 to 64 KiB, 0.1 % of 256 KiB to 1 MiB.
    pub fn shop() -> Self {
        // Medians of eight equally likely pieces of a normal distribution, in standard deviations.
        const MIDDLES: [f64; 8] = [-1.534, -0.887, -0.489, -0.157, 0.157, 0.489, 0.887, 1.534];
        // Standard deviation of the logarithm: one in twenty of these messages is above 2.8 KiB.
        const DEVIATION: f64 = 0.6;
        let around_1k = MIDDLES.map(|at| ((1024.0 * (at * DEVIATION).exp()) as usize, 45.0 / 8.0));
        let large = [16, 24, 32, 48, 64].map(|kib| (kib << 10, 4.9 / 5.0));
        let largest = [256, 512, 1024].map(|kib| (kib << 10, 0.1 / 3.0));
        let small = [(128, 35.0)];
        Self::mixed(&[&small[..], &around_1k, &[(4 << 10, 15.0)], &large, &largest].concat())
    }

    pub fn classes(&self) -> impl Iterator<Item = usize> {
        self.classes.iter().map(|(size, _)| *size)
    }

    /// Mean message size, bytes.
    pub fn mean(&self) -> f64 {
        let mut below = 0.0;
        let part = |&(size, up_to): &(usize, f64)| {
            let weight = up_to - below;
            below = up_to;
            size as f64 * weight
        };
        self.classes.iter().map(part).sum()
    }

    /// Draws the class of the next message.
    pub fn draw(&self, random: &mut SplitMix64) -> usize {
        if self.classes.len() == 1 {
            return 0;
        }
        let at = random.fraction();
        let class = self.classes.partition_point(|(_, up_to)| *up_to < at);
        class.min(self.classes.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_come_as_often_as_they_weigh() {
        let sizes = Sizes::mixed(&[(100, 1.0), (200, 2.0), (10, 1.0)]);
        assert_eq!(sizes.classes().collect::<Vec<_>>(), [100, 200, MESSAGE_SIZE_MIN]);
        let mut random = SplitMix64::of(1, 1);
        let mut counts = [0.0f64; 3];
        (0..40_000).for_each(|_| counts[sizes.draw(&mut random)] += 1.0 / 10_000.0);
        for (count, wanted) in counts.into_iter().zip([1.0, 2.0, 1.0]) {
            assert!((count - wanted).abs() < 0.06, "{counts:?}");
        }
    }

    #[test]
    fn the_mean_is_that_of_what_is_drawn() {
        let sizes = Sizes::shop();
        let all: Vec<usize> = sizes.classes().collect();
        let mut random = SplitMix64::of(2, 2);
        let sum: usize = (0..400_000).map(|_| all[sizes.draw(&mut random)]).sum();
        let mean = sum as f64 / 400_000.0;
        assert!((mean / sizes.mean() - 1.0).abs() < 0.05, "{mean} {}", sizes.mean());
        assert!((2_500.0..4_000.0).contains(&sizes.mean()), "{}", sizes.mean());
    }
}
