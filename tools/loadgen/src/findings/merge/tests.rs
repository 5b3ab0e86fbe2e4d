use std::fs;

use super::*;
use crate::engine::audit::Audit;
use crate::engine::measure::{Counters, Kind};
use crate::findings::report::tests::example;
use crate::findings::verdict::Verdict;
use crate::show::files::write_files;

const COUNT: u32 = 3;

/// Part number `index` of a run of three. Its figures differ from those of the others.
fn part(index: u32) -> Report {
    let mut report = example();
    report.subject.part = Part { index, count: COUNT };
    report.notes.clear();
    let scale = u64::from(index) + 1;
    let counters = Counters {
        due: 1_000 * scale,
        sent: 1_000 * scale,
        acknowledged: 990 * scale,
        refused: 10 * scale,
        ..Counters::default()
    };
    let mut sent = Interval { counters, ..Interval::default() };
    sent.record(Kind::Latency, 100_000 * scale, 990 * scale);
    sent.record(Kind::Lateness, 10_000, 1_000 * scale);
    let counters = Counters { received: 990 * scale, ..Counters::default() };
    let mut received = Interval { counters, ..Interval::default() };
    received.record(Kind::EndToEnd, 200_000 * scale, 990 * scale);
    // The parts share one second, and each has a last second of its own.
    report.seconds = vec![
        Second::pack(1, &[(0, sent.clone())]),
        Second::pack(5 + scale, &[(1, received.clone())]),
    ];
    report.totals = vec![vec![sent, received]];
    report.findings[0].audit =
        Audit { acknowledged: 990 * scale, duplicated: scale, ..Audit::default() };
    // The messages of the other parts, and five of another application; 6 = 1 + 2 + 3.
    report.unattributed[0].foreign = (990 + 1) * (6 - scale) + 5;
    report.brokers = vec![
        BrokerShare { name: "a".to_owned(), acknowledged: 500 * scale },
        BrokerShare { name: "b".to_owned(), acknowledged: 490 * scale },
    ];
    let reason = "busy".to_owned();
    report.answers = vec![Answered { stream: 0, code: 2, reason, requests: 10 * scale }];
    report
}

/// Merges parts under their file names.
fn merged(parts: impl IntoIterator<Item = Report>) -> Result<Report, MergeError> {
    let named = |(number, part)| (format!("{number}.json"), part);
    merge((0..).zip(parts).map(|(number, part): (u32, Report)| named((number, part))).collect())
}

#[test]
fn the_sum_of_the_parts_is_the_whole() {
    let whole = merged([part(2), part(0), part(1)]).unwrap();
    let total = whole.total();
    assert_eq!((total.counters.due, total.counters.acknowledged), (6_000, 5_940));
    assert_eq!(total.counters.received, 5_940);
    assert_eq!(total.latency.len(), 5_940);
    assert_eq!(total.latency.count_between(0, 100_000), 990);
    let of_parts: u64 = (0..COUNT).map(|index| part(index).total().latency.max()).max().unwrap();
    assert_eq!(total.latency.max(), of_parts);
    let audit = whole.audit();
    assert_eq!((audit.acknowledged, audit.lost, audit.duplicated), (5_940, 0, 6));
    assert_eq!(audit.foreign, 5, "what other parts sent is not foreign to the whole");
    assert_eq!(whole.answers, [Answered { requests: 60, ..part(0).answers[0].clone() }]);
    let shares: Vec<_> = whole.brokers.iter().map(|share| share.acknowledged).collect();
    assert_eq!(shares, [3_000, 2_940]);
    assert_eq!(whole.verdict(), Verdict::Pass, "{:?}", whole.reasons());
    assert_eq!(whole.subject.part, Part { index: 0, count: 1 });
}

#[test]
fn seconds_add_up_where_they_are_the_same() {
    let whole = merged((0..COUNT).map(part)).unwrap();
    let numbers: Vec<_> = whole.seconds.iter().map(|second| second.number).collect();
    assert_eq!(numbers, [1, 6, 7, 8]);
    let (track, interval) = whole.seconds[0].unpack().next().unwrap();
    assert_eq!((track, interval.counters.sent, interval.latency.len()), (0, 6_000, 5_940));
}

/// All parts see the same corrupted message, because each reads the whole topic.
#[test]
fn a_broken_promise_of_one_part_breaks_the_whole() {
    let mut broken = part(1);
    broken.findings[0].audit.lost = 7;
    let whole = merged([part(0), broken, part(2)]).unwrap();
    assert_eq!((whole.audit().lost, whole.verdict()), (7, Verdict::Failed));

    let corrupted = (0..COUNT).map(|index| {
        let mut part = part(index);
        part.unattributed[0].corrupted = 4;
        part
    });
    let whole = merged(corrupted).unwrap();
    assert_eq!((whole.audit().corrupted, whole.verdict()), (4, Verdict::Failed));
}

#[test]
fn what_is_not_of_one_run_is_refused() {
    type Change = fn(&mut Report);
    let rows: [(Change, &str); 5] = [
        (|part| part.subject.seed = 9, "seeds"),
        (|part| part.subject.part.count = 4, "number of parts"),
        (|part| part.subject.schedule = "other".to_owned(), "schedules"),
        (|part| part.phases[0].end_ns += 1, "phases"),
        (|part| part.tracks[0].name = "other".to_owned(), "streams and groups"),
    ];
    for (change, what) in rows {
        let mut other = part(1);
        change(&mut other);
        let error = merged([part(0), other]).unwrap_err().to_string();
        assert!(error.starts_with("0.json and 1.json") && error.contains(what), "{error}");
    }
    let error = merged([part(0), part(1), part(0)]).unwrap_err().to_string();
    assert_eq!(error, "part 1 of 3 is there twice: 0.json and 2.json");
    assert!(matches!(merged([]), Err(MergeError::Nothing)));
}

#[test]
fn what_fits_badly_is_said() {
    type Change = fn(&mut Vec<Report>);
    let rows: [(Change, Verdict, &str); 7] = [
        (|parts| drop(parts.remove(1)), Verdict::Incomplete, "part 2 of 3 is missing"),
        (|parts| parts[1].incomplete.push("cut".to_owned()), Verdict::Incomplete, "part 2: cut"),
        (
            |parts| parts.iter_mut().for_each(|it| it.incomplete.push("cut".to_owned())),
            Verdict::Incomplete,
            "cut",
        ),
        (
            |parts| parts[1].started_unix_ns += 1_500_000_000,
            Verdict::Pass,
            "the parts began 1.5 s apart",
        ),
        (
            |parts| parts[2].sending_ns -= 5_000_000_000,
            Verdict::Pass,
            "the parts took 5.0 s more and less",
        ),
        (|parts| parts[1].not_valid.push("odd".to_owned()), Verdict::Pass, "part 2: odd"),
        (
            |parts| parts[0].totals[0][0].record(Kind::Lateness, 5_000_000, 900),
            Verdict::Pass,
            "part 1: lateness 5.0 of 0.1 ms at p99",
        ),
    ];
    for (change, verdict, reason) in rows {
        let mut parts: Vec<_> = (0..COUNT).map(part).collect();
        change(&mut parts);
        let whole = merged(parts).unwrap();
        assert_eq!(whole.verdict(), verdict, "{reason}");
        let figures = whole.figures();
        assert_eq!(figures.valid, verdict != Verdict::Pass, "{reason}");
        let mut said = whole.reasons().into_iter().chain(figures.reasons);
        assert!(said.any(|it| it == reason), "{reason}: {:?}", whole.figures());
    }
    // Late replies do not mean that the parts belong to different runs.
    let mut parts: Vec<_> = (0..COUNT).map(part).collect();
    parts[0].sending_ns += 900_000_000;
    parts[1].started_unix_ns += 900_000_000;
    assert_eq!(merged(parts).unwrap().verdict(), Verdict::Pass);
}

/// One of three parts has the servers. That the other two could not carry out the fault is not
/// reported.
#[test]
fn a_fault_is_told_once_and_by_whom_it_was_carried_out() {
    let mark = |failed: Option<&str>, at_ns| FaultMark {
        at_ns,
        until_ns: None,
        text: "kill -9 of the broker, down 1 s".to_owned(),
        failed: failed.map(str::to_owned),
        back_after_ns: None,
        gaps: Vec::new(),
    };
    let with = |marks: [FaultMark; 3]| {
        let parts =
            (0..COUNT).zip(marks).map(|(index, mark)| Report { faults: vec![mark], ..part(index) });
        merged(parts).unwrap().faults
    };
    let cannot = Some("not embedded");
    assert_eq!(with([mark(cannot, 5), mark(None, 6), mark(cannot, 5)]), [mark(None, 6)]);
    assert_eq!(with([mark(cannot, 5), mark(cannot, 5), mark(cannot, 5)]), [mark(cannot, 5)]);
}

#[test]
fn files_are_read_checked_and_written() {
    let directory = std::env::temp_dir().join(format!("loadgen-merge-{}", std::process::id()));
    let paths: Vec<PathBuf> =
        (0..COUNT).map(|index| directory.join(format!("{index}/report.json"))).collect();
    for (index, path) in (0..).zip(&paths) {
        write_files(&part(index), path.parent().unwrap()).unwrap();
    }
    let whole = run(&paths).unwrap();
    write_files(&whole, &directory.join("whole")).unwrap();
    let written = read(&directory.join("whole/report.json")).unwrap();
    assert_eq!(written.total().counters, whole.total().counters);
    assert_eq!(written.subject.environment["parts"].as_array().unwrap().len(), 3);

    let other = directory.join("other.json");
    let refused = |text: &str| {
        fs::write(&other, text).unwrap();
        run(std::slice::from_ref(&other)).unwrap_err().to_string()
    };
    assert!(refused("{\"schema\": 99}").contains("has schema 99"));
    assert!(refused("{\"schema\": 2}").contains("is not a report"));
    assert!(refused("hello").contains("other.json is not a report"));
    assert!(run(&[directory.join("none.json")]).unwrap_err().to_string().contains("none"));
    fs::remove_dir_all(directory).unwrap();
}
