//! For how long each broker acknowledged nothing.

use crate::findings::report::Gap;

/// The longest time without acknowledgements, of each broker.
#[derive(Debug)]
pub struct Silences(Vec<Silence>);

#[derive(Clone, Copy, Debug)]
struct Silence {
    last_ns: u64,
    from_ns: u64,
    length_ns: u64,
}

impl Silences {
    /// Starts from the times of the last acknowledgements so far.
    pub fn from(last_ns: impl Iterator<Item = u64>) -> Self {
        let silence = |last_ns| Silence { last_ns, from_ns: last_ns, length_ns: 0 };
        Self(last_ns.map(silence).collect())
    }

    /// Records the current times of the last acknowledgements. Several acknowledgements of a broker
    /// since the last call count as one.
    pub fn note(&mut self, last_ns: impl Iterator<Item = u64>) {
        for (silence, last_ns) in self.0.iter_mut().zip(last_ns) {
            let length_ns = last_ns.saturating_sub(silence.last_ns);
            if length_ns > silence.length_ns {
                (silence.from_ns, silence.length_ns) = (silence.last_ns, length_ns);
            }
            silence.last_ns = last_ns.max(silence.last_ns);
        }
    }

    /// The silences that have ended, the longest first.
    pub fn into_gaps(self, brokers: &[String]) -> Vec<Gap> {
        let gap = |(silence, broker): (Silence, &String)| {
            let Silence { from_ns, length_ns, .. } = silence;
            (length_ns > 0).then(|| Gap { broker: broker.clone(), from_ns, length_ns })
        };
        let mut gaps: Vec<Gap> = self.0.into_iter().zip(brokers).filter_map(gap).collect();
        gaps.sort_by_key(|gap| std::cmp::Reverse(gap.length_ns));
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_the_longest_time_between_acknowledgements() {
        let mut silences = Silences::from([90, 100, 0].into_iter());
        for last_ns in [[90, 110, 0], [350, 120, 0], [360, 125, 0], [400, 125, 0]] {
            silences.note(last_ns.into_iter());
        }
        let names = ["a", "b", "c"].map(str::to_owned);
        let gap = |broker: &str, from_ns, length_ns| Gap {
            broker: broker.to_owned(),
            from_ns,
            length_ns,
        };
        assert_eq!(silences.into_gaps(&names), [gap("a", 90, 260), gap("b", 100, 10)]);
    }
}
