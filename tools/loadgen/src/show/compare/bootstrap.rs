//! How sure a median of a few repeats is.

use crate::plan::schedule::SplitMix64;

/// Repeats below which there is no interval to speak of.
pub const REPEATS_MIN: usize = 5;
/// Samples drawn; with a fixed seed, so that the same files give the same text.
const RESAMPLES: usize = 2_000;
const SEED: u64 = 11;

/// 0 for no values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The 95 % bootstrap interval of the median (percentile method, Efron 1979); `None` for fewer than
/// [`REPEATS_MIN`] values.
pub fn interval(values: &[f64]) -> Option<(f64, f64)> {
    if values.len() < REPEATS_MIN {
        return None;
    }
    let mut random = SplitMix64::of(SEED, 0);
    let mut sample = vec![0.0; values.len()];
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            for value in &mut sample {
                *value = values[(random.number() % values.len() as u64) as usize];
            }
            median(&sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |part: f64| medians[((RESAMPLES - 1) as f64 * part).round() as usize];
    Some((at(0.025), at(0.975)))
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

    #[test]
    fn an_interval_holds_the_median_and_is_as_wide_as_the_values() {
        let values = [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0];
        let (low, high) = interval(&values).unwrap();
        assert!(low < 13.0 && 13.0 < high && low >= 10.0 && high <= 16.0, "{low} {high}");
        assert_eq!(interval(&[7.0; 5]), Some((7.0, 7.0)));
        assert_eq!(interval(&values[..4]), None, "too few to say");
        assert_eq!(interval(&values), interval(&values), "the same files, the same text");
    }
}
