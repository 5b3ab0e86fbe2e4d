//! What happened, in plain words for a reader who has never run a broker.

use crate::findings::flow::Flow;
use crate::findings::report::{GroupFacts, Report, StreamFacts, Track};
use crate::plan::scenario::Pause;
use crate::show::page::html::{heading, paragraph, parts};
use crate::show::page::words::{clock, counted, listed, rate, seconds, sentence, spoken};
use crate::units::grouped;

/// Who sent what to whom, and with what outcome.
pub fn what_happened(report: &Report) -> String {
    let mut out = paragraph(&opening(report));
    out.push_str(&paragraph(&outcome(report)));
    let streams = report.streams().map(|(index, track, facts)| {
        (track.name.as_str(), stream_words(report, index, track, facts))
    });
    out.push_str(&heading("Who sends: the streams"));
    out.push_str(&parts(streams));
    if report.is_audited() {
        let groups = report
            .groups()
            .map(|(_, track, facts)| (track.name.as_str(), group_words(report, track, facts)));
        out.push_str(&heading("Who receives: the groups"));
        out.push_str(&parts(groups));
    }
    out
}

fn opening(report: &Report) -> String {
    let (streams, groups) = (report.streams().count(), report.groups().count());
    let length = seconds(report.phases.last().map_or(0.0, |phase| phase.end_ns as f64 / 1e9));
    let names: Vec<String> = report.streams().map(|(_, track, _)| track.name.clone()).collect();
    let sent = match streams {
        1 => format!("For {length} one kind of messages was sent to the broker"),
        _ => format!(
            "The parts of an order system sent {streams} kinds of messages to the broker for \
             {length}: {}",
            listed(&names)
        ),
    };
    let received = match groups {
        0 => "nobody received them, so what was stored could not be checked".to_owned(),
        1 => "one group of consumers received them".to_owned(),
        _ => format!("{groups} groups of consumers, each at its own pace, received them"),
    };
    format!(
        "{sent}; {received}. When each message was due was fixed beforehand, and whatever the broker \
         did, the clock of a message began to run at that moment."
    )
}

fn outcome(report: &Report) -> String {
    let counters = report.counters();
    let mut said = vec![format!(
        "Of {} that were due the broker acknowledged {}",
        counted(counters.due, "message"),
        grouped(counters.acknowledged)
    )];
    let others = [
        (counters.one_way, "were sent without requesting a reply"),
        (counters.refused, "were refused, so that the sender knew"),
        (counters.unknown, "were never answered, so nobody knew until they were looked for"),
        (counters.not_sent, "could not be sent in time"),
    ];
    let others = others.into_iter().filter(|(count, _)| *count > 0);
    said.extend(others.map(|(count, what)| format!("{} {what}", grouped(count))));
    let faults = report.faults.iter().filter(|fault| fault.failed.is_none()).count();
    let faults = match faults {
        0 => String::new(),
        _ => format!(
            " Meanwhile {} broken on purpose.",
            match faults {
                1 => "one thing was".to_owned(),
                count => format!("{count} things were"),
            }
        ),
    };
    let checked = match report.is_audited() {
        true => {
            " Afterwards every acknowledgement was looked up among what the consumers received."
        }
        false => "",
    };
    let warm_up = match report.warm_up().as_secs_f64() {
        0.0 => String::new(),
        length_s => format!(" A warm-up of {} is in none of these figures.", seconds(length_s)),
    };
    format!("{}.{warm_up}{faults}{checked}", listed(&said))
}

/// The role of a stream, and details in small print.
fn stream_words(
    report: &Report,
    index: usize,
    track: &Track,
    facts: &StreamFacts,
) -> (String, String) {
    let counters = report.track_counters(index);
    let mut small = vec![format!(
        "{} of {} B in the mean, {}",
        counted(counters.due, "message"),
        grouped(facts.message_size_mean.round() as u64),
        counted(facts.connections.into(), "connection"),
    )];
    if facts.batch > 1 {
        small.push(format!("{} to a request", facts.batch));
    }
    if facts.is_ordered {
        small.push("order is kept, and judged".to_owned());
    }
    if facts.is_one_way {
        small.push("no answer is asked for, so a loss is counted and is no failure".to_owned());
    }
    if facts.delay_ms > 0 {
        let delay = seconds(facts.delay_ms as f64 / 1e3);
        small.push(format!("the broker is to deliver each {delay} after it was sent"));
    }
    let mut small = sentence(&small.join("; "));
    if let Some(feature) = &facts.stands_in_for {
        small.push_str(&format!(
            " They are ordinary messages of the same size: what they stand in for is not used, {feature}."
        ));
    }
    (sentence(&track.role), small)
}

fn group_words(report: &Report, track: &Track, facts: &GroupFacts) -> (String, String) {
    let names = facts.streams.iter().filter_map(|stream| report.tracks.get(*stream));
    let names: Vec<String> = names.map(|track| track.name.clone()).collect();
    let streams = if names.len() == report.streams().count() && names.len() > 1 {
        "everything".to_owned()
    } else {
        listed(&names)
    };
    let members = match facts.members {
        1 => String::new(),
        count => format!(" with {count} consumers"),
    };
    (sentence(&track.role), sentence(&format!("takes {streams}{members}; {}", pace(facts))))
}

/// When messages were acknowledged, as far as the report knows, and how long the device alone
/// takes.
pub fn durability(report: &Report) -> String {
    let environment = &report.subject.environment;
    let command = environment.get("broker").and_then(|command| command.as_str());
    let mut words = command.unwrap_or_default().split_whitespace();
    words.find(|word| *word == "--flush");
    let said = match words.next() {
        Some("sync") => "acknowledged after the write was on the device",
        Some("async") => {
            "acknowledged before the write was on the device: a power failure loses up to 500 ms"
        }
        _ => "not known to this report: see how the broker was started",
    };
    let flush_ns = |name: &str| environment.get("device_flush")?.get(name)?.as_u64();
    match flush_ns("p50_ns").zip(flush_ns("p99_ns")) {
        Some((p50, p99)) => {
            format!("{said}; the device alone took {} for that, p99 {}", spoken(p50), spoken(p99))
        }
        None => said.to_owned(),
    }
}

/// Each broken promise: which group missed what.
pub fn failures(report: &Report) -> Vec<String> {
    let name = |track: usize| report.tracks.get(track).map_or("?", |track| track.name.as_str());
    let mut said = Vec::new();
    for finding in &report.findings {
        let (group, stream, audit) = (name(finding.group), name(finding.stream), &finding.audit);
        let is_ordered = report.tracks[finding.stream].stream().is_some_and(|it| it.is_ordered);
        let (lost, acknowledged) = (grouped(audit.lost), grouped(audit.acknowledged));
        let never_sent = counted(audit.never_sent, "message");
        let disorder = counted(audit.out_of_order, "message");
        let rows = [
            (
                audit.lost > 0,
                format!(
                    "{group} never received {lost} of {acknowledged} of {stream} that the broker \
                     had acknowledged"
                ),
            ),
            (
                audit.never_sent > 0,
                format!("{group} received {never_sent} of {stream} that were never sent"),
            ),
            (
                audit.early > 0,
                format!(
                    "{group} received {} of {stream} before they were due",
                    counted(audit.early, "message")
                ),
            ),
            (
                is_ordered && audit.out_of_order > 0,
                format!(
                    "{group} received {disorder} of {stream} after later ones of the same order"
                ),
            ),
        ];
        said.extend(rows.into_iter().filter(|row| row.0).map(|row| row.1));
    }
    for group in report.unattributed.iter().filter(|group| group.corrupted > 0) {
        let corrupted = counted(group.corrupted, "message");
        said.push(format!("{} received {corrupted} with a wrong checksum", name(group.group)));
    }
    said
}

/// The rate at which a group chooses to receive.
pub fn pace(facts: &GroupFacts) -> String {
    let mut said = vec![match facts.rate {
        Some(per_s) => format!("at most {} a second", rate(per_s)),
        None => "as fast as it can".to_owned(),
    }];
    let s = |ns: u64| ns as f64 / 1e9;
    let length = |pause: &Pause| seconds(s(pause.to_ns.saturating_sub(pause.from_ns)));
    let (down, slow): (Vec<&Pause>, Vec<&Pause>) =
        facts.pauses.iter().partition(|pause| pause.is_down);
    said.extend(down.iter().map(|pause| {
        format!("gone from {} to {}", clock(s(pause.from_ns)), clock(s(pause.to_ns)))
    }));
    match slow[..] {
        [] => {}
        [pause] => {
            said.push(format!("pauses at {} for {}", clock(s(pause.from_ns)), length(pause)))
        }
        [first, ..] => {
            said.push(format!("pauses {} times, the first for {}", slow.len(), length(first)))
        }
    }
    said.join(", ")
}

/// The group's flow, unless nothing was recorded for it.
pub fn flow(report: &Report, group: usize) -> Option<Flow> {
    let flow = Flow::of(report, group);
    flow.seconds.iter().any(|second| second.stored + second.taken > 0).then_some(flow)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::findings::report::tests::example;

    #[test]
    fn one_stream_is_told_in_the_singular() {
        let html = what_happened(&example());
        assert!(html.contains("For 20 s one kind of messages was sent"), "{html}");
        assert!(html.contains("one group of consumers received them"));
        assert!(html.contains("80 were refused"));
        assert!(!html.contains("on purpose"), "nothing was broken");
    }

    #[test]
    fn each_broken_promise_is_said() {
        let mut report = example();
        assert_eq!(failures(&report), Vec::<String>::new(), "no order was asked for");
        if let crate::findings::report::TrackKind::Stream(facts) = &mut report.tracks[0].kind {
            facts.is_ordered = true;
        }
        report.findings[0].audit.lost = 5;
        report.findings[0].audit.never_sent = 1;
        report.unattributed[0].corrupted = 4;
        let said = failures(&report);
        for (said, begin) in said.iter().zip([
            "consumer never received 5 of 199,900 of load",
            "consumer received 1 message of load that were never sent",
            "consumer received 2 messages of load after later ones",
            "consumer received 4 messages with a wrong checksum",
        ]) {
            assert!(said.starts_with(begin), "{said}");
        }
        assert_eq!(said.len(), 4);
    }

    #[test]
    fn durability_is_what_the_broker_was_told() {
        let mut report = example();
        assert!(durability(&report).starts_with("not known"));
        let mut set = |name: &str, value| report.subject.environment.insert(name.to_owned(), value);
        set("broker", json!("ringmq broker --shards 2 --flush sync"));
        set("device_flush", json!({"p50_ns": 1_300_000, "p99_ns": 8_888_319}));
        let said = "acknowledged after the write was on the device; the device alone took 1.3 ms \
                    for that, p99 8.9 ms";
        assert_eq!(durability(&report), said);
    }

    #[test]
    fn a_pace_is_said_in_words() {
        let pause = |from_s: u64, to_s: u64, is_down| Pause {
            from_ns: from_s * 1_000_000_000,
            to_ns: to_s * 1_000_000_000,
            is_down,
        };
        let facts = |rate, pauses| GroupFacts { streams: vec![0], rate, pauses, members: 1 };
        assert_eq!(pace(&facts(None, Vec::new())), "as fast as it can");
        let both = facts(Some(4_000.0), vec![pause(20, 35, true), pause(50, 51, false)]);
        let text = "at most 4,000 a second, gone from 0:20 to 0:35, pauses at 0:50 for 1 s";
        assert_eq!(pace(&both), text);
    }
}
