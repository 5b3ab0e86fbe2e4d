//! Starts and stops `ringmq` as a user would.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take before a test reports that it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Tail cache of the servers started here, bytes.
pub const TAIL_CACHE: u64 = 4 << 20;

/// A directory of the test, removed at the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        // Below the build directory: a real file system, unlike some temporary directories.
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Ports of one broker with up to three shards, and of its NameServer.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub broker: u16,
    pub nameserver: u16,
}

impl Ports {
    /// Sixteen free ports outside of the kernel's ephemeral range: a client that connects to an
    /// ephemeral port while its server is down may reach itself.
    pub fn free() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let begin = 3_000 + (std::process::id() % 300) as u16 * 32;
        for _ in 0..200 {
            let first = begin + NEXT.fetch_add(16, Ordering::Relaxed);
            let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            if (first..first + 16).all(is_free) {
                return Self { broker: first + 3, nameserver: first };
            }
        }
        panic!("no free ports");
    }

    pub fn broker_address(self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.broker).into()
    }

    pub fn nameserver_address(self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.nameserver).into()
    }
}

pub fn ringmq(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
    command.args(args).env("RINGMQ_LOG", "info");
    command
}

/// Runs a command to completion.
pub fn run(args: &[&str]) -> Output {
    ringmq(args).stdin(Stdio::null()).output().unwrap()
}

/// Polls every `every` until the condition holds, for at most `patience`. Returns how long that
/// took.
pub fn wait_until(
    what: &str,
    every: Duration,
    patience: Duration,
    mut holds: impl FnMut() -> bool,
) -> Duration {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < patience, "{what}: not after {patience:?}");
        std::thread::sleep(every);
    }
    begin.elapsed()
}

/// A NameServer in its own process.
pub fn nameserver(scratch: &Path, ports: Ports) -> Server {
    let listen = ports.nameserver_address().to_string();
    Server::start(&["nameserver", "--listen", &listen], &scratch.join("nameserver.log"))
}

/// A broker in its own process.
pub fn broker(scratch: &Path, name: &str, ports: Ports, namesrv: &str, shards: &str) -> Server {
    let (data, listen) = (scratch.join(name), ports.broker_address().to_string());
    let place = ["--data", data.to_str().unwrap(), "--listen", &listen];
    let args = [&["broker", "--namesrv", namesrv, "--shards", shards], &place[..]].concat();
    Server::start(&args, &data.with_extension("log"))
}

/// The value of `name` in the kernel's status of a process or thread, unless it has ended.
fn status(of: &Path, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(of.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
}

/// A running server.
pub struct Server {
    child: Child,
    log: PathBuf,
    lines: flume::Receiver<String>,
}

impl Server {
    /// Starts a server and waits until it reports that it is ready.
    pub fn start(args: &[&str], log: &Path) -> Self {
        Self::launch(ringmq(args), log)
    }

    /// Like [`Self::start`], after the shell has set a limit such as `-n 200`.
    pub fn start_limited(limit: &str, args: &[&str], log: &Path) -> Self {
        let mut command = Command::new("sh");
        let limited = format!("ulimit {limit} && exec \"$0\" \"$@\"");
        command.args(["-c", &limited, env!("CARGO_BIN_EXE_ringmq")]).args(args);
        command.env("RINGMQ_LOG", "info");
        Self::launch(command, log)
    }

    fn launch(mut command: Command, log: &Path) -> Self {
        let errors = std::fs::File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (send, lines) = flume::bounded(16);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let mut server = Self { child, log: log.to_owned(), lines };
        match server.lines.recv_timeout(PATIENCE) {
            Ok(line) => assert!(line.starts_with("ringmq ready"), "{line}"),
            Err(error) => {
                let threads = server.threads();
                let _ = server.child.kill();
                panic!("{command:?} is not ready: {error}\n{threads}\n{}", server.log());
            }
        }
        server
    }

    /// NameServer and broker in one process.
    pub fn dev(data: &Path, ports: Ports, shards: u16) -> Self {
        Self::dev_with(data, ports, shards, &[])
    }

    /// Like [`Self::dev`], with `more` options.
    pub fn dev_with(data: &Path, ports: Ports, shards: u16, more: &[&str]) -> Self {
        let (listen, namesrv) = (ports.broker_address(), ports.nameserver_address());
        let args = [
            "dev",
            "--data",
            data.to_str().unwrap(),
            "--listen",
            &listen.to_string(),
            "--namesrv-listen",
            &namesrv.to_string(),
            "--shards",
            &shards.to_string(),
            "--segment-size",
            "16MiB",
            "--tail-cache",
            &TAIL_CACHE.to_string(),
        ];
        Self::start(&[&args, more].concat(), &data.with_extension("log"))
    }

    /// Returns the next line that the server printed after reporting that it is ready.
    pub fn next_line(&self) -> Option<String> {
        self.lines.recv_timeout(PATIENCE).ok()
    }

    /// Peak resident memory of the process, bytes.
    pub fn memory_peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// A memory value in the kernel's status of the process, bytes.
    fn memory(&self, name: &str) -> u64 {
        let own = PathBuf::from(format!("/proc/{}", self.child.id()));
        let size = status(&own, name).unwrap();
        size.trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// What each thread waits for in the kernel, for diagnosing a hang.
    fn threads(&self) -> String {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.child.id())) else {
            return "it has ended".into();
        };
        let of = |path: PathBuf| {
            let read = |name| std::fs::read_to_string(path.join(name)).unwrap_or_default();
            let state = status(&path, "State:").unwrap_or("ended".into());
            format!("{}: {state}, {}", read("comm").trim(), read("wchan"))
        };
        Vec::from_iter(threads.flatten().map(|thread| of(thread.path()))).join("\n")
    }

    pub fn log(&self) -> String {
        let mut text = String::new();
        std::fs::File::open(&self.log).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// Resident memory of the process, bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM. Returns the exit status.
    pub fn terminate(self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Sends SIGINT, like Ctrl-C. Returns the exit status.
    pub fn interrupt(self) -> ExitStatus {
        self.signal(Signal::SIGINT);
        self.ended()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits until the server has ended.
    pub fn ended(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > deadline {
                let threads = self.threads();
                self.child.kill().unwrap();
                panic!("it does not stop\n{threads}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A failed test leaves its server running.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
