//! One server as a child process that can be killed, frozen and restarted.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::EmbeddedError;
use super::program::program;

/// Prefix of the line that a server prints when it is ready.
const READY: &str = "ringmq ready";
/// Maximum time for a server to become ready, and to stop.
const START_WAIT: Duration = Duration::from_secs(60);
const STOP_WAIT: Duration = Duration::from_secs(20);
/// Number of last lines of the child's standard error to keep.
const LINES_KEPT: usize = 20;

type Lines = Arc<Mutex<VecDeque<String>>>;

/// A program with its arguments, and the process that runs it now. All methods may be called from
/// any thread. None holds the lock for longer than a process takes to die.
pub struct Server {
    /// For messages: `broker`, `NameServer 1`.
    what: String,
    /// The program, then its arguments.
    words: Vec<OsString>,
    state: Mutex<State>,
    last_lines: Lines,
}

#[derive(Default)]
struct State {
    child: Option<Child>,
    /// The server must not be started again.
    is_closed: bool,
}

/// A server that is starting.
pub struct Launch {
    what: String,
    lines: flume::Receiver<String>,
    deadline: Instant,
    last_lines: Lines,
}

impl Launch {
    /// Whether the server is ready; an error if it ended or took too long.
    pub fn is_ready(&self) -> Result<bool, EmbeddedError> {
        loop {
            match self.lines.try_recv() {
                Ok(line) if line.starts_with(READY) => return Ok(true),
                Ok(_) => {}
                Err(flume::TryRecvError::Empty) if Instant::now() < self.deadline => {
                    return Ok(false);
                }
                Err(_) => return Err(self.not_ready()),
            }
        }
    }

    /// Waits until the server is ready.
    pub fn wait(self) -> Result<(), EmbeddedError> {
        while let Ok(line) = self.lines.recv_deadline(self.deadline) {
            if line.starts_with(READY) {
                return Ok(());
            }
        }
        Err(self.not_ready())
    }

    fn not_ready(&self) -> EmbeddedError {
        EmbeddedError::NotReady { what: self.what.clone(), said: text_of(&self.last_lines) }
    }
}

impl Server {
    /// A server that runs `ringmq` with these arguments.
    pub fn new(what: String, arguments: Vec<OsString>) -> Self {
        let mut words = program();
        words.extend(arguments);
        Self::running(what, words)
    }

    fn running(what: String, words: Vec<OsString>) -> Self {
        Self { what, words, state: Mutex::default(), last_lines: Lines::default() }
    }

    /// The command line.
    pub fn describe(&self) -> String {
        let words: Vec<_> = self.words.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    pub fn pid(&self) -> Option<u32> {
        self.state().child.as_ref().map(Child::id)
    }

    /// Starts the server and waits until it is ready.
    pub fn start(&self) -> Result<(), EmbeddedError> {
        self.launch()?.wait()
    }

    /// Starts the server, unless it runs.
    pub fn launch(&self) -> Result<Launch, EmbeddedError> {
        let mut command = Command::new(&self.words[0]);
        // A process group of its own, so that Ctrl-C does not reach it: sending ends first, then
        // the audit, then the servers.
        command.args(&self.words[1..]).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |cause| {
            let program = self.words[0].display().to_string();
            EmbeddedError::Start { program, cause }
        };
        let mut state = self.state();
        if state.is_closed {
            return Err(failed(io::Error::other("the run is over")));
        }
        if let Some(child) = &mut state.child
            && matches!(child.try_wait(), Ok(None))
        {
            return Err(failed(io::Error::other(format!("the {} runs already", self.what))));
        }
        let mut child = command.spawn().map_err(failed)?;
        let (sender, lines) = flume::unbounded();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || forward_lines(stdout, |line| drop(sender.send(line))));
        }
        if let Some(stderr) = child.stderr.take() {
            let kept = self.last_lines.clone();
            thread::spawn(move || forward_lines(stderr, |line| keep(&kept, line)));
        }
        state.child = Some(child);
        let (what, last_lines) = (self.what.clone(), self.last_lines.clone());
        Ok(Launch { what, lines, deadline: Instant::now() + START_WAIT, last_lines })
    }

    /// Sends SIGKILL and waits until the process is gone.
    pub fn kill(&self) -> io::Result<()> {
        let mut state = self.state();
        let mut child = state.child.take().ok_or_else(|| self.not_running())?;
        if child.try_wait()?.is_some() {
            return Err(self.not_running());
        }
        child.kill()?;
        child.wait().map(drop)
    }

    pub fn freeze(&self) -> io::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    pub fn thaw(&self) -> io::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Prevents any further start.
    pub fn forbid(&self) {
        self.state().is_closed = true;
    }

    /// Stops the server for good, gracefully if possible, whatever its state.
    pub fn close(&self) {
        self.forbid();
        // A process that is gone needs no signal; a frozen one handles SIGTERM once it continues.
        let _ = self.signal(Signal::SIGTERM);
        let _ = self.signal(Signal::SIGCONT);
        let deadline = Instant::now() + STOP_WAIT;
        while Instant::now() < deadline {
            let mut state = self.state();
            let is_running =
                state.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
            if !is_running {
                state.child = None;
                return;
            }
            drop(state);
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.kill();
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let mut state = self.state();
        // Until it is waited for, a process that has ended keeps its id, so no other process can be
        // hit.
        let child = state.child.as_mut().ok_or_else(|| self.not_running())?;
        if child.try_wait()?.is_some() {
            return Err(self.not_running());
        }
        Ok(kill(Pid::from_raw(child.id() as i32), signal)?)
    }

    fn not_running(&self) -> io::Error {
        io::Error::other(format!("the {} does not run", self.what))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds a server")
    }
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

fn text_of(lines: &Mutex<VecDeque<String>>) -> String {
    let lines = lines.lock().expect("no thread panics while it holds the lines");
    lines.iter().fold(String::new(), |all, line| all + "\n  " + line)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A server that is a shell script.
    fn server(script: &str) -> Server {
        Server::running("stand-in".to_owned(), ["/bin/sh", "-c", script].map(Into::into).into())
    }

    /// Becomes ready, and then runs for a minute.
    const SERVES: &str = "echo hello; echo ringmq ready; exec sleep 60";

    /// The kernel's letter for the state of a process: `S` sleeping, `T` stopped.
    fn state_of(pid: u32) -> char {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        text.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    fn wait_until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(Instant::now() < deadline, "never: {what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_server_can_be_killed_and_started_again() {
        let server = server(SERVES);
        server.start().unwrap();
        let first = server.pid().unwrap();
        assert!(server.start().is_err(), "it runs already");
        server.kill().unwrap();
        assert_eq!(server.pid(), None);
        assert!(server.kill().is_err() && server.freeze().is_err(), "it is gone");
        server.start().unwrap();
        assert_ne!(server.pid(), Some(first));
        server.close();
        assert_eq!(server.pid(), None);
        assert!(server.start().is_err(), "the run is over");
    }

    #[test]
    fn a_frozen_server_goes_on_where_it_was_and_ends_when_told() {
        let server = server(SERVES);
        server.start().unwrap();
        let pid = server.pid().unwrap();
        server.freeze().unwrap();
        wait_until("stopped", || state_of(pid) == 'T');
        server.thaw().unwrap();
        wait_until("running", || state_of(pid) != 'T');
        server.freeze().unwrap();
        let begin = Instant::now();
        server.close();
        assert!(begin.elapsed() < STOP_WAIT, "a stopped process took the signal");
        assert_eq!(server.pid(), None);
    }

    #[test]
    fn a_server_that_ends_before_it_serves_says_why() {
        let server = server("echo no disk >&2; exit 1");
        let launch = server.launch().unwrap();
        let error = loop {
            match launch.is_ready() {
                Ok(true) => panic!("it never said so"),
                Ok(false) => thread::sleep(Duration::from_millis(2)),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("stand-in did not report"), "{error}");
        wait_until("last words", || text_of(&server.last_lines).contains("no disk"));
        // The failed process is gone, so the server can be started again.
        assert!(server.start().is_err());
        let missing = Server::running("none".to_owned(), vec!["/no/such/program".into()]);
        assert!(missing.start().unwrap_err().to_string().contains("/no/such/program"));
    }
}
