//! Waiting for sockets and for the next due time, to the microsecond.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// Maximum events per wait.
const EVENTS_MAX: usize = 256;
/// Token of the timer; sockets use the numbers below.
const TIMER: u64 = u64::MAX;

/// Polls sockets, identified by the caller's numbers, and one timer. Level-triggered.
pub struct Poller {
    epoll: Epoll,
    timer: TimerFd,
    events: Vec<EpollEvent>,
}

/// The readiness that a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    Read,
    /// Readable, or writable.
    ReadWrite,
}

/// A ready socket. Errors and hang-ups count as readable.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub token: u64,
    pub is_readable: bool,
    pub is_writable: bool,
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // The epoll timeout counts whole milliseconds; a timer descriptor counts nanoseconds.
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        let events = vec![EpollEvent::empty(); EVENTS_MAX];
        Ok(Self { epoll, timer, events })
    }

    pub fn add(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        Ok(self.epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, token))?)
    }

    pub fn change(&self, socket: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        let flags = match interest {
            Interest::Read => EpollFlags::EPOLLIN,
            Interest::ReadWrite => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        };
        Ok(self.epoll.modify(socket, &mut EpollEvent::new(flags, token))?)
    }

    /// Waits for a ready socket, at most for `wait`; then calls `handle` for each ready one.
    pub fn wait(&mut self, wait: Duration, mut handle: impl FnMut(Ready)) -> io::Result<()> {
        let timeout = if wait.is_zero() {
            EpollTimeout::ZERO
        } else {
            let at = TimeSpec::nanoseconds(wait.as_nanos() as i64);
            self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::empty())?;
            EpollTimeout::NONE
        };
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &self.events[..count] {
            // A timer that has fired stays ready until it is set again, which every longer wait does.
            if event.data() == TIMER {
                continue;
            }
            let flags = event.events();
            let failed = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
            handle(Ready {
                token: event.data(),
                is_readable: flags.intersects(EpollFlags::EPOLLIN | failed),
                is_writable: flags.intersects(EpollFlags::EPOLLOUT),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn waits_end_on_time_and_do_not_haunt_the_next_one() {
        let mut poller = Poller::new().unwrap();
        for wait_us in [200, 1_500] {
            let begin = Instant::now();
            let wait = Duration::from_micros(wait_us);
            poller.wait(wait, |ready| panic!("no socket is known: {ready:?}")).unwrap();
            assert!(begin.elapsed() >= wait, "{wait_us} us");
        }
        poller.wait(Duration::ZERO, |ready| panic!("{ready:?}")).unwrap();
    }
}
