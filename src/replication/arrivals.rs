//! Tracks the copies of another replica's log that this one receives, one at a time, and what is
//! left of incomplete ones.

use std::cell::Cell;
use std::rc::Rc;

use super::host::Host;
use crate::storage::signal::{Signal, Turns};

/// The copies that this replica receives, one at a time.
#[derive(Clone)]
pub struct Arrivals(Rc<State>);

struct State {
    /// Number of the newest copy; earlier ones end.
    newest: Cell<u64>,
    /// The newest has changed.
    superseded: Signal,
    turn: Turns,
    is_running: Cell<bool>,
    is_stopping: Cell<bool>,
    /// The disk holds files of a copy that has not replaced the log.
    has_leftovers: Cell<bool>,
}

impl Arrivals {
    pub fn new(has_leftovers: bool) -> Self {
        Self(Rc::new(State {
            newest: Cell::default(),
            superseded: Signal::default(),
            turn: Turns::default(),
            is_running: Cell::default(),
            is_stopping: Cell::default(),
            has_leftovers: Cell::new(has_leftovers),
        }))
    }

    /// Begins a copy: earlier ones end at their next frame, and this one waits for that. `None` if
    /// a later one has begun meanwhile.
    pub async fn begin(&self) -> Option<Arrival> {
        let number = self.supersede();
        self.0.turn.take().await;
        let arrival = Arrival { number, state: self.0.clone() };
        self.0.is_running.set(true);
        arrival.is_current().then_some(arrival)
    }

    fn supersede(&self) -> u64 {
        self.0.newest.set(self.0.newest.get() + 1);
        self.0.superseded.notify();
        self.0.newest.get()
    }

    /// Ends the copy that is arriving.
    pub async fn stop(&self) {
        self.0.is_stopping.set(true);
        self.supersede();
        self.0.turn.take().await;
    }

    pub fn is_stopping(&self) -> bool {
        self.0.is_stopping.get()
    }

    /// The copy that arrived is the log now.
    pub fn handle_used(&self) {
        self.0.has_leftovers.set(false);
    }

    /// Discards what is left of a copy: entries arrive one by one, so it is no longer needed.
    pub fn discard_leftovers<H: Host>(&self, host: &H) {
        let State { has_leftovers, is_running, is_stopping, .. } = &*self.0;
        if !has_leftovers.get() || is_running.get() || is_stopping.get() {
            return;
        }
        has_leftovers.set(false);
        let (state, task_host) = (self.0.clone(), host.clone());
        host.spawn_background(async move {
            let _turn = state.turn.turn().await;
            let staging = task_host.broker().store().staging();
            if !state.is_stopping.get() && staging.discard().await.is_err() {
                state.has_leftovers.set(true);
            }
        });
    }
}

/// A copy that is being received.
pub struct Arrival {
    number: u64,
    state: Rc<State>,
}

impl Arrival {
    fn is_current(&self) -> bool {
        self.state.newest.get() == self.number && !self.state.is_stopping.get()
    }

    /// Notes that part of the copy is on the disk from now on.
    pub fn note_begun(&self) {
        self.state.has_leftovers.set(true);
    }

    /// Waits until this copy must end, because a later one has begun or the replica is stopping.
    pub async fn superseded(&self) {
        self.state.superseded.wait(|| (!self.is_current()).then_some(())).await;
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.state.is_running.set(false);
        self.state.turn.give_back();
    }
}
