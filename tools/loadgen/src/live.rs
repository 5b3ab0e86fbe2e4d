//! One line per second while a run is under way, on standard error: redrawn in place on a
//! terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write, stderr};

use crate::histogram::Percentiles;
use crate::measure::Interval;
use crate::scenario::Scenario;
use crate::units::grouped;

pub struct Live {
    is_terminal: bool,
    has_line: bool,
    streams: usize,
}

impl Live {
    pub fn new(scenario: &Scenario) -> Self {
        let streams = scenario.streams.len();
        Self { is_terminal: stderr().is_terminal(), has_line: false, streams }
    }

    /// Shows a second that is over, by track.
    pub fn show(&mut self, second: u64, tracks: &[Interval]) {
        let mut sum = Interval::default();
        tracks.iter().take(self.streams + 1).for_each(|interval| sum.add(interval));
        self.print(&line(second, &sum));
    }

    /// Says what is going on when no figures come.
    pub fn say(&mut self, text: &str) {
        self.print(text);
    }

    fn print(&mut self, line: &str) {
        // A closed standard error must not end a run.
        let _ = if self.is_terminal {
            write!(stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(stderr(), "{line}")
        };
        self.has_line = true;
    }

    /// Leaves the last line standing.
    pub fn finish(self) {
        if self.is_terminal && self.has_line {
            let _ = writeln!(stderr());
        }
    }
}

fn line(second: u64, interval: &Interval) -> String {
    let counters = &interval.counters;
    let [due, sent, acknowledged, received] =
        [counters.due, counters.sent, counters.acknowledged, counters.received].map(grouped);
    let p = Percentiles::of(&interval.latency);
    let [p50, p99, max] = [p.p50, p.p99, p.max].map(|ns| ns as f64 / 1e6);
    let mut line = format!(
        "{:>4} s  due {due}  sent {sent}  acked {acknowledged}  got {received}  \
         ms {p50:.2} {p99:.2} {max:.2}",
        second + 1
    );
    let trouble = counters.refused + counters.unknown + counters.not_sent;
    if trouble > 0 {
        line += &format!("  failed {}", grouped(trouble));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Counters, Kind};

    #[test]
    fn a_line_as_shown() {
        let counters = Counters {
            due: 10_000,
            sent: 9_998,
            acknowledged: 9_900,
            refused: 2,
            received: 9_800,
            ..Counters::default()
        };
        let mut interval = Interval { counters, ..Interval::default() };
        interval.record(Kind::Latency, 1_000_000, 100);
        assert_eq!(
            line(4, &interval),
            "   5 s  due 10,000  sent 9,998  acked 9,900  got 9,800  ms 1.00 1.00 1.00  failed 2"
        );
    }
}
