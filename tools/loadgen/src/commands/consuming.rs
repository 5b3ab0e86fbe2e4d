//! The consumers of a run's groups, while they run: one thread, or the members of a team.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::engine::audit::Outcomes;
use crate::engine::consumer::Consumed;
use crate::engine::members::Team;
use crate::target::cluster::QueueStart;

/// Maximum time until the queues are divided among the members of a group.
const MEMBERS_WAIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// The consumers of one group.
pub enum Consuming {
    One {
        thread: JoinHandle<io::Result<Consumed>>,
        sender: flume::Sender<Arc<[Outcomes]>>,
    },
    Team {
        team: Arc<Team>,
        threads: Vec<JoinHandle<io::Result<f64>>>,
        /// Indexes of the group's queues among all queues.
        queues: Vec<usize>,
        stop: Arc<AtomicBool>,
    },
}

impl Consuming {
    /// Waits until each queue has a member.
    pub fn await_members(&self) -> io::Result<()> {
        let Self::Team { team, threads, stop, .. } = self else { return Ok(()) };
        let deadline = Instant::now() + MEMBERS_WAIT;
        // A thread that ended early reports its error when it is joined.
        while !team.is_ready() && !threads.iter().any(JoinHandle::is_finished) {
            if Instant::now() >= deadline {
                let (wait_s, name) = (MEMBERS_WAIT.as_secs(), team.name());
                return Err(io::Error::other(format!(
                    "after {wait_s} s the consumers do not have all queues of the group {name}; does \
                     another run use that group?"
                )));
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Tells the consumers that sending is over. `ends` are the queues of all groups, if their ends
    /// are known.
    pub fn sending_ended(&self, outcomes: &Arc<[Outcomes]>, ends: Option<&[QueueStart]>) {
        match self {
            // A consumer that failed reports its error when it is joined.
            Self::One { sender, .. } => drop(sender.send(outcomes.clone())),
            Self::Team { team, queues, .. } => {
                let of_group =
                    |ends: &[QueueStart]| queues.iter().map(|at| ends[*at].offset).collect();
                team.handle_sent(outcomes.clone(), ends.map(of_group));
            }
        }
    }

    pub fn is_finished(&self) -> bool {
        match self {
            Self::One { thread, .. } => thread.is_finished(),
            Self::Team { threads, .. } => threads.iter().all(JoinHandle::is_finished),
        }
    }

    pub fn join(self) -> io::Result<Consumed> {
        match self {
            Self::One { thread, .. } => join_thread(thread),
            Self::Team { team, threads, .. } => {
                let shares =
                    threads.into_iter().map(join_thread).collect::<io::Result<Vec<f64>>>()?;
                Ok(team.conclude(shares))
            }
        }
    }
}

pub fn join_thread<T>(thread: JoinHandle<io::Result<T>>) -> io::Result<T> {
    thread.join().expect("a thread that panics has said why")
}
