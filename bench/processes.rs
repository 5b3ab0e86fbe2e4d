//! The programs that a bench measures: servers on one core, other programs on another. Other benches include
//! this file as a module.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const BROKER: &str = "127.0.0.1:20911";
pub const NAMESERVER: &str = "127.0.0.1:20876";
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running server, killed on drop.
pub struct Server {
    pub child: Child,
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("ringmq starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        while !line.contains("ringmq ready") {
            line.clear();
            let size = lines.read_line(&mut line).expect("its output is text");
            assert!(size > 0, "the server ended before it was ready");
        }
        // Keeps reading its output, so that it never blocks on a full pipe.
        std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
        Self { child }
    }

    pub fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("it is our child").is_none() {
            assert!(Instant::now() < deadline, "the server does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Creates a topic on the running brokers.
pub fn create_topic(name: &str, queue_count: u32) {
    let queues = queue_count.to_string();
    let args = ["topic", "create", name, "--queues", &queues, "--namesrv", NAMESERVER];
    let made = Command::new(program("ringmq")).args(args).output().expect("ringmq starts");
    assert!(made.status.success(), "{made:?}");
}

/// The path of one of our programs, in the directory above this one's.
fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a program has a path");
    let profile = own.parent().and_then(Path::parent).expect("cargo builds it two levels deep");
    let program = profile.join(name);
    assert!(program.exists(), "{} is missing: build the workspace first", program.display());
    program
}

/// One of our programs, pinned to one CPU.
pub fn pinned(cpu: u32, name: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &cpu.to_string()]).arg(program(name));
    command
}

/// The median of several values.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
