//! Pages as a real browser shows them, on a desk and on a telephone: nothing overlaps, nothing is too
//! wide or too small, nothing goes wrong.
//!
//! Needs a Chromium. Without one the tests say that they are skipped; with `REQUIRED` set, as where
//! everything is to be checked, they fail instead.

// In a test, a value that is missing is a failure like any other.
#![allow(clippy::unwrap_used)]

#[path = "support/night.rs"]
mod night;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use loadgen::findings::report::Report;
use loadgen::show::compare::Comparison;
use loadgen::show::page::render;

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Screens, pixels: a desk and a telephone.
const WIDTHS: [u32; 2] = [1280, 400];
/// Windows are not made narrower than this; a narrower screen is a frame in one.
const WINDOW_MIN: u32 = 500;
/// Begins a line with which the browser tells what a page had to say.
const CONSOLE: &str = "CONSOLE";

/// Looks at the page from inside, and leaves what it finds in an element of its own.
const INSPECTION: &str = r#"<script>
const found = [];
const wide = document.documentElement.clientWidth;
document.querySelectorAll('details').forEach(element => element.open = true);
const name = element => element.tagName + ' "' + element.textContent.trim().slice(0, 40) + '"';
for (const element of document.body.querySelectorAll('*')) {
  const box = element.getBoundingClientRect();
  if (box.width > 0 && box.right > wide + 1 && !element.closest('.scroll') && !element.closest('svg'))
    found.push('too wide: ' + name(element) + ' ends at ' + Math.round(box.right));
}
if (document.documentElement.scrollWidth > wide) found.push('the page scrolls sideways');
let shown = 0;
for (const svg of document.querySelectorAll('svg')) {
  const frame = svg.getBoundingClientRect();
  if (frame.width === 0) continue;
  shown += 1;
  const scale = svg.getScreenCTM().a;
  const texts = [...svg.querySelectorAll('text')].map(element => [element, element.getBoundingClientRect()]);
  texts.forEach(([element, box], index) => {
    const size = parseFloat(getComputedStyle(element).fontSize) * scale;
    if (size < 9) found.push('too small: ' + name(element) + ' ' + size.toFixed(1) + ' px');
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
      found.push('cut off: ' + name(element) + ' in ' + svg.getAttribute('aria-label'));
    for (const [other, its] of texts.slice(0, index)) {
      const across = Math.min(box.right, its.right) - Math.max(box.left, its.left);
      const down = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
      if (across > 1 && down > 3)
        found.push('overlap: ' + name(element) + ' and ' + name(other) + ' in ' + svg.getAttribute('aria-label'));
    }
  });
}
for (const element of document.querySelectorAll('p, li, td, th, dt, dd, figcaption, summary')) {
  const size = parseFloat(getComputedStyle(element).fontSize);
  if (size < 11) found.push('too small: ' + name(element) + ' ' + size + ' px');
}
const verdict = document.querySelector('.verdict');
if (verdict) {
  const box = verdict.getBoundingClientRect();
  if (box.height < 20 || box.top > 200) found.push('the verdict is not what is seen first');
}
const result = document.createElement('pre');
result.id = 'inspection';
result.textContent = JSON.stringify({ wide, shown, found: found.slice(0, 20) });
window.parent.document.body.append(result);
</script></body>"#;

/// `None`: there is no browser here, and none is required.
fn browser() -> Option<&'static str> {
    let runs = |name: &&str| {
        let mut version = Command::new(name);
        version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    };
    let found = BROWSERS.into_iter().find(|name| runs(name));
    if found.is_none() {
        assert!(env::var_os("REQUIRED").is_none(), "none of {BROWSERS:?} is here");
        eprintln!("skipped: none of {BROWSERS:?} is here; tests/browser/install gets one");
    }
    found
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("loadgen-page-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The page as it is, or in a frame as wide as the screen.
fn on_screen(page: &str, width: u32) -> String {
    if width >= WINDOW_MIN {
        return page.to_owned();
    }
    let quoted = page.replace('&', "&amp;").replace('"', "&quot;");
    format!(
        "<!doctype html><html><head><title>frame</title><link rel=\"icon\" href=\"data:,\"></head>\
         <body style=\"margin:0\"><iframe style=\"border:0\" width=\"{width}\" height=\"1000\" \
         srcdoc=\"{quoted}\"></iframe></body></html>\n"
    )
}

/// Shows `page` on a screen of this width and fails for whatever is wrong with it; tells how many
/// plots were to be seen.
fn inspect(browser: &str, case: &str, page: &str, width: u32) -> u64 {
    let scratch = Scratch::new(&format!("{case}-{width}"));
    let file = scratch.0.join("page.html");
    assert!(page.ends_with("</body></html>\n"), "{case}");
    fs::write(&file, on_screen(&page.replace("</body>", INSPECTION), width)).unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=5000"])
        .arg(format!("--user-data-dir={}", scratch.0.join("profile").display()))
        .arg(format!("--window-size={},1000", width.max(WINDOW_MIN)))
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let console: Vec<&str> = said.lines().filter(|line| line.contains(CONSOLE)).collect();
    assert!(console.is_empty(), "{case} at {width}: {console:?}");
    let shown = String::from_utf8_lossy(&output.stdout);
    let (_, rest) = shown.split_once("<pre id=\"inspection\">").unwrap_or_else(|| {
        panic!("{case} at {width}: the page was not shown: {said}");
    });
    let text = rest.split_once("</pre>").unwrap().0.replace("&amp;", "&").replace("&gt;", ">");
    let inspection: serde_json::Value = serde_json::from_str(&text.replace("&lt;", "<")).unwrap();
    assert_eq!(inspection["wide"], width, "{case}: the browser's window has another width");
    let found = inspection["found"].as_array().unwrap();
    assert!(found.is_empty(), "{case} at {width}: {found:#?}");
    inspection["shown"].as_u64().unwrap()
}

fn check(case: &str, page: &str, plots_min: u64) {
    assert!(page.len() < 5 << 20, "{case}: {} bytes", page.len());
    let Some(browser) = browser() else { return };
    for width in WIDTHS {
        let shown = inspect(browser, case, page, width);
        assert!(shown >= plots_min, "{case} at {width}: {shown} plots");
    }
}

#[test]
fn a_night_with_everything() {
    check("night", &render(&night::night()), 15);
}

#[test]
fn a_night_that_failed() {
    check("failed", &render(&night::failed()), 5);
}

/// One stream, one group, one phase.
fn steady() -> Report {
    let mut report = night::night();
    let group = report.tracks.remove(6);
    report.tracks.truncate(1);
    report.tracks.push(group);
    report.phases.truncate(1);
    report.totals = vec![vec![report.totals[4][0].clone(), report.totals[4][6].clone()]];
    for second in &mut report.seconds {
        second.tracks.retain(|it| it.track == 0 || it.track == 6);
        second.tracks.iter_mut().for_each(|it| it.track = it.track.min(1));
    }
    report.findings.truncate(1);
    report.findings[0].group = 1;
    report.unattributed.clear();
    report.answers.clear();
    report.faults.clear();
    report.rows.clear();
    report
}

#[test]
fn a_run_of_one_stream() {
    check("steady", &render(&steady()), 5);
}

#[test]
fn a_comparison() {
    let other = {
        let mut report = night::night();
        report.subject.target = "10.0.0.1:9876: 1 broker, 6 topics, 48 queues".to_owned();
        report
    };
    let comparison = Comparison::of(vec![night::night(), other]);
    check("comparison", &comparison.page(), 4);
}

/// What is looked for is found: a page that is wrong in each way does not pass.
#[test]
fn a_page_that_is_wrong_is_noticed() {
    let Some(browser) = browser() else { return };
    let page = render(&steady());
    let plot = "<svg viewBox=\"0 0 100 50\" width=\"300\"><text x=\"5\" y=\"20\">one</text>";
    for (case, wrong) in [
        ("overlap", format!("{plot}<text x=\"6\" y=\"21\">two</text></svg></body>")),
        ("cut off", format!("{plot}<text x=\"95\" y=\"40\">beyond</text></svg></body>")),
        ("too wide", "<div style=\"width:3000px\">x</div></body>".to_owned()),
        ("too small", "<p style=\"font-size:5px\">x</p></body>".to_owned()),
        ("CONSOLE", "<script>console.error('x')</script></body>".to_owned()),
    ] {
        let page = page.replace("</body>", &wrong);
        let seen = std::panic::catch_unwind(|| inspect(browser, "wrong", &page, 1280));
        let panic = seen.expect_err(case);
        let said = panic.downcast_ref::<String>().unwrap();
        assert!(said.contains(case), "{case}: {said}");
    }
}
