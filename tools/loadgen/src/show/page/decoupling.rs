//! Decoupling: a group of consumers was down for a while. Did its producers notice, and did it miss
//! anything?
//!
//! The answer is derived from figures only. It compares p99 of the group's own streams for as long
//! before the outage as it lasted with p99 during it. The rate is shown beside it, because a tail
//! that grew with the load says nothing about the outage.

use crate::engine::measure::Kind;
use crate::findings::flow::Flow;
use crate::findings::report::{GroupFacts, Report};
use crate::findings::verdict::Verdict;
use crate::plan::scenario::Pause;
use crate::show::page::charts::ms_axis;
use crate::show::page::html::{Table, heading, number, paragraph, word};
use crate::show::page::story;
use crate::show::page::timeline::{Timeline, merged};
use crate::show::page::words::{
    capital, clock, counted, listed, ms as ms_text, ns_at, percentile, rate, seconds, spoken,
};
use crate::show::plot::{Axis, Line, Mark, Plot, Scale, Stroke};
use crate::units::{grouped, ms};

/// Growth of p99 up to this factor counts as unchanged.
const UNTOUCHED: f64 = 1.5;

/// One section for each outage of a group; empty without outages.
pub fn section(report: &Report, timeline: &Timeline) -> String {
    let mut out = String::new();
    for (index, track, facts) in report.groups() {
        let outages = facts.pauses.iter().filter(|pause| pause.is_down);
        for (pause, flow) in outages.filter_map(|pause| Some((pause, story::flow(report, index)?)))
        {
            let outage = Outage { report, name: &track.name, index, facts, pause, flow: &flow };
            out.push_str(&heading(&format!("Decoupling: {} was gone for a while", track.name)));
            out.push_str(&paragraph(&outage.words()));
            if report.verdict() != Verdict::Failed {
                out.push_str(&outage.table());
                out.push_str(&outage.latency(timeline).figure());
            }
            out.push_str(&outage.backlog(timeline).figure());
        }
    }
    out
}

struct Outage<'a> {
    report: &'a Report,
    name: &'a str,
    index: usize,
    facts: &'a GroupFacts,
    pause: &'a Pause,
    flow: &'a Flow,
}

/// A name, and the whole seconds `from..to` of the run.
type Window = (&'static str, u64, u64);

impl Outage<'_> {
    /// Before, during and after the outage; before and after are as long as the outage, as far as
    /// the run extends.
    fn windows(&self) -> [Window; 3] {
        let from = self.pause.from_ns.div_ceil(1_000_000_000);
        let to = (self.pause.to_ns / 1_000_000_000).max(from + 1);
        let length = to - from;
        let end = (self.flow.seconds.len() as u64).max(to);
        [
            ("before", from.saturating_sub(length), from),
            ("while it was gone", from, to),
            ("after", to, (to + length).min(end)),
        ]
    }

    fn words(&self) -> String {
        let [_, (_, from, to), _] = self.windows();
        let missed = self.flow.sum(from as usize..to as usize, |second| second.stored);
        let streams: Vec<String> = self
            .facts
            .streams
            .iter()
            .map(|stream| self.report.tracks[*stream].name.clone())
            .collect();
        let of_group = self.report.findings.iter().filter(|finding| finding.group == self.index);
        let (received, lost) = of_group.fold((0, 0), |(received, lost), finding| {
            let audit = finding.audit;
            let missing = (audit.lost + audit.unread).min(audit.acknowledged);
            (received + audit.acknowledged - missing, lost + audit.lost)
        });
        let tail = match self.report.verdict() {
            Verdict::Failed => String::new(),
            _ => self.tail(),
        };
        format!(
            "{name} was gone from {gone} to {back}, with its connections. In the whole seconds of \
             that time {missed} of {streams} were stored, none of which it saw. {tail}{caught_up} In the end it had \
             received {received} of what was acknowledged to the senders: lost {lost}.",
            name = capital(self.name),
            gone = clock(self.pause.from_ns as f64 / 1e9),
            back = clock(self.pause.to_ns as f64 / 1e9),
            missed = counted(missed, "message"),
            streams = listed(&streams),
            caught_up = self.caught_up(from as usize, to as usize),
            received = grouped(received),
            lost = grouped(lost),
        )
    }

    /// Whether the producers noticed.
    fn tail(&self) -> String {
        let [(_, begin, from), (_, _, to), _] = self.windows();
        let [before, gone, _] =
            self.windows().map(|window| (self.p99(window), self.due_rate(window)));
        let (Some(p99_before), Some(p99_gone)) = (before.0, gone.0) else {
            return "There were too few messages to compare the senders' p99. ".to_owned();
        };
        let growth = p99_gone as f64 / p99_before.max(1) as f64;
        let said = if growth <= UNTOUCHED {
            "The senders did not notice"
        } else {
            "The senders' tail grew in that time, which need not be because of the outage"
        };
        format!(
            "{said}: their p99 was {} in the {} before, at {} messages a second, and {} while it was \
             gone, at {}. {}",
            spoken(p99_before),
            seconds((from - begin) as f64),
            rate(before.1),
            spoken(p99_gone),
            rate(gone.1),
            self.disturbances(begin, to),
        )
    }

    /// Faults within the seconds that are compared.
    fn disturbances(&self, from: u64, to: u64) -> String {
        let (from_ns, to_ns) = (from * 1_000_000_000, to * 1_000_000_000);
        let fell = self.report.faults.iter().enumerate().filter(|(_, fault)| {
            let until_ns = fault.until_ns.unwrap_or(fault.at_ns).max(fault.at_ns + 1);
            fault.failed.is_none() && fault.at_ns < to_ns && until_ns > from_ns
        });
        let numbers: Vec<String> = fell.map(|(index, _)| (index + 1).to_string()).collect();
        match numbers[..] {
            [] => String::new(),
            [ref one] => format!("Fault {one} falls into these seconds. "),
            _ => format!("Faults {} fall into these seconds. ", listed(&numbers)),
        }
    }

    fn caught_up(&self, from: usize, to: usize) -> String {
        let backlog = self.flow.seconds.get(to.saturating_sub(1)).map_or(0, |it| it.backlog);
        match self.flow.caught_up(from, to) {
            Some(second) => format!(
                "When it came back {} waited; it had caught up {} later, at {}.",
                counted(backlog, "message"),
                seconds((second + 1).saturating_sub(to).max(1) as f64),
                clock((second + 1) as f64),
            ),
            None => "It had not caught up when the run ended.".to_owned(),
        }
    }

    fn p99(&self, (_, from, to): Window) -> Option<u64> {
        ns_at(&merged(self.report, from..to, &self.facts.streams, Kind::Latency), 0.99)
    }

    fn due_rate(&self, (_, from, to): Window) -> f64 {
        let due = self.flow.sum(from as usize..to as usize, |second| second.due);
        due as f64 / (to.saturating_sub(from)).max(1) as f64
    }

    fn table(&self) -> String {
        let columns = ["", "", ">acknowledged", ">p50", ">p99", ">max"];
        let mut table = Table::new("Send latency of its streams, ms", &columns);
        for &stream in &self.facts.streams {
            table.part(&self.report.tracks[stream].name);
            for (when, from, to) in self.windows() {
                let all = merged(self.report, from..to, &[stream], Kind::Latency);
                if all.is_empty() {
                    continue;
                }
                let span = format!("{}–{}", clock(from as f64), clock(to as f64));
                let values = [percentile(&all, 0.5), percentile(&all, 0.99), ms_text(all.max())];
                let mut cells = vec![word(when), word(span), number(grouped(all.len()))];
                cells.extend(values.map(number));
                table.row(&cells);
            }
        }
        table.html()
    }

    /// A plot with the outage marked.
    fn plot(&self, timeline: &Timeline, title: String, y: Axis) -> Plot {
        let mut plot = timeline.plot(&title, y);
        plot.backdrop.faults.push(Mark {
            at: self.pause.from_ns as f64 / 1e9,
            until: self.pause.to_ns as f64 / 1e9,
            text: format!("{} gone", self.name),
        });
        plot
    }

    fn latency(&self, timeline: &Timeline) -> Plot {
        let title = format!("p99 of send latency of what {} takes", self.name);
        let mut plot = self.plot(timeline, title, ms_axis());
        let lines = self.facts.streams.iter().map(|&stream| {
            let name = &self.report.tracks[stream].name;
            timeline.line(name, stream, |point| point.tracks[stream].p99.map(ms))
        });
        plot.lines =
            lines.filter(|line| line.points.iter().any(|point| point.1.is_some())).collect();
        plot
    }

    fn backlog(&self, timeline: &Timeline) -> Plot {
        let title = format!("Messages waiting for {}", self.name);
        let mut plot = self.plot(timeline, title, Axis::new("msg", Scale::Linear));
        plot.lines = vec![backlog_line(timeline, self.flow, "backlog", 6).with(Stroke::Filled)];
        plot
    }
}

/// The backlog at the end of each pooled interval.
pub fn backlog_line(timeline: &Timeline, flow: &Flow, name: &str, colour: usize) -> Line {
    let pool = timeline.pool as usize;
    let at_end = flow.seconds.chunks(pool).enumerate().map(|(index, seconds)| {
        let end_s = ((index * pool + seconds.len()) as f64).min(timeline.end_s);
        (end_s, seconds.last().map(|second| second.backlog as f64))
    });
    let points = std::iter::once((0.0, Some(0.0))).chain(at_end);
    Line::new(name, colour, points.collect())
}
