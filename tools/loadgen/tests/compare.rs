//! `loadgen compare` and `loadgen merge` as scripts see them, on the reports of earlier runs.

// In a test, a missing value is a failure like any other.
#![allow(clippy::unwrap_used)]

#[path = "support/program.rs"]
mod program;
#[path = "support/reports.rs"]
#[allow(dead_code, reason = "each test binary uses a part of this")]
mod reports;

use std::fs;
use std::path::Path;

use loadgen::findings::report::Report;
use loadgen::show::files::write_files;
use program::{Ended, Running, Scratch, loadgen};
use serde_json::{Value, json};

const OURS: &str = "embedded 127.0.0.1:9876: 1 broker, topic loadgen, 8 queues";
const THEIRS: &str = "10.0.0.1:9876: 1 broker, topic loadgen, 8 queues";

/// Writes `report` to a directory of its own, and returns the path of its `report.json`.
fn left(scratch: &Scratch, name: &str, report: &Report) -> String {
    let directory = scratch.0.join(name);
    write_files(report, &directory).unwrap();
    directory.join("report.json").display().to_string()
}

fn run(scratch: &Scratch, arguments: &str) -> Ended {
    Running::start(&mut loadgen(arguments), &scratch.0).end()
}

/// The words after `name` in the line that starts with it.
fn cells(text: &str, name: &str) -> Vec<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("no line {name}:\n{text}"));
    line.split_whitespace().map(str::to_owned).collect()
}

fn assert_fits(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
    }
}

#[test]
fn runs_are_compared_as_text_and_on_a_page() {
    let scratch = Scratch::new("compare");
    let runs = (0..6).flat_map(|seed| [(OURS, 1.0, seed), (THEIRS, 3.0, seed)]);
    let files: Vec<String> = runs
        .map(|(target, slow, seed)| {
            left(&scratch, &format!("{slow}-{seed}"), &reports::steady(target, slow, seed))
        })
        .collect();
    let out = scratch.0.join("compared");
    let ended = run(&scratch, &format!("compare {} --out {}", files.join(" "), out.display()));
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.errors);
    assert_fits(&ended.out);
    assert!(
        ended.out.contains("A          RingMQ, embedded, flush sync: 1 broker"),
        "{}",
        ended.out
    );
    assert!(ended.out.contains("B          at 10.0.0.1:9876: 1 broker"), "{}", ended.out);
    let p99 = cells(&ended.out, "latency p99, ms");
    let number = |text: &str| text.parse::<f64>().unwrap();
    let [a, b, times] = &p99[..] else { panic!("{p99:?}") };
    let ratio = number(b) / number(a);
    assert!((ratio - number(times.trim_end_matches('x'))).abs() < 0.02 * ratio, "{p99:?}");
    assert!(ratio > 2.0, "{p99:?}");
    assert_eq!(cells(&ended.out, "lost, msg, max"), ["0", "0"]);
    assert!(ended.out.contains("95 % confidence interval"), "{}", ended.out);
    let page = fs::read_to_string(out.join("compare.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    assert!(page.contains(&format!("<td class=\"num\">{times}").replace('x', " ×")), "{times}");
}

/// The good candidate keeps its figures; the other has FAILED instead, in the text and on the page.
#[test]
fn a_failed_run_beside_a_good_one_has_no_figures() {
    let scratch = Scratch::new("compare-failed");
    let mut lossy = reports::steady(THEIRS, 1.0, 2);
    lossy.findings[0].audit.lost = 7;
    let good = left(&scratch, "good", &reports::steady(OURS, 1.0, 1));
    let lossy = left(&scratch, "lossy", &lossy);
    let out = scratch.0.join("compared");
    let command = format!("compare ours={good} theirs={lossy} --out {}", out.display());
    let ended = run(&scratch, &command);
    assert_eq!(ended.code, Some(0), "a comparison judges nobody: {}", ended.errors);
    assert_fits(&ended.out);
    assert!(ended.out.contains("doubt      run 2 is FAILED: 7 acknowledged, then lost"));
    assert!(ended.out.contains("B          theirs (1 run)"), "{}", ended.out);
    for name in ["acknowledged, msg/s", "latency p99, ms", "end to end p99, ms"] {
        let cells = cells(&ended.out, name);
        assert!(cells.len() == 2 && cells[1] == "FAILED", "{name}: {cells:?}");
    }
    assert_eq!(cells(&ended.out, "lost, msg, max"), ["0", "7.00"]);
    let page = fs::read_to_string(out.join("compare.html")).unwrap();
    assert!(page.contains("<td class=\"num\">FAILED</td>"));
}

/// Nothing is written, and the error message names the file, what is wrong with it and what to do.
#[test]
fn a_file_that_is_no_whole_report_ends_with_2() {
    let scratch = Scratch::new("compare-wrong");
    let good = left(&scratch, "good", &reports::steady(OURS, 1.0, 1));
    let text = fs::read_to_string(&good).unwrap();
    let wrong = scratch.0.join("wrong.json");
    let changed = |change: fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(&text).unwrap();
        change(&mut value);
        value.to_string()
    };
    let rows = [
        (changed(|it| it["schema"] = json!(1)), "has schema 1; this loadgen reads 2: use the"),
        (changed(|it| it["detail"]["totals"] = json!([])), "`totals` has 0 phases, and there are"),
        (changed(|it| it["detail"]["sending_ns"] = json!(-1)), "invalid value: integer `-1`"),
        (text[..text.len() / 2].to_owned(), "ends in the middle"),
        (String::new(), "is empty; its run did not end"),
    ];
    let said_of = |file: &Path, what: &str| {
        for command in ["compare", "merge"] {
            let out = scratch.0.join("none");
            let file = file.display().to_string();
            let command = format!("{command} {good} {file} --out {}", out.display());
            let ended = run(&scratch, &command);
            assert_eq!(ended.code, Some(2), "{command}: {}{}", ended.out, ended.errors);
            let errors = &ended.errors;
            assert!(errors.starts_with(&format!("loadgen: {file}")), "{errors}");
            assert!(errors.contains(what), "{what}: {errors}");
            assert_eq!((errors.lines().count(), ended.out.as_str()), (1, ""), "{errors}");
            assert!(!out.exists(), "nothing is written");
        }
    };
    for (text, what) in rows {
        fs::write(&wrong, text).unwrap();
        said_of(&wrong, what);
    }
    said_of(&scratch.0, "is a directory; name the report.json in it");
    said_of(&scratch.0.join("none.json"), "No such file");
}
