use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::engine::measure::{Interval, Second};
use crate::findings::merge::merge;
use crate::findings::report::tests::example;
use crate::findings::report::{
    Answered, BrokerShare, FaultMark, Finding, Sample, ThreadCpu, TrackKind, Unattributed,
};
use crate::findings::rows;
use crate::options::Part;
use crate::plan::scenario::{Criterion, Pause};
use crate::show::compare::Comparison;
use crate::show::page::render;

/// The first of two parts of a run that fills every list: two streams, two groups.
fn whole() -> Report {
    let mut report = example();
    let [stream, group] = [report.tracks[0].clone(), report.tracks[1].clone()];
    report.tracks = vec![stream.clone(), stream, group.clone(), group];
    for (track, name) in report.tracks.iter_mut().zip(["orders", "logs", "shop", "lorries"]) {
        name.clone_into(&mut track.name);
        if let TrackKind::Group(facts) = &mut track.kind {
            facts.streams = vec![0, 1];
            facts.rate = Some(5_000.0);
            facts.pauses = vec![Pause { from_ns: SECOND_NS, to_ns: 2 * SECOND_NS, is_down: true }];
        }
    }
    let [sent, received] = [report.totals[0][0].clone(), report.totals[0][1].clone()];
    report.totals = vec![vec![sent.clone(), Interval::default(), received.clone(), received]];
    report.seconds = [1, 2].map(|number| Second::pack(number, &[(0, sent.clone())])).into();
    let finding = report.findings[0].clone();
    report.findings =
        vec![Finding { group: 2, ..finding.clone() }, Finding { group: 3, ..finding }];
    report.unattributed = vec![Unattributed { group: 2, corrupted: 0, foreign: 5 }];
    report.answers = vec![Answered { stream: 0, code: 2, reason: "busy".to_owned(), requests: 80 }];
    report.faults = vec![FaultMark {
        at_ns: 3 * SECOND_NS,
        until_ns: Some(4 * SECOND_NS),
        text: "kill -9 of the broker, down 1 s".to_owned(),
        failed: None,
        back_after_ns: Some(SECOND_NS),
        gaps: Vec::new(),
    }];
    report.brokers =
        ["a", "b"].map(|name| BrokerShare { name: name.to_owned(), acknowledged: 99_950 }).into();
    let sample =
        |at_ns| Sample { at_ns, cpu_ns: at_ns, rss_bytes: 1, written_bytes: 2, read_bytes: 3 };
    report.samples = [SECOND_NS, 2 * SECOND_NS].map(sample).into();
    let name = "generate-0".to_owned();
    report.threads = vec![ThreadCpu { name, share: 0.4, must_keep_up: true }];
    report.asked = vec![
        Criterion::NothingLost,
        Criterion::TailWithin { phase: 0, beside: 0, factor: 10.0 },
        Criterion::AnsweredWithin { phase: 0, part: 0.99, within: Duration::from_millis(10) },
        Criterion::Drain { group: 1, factor: 2.0 },
        Criterion::BackWithin { fault: 0, within: Duration::from_secs(2) },
        Criterion::Refused { part_max: 0.001 },
    ];
    report.rows = rows::judge(&report.asked, &report);
    report.incomplete = vec!["one".to_owned()];
    report.not_valid = vec!["two".to_owned()];
    report.subject.part = Part { index: 0, count: 2 };
    report
}

const SECOND_NS: u64 = 1_000_000_000;

fn value() -> Value {
    serde_json::to_value(Document::of(&whole())).unwrap()
}

fn parsed(value: &Value) -> Result<Report, String> {
    let text = serde_json::to_vec(value).unwrap();
    parse(&text, "a/report.json".to_owned()).map_err(|error| error.to_string())
}

/// Collects the JSON pointers of everything in `value`, which is at `at`.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    for (key, value) in children {
        let place = format!("{at}/{key}");
        places(value, &place, found);
        found.push(place);
    }
}

fn take_out(value: &mut Value, place: &str) {
    let (parent, key) = place.rsplit_once('/').unwrap();
    match value.pointer_mut(parent).unwrap() {
        Value::Object(map) => drop(map.remove(key)),
        Value::Array(items) => drop(items.remove(key.parse().unwrap())),
        _ => panic!("{place} is in nothing"),
    }
}

/// Calls everything that a report is used for.
fn use_it(report: Report) {
    let whole = whole();
    drop((report.to_string(), render(&report)));
    let comparison = Comparison::of(vec![report.clone(), whole.clone()]);
    drop((comparison.to_string(), comparison.page()));
    let mut other = whole;
    other.subject.part.index = 1;
    let parts = vec![("a".to_owned(), report), ("b".to_owned(), other)];
    if let Ok(joined) = merge(parts) {
        drop((joined.to_string(), Document::of(&joined)));
    }
}

/// Whether a report without the key at `place` is still valid: earlier versions did not write all
/// keys, some values may be unknown, and empty histograms are left out.
fn may_lack(place: &str) -> bool {
    const KEYS: [&str; 12] = [
        "unread",
        "given_up",
        "refused",
        "until_ns",
        "failed",
        "back_after_ns",
        "stands_in_for",
        "is_met",
        "rate",
        "members",
        "early",
        "delay_ms",
    ];
    let (parent, key) = place.rsplit_once('/').unwrap();
    let is_counter = parent.ends_with("counters") || parent.ends_with("send");
    let is_new = ["latency_at_least", "undecided", "is_required"].contains(&key);
    let is_optional = is_new || KEYS.contains(&key) && !is_counter;
    is_optional || parent == "/audit" || parent.ends_with("/histograms")
}

/// Each value in a report is removed once, and replaced once by a wrong one. Whatever is accepted
/// can be used like any other report.
#[test]
fn whatever_is_wrong_with_a_report_is_refused_or_harmless() {
    let whole = value();
    parsed(&whole).unwrap();
    let mut all = Vec::new();
    places(&whole, "", &mut all);
    assert!(all.len() > 300, "{}", all.len());
    let others = [json!(null), json!("x, y"), json!(-1), json!(u64::MAX), json!([]), json!({})];
    let mut wrong = Vec::new();
    for place in all.iter().filter(|place| !place.contains("/environment")) {
        let is_number = whole.pointer(place).unwrap().is_number();
        let is_item = place.ends_with(|last: char| last.is_ascii_digit());
        let mut without = whole.clone();
        take_out(&mut without, place);
        let replaced = others.iter().map(|other| {
            let mut with = whole.clone();
            other.clone_into(with.pointer_mut(place).unwrap());
            (other.to_string(), with)
        });
        for (change, changed) in [("none".to_owned(), without)].into_iter().chain(replaced) {
            let must_refuse = match change.as_str() {
                "-1" => is_number && !place.ends_with("/code"),
                "none" => !is_item && !may_lack(place),
                "null" => is_number && !may_lack(place),
                _ => false,
            };
            // The keys for scripts are not read back.
            let is_used = place.starts_with("/detail");
            let used = catch_unwind(AssertUnwindSafe(|| {
                parsed(&changed).map(|report| is_used.then(|| use_it(report)))
            }));
            let complaint = match used {
                Err(_) => "panic".to_owned(),
                Ok(Ok(_)) if must_refuse => "accepted".to_owned(),
                Ok(Err(error)) if !is_helpful(&error) => error,
                Ok(_) => continue,
            };
            wrong.push(format!("{place} {change}: {complaint}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), 7 * all.len(), wrong.join("\n"));
}

/// Whether the error names the file and says what to do.
fn is_helpful(error: &str) -> bool {
    error.starts_with("a/report.json") && (error.contains("repeat") || error.contains("name the"))
}

/// Without the check, these would cause a panic or exhaust memory.
#[test]
fn what_is_wrong_is_said() {
    type Change = fn(&mut Report);
    fn group(report: &mut Report) -> &mut crate::findings::report::GroupFacts {
        match &mut report.tracks[2].kind {
            TrackKind::Group(facts) => facts,
            TrackKind::Stream(_) => panic!("streams come first"),
        }
    }
    let rows: [(Change, &str); 22] = [
        (|r| r.totals.clear(), "`totals` has 0 phases, and there are 1"),
        (|r| drop(r.totals[0].pop()), "`totals` has a phase of 3 tracks, and there are 4"),
        (|r| r.phases.clear(), "`phases` is empty"),
        (|r| r.phases[0].start_ns = 1, "phase `steady` does not begin where"),
        (|r| r.phases[0].end_ns = u64::MAX, "`end_ns` cannot be"),
        (|r| r.tracks.clear(), "`tracks` has no stream"),
        (|r| r.tracks.swap(1, 2), "a group before a stream"),
        (|r| r.tracks[0].name = "a b".to_owned(), "track 0: `a b` is no name"),
        (|r| group(r).streams = vec![2], "group `shop` takes a stream"),
        (|r| group(r).pauses[0].to_ns = 0, "group `shop` has pauses out of order"),
        (|r| r.seconds[1].number = u64::MAX, "is after the run"),
        (|r| r.seconds.swap(0, 1), "second 1 is not behind the one before"),
        (|r| r.seconds[0].tracks[0].track = 9, "second 1 has track 9"),
        (
            |r| r.seconds[0].tracks[0].histograms.values_mut().for_each(|it| it.0.truncate(9)),
            "second 1, track 0: `latency` does not read as a histogram",
        ),
        (|r| r.findings[0].stream = 3, "`findings` names a stream or group"),
        (|r| r.unattributed[0].group = 0, "`unattributed` names a stream or group"),
        (|r| r.answers[0].stream = 4, "`answers` names a stream or group"),
        (|r| r.faults[0].until_ns = Some(0), "fault `kill -9 of the broker, down 1 s` ends"),
        (|r| r.samples[0].at_ns = u64::MAX, "`at_ns` cannot be"),
        (|r| r.findings[0].audit.lost = 1 << 53, "its counts add up to"),
        (|r| r.subject.part = Part { index: 0, count: u32::MAX }, "`part` cannot have index 0"),
        (|r| r.asked[1] = Criterion::Refused { part_max: -1.0 }, "`part_max` cannot be -1"),
    ];
    for (change, what) in rows {
        let mut document = Document::of(&whole());
        change(&mut document.detail);
        let error = parsed(&serde_json::to_value(document).unwrap()).unwrap_err();
        assert!(error.starts_with("a/report.json is not a whole report: "), "{error}");
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn what_is_no_report_at_all_is_named_with_a_remedy() {
    let text = serde_json::to_string(&value()).unwrap();
    let said = |text: &str| parse(text.as_bytes(), "a.json".to_owned()).unwrap_err().to_string();
    for (text, what) in [
        ("", "a.json is empty; its run did not end: repeat it"),
        (" \n", "a.json is empty"),
        ("hello", "a.json is not a report of loadgen: expected value"),
        ("[]", "a.json is not a report of loadgen"),
        ("{}", "a.json is not a report of loadgen: missing field `schema`"),
        (
            "{\"schema\": 1}",
            "a.json has schema 1; this loadgen reads 2: use the loadgen that wrote it",
        ),
        ("{\"schema\": 99999999999}", "a.json has schema 99999999999"),
        ("{\"schema\": \"2\"}", "a.json is not a report of loadgen: invalid type: string"),
        (&text[..text.len() / 2], "a.json ends in the middle"),
        (&text[..text.len() - 1], "a.json ends in the middle"),
    ] {
        assert!(said(text).starts_with(what), "{}", said(text));
    }
    let directory = std::env::temp_dir();
    let error = read(&directory).unwrap_err().to_string();
    assert!(error.contains("is a directory; name the report.json in it"), "{error}");
    let error = read(&directory.join("no/such/report.json")).unwrap_err().to_string();
    assert!(error.contains("no/such/report.json: No such file"), "{error}");
}
