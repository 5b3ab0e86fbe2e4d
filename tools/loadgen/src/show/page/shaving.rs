//! Peak shaving: the producers' peak is stored immediately, and a slow group receives it at its
//! own rate.

use crate::findings::flow::Flow;
use crate::findings::report::{GroupFacts, Report};
use crate::show::page::decoupling::backlog_line;
use crate::show::page::html::{heading, paragraph};
use crate::show::page::story;
use crate::show::page::timeline::Timeline;
use crate::show::page::words::{capital, clock, counted, rate, seconds};
use crate::show::plot::{Axis, Plot, Scale, Stroke};

/// A peak must exceed the group's rate by this factor.
const PEAK: f64 = 1.05;

/// One section for each group with a rate below the peak of its streams; empty without such groups.
pub fn section(report: &Report, timeline: &Timeline) -> String {
    let mut out = String::new();
    for (index, track, facts) in report.groups() {
        let Some((limit, flow)) = facts.rate.zip(story::flow(report, index)) else { continue };
        if flow.peaks().0 as f64 <= PEAK * limit {
            continue;
        }
        out.push_str(&heading(&format!("Peak shaving: {} keeps its own pace", track.name)));
        out.push_str(&paragraph(&words(&track.name, limit, facts, &flow)));
        out.push_str(&rates(timeline, &track.name, index, facts).figure());
        out.push_str(&backlog(timeline, &track.name, &flow).figure());
    }
    out
}

fn words(name: &str, limit: f64, facts: &GroupFacts, flow: &Flow) -> String {
    let (due, taken) = flow.peaks();
    let (at, largest) = flow.largest();
    let times = due as f64 / limit;
    let kept = format!(
        "{} takes at most {} messages a second while messages are due. Up to {} a second were due \
         for it: {times:.1} times that. In its busiest second it took {}; what it could not take yet \
         waited at the broker, {} at most (at {}).{}",
        capital(name),
        rate(limit),
        rate(due as f64),
        rate(taken as f64),
        counted(largest, "message"),
        clock((at + 1) as f64),
        if was_gone(facts, at) { " That was because it had been gone, not only slow." } else { "" },
    );
    let drained = match flow.drain() {
        Some(drain) => format!(
            " When the last message had been due, {} still waited. The limit was lifted, and they \
             were gone within {}, at {} a second.",
            counted(drain.messages, "message"),
            seconds(drain.seconds as f64),
            rate(drain.rate),
        ),
        None => match flow.recovery() {
            Some(it) if it.length_s.is_some() => format!(
                " All of it was gone {} later, while further messages came.",
                seconds(it.length_s.unwrap_or(0) as f64),
            ),
            _ => " When the last message had been due, nothing waited any more.".to_owned(),
        },
    };
    format!("{kept}{drained}")
}

/// Whether the group was down in this second.
fn was_gone(facts: &GroupFacts, second: usize) -> bool {
    let at_ns = second as u64 * 1_000_000_000;
    let mut outages = facts.pauses.iter().filter(|pause| pause.is_down);
    outages.any(|pause| (pause.from_ns..pause.to_ns + 1_000_000_000).contains(&at_ns))
}

fn rates(timeline: &Timeline, name: &str, index: usize, facts: &GroupFacts) -> Plot {
    let title = format!("What was due for {name}, and what it took");
    let mut plot = timeline.plot(&title, Axis::new("msg/s", Scale::Linear));
    plot.lines = vec![
        timeline.rate("due", 7, |point| point.sum(&facts.streams, |c| c.due)).with(Stroke::Filled),
        timeline.rate("acknowledged to the senders", 0, |point| {
            point.sum(&facts.streams, |counters| counters.acknowledged + counters.one_way)
        }),
        timeline.rate(&format!("taken by {name}"), 1, |point| point.sum(&[index], |c| c.received)),
    ];
    plot
}

fn backlog(timeline: &Timeline, name: &str, flow: &Flow) -> Plot {
    let title = format!("Messages waiting for {name}");
    let mut plot = timeline.plot(&title, Axis::new("msg", Scale::Linear));
    plot.lines = vec![backlog_line(timeline, flow, "backlog", 1).with(Stroke::Filled)];
    plot
}
