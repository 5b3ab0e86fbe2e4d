//! What can be seen while a run is under way, on standard error: a block of a few lines that is
//! redrawn in place on a terminal, one plain line per second elsewhere.
//!
//! What is shown is text made from a [`View`], which knows no terminal. It fits 80 columns.

use std::io::{IsTerminal, Write, stderr};

use crate::engine::histogram::Percentiles;
use crate::engine::measure::{Counters, Interval};
use crate::plan::scenario::{Phase, Scenario};
use crate::units::grouped;

/// Columns of a line at most.
const WIDTH: usize = 80;
/// Cells of the progress bar.
const BAR_WIDTH: usize = 40;
/// Lines for backlogs at most, and room for the number of groups that do not fit.
const BACKLOG_LINES_MAX: usize = 2;
const MORE_WIDTH: usize = "  + 64 more".len();
/// What comes behind the last phase: nothing is due any more.
const DRAIN: &str = "drain";

pub struct Live {
    is_terminal: bool,
    view: View,
    /// Lines of the block that stands on the terminal.
    standing: usize,
}

impl Live {
    pub fn new(scenario: &Scenario) -> Self {
        Self { is_terminal: stderr().is_terminal(), view: View::of(scenario), standing: 0 }
    }

    /// Shows a second that is over, by track.
    pub fn show(&mut self, second: u64, tracks: &[Interval]) {
        self.view.take(second, tracks);
        let lines = if self.is_terminal { self.view.block() } else { vec![self.view.line()] };
        self.print(&lines);
    }

    fn print(&mut self, lines: &[String]) {
        let mut text = String::new();
        if self.standing > 0 {
            // Up to the first line of the block, and clear all below.
            text += &format!("\x1b[{}A\r\x1b[J", self.standing);
        }
        lines.iter().for_each(|line| text += &format!("{line}\n"));
        // A closed standard error must not end a run.
        let _ = stderr().write_all(text.as_bytes());
        self.standing = if self.is_terminal { lines.len() } else { 0 };
    }
}

/// What is known of a run under way.
struct View {
    name: String,
    phases: Vec<Phase>,
    streams: usize,
    groups: Vec<Behind>,
    second: u64,
    /// Of the last second: all streams, and what the first group received.
    last: Interval,
    /// Of all seconds.
    total: Counters,
}

/// How far a group is behind.
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
            name: scenario.name.clone(),
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

    /// For a terminal.
    fn block(&self) -> Vec<String> {
        let (Counters { due, sent, acknowledged, received, .. }, total) =
            (self.last.counters, &self.total);
        let [due, sent, acknowledged, received] = [due, sent, acknowledged, received].map(grouped);
        let p = Percentiles::of(&self.last.latency);
        let [p50, p99, p99_9, max] = [p.p50, p.p99, p.p99_9, p.max].map(milliseconds);
        let mut lines = vec![
            self.progress(),
            format!("per s    due {due}  sent {sent}  acked {acknowledged}  consumed {received}"),
            format!("ms       p50 {p50}  p99 {p99}  p99.9 {p99_9}  max {max}"),
        ];
        if !self.groups.is_empty() {
            lines.extend(self.backlogs());
        }
        let errors = [
            ("refused", total.refused),
            ("unknown", total.unknown),
            ("not sent", total.not_sent),
            ("retried", total.retried),
        ];
        let errors = errors.map(|(what, count)| format!("{what} {}", grouped(count)));
        lines.push(format!("errors   {}", errors.join("  ")));
        lines.iter().map(|line| line.chars().take(WIDTH).collect()).collect()
    }

    /// A bar with a mark where each phase begins, the time, and the phase.
    fn progress(&self) -> String {
        let end_ns = self.phases.last().map_or(1, |phase| phase.end_ns.max(1));
        let cell = |ns: u64| (ns as f64 / end_ns as f64 * BAR_WIDTH as f64) as usize;
        let reached = cell((self.second + 1) * 1_000_000_000).min(BAR_WIDTH);
        let mut bar: Vec<char> =
            (0..BAR_WIDTH).map(|at| if at < reached { '=' } else { '.' }).collect();
        for phase in self.phases.iter().skip(1) {
            bar[cell(phase.start_ns).min(BAR_WIDTH - 1)] = '|';
        }
        let bar: String = bar.into_iter().collect();
        let end_s = end_ns.div_ceil(1_000_000_000);
        format!("{} [{bar}] {}/{end_s} s {}", self.name, self.second + 1, self.phase())
    }

    /// As many groups as fit.
    fn backlogs(&self) -> Vec<String> {
        let mut lines = vec!["backlog".to_owned()];
        for (index, group) in self.groups.iter().enumerate() {
            let text = format!("  {} {}", group.name, grouped(group.messages()));
            let left = self.groups.len() - index;
            let is_last_line = lines.len() == BACKLOG_LINES_MAX;
            let room = if is_last_line && left > 1 { WIDTH - MORE_WIDTH } else { WIDTH };
            let line = lines.last_mut().expect("there is a first line");
            if line.len() + text.len() <= room {
                *line += &text;
            } else if is_last_line {
                *line += &format!("  + {left} more");
                return lines;
            } else {
                lines.push(format!("{:<7}{text}", ""));
            }
        }
        lines
    }

    /// For everything that is no terminal.
    fn line(&self) -> String {
        let counters = &self.last.counters;
        let [due, sent, acknowledged, received] =
            [counters.due, counters.sent, counters.acknowledged, counters.received].map(grouped);
        let p = Percentiles::of(&self.last.latency);
        let [p50, p99, max] = [p.p50, p.p99, p.max].map(milliseconds);
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
        // What is under way all the time is not worth a word, nor are a few one-way messages lost.
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
double11 pulse [==|=||=|..|.........|..............|....] 16/81 s payment wave
per s    due 10,000  sent 9,998  acked 9,900  consumed 9,800
ms       p50 1.00  p99 1.00  p99.9 1.00  max 1.00
backlog  fulfilment 100  logistics 19,700  analytics 14,800  cache-1 0
         cache-2 0
errors   refused 4  unknown 0  not sent 0  retried 0";
        assert_eq!(view.block().join("\n"), expected);
    }

    /// Behind the last phase the bar is full and what is shown is the drain.
    #[test]
    fn after_the_last_phase_comes_the_drain() {
        let mut view = View::of(&night());
        view.take(200, &orders_only(0, [0, 500, 0, 0, 0]));
        let progress = view.progress();
        assert!(progress.ends_with("=] 201/81 s drain"), "{progress}");
        assert_eq!(view.groups[1].messages(), 0, "more received than acknowledged is no debt");
    }

    #[test]
    fn whatever_the_figures_and_names_a_block_fits_80_columns() {
        let mut scenario = night();
        for number in 0..40 {
            let mut group = scenario.groups[1].clone();
            group.name = format!("a-group-with-a-long-name-{number}");
            scenario.groups.push(group);
        }
        scenario.phases[11].name = "a phase of which the name is far too long for any line".into();
        let mut view = View::of(&scenario);
        let mut huge = sent(u64::MAX / 1_000);
        huge.counters.due = u64::MAX / 1_000;
        view.take(4_000_000_000, &[huge.clone(), huge]);
        let block = view.block();
        assert!(block.iter().all(|line| line.chars().count() <= WIDTH), "{block:#?}");
        assert!(block[4].ends_with(" more"), "{}", block[4]);
        assert_eq!(block.len(), 6);
    }

    #[test]
    fn without_groups_there_is_no_backlog() {
        let mut scenario = one_stream();
        scenario.groups.clear();
        let mut view = View::of(&scenario);
        view.take(0, &[sent(10)]);
        assert_eq!(view.block().len(), 4);
    }
}
