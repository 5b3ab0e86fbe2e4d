//! Axes: which values they span, where a value lies, and which values are written beside them.

use crate::show::plot::text::{clock, short};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    /// What is not positive lies at the lower end.
    Logarithmic,
}

/// How the values along an axis are written.
#[derive(Clone, Debug, PartialEq)]
pub enum Marks {
    Numbers,
    /// Seconds since the beginning, as a clock.
    Clock,
    /// These values with their texts, as far as they lie on the axis.
    Given(Vec<(f64, String)>),
}

#[derive(Clone, Debug)]
pub struct Axis {
    /// What is counted, or the unit.
    pub label: String,
    pub scale: Scale,
    pub marks: Marks,
    /// Values it spans at least; more when there are larger or smaller ones.
    pub spans: Option<(f64, f64)>,
}

impl Axis {
    pub fn new(label: &str, scale: Scale) -> Self {
        Self { label: label.to_owned(), scale, marks: Marks::Numbers, spans: None }
    }

    /// The time of a run from its begin to `end_s`: the same for all plots of a run.
    pub fn time(end_s: f64) -> Self {
        let label = if end_s >= 3600.0 { "h:min:s" } else { "min:s" };
        let spans = Some((0.0, end_s.max(1.0)));
        Self { label: label.to_owned(), scale: Scale::Linear, marks: Marks::Clock, spans }
    }
}

/// From values to places in a picture.
pub struct Mapping {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Mapping {
    /// Spreads `values` between the places `from` and `to`.
    pub fn new(axis: &Axis, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let is_shown = |value: &f64| axis.scale == Scale::Linear || *value > 0.0;
        let wanted = axis.spans.into_iter().flat_map(|(low, high)| [low, high]);
        let ends = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
        let (mut low, mut high) =
            values.chain(wanted).filter(is_shown).fold((f64::INFINITY, f64::NEG_INFINITY), ends);
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        match axis.scale {
            // Lines are read against zero; a plot that hides it exaggerates.
            Scale::Linear => low = low.min(0.0),
            Scale::Logarithmic => {
                low = 10f64.powf(low.log10().floor());
                high = 10f64.powf(high.log10().ceil());
            }
        }
        if high <= low {
            high = if axis.scale == Scale::Linear { low + 1.0 } else { low * 10.0 };
        }
        Self { scale: axis.scale, low, high, from, to }
    }

    pub fn place(&self, value: f64) -> f64 {
        let part = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Logarithmic => {
                (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
            }
        };
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// About `count_max` values to write beside the axis, with their texts.
    pub fn marks(&self, axis: &Axis, count_max: usize) -> Vec<(f64, String)> {
        let (values, text): (Vec<f64>, fn(f64) -> String) = match (&axis.marks, self.scale) {
            (Marks::Given(marks), _) => {
                let is_inside = |mark: &&(f64, String)| (self.low..=self.high).contains(&mark.0);
                let inside: Vec<_> = marks.iter().filter(is_inside).cloned().collect();
                let step = inside.len().div_ceil(count_max.max(1)).max(1);
                return inside.into_iter().step_by(step).collect();
            }
            (Marks::Clock, _) => (self.steps(clock_step(self.high - self.low, count_max)), clock),
            (Marks::Numbers, Scale::Linear) => {
                (self.steps(round_step((self.high - self.low) / count_max.max(1) as f64)), short)
            }
            // Powers of ten are read at a glance, so there may be more of them.
            (Marks::Numbers, Scale::Logarithmic) => (self.decades(count_max + 2), short),
        };
        values.into_iter().map(|value| (value, text(value))).collect()
    }

    /// The multiples of `step` on the axis.
    fn steps(&self, step: f64) -> Vec<f64> {
        let first = (self.low / step).ceil();
        let count = ((self.high / step).floor() - first) as usize + 1;
        (0..count).map(|index| (first + index as f64) * step).collect()
    }

    /// Powers of ten: all, or every second one of many, or with 2 and 5 between few.
    fn decades(&self, count_max: usize) -> Vec<f64> {
        let (first, last) = (self.low.log10().round() as i32, self.high.log10().round() as i32);
        let count = (last - first) as usize + 1;
        let step = count.div_ceil(count_max.max(1)).max(1);
        let between: &[f64] = if count * 3 <= count_max + 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let decades = (first..=last).step_by(step);
        let values = decades.flat_map(|power| between.iter().map(move |b| b * 10f64.powi(power)));
        values.filter(|value| *value <= self.high * 1.001).collect()
    }
}

/// The next of 1, 2, 5, 10, 20, … from `step` on.
fn round_step(step: f64) -> f64 {
    let decade = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * decade >= step * 0.999);
    factor.unwrap_or(10.0) * decade
}

/// Seconds between marks of a clock.
fn clock_step(length_s: f64, count_max: usize) -> f64 {
    const STEPS: [f64; 15] = [
        1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0,
        14400.0,
    ];
    let least = length_s / count_max.max(1) as f64;
    let step = STEPS.into_iter().find(|step| *step >= least);
    step.unwrap_or_else(|| round_step(least / 3600.0) * 3600.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis, low: f64, high: f64, count_max: usize) -> Vec<String> {
        let mapping = Mapping::new(axis, [low, high].into_iter(), 0.0, 1.0);
        mapping.marks(axis, count_max).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn marks_are_round_numbers() {
        let (linear, log) = (Axis::new("", Scale::Linear), Axis::new("", Scale::Logarithmic));
        assert_eq!(texts(&linear, 0.0, 10.0, 5), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(texts(&linear, 3.0, 1.2e6, 5), ["0", "500k", "1M"]);
        assert_eq!(texts(&linear, 0.0, 0.0, 5), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(texts(&log, 0.02, 5.0, 6), ["0.01", "0.1", "1", "10"]);
        assert_eq!(texts(&log, 1.0, 9.0, 6), ["1", "2", "5", "10"]);
        assert_eq!(texts(&log, 1e-3, 1e3, 2), ["0.001", "0.1", "10", "1k"]);
    }

    #[test]
    fn a_time_axis_ends_with_the_run_and_reads_as_a_clock() {
        assert_eq!(
            texts(&Axis::time(94.0), 3.0, 90.0, 8),
            ["0:00", "0:15", "0:30", "0:45", "1:00", "1:15", "1:30"]
        );
        assert_eq!(
            texts(&Axis::time(7200.0), 0.0, 0.0, 4),
            ["0:00", "30:00", "1:00:00", "1:30:00", "2:00:00"]
        );
        assert_eq!(texts(&Axis::time(0.0), 0.0, 0.0, 4), ["0:00", "0:01"]);
    }

    #[test]
    fn places_stay_on_the_page() {
        let axis = Axis::new("", Scale::Logarithmic);
        let mapping = Mapping::new(&axis, [1.0, 100.0].into_iter(), 0.0, 10.0);
        for (value, place) in [(1.0, 0.0), (10.0, 5.0), (100.0, 10.0), (0.0, 0.0), (1e9, 10.0)] {
            assert!((mapping.place(value) - place).abs() < 1e-9, "{value}");
        }
    }
}
