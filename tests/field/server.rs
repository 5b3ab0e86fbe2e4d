//! Starts servers as a user would, on free ports, and ends them by process id.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take before a case reports that it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory of the case, removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("field-{name}-{}-{nth}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The first of sixteen free ports, below the kernel's ephemeral range.
pub fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = 13_000 + (std::process::id() % 300) as u16 * 32;
    for _ in 0..200 {
        let first = begin + NEXT.fetch_add(16, Ordering::Relaxed);
        let is_free = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
        if (first..first + 16).all(is_free) {
            return first;
        }
    }
    panic!("no free ports");
}

pub fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The program, or the build that RINGMQ_BIN names.
pub fn ringmq(args: &[&str]) -> Command {
    let built = env!("CARGO_BIN_EXE_ringmq").to_owned();
    let mut command = Command::new(std::env::var("RINGMQ_BIN").unwrap_or(built));
    command.args(args).env("RINGMQ_LOG", "info").stdin(Stdio::null());
    command
}

/// Runs a command to completion.
pub fn run(args: &[&str]) -> Output {
    ringmq(args).output().unwrap()
}

/// Builds a C library that, when preloaded into a server, changes what the system reports to it.
pub fn build_library(scratch: &Scratch, name: &str, source: &str) -> String {
    let (file, library) = (scratch.path(&format!("{name}.c")), scratch.path(&format!("{name}.so")));
    std::fs::write(&file, source).unwrap();
    let mut cc = Command::new("cc");
    let built = cc.args(["-O1", "-shared", "-fPIC", "-o", &library, &file, "-ldl"]).status();
    assert!(built.unwrap().success(), "a C compiler is needed");
    library
}

/// Polls until the condition holds. Returns how long that took.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    begin.elapsed()
}

/// A running server.
pub struct Server {
    child: Child,
    log: PathBuf,
    /// Its output when it became ready.
    pub ready: String,
}

impl Server {
    /// Starts a server and waits until it reports that it is ready.
    pub fn start(mut command: Command, log: &str) -> Self {
        let log = PathBuf::from(log);
        let errors = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.next().map(Result::unwrap).unwrap_or_default();
        let server = Self { child, log, ready };
        assert!(server.ready.starts_with("ringmq ready"), "{command:?}: {}", server.log());
        server
    }

    /// A NameServer on the first of sixteen ports and a broker with one shard on the fourth.
    pub fn dev(scratch: &Scratch, first_port: u16, more: &[&str]) -> Self {
        Self::start(dev(scratch, first_port, more), &scratch.path("dev.log"))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Sends SIGTERM. Returns the exit status.
    pub fn stop(mut self) -> ExitStatus {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A failed case leaves its server running.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The command behind [`Server::dev`].
pub fn dev(scratch: &Scratch, first_port: u16, more: &[&str]) -> Command {
    let (listen, namesrv) = (local(first_port + 3).to_string(), local(first_port).to_string());
    let mut command = ringmq(&["dev", "--data", &scratch.path("data"), "--shards", "1"]);
    command.args(["--listen", &listen, "--namesrv-listen", &namesrv, "--tail-cache", "4MiB"]);
    command.args(more);
    command
}
