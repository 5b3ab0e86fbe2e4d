//! Confidence intervals for the median of a few repeats, and for the ratio of two medians.
//!
//! There is no 95 % interval for very few repeats. They get the range of the values found.

use crate::plan::schedule::SplitMix64;

/// From this number of repeats on, there is a 95 % interval: five values are all on one side of the
/// true median in one case of sixteen.
pub const REPEATS_MIN: usize = 6;
/// Bootstrap samples for a ratio. The seed is fixed, so that the same files give the same text.
const RESAMPLES: usize = 2_000;
const SEED: u64 = 11;

/// 0 for no values.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values.to_vec());
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The narrowest pair of values, equally far from both ends, that contains the true median in 95 %
/// of all cases (by the binomial distribution); of fewer than [`REPEATS_MIN`] values, the lowest
/// and the highest. `None` for a single value.
pub fn interval(values: &[f64]) -> Option<(f64, f64)> {
    let sorted = sorted(values.to_vec());
    let count = sorted.len();
    if count < 2 {
        return None;
    }
    // Probability that exactly `below` values are below the true median, and that at most so many
    // are.
    let mut likely = 0.5f64.powi(count as i32);
    let (mut sum, mut below) = (likely, 0);
    let is_enough = count >= REPEATS_MIN;
    for next in (1..=(count - 1) / 2).take_while(|_| is_enough) {
        likely *= (count + 1 - next) as f64 / next as f64;
        sum += likely;
        if sum > 0.025 {
            break;
        }
        below = next;
    }
    Some((sorted[below], sorted[count - 1 - below]))
}

/// For the ratio of the medians of `values` and `first`: the 95 % bootstrap interval (percentile
/// method, Efron 1979), or for few repeats the lowest and the highest ratio of any two runs.
pub fn ratio_interval(values: &[f64], first: &[f64]) -> Option<(f64, f64)> {
    if values.len().max(first.len()) < 2 || first.iter().any(|value| *value <= 0.0) {
        return None;
    }
    if values.len().min(first.len()) < REPEATS_MIN {
        let (own, other) = (sorted(values.to_vec()), sorted(first.to_vec()));
        return Some((own.first()? / other.last()?, own.last()? / other.first()?));
    }
    let mut random = SplitMix64::of(SEED, 0);
    let mut resampled = |of: &[f64]| {
        let draw = |_| of[(random.number() % of.len() as u64) as usize];
        median(&(0..of.len()).map(draw).collect::<Vec<_>>())
    };
    let ratios = sorted((0..RESAMPLES).map(|_| resampled(values) / resampled(first)).collect());
    let at = |part: f64| ratios[((RESAMPLES - 1) as f64 * part).round() as usize];
    Some((at(0.025), at(0.975)))
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        for (values, wanted) in [(&[][..], 0.0), (&[3.0], 3.0), (&[9.0, 1.0, 5.0], 5.0)] {
            assert_eq!(median(values), wanted);
        }
        assert_eq!(median(&[1.0, 2.0, 10.0, 4.0]), 3.0);
    }

    /// Ranks from published tables of the binomial distribution.
    #[test]
    fn an_interval_is_as_wide_as_the_number_of_runs_makes_it() {
        for (count, below) in [(2, 0), (5, 0), (6, 0), (8, 0), (9, 1), (12, 2), (20, 5), (100, 39)]
        {
            let values: Vec<f64> = (0..count).map(f64::from).collect();
            let wanted = (f64::from(below), f64::from(count - 1 - below));
            assert_eq!(interval(&values), Some(wanted), "{count} runs");
        }
        assert_eq!(interval(&[7.0]), None);
    }

    #[test]
    fn a_ratio_has_an_interval_too() {
        let values = |first: f64| (0..8).map(|step| first + f64::from(step)).collect::<Vec<_>>();
        let (low, high) = ratio_interval(&values(200.0), &values(100.0)).unwrap();
        assert!(1.8 < low && low < 1.97 && 1.97 < high && high < 2.1, "{low} {high}");
        assert_eq!(ratio_interval(&[4.0, 6.0], &[1.0, 2.0]), Some((2.0, 6.0)), "min to max");
        assert_eq!(ratio_interval(&[4.0], &[2.0]), None);
        assert_eq!(ratio_interval(&[4.0, 5.0], &[0.0, 1.0]), None);
    }
}
