//! Distribution: every group receives every message of its streams once, at its own rate.

use crate::findings::report::{Finding, Report};
use crate::show::page::decoupling::backlog_line;
use crate::show::page::html::{Table, heading, number, paragraph, text, word};
use crate::show::page::story::{flow, pace};
use crate::show::page::timeline::Timeline;
use crate::show::page::words::{counted, listed};
use crate::show::plot::{Axis, Plot, Scale};
use crate::units::grouped;

/// Empty if there is only one group.
pub fn section(report: &Report, timeline: &Timeline) -> String {
    if report.groups().count() < 2 {
        return String::new();
    }
    let mut out = heading("Distribution: every group gets every message");
    out.push_str(&paragraph(&words(report)));
    out.push_str(&table(report));
    let received = received(report, timeline);
    if !received.is_blank() {
        out.push_str(&received.figure());
    }
    out
}

/// Sums `of` over the findings of a group.
fn sum(report: &Report, group: usize, of: fn(&Finding) -> u64) -> u64 {
    report.findings.iter().filter(|finding| finding.group == group).map(of).sum()
}

fn words(report: &Report) -> String {
    let groups: Vec<usize> = report.groups().map(|(index, ..)| index).collect();
    let all =
        |of: fn(&Finding) -> u64| groups.iter().map(|&group| sum(report, group, of)).sum::<u64>();
    let (acknowledged, lost) = (all(|it| it.audit.acknowledged), all(|it| it.audit.lost));
    let duplicated = all(|it| it.audit.duplicated);
    let missing: Vec<String> = report
        .groups()
        .filter(|(index, ..)| sum(report, *index, |it| it.audit.lost) > 0)
        .map(|(_, track, _)| track.name.clone())
        .collect();
    let found = match missing[..] {
        [] => "none is missing anywhere".to_owned(),
        _ => format!("{} are missing, at {}", grouped(lost), listed(&missing)),
    };
    let repeated = match duplicated {
        0 => "none came twice".to_owned(),
        count => {
            format!("{} were delivered again, as may happen after an interruption", grouped(count))
        }
    };
    format!(
        "A message is stored once and read by each group that wants it. For {} groups that makes \
         {} to be received: {found}, and {repeated}. No group waits for another.",
        groups.len(),
        counted(acknowledged, "message"),
    )
}

fn table(report: &Report) -> String {
    let columns =
        ["group", "its pace", ">acknowledged for it", ">lost", ">repeated", ">largest backlog"];
    let mut table = Table::new("", &columns);
    for (index, track, facts) in report.groups() {
        let largest = flow(report, index).map_or(0, |flow| flow.largest().1);
        table.row(&[
            word(&track.name),
            text(pace(facts)),
            number(grouped(sum(report, index, |it| it.audit.acknowledged))),
            number(grouped(sum(report, index, |it| it.audit.lost))),
            number(grouped(sum(report, index, |it| it.audit.duplicated))),
            number(grouped(largest)),
        ]);
    }
    table.html()
}

fn received(report: &Report, timeline: &Timeline) -> Plot {
    let title = "Messages received per second, by group";
    let mut plot = timeline.plot(title, Axis::new("msg/s", Scale::Linear));
    for (colour, (index, track, _)) in report.groups().enumerate() {
        plot.lines
            .push(timeline.rate(&track.name, colour, |point| point.sum(&[index], |c| c.received)));
    }
    plot
}

/// The backlog of each group.
pub fn backlogs(report: &Report, timeline: &Timeline) -> Plot {
    let title = "Backlog: messages stored and not yet received, by group";
    let mut plot = timeline.plot(title, Axis::new("msg", Scale::Linear));
    for (colour, (index, track, _)) in report.groups().enumerate() {
        if let Some(flow) = flow(report, index) {
            plot.lines.push(backlog_line(timeline, &flow, &track.name, colour));
        }
    }
    plot
}
