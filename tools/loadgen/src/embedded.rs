//! A broker of our own as a child process, for the length of a run.

use std::collections::VecDeque;
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmq::config::PORTS_PER_SHARD;

use crate::options::{Flush, TargetOptions};

/// Environment variable that names the broker's program.
pub const PROGRAM_VARIABLE: &str = "RINGMQ_BIN";
/// First argument that makes loadgen the program `ringmq`, with the arguments behind it.
pub const SERVER_COMMAND: &str = "ringmq";
/// A shard also listens two ports below its own, for old clients.
const PORTS_BELOW: u16 = 2;
/// How the line begins with which the broker says that it serves.
const READY: &str = "ringmq ready";
/// How long the broker may take to serve, and to end.
const START_WAIT: Duration = Duration::from_secs(60);
const STOP_WAIT: Duration = Duration::from_secs(20);
/// Tries to find free ports before giving up.
const PORT_TRIES: usize = 100;
/// Last lines of the child's standard error that are kept.
const LINES_KEPT: usize = 20;

#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error("{program} cannot be started: {cause}; set {PROGRAM_VARIABLE}, or use --namesrv")]
    Start { program: String, cause: io::Error },
    #[error("the broker did not say that it is ready{said}")]
    NotReady { said: String },
    #[error("no {count} free ports in a row on loopback")]
    Ports { count: u16 },
    #[error("temporary directory: {0}")]
    Directory(io::Error),
}

pub struct Embedded {
    pub namesrv: SocketAddr,
    child: Child,
    /// Kept until the child has ended: fields are dropped after `drop` has run.
    _scratch: Option<Scratch>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
}

impl Embedded {
    /// Starts the broker and waits until it serves.
    pub fn start(options: &TargetOptions) -> Result<Self, EmbeddedError> {
        let temporary = env::temp_dir().join(format!("loadgen-{}", process::id()));
        let data = options.data.clone().unwrap_or(temporary);
        fs::create_dir_all(&data).map_err(EmbeddedError::Directory)?;
        let scratch = options.data.is_none().then(|| Scratch(data.clone()));
        let first = free_ports(PORTS_BELOW + options.shards * PORTS_PER_SHARD)?;
        let listen = SocketAddr::new(first.ip(), first.port() + PORTS_BELOW);
        let namesrv = free_ports(1)?;
        let mut command = server();
        command.arg("dev");
        command.args(["--listen", &listen.to_string()]);
        command.args(["--namesrv-listen", &namesrv.to_string()]);
        command.args(["--shards", &options.shards.to_string()]);
        command.arg("--data").arg(&data);
        command.args(["--flush", if options.flush == Flush::Sync { "sync" } else { "async" }]);
        // A group of its own: Ctrl-C ends the sending first, then the audit, then the broker.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|cause| {
            let program = command.get_program().display().to_string();
            EmbeddedError::Start { program, cause }
        })?;
        let mut embedded = Self { namesrv, child, _scratch: scratch, last_lines: Arc::default() };
        embedded.wait_until_ready()?;
        Ok(embedded)
    }

    fn wait_until_ready(&mut self) -> Result<(), EmbeddedError> {
        let (sender, lines) = flume::unbounded();
        if let Some(stdout) = self.child.stdout.take() {
            thread::spawn(move || forward_lines(stdout, |line| drop(sender.send(line))));
        }
        if let Some(stderr) = self.child.stderr.take() {
            let kept = self.last_lines.clone();
            thread::spawn(move || forward_lines(stderr, |line| keep(&kept, line)));
        }
        let deadline = Instant::now() + START_WAIT;
        while let Ok(line) = lines.recv_deadline(deadline) {
            if line.starts_with(READY) {
                return Ok(());
            }
        }
        Err(EmbeddedError::NotReady { said: self.last_words() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines on the broker's standard error, for whoever asks what went wrong.
    pub fn last_words(&self) -> String {
        let lines = self.last_lines.lock().expect("no thread panics while it holds the lines");
        lines.iter().fold(String::new(), |all, line| all + "\n  " + line)
    }

    fn stop(&mut self) {
        // A child that is gone already needs no signal.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + STOP_WAIT;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A directory of our own, removed with everything in it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left-overs in a temporary directory are no reason to fail.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The broker's program: named by the environment, or this very program, which holds the broker too
/// (see `main`), so that a load run needs nothing but itself.
fn server() -> Command {
    if let Some(program) = env::var_os(PROGRAM_VARIABLE) {
        return Command::new(program);
    }
    let own = env::current_exe().unwrap_or_else(|_| "loadgen".into());
    let mut command = Command::new(own);
    command.arg(SERVER_COMMAND);
    command
}

/// The first of `count` consecutive ports that are free on loopback now.
fn free_ports(count: u16) -> Result<SocketAddr, EmbeddedError> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    for _ in 0..PORT_TRIES {
        let Ok(first) = bind(0).and_then(|listener| listener.local_addr()) else { continue };
        let rest = 0..count;
        let are_free =
            |offset| first.port().checked_add(offset).is_some_and(|port| bind(port).is_ok());
        if rest.into_iter().all(are_free) {
            return Ok(first);
        }
    }
    Err(EmbeddedError::Ports { count })
}

fn forward_lines(from: impl io::Read, to: impl FnMut(String)) {
    BufReader::new(from).lines().map_while(Result::ok).for_each(to);
}

fn keep(kept: &Mutex<VecDeque<String>>, line: String) {
    let mut lines = kept.lock().expect("no thread panics while it holds the lines");
    if lines.len() == LINES_KEPT {
        lines.pop_front();
    }
    lines.push_back(line);
}
