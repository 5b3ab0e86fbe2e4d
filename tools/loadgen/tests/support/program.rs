//! The program under test, a broker of the same program, and temporary directories.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use loadgen::findings::document::Document;
use serde_json::Value;

/// Maximum time for anything that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub fn loadgen(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(arguments.split_whitespace());
    command
}

/// A directory of the test, removed on drop.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("loadgen-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn shown(&self) -> String {
        self.0.display().to_string()
    }

    pub fn report(&self) -> Value {
        serde_json::from_slice(&fs::read(self.0.join("report.json")).unwrap()).unwrap()
    }

    pub fn document(&self) -> Document {
        serde_json::from_slice(&fs::read(self.0.join("report.json")).unwrap()).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How often a server is started at most.
const STARTS_MAX: usize = 3;

/// `ringmq dev` with one shard, until dropped.
pub struct Server {
    child: Child,
    pub namesrv: SocketAddr,
    pub broker: SocketAddr,
    _data: Scratch,
}

impl Server {
    /// Starts one. Another process may take a port after it was found to be free; then another port is
    /// used.
    pub fn start() -> Self {
        (0..STARTS_MAX).find_map(|_| Self::try_start()).expect("a broker becomes ready")
    }

    fn try_start() -> Option<Self> {
        let data = Scratch::new("server");
        let (broker, namesrv) = (free_port(), free_port());
        let mut command = loadgen(&format!(
            "ringmq dev --shards 1 --flush async --listen {broker} --namesrv-listen {namesrv} \
             --data {}/data",
            data.shown()
        ));
        let said = data.0.join("stderr");
        command.stdout(Stdio::piped()).stderr(fs::File::create(&said).unwrap());
        let mut child = command.spawn().expect("loadgen starts");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.find(|line| line.as_ref().is_ok_and(|it| it.starts_with("ringmq ready")));
        if ready.is_none() {
            let status = child.wait().unwrap();
            eprintln!("{status} before it was ready: {}", fs::read_to_string(&said).unwrap());
            return None;
        }
        Some(Self { child, namesrv, broker, _data: data })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A free port on loopback. The port two below it, which a broker needs too, is also free.
fn free_port() -> SocketAddr {
    let bind = |port: u16| TcpListener::bind(("127.0.0.1", port));
    loop {
        let address = bind(0).and_then(|listener| listener.local_addr()).unwrap();
        if bind(address.port()).is_ok() && bind(address.port() - 2).is_ok() {
            return address;
        }
    }
}

/// A program whose output goes to files, so that a full pipe cannot block it.
pub struct Running {
    child: Child,
    directory: PathBuf,
}

/// Exit code and output of a program.
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub errors: String,
}

impl Running {
    /// Starts `command`, with its output in `directory`.
    pub fn start(command: &mut Command, directory: &Path) -> Self {
        let file = |name| fs::File::create(directory.join(name)).unwrap();
        let child = command.stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        Self { child, directory: directory.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard error so far.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.directory.join("stderr")).unwrap()
    }

    /// Waits until `text` is on its standard error.
    pub fn wait_for(&self, text: &str) {
        let begin = Instant::now();
        while !self.errors().contains(text) {
            assert!(begin.elapsed() < PATIENCE, "never said {text:?}:\n{}", self.errors());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until it ends, which must not take too long.
    pub fn end(mut self) -> Ended {
        let begin = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            if begin.elapsed() > PATIENCE {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                panic!("no end:\n{}", self.errors());
            }
            thread::sleep(Duration::from_millis(10));
        };
        let out = fs::read_to_string(self.directory.join("stdout")).unwrap();
        Ended { code, out, errors: self.errors() }
    }
}

impl Ended {
    pub fn last_line(&self) -> &str {
        self.out.lines().last().unwrap_or_default()
    }

    /// Panics with the whole output unless the exit code is `code` and the last line, which has the
    /// verdict, starts with `begins`.
    pub fn assert(&self, code: i32, begins: &str) {
        let is_so = self.code == Some(code) && self.last_line().starts_with(begins);
        let Self { code: found, out, errors } = self;
        assert!(is_so, "wanted {code} {begins}, not {found:?}\n{out}\n{errors}");
    }
}
