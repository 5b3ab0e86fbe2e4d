//! Live progress of a run on standard error: on a terminal, a bar with a few lines below it;
//! elsewhere, one plain line per second. [`View`] formats the text, and does not use the terminal.

use std::io::{IsTerminal, Write, stderr};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::engine::measure::{Counters, Interval};
use crate::findings::text::labelled;
use crate::plan::scenario::{Phase, Scenario};
use crate::units::grouped;

/// Maximum number of groups whose backlog is shown; the largest come first.
const BACKLOGS_MAX: usize = 8;
/// Name of the time after the last phase, when no message is due any more.
const DRAIN: &str = "drain";

pub struct Live {
    view: View,
    /// `None` if standard error is not a terminal.
    bar: Option<ProgressBar>,
}

impl Live {
    pub fn new(scenario: &Scenario) -> Self {
        let bar = stderr().is_terminal().then(|| bar(scenario));
        Self { view: View::of(scenario), bar }
    }

    /// Shows a complete second, by track.
    pub fn show(&mut self, second: u64, tracks: &[Interval]) {
        self.view.take(second, tracks);
        match &self.bar {
            Some(bar) => {
                bar.set_message(self.view.block());
                bar.set_position(second + 1);
            }
            // A closed standard error must not end a run.
            None => drop(writeln!(stderr(), "{}", self.view.line())),
        }
    }
}

fn bar(scenario: &Scenario) -> ProgressBar {
    const TEMPLATE: &str = "{prefix} [{bar:40}] {pos}/{len} s {msg}";
    let style = ProgressStyle::with_template(TEMPLATE).expect("the template is well formed");
    ProgressBar::new(scenario.end_ns().div_ceil(1_000_000_000))
        .with_style(style.progress_chars("=>."))
        .with_prefix(scenario.name.clone())
        .with_finish(ProgressFinish::Abandon)
}

/// The state of a run so far.
struct View {
    phases: Vec<Phase>,
    streams: usize,
    groups: Vec<Behind>,
    second: u64,
    /// The last second: all streams, and what the first group received.
    last: Interval,
    /// Over all seconds.
    total: Counters,
}

/// The backlog of a group.
struct Behind {
    name: String,
    streams: Vec<usize>,
    produced: u64,
    received: u64,
}

impl Behind {
    fn messages(&self) -> u64 {
        self.produced.saturating_sub(self.received)
    }
}

impl View {
    fn of(scenario: &Scenario) -> Self {
        let groups = scenario.groups.iter().map(|group| Behind {
            name: group.name.clone(),
            streams: group.streams.clone(),
            produced: 0,
            received: 0,
        });
        Self {
            phases: scenario.phases.clone(),
            streams: scenario.streams.len(),
            groups: groups.collect(),
            second: 0,
            last: Interval::default(),
            total: Counters::default(),
        }
    }

    fn take(&mut self, second: u64, tracks: &[Interval]) {
        self.second = second;
        self.last = Interval::default();
        tracks.iter().take(self.streams + 1).for_each(|track| self.last.add(track));
        self.total.add(&self.last.counters);
        for (number, group) in self.groups.iter_mut().enumerate() {
            let streams = group.streams.iter().filter_map(|&stream| tracks.get(stream));
            let produced = streams.map(|it| it.counters.acknowledged + it.counters.one_way);
            group.produced += produced.sum::<u64>();
            let received = tracks.get(self.streams + number).map(|it| it.counters.received);
            group.received += received.unwrap_or(0);
        }
    }

    /// The phase in the middle of the last second.
    fn phase(&self) -> &str {
        let middle_ns = self.second * 1_000_000_000 + 500_000_000;
        let phase = self.phases.iter().find(|phase| middle_ns < phase.end_ns);
        phase.map_or(DRAIN, |phase| &phase.name)
    }

    /// The phase, shown beside the bar, and the lines below it.
    fn block(&self) -> String {
        let (Counters { due, sent, acknowledged, received, .. }, total) =
            (self.last.counters, &self.total);
        let [due, sent, acknowledged, received] = [due, sent, acknowledged, received].map(grouped);
        let [p50, p99, p99_9, max] = self.latencies([0.5, 0.99, 0.999, 1.0]);
        let rates = format!("due {due}  sent {sent}  acked {acknowledged}  consumed {received}");
        let latencies = format!("p50 {p50}  p99 {p99}  p99.9 {p99_9}  max {max}");
        let errors = [
            ("refused", total.refused),
            ("unknown", total.unknown),
            ("not sent", total.not_sent),
            ("retried", total.retried),
        ];
        let errors = errors.map(|(what, count)| format!("{what} {}", grouped(count)));
        let mut block = format!("{}\n", self.phase());
        block += &labelled("per s", &rates);
        block += &labelled("ms", &latencies);
        if !self.groups.is_empty() {
            block += &labelled("backlog", &self.backlogs());
        }
        block += &labelled("errors", &errors.join("  "));
        block.trim_end().to_owned()
    }

    fn backlogs(&self) -> String {
        let mut groups: Vec<&Behind> = self.groups.iter().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.messages()));
        let shown = groups.iter().take(BACKLOGS_MAX);
        let mut backlogs: Vec<String> =
            shown.map(|group| format!("{} {}", group.name, grouped(group.messages()))).collect();
        if groups.len() > BACKLOGS_MAX {
            backlogs.push(format!("+ {} more", groups.len() - BACKLOGS_MAX));
        }
        backlogs.join("  ")
    }

    /// Percentiles of the last second, in milliseconds.
    fn latencies<const COUNT: usize>(&self, quantiles: [f64; COUNT]) -> [String; COUNT] {
        let waits = self.last.waits();
        quantiles.map(|it| waits.at(it).map_or("-".to_owned(), |wait| wait.shown(milliseconds)))
    }

    /// For outputs that are not terminals.
    fn line(&self) -> String {
        let counters = &self.last.counters;
        let [due, sent, acknowledged, received] =
            [counters.due, counters.sent, counters.acknowledged, counters.received].map(grouped);
        let [p50, p99, max] = self.latencies([0.5, 0.99, 1.0]);
        let phase = match self.phases.len() {
            0 | 1 => String::new(),
            _ => format!("{}  ", self.phase()),
        };
        let mut line = format!(
            "{:>4} s  {phase}due {due}  sent {sent}  acked {acknowledged}  got {received}  \
             ms {p50} {p99} {max}",
            self.second + 1
        );
        let furthest = self.groups.iter().max_by_key(|group| group.messages());
        // Messages in flight do not count as backlog, and neither do a few lost one-way messages.
        let is_behind = |group: &&Behind| group.messages() > counters.acknowledged;
        let is_said = |group: &&Behind| self.groups.len() > 1 && is_behind(group);
        if let Some(group) = furthest.filter(is_said) {
            line += &format!("  {} behind {}", group.name, grouped(group.messages()));
        }
        let trouble = counters.refused + counters.unknown + counters.not_sent;
        if trouble > 0 {
            line += &format!("  failed {}", grouped(trouble));
        }
        line
    }
}

fn milliseconds(ns: u64) -> String {
    format!("{:.2}", ns as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::engine::measure::Kind;
    use crate::options::{Command, Options};
    use crate::plan::double11;
    use crate::plan::scenario::steady;

    fn options(line: &str) -> Command {
        Options::try_parse_from(line.split_whitespace()).unwrap().command
    }

    fn night() -> Scenario {
        let Command::Double11(options) = options("loadgen double11 --compress 60") else {
            unreachable!()
        };
        double11::scenario(&options, 10_000.0, 1)
    }

    fn one_stream() -> Scenario {
        let Command::Steady(options) = options("loadgen steady --rate max") else { unreachable!() };
        steady(&options.load)
    }

    fn sent(acknowledged: u64) -> Interval {
        let counters =
            Counters { due: 10_000, sent: 9_998, acknowledged, refused: 2, ..Counters::default() };
        let mut interval = Interval { counters, ..Interval::default() };
        interval.record(Kind::Latency, 1_000_000, 100);
        interval
    }

    fn taken(received: u64) -> Interval {
        let counters = Counters { received, ..Counters::default() };
        Interval { counters, ..Interval::default() }
    }

    #[test]
    fn a_line_as_shown() {
        let mut view = View::of(&one_stream());
        view.take(4, &[sent(9_900), taken(9_800)]);
        assert_eq!(
            view.line(),
            "   5 s  steady  due 10,000  sent 9,998  acked 9,900  got 9,800  ms 1.00 1.00 1.00  \
             failed 2"
        );
    }

    fn orders_only(acknowledged: u64, received: [u64; 5]) -> Vec<Interval> {
        let mut tracks = vec![sent(acknowledged)];
        tracks.resize_with(6, Interval::default);
        tracks.extend(received.map(taken));
        tracks
    }

    #[test]
    fn a_line_of_a_night_names_the_phase_and_who_is_furthest_behind() {
        let mut view = View::of(&night());
        view.take(14, &orders_only(9_900, [9_900, 0, 0, 0, 0]));
        view.take(15, &orders_only(9_900, [9_800, 100, 5_000, 0, 0]));
        assert_eq!(
            view.line(),
            "  16 s  payment wave  due 10,000  sent 9,998  acked 9,900  got 9,800  \
             ms 1.00 1.00 1.00  logistics behind 19,700  failed 2"
        );
        view.take(16, &orders_only(0, [100, 19_700, 14_800, 0, 0]));
        assert!(!view.line().contains("behind"), "{}", view.line());
    }

    #[test]
    fn a_block_as_shown() {
        let mut view = View::of(&night());
        view.take(14, &orders_only(9_900, [9_900, 0, 0, 0, 0]));
        view.take(15, &orders_only(9_900, [9_800, 100, 5_000, 0, 0]));
        let expected = "\
payment wave
per s      due 10,000  sent 9,998  acked 9,900  consumed 9,800
ms         p50 1.00  p99 1.00  p99.9 -  max 1.00
backlog    logistics 19,700  analytics 14,800  fulfilment 100  cache-1 0
           cache-2 0
errors     refused 4  unknown 0  not sent 0  retried 0";
        assert_eq!(view.block(), expected);
    }

    #[test]
    fn after_the_last_phase_comes_the_drain() {
        let mut view = View::of(&night());
        view.take(200, &orders_only(0, [0, 500, 0, 0, 0]));
        assert_eq!(view.phase(), "drain");
        assert_eq!(view.groups[1].messages(), 0, "more received than acknowledged is no debt");
    }

    #[test]
    fn of_many_groups_those_furthest_behind_are_shown() {
        let mut scenario = night();
        for number in 0..40 {
            let mut group = scenario.groups[1].clone();
            group.name = format!("a-group-with-a-long-name-{number}");
            scenario.groups.push(group);
        }
        let mut view = View::of(&scenario);
        view.take(4, &orders_only(9_900, [9_900, 0, 100, 0, 0]));
        assert!(view.backlogs().starts_with("logistics 9,900  "), "{}", view.backlogs());
        assert!(view.backlogs().ends_with("  + 37 more"), "{}", view.backlogs());
    }

    #[test]
    fn without_groups_there_is_no_backlog() {
        let mut scenario = one_stream();
        scenario.groups.clear();
        let mut view = View::of(&scenario);
        view.take(0, &[sent(10)]);
        assert!(!view.block().contains("backlog"));
    }
}
