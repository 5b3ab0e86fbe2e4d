//! Pages as a reader sees them: in a real browser, at the widths of a desktop and a phone, in light
//! and dark mode.
//!
//! Without Chromium the tests print that they are skipped, or fail if REQUIRED is set in the
//! environment. `tests/browser/install` installs Chromium. With PAGES=DIR, the pages are kept in
//! DIR.

// In a test, a missing value is a failure like any other.
#![allow(clippy::unwrap_used)]

#[path = "support/browser.rs"]
mod browser;
#[path = "support/reports.rs"]
mod reports;

use std::env;
use std::fs;
use std::path::PathBuf;

use browser::{Browser, Found};
use loadgen::engine::measure::Kind;
use loadgen::findings::report::Report;
use loadgen::findings::verdict::Verdict;
use loadgen::show::compare::Comparison;
use loadgen::show::page::render;

const WIDTHS: [u32; 2] = [1280, 400];

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(env::temp_dir().join(format!("loadgen-page-{name}-{}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns `None` and prints the reason if there is no browser and none is required.
fn browser() -> Option<Browser> {
    let browser = Browser::find();
    if browser.is_none() {
        assert!(env::var_os("REQUIRED").is_none(), "no Chromium: run tests/browser/install");
        eprintln!("skipped: no Chromium on this machine; tests/browser/install brings one");
    }
    browser
}

/// Renders one page of every kind.
fn pages() -> Vec<(&'static str, String)> {
    let (night, failed) = (reports::night(), reports::failed_night());
    let steady = |slow, seed| reports::steady(target(slow), slow, seed);
    assert_eq!(night.verdict(), Verdict::Pass, "{:?}", night.reasons());
    assert_eq!(failed.verdict(), Verdict::Failed);
    let repeats = (0..5).flat_map(|seed| [steady(1.0, seed), steady(3.0, seed)]);
    let pages = vec![
        ("night-without-scripts", without_scripts(&render(&night))),
        ("night", render(&night)),
        ("steady", render(&steady(1.0, 1))),
        ("failed", render(&failed)),
        ("compare", Comparison::of(repeats.collect()).page()),
        ("compare-nights", Comparison::of(vec![night, failed, steady(1.0, 2)]).page()),
    ];
    if let Some(directory) = env::var_os("PAGES").map(PathBuf::from) {
        fs::create_dir_all(&directory).unwrap();
        for (name, page) in &pages {
            fs::write(directory.join(format!("{name}.html")), page).unwrap();
        }
    }
    pages
}

fn without_scripts(page: &str) -> String {
    let mut parts = page.split("<script");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |page, part| page + part.split_once("</script>").unwrap().1)
}

fn target(slow: f64) -> &'static str {
    match slow > 1.0 {
        true => "127.0.0.1:9876: 1 broker, topic loadgen, 8 queues",
        false => "embedded 127.0.0.1:9876: 1 broker, topic loadgen, 8 queues",
    }
}

fn assert_readable(found: &[Found], console: &[String]) {
    let say = |it: &Found| it.problems.iter().map(|p| format!("{}: {p}", it.name)).collect();
    let problems: Vec<String> = found.iter().flat_map::<Vec<String>, _>(say).collect();
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    assert!(console.is_empty(), "the console is not empty:\n{}", console.join("\n"));
    // A check that has examined nothing proves nothing.
    for it in found {
        let is_whole = it.counts.texts > 20 && it.counts.cells > 20 && it.counts.figures > 0;
        let has_plots = it.counts.plots == it.counts.figures;
        assert!(has_plots != it.name.contains("without-scripts"), "{}: {:?}", it.name, it.counts);
        assert!(is_whole && it.counts.sections > 2, "{}: {:?}", it.name, it.counts);
        assert!(it.name.ends_with(&format!("@{}", it.width)), "{} is {} wide", it.name, it.width);
    }
}

#[test]
fn pages_are_readable_on_a_desk_and_on_a_telephone() {
    let pages = pages();
    for (name, page) in &pages {
        assert!(page.len() < 5 << 20, "{name} has {} bytes", page.len());
        let fetches = [" src=", "href=\"http", "url(", "@import", "fetch("];
        assert!(fetches.iter().all(|it| !page.contains(it)), "{name} fetches something");
    }
    let Some(browser) = browser() else { return };
    let scratch = Scratch::new("day");
    let seen = browser.look(&scratch.0, &pages, &WIDTHS, false);
    assert!(seen.found.iter().all(|it| !it.is_dark));
    assert_readable(&seen.found, &seen.console);
}

#[test]
fn pages_are_readable_at_night() {
    let Some(browser) = browser() else { return };
    let scratch = Scratch::new("night");
    let pages: Vec<_> = pages().into_iter().filter(|(name, _)| *name != "compare-nights").collect();
    let seen = browser.look(&scratch.0, &pages, &WIDTHS[..1], true);
    assert!(seen.found.iter().all(|it| it.is_dark), "the browser was asked for a dark page");
    assert_readable(&seen.found, &seen.console);
}

/// The text is generated from the run's own figures.
#[test]
fn a_night_is_told_in_words() {
    let page = render(&reports::night());
    for said in [
        "The parts of an order system sent 6 kinds of messages",
        "what they stand in for is not used, half-message transactions.",
        "Logistics was gone from 0:44 to 0:54, with its connections.",
        "The senders did not notice: their p99 was",
        "in the 10 s before",
        "Fault 3 falls into these seconds.",
        "it had caught up 8 s later, at 1:02",
        "Logistics takes at most 1,500 messages a second",
        "That was because it had been gone, not only slow.",
        "none is missing anywhere, and 72 were delivered again",
        "acknowledged after the write was on the device",
        "Broker and generator shared one machine",
    ] {
        assert!(page.contains(said), "{said}");
    }
    let failed = render(&reports::failed_night());
    assert!(failed.contains("logistics never received 37 of"));
    for figure in ["Send latency", "The senders did not notice", "Peak shaving", "All percentiles"]
    {
        assert!(!failed.contains(figure), "{figure}");
    }
}

#[test]
fn a_phase_in_which_the_generator_was_late_is_marked() {
    let mut report = reports::night();
    let marks = |report: &Report| {
        let page = render(report);
        let said = page.contains("Not valid: the generator was late in this phase");
        (page.matches(" (not valid)").count(), said)
    };
    assert_eq!(marks(&report), (0, false));
    report.totals[3][0].record(Kind::Lateness, 900_000_000, 9_000);
    assert_eq!(marks(&report), (1, true));
    assert!(render(&report).contains("step (not valid)"));
}

/// The check detects the defects that it exists for.
#[test]
fn an_ugly_page_is_found_out() {
    let Some(browser) = browser() else { return };
    let plot = "<div class=\"plot\" role=\"img\" aria-label=\"planted\"><script></script></div>\
                <script>const shown = new Map()</script>";
    let rows = [
        ("overlap", "<p>one</p><p style=\"margin-top:-2em\">two</p>".to_owned(), "overlaps"),
        ("small", "<p style=\"font-size:9px\">small</p>".to_owned(), "px high"),
        ("undrawn", plot.to_owned(), "nothing is drawn"),
        ("wide", "<p style=\"width:2000px\">wide</p>".to_owned(), "sticks out"),
        ("pale", "<p style=\"color:#bbb;background:#fff\">pale</p>".to_owned(), "contrast"),
        (
            "covered",
            "<div style=\"position:fixed;inset:0;background:#fff\"></div>".to_owned(),
            "covered",
        ),
        ("loud", "<script>console.error('planted')</script>".to_owned(), ""),
    ];
    let page = |inside: &str| {
        let head = "<!doctype html><link rel=\"icon\" href=\"data:,\"><body>";
        format!("{head}<p class=\"verdict\">PASS</p>{inside}</body>")
    };
    let pages: Vec<_> = rows.iter().map(|(name, inside, _)| (*name, page(inside))).collect();
    let scratch = Scratch::new("ugly");
    let seen = browser.look(&scratch.0, &pages, &[400], false);
    for (name, _, problem) in &rows {
        let found = seen.found.iter().find(|it| it.name == format!("{name}@400")).unwrap();
        let is_found = found.problems.iter().any(|it| it.contains(problem));
        assert!(is_found || problem.is_empty(), "{name}: {:?}", found.problems);
    }
    assert!(seen.console.iter().any(|line| line.contains("planted")), "{:?}", seen.console);
}
