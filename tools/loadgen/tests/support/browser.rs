//! A headless browser that lays out pages and reports what is wrong with them.
//!
//! All pages are opened together, each in a frame of a given width, because a headless browser does
//! not make its window as narrow as a phone. `tests/browser/check.js` does the checks.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

const CHECK: &str = include_str!("../browser/check.js");
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Starting a browser may take a while on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The findings for one page at one width.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// `NAME@WIDTH`.
    pub name: String,
    pub width: u32,
    pub is_dark: bool,
    pub problems: Vec<String>,
    pub counts: Counts,
}

/// How many items of each kind were checked.
#[derive(Debug, Deserialize)]
pub struct Counts {
    pub texts: usize,
    pub cells: usize,
    pub figures: usize,
    pub plots: usize,
    pub sections: usize,
}

#[derive(Debug)]
pub struct Seen {
    pub found: Vec<Found>,
    /// Lines in the browser's console.
    pub console: Vec<String>,
}

pub struct Browser(PathBuf);

impl Browser {
    /// `None` if this machine has no browser.
    pub fn find() -> Option<Self> {
        let directories: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
        let paths = NAMES.iter().flat_map(|name| directories.iter().map(move |it| it.join(name)));
        paths.into_iter().find(|path| path.is_file()).map(Self)
    }

    /// Checks every page at each width, in files below `scratch`.
    pub fn look(
        &self,
        scratch: &Path,
        pages: &[(&str, String)],
        widths: &[u32],
        is_dark: bool,
    ) -> Seen {
        fs::create_dir_all(scratch).unwrap();
        for (name, page) in pages {
            let check = format!("<script>(() => {{{CHECK}}})()</script></body>");
            let checked = page.replace("</body>", &check);
            assert_ne!(&checked, page, "{name} has a body");
            fs::write(scratch.join(format!("{name}.html")), checked).unwrap();
        }
        let frames: Vec<(&str, u32)> =
            pages.iter().flat_map(|(name, _)| widths.iter().map(move |w| (*name, *w))).collect();
        let outer = scratch.join("frames.html");
        fs::write(&outer, outer_page(&frames)).unwrap();
        let (dom, log) = self.dump(scratch, &outer, is_dark);
        let results = dom.split_once("<pre id=\"found\">").and_then(|it| it.1.split_once("</pre>"));
        let results = results.unwrap_or_else(|| panic!("no results in {dom}\n{log}")).0;
        let results = results.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let found: Vec<Found> = serde_json::from_str(&results).unwrap();
        assert_eq!(found.len(), frames.len(), "every page reported\n{log}");
        let console = log.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned);
        Seen { found, console: console.collect() }
    }

    /// The document at `page` after its scripts have run, and the browser's log.
    fn dump(&self, scratch: &Path, page: &Path, is_dark: bool) -> (String, String) {
        let file = |name: &str| scratch.join(name);
        let create = |name: &str| Stdio::from(fs::File::create(file(name)).unwrap());
        let mut command = Command::new(&self.0);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
        command.args(["--disable-dev-shm-usage", "--no-first-run", "--disable-extensions"]);
        command.args(["--enable-logging=stderr", "--virtual-time-budget=60000", "--dump-dom"]);
        if is_dark {
            command.arg("--blink-settings=preferredColorScheme=0");
        }
        command.arg(format!("--user-data-dir={}", file("profile").display()));
        command.arg(format!("file://{}", page.display()));
        command.stdout(create("dom.html")).stderr(create("log.txt")).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                let log = fs::read_to_string(file("log.txt")).unwrap_or_default();
                panic!("the browser did not end within {PATIENCE:?}\n{log}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        let read =
            |name: &str| String::from_utf8_lossy(&fs::read(file(name)).unwrap()).into_owned();
        (read("dom.html"), read("log.txt"))
    }
}

/// A page with a frame for each page and width, which collects their findings.
fn outer_page(frames: &[(&str, u32)]) -> String {
    let frame = |(name, width): &(&str, u32)| {
        format!(
            "<iframe name=\"{name}@{width}\" src=\"{name}.html\" width=\"{width}\" height=\"900\" \
             style=\"border:0\"></iframe>\n"
        )
    };
    format!(
        "<!doctype html><link rel=\"icon\" href=\"data:,\"><pre id=\"found\"></pre><script>\n\
         const all = [];\n\
         addEventListener('message', (event) => {{\n\
         all.push(event.data);\n\
         document.getElementById('found').textContent = JSON.stringify(all);\n\
         }});\n</script>\n{}",
        frames.iter().map(frame).collect::<String>()
    )
}
