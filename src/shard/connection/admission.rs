//! Admission: a request is executed immediately, or parked until the log has room for it.
//!
//! Requests that append do so in order of arrival. They do not delay requests that need no room.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::Connection;
use super::reading::TASKS_MAX;
use crate::broker::{Answer, Handled, Outcome};
use crate::model::record::RECORD_OVERHEAD_MAX;
use crate::model::{Moment, Refusal};
use crate::reactor;
use crate::shard::asked::{Arrival, Asked};
use crate::shard::clock;
use crate::shard::common::OPERATIONS_MAX;
use crate::shard::parked::{Parked, ParkedRequest};
use crate::shard::service::Service;
use crate::storage::{Ticket, entry_size};

/// Maximum number of a connection's messages that are appended but not committed. The bound in bytes
/// is the log's ([`Service::connection_budget`]).
const IN_FLIGHT_MAX: usize = 8192;
/// Maximum number of a connection's operations and cold pulls in flight.
const OPERATIONS_OF_ONE_MAX: usize = 1024;
/// How soon to check again on requests for which room is held.
const TURN_MS: u64 = 20;

impl<S: Service> Connection<S> {
    /// Executes a request, or parks it if it must wait for room in the log.
    pub(super) fn take(self: &Rc<Self>, asked: Asked, request: S::Request, arrival: Arrival) {
        let stores = S::stores(&request);
        if stores {
            self.has_stored.set(true);
        }
        let append_size = match stores && !self.may_append(asked.size) {
            true => Some(entry_size(asked.size + RECORD_OVERHEAD_MAX)),
            false => self.carry_out(asked, &request, arrival),
        };
        let Some(append_size) = append_size else {
            if stores {
                self.common.patience.note_no_wait(arrival.now.moment);
            }
            return;
        };
        if stores && arrival.waited_ms() >= self.common.patience.wait_max_ms() {
            return self.refuse_late(asked, arrival.waited_ms(), arrival.now.moment);
        }
        let Arrival { read_at, read, memory, .. } = arrival;
        let (size, request) = (asked.size, (asked, request));
        let had_deadline = {
            let parked = &mut *self.parked.borrow_mut();
            let is_same_read = self.last_parked_read.replace(read) == read;
            parked
                .push(ParkedRequest { request, read_at, size, append_size, memory }, is_same_read);
            self.parked_share.set(parked.memory());
            std::mem::replace(&mut parked.has_deadline, true)
        };
        self.execute_parked();
        if !had_deadline {
            let deadline = read_at.plus_ms(self.common.patience.wait_max_ms());
            self.owner.clone().set_deadline(deadline, self.id);
        }
    }

    /// Executes a request. If it must be retried once there is room, returns the bytes of the log that
    /// it needs.
    fn carry_out(
        self: &Rc<Self>,
        asked: Asked,
        request: &S::Request,
        arrival: Arrival,
    ) -> Option<usize> {
        match self.common.service.handle(request, self.origin(asked), arrival.now) {
            Handled::NoRoom { size } => return Some(entry_size(size)),
            Handled::Operation | Handled::Done(Outcome::Cold(_)) if !self.may_begin_task() => {
                self.refuse_busy(asked, "operations_of_connection", 0);
            }
            Handled::Operation => self.run_operation(asked, request.clone(), arrival),
            Handled::Done(Outcome::Cold(task)) => self.run_cold_pull(asked, task, arrival),
            Handled::Done(outcome) => self.settle(asked, outcome),
        }
        None
    }

    /// Whether a request may begin another task. While the shard's are scarce, a connection with
    /// many of them begins no more, so that there are some left for the heartbeats of others.
    fn may_begin_task(&self) -> bool {
        let is_scarce = self.common.operations.get() > OPERATIONS_MAX / 2;
        self.replies.borrow().tasks < if is_scarce { TASKS_MAX } else { OPERATIONS_OF_ONE_MAX }
    }

    /// Whether another request may append now: it must not overtake a parked one, and the
    /// connection must stay within its share of bytes in flight.
    fn may_append(&self, size: usize) -> bool {
        self.parked.borrow().is_empty() && self.has_share(size)
    }

    /// A single request is always allowed, however large.
    fn has_share(&self, size: usize) -> bool {
        let replies = self.replies.borrow();
        let (count, in_flight) = (replies.uncommitted.len(), replies.in_flight);
        let has_room = in_flight + size <= self.common.service.connection_budget();
        count == 0 || count < IN_FLIGHT_MAX && has_room
    }

    /// Executes parked requests as room becomes available, until there are none. The task is
    /// urgent: while it waits for other tasks, the room held for the requests is unused, and the
    /// device idles.
    fn execute_parked(self: &Rc<Self>) {
        if self.executes_parked.replace(true) {
            return;
        }
        let connection = self.clone();
        reactor::spawn_urgent(async move {
            poll_fn(|context| {
                connection.poll_parked(context);
                if connection.is_unparked() {
                    return Poll::Ready(());
                }
                connection.parked.borrow_mut().waker = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
            connection.executes_parked.set(false);
            if connection.is_closed.get() {
                // Otherwise the room that is held for them would stay unused.
                connection.drop_parked();
            }
            connection.moved.notify();
        });
    }

    /// Executes the requests for which room is held: one batch, so that connections take turns.
    fn poll_parked(self: &Rc<Self>, context: &mut Context<'_>) {
        let Some(ticket) = self.poll_ticket(context) else { return };
        if let Some(size) = ticket.spend(|| self.carry_out_parked()) {
            ticket.wait_again(size);
            self.parked.borrow_mut().ticket = Some(ticket);
        }
        context.waker().wake_by_ref();
        self.let_next_read();
        self.flush();
        self.moved.notify();
    }

    /// Drops the parked requests, and lets other connections read in their place.
    pub(super) fn drop_parked(&self) {
        drop(self.parked.take());
        self.parked_share.set(0);
        self.let_next_read();
    }

    /// The ticket of the parked requests, once it is granted.
    fn poll_ticket(self: &Rc<Self>, context: &mut Context<'_>) -> Option<Ticket> {
        loop {
            let parked = &mut *self.parked.borrow_mut();
            let front = parked.front()?;
            if parked.ticket.is_none() {
                if !self.has_share(front.size) {
                    return None;
                }
                match self.common.service.ticket(parked.batch_size()) {
                    Ok(ticket) => parked.ticket = Some(ticket),
                    Err(_) => {
                        self.refuse_parked(parked, clock::moment());
                        continue;
                    }
                }
            }
            let is_granted = parked.ticket.as_ref()?.poll_granted(context).is_ready();
            return is_granted.then(|| parked.ticket.take())?;
        }
    }

    /// Executes parked requests with the granted room. Returns the size of the first if not even
    /// that one found room.
    fn carry_out_parked(self: &Rc<Self>) -> Option<usize> {
        let (now, instant) = (clock::now(), Instant::now());
        let (mut done, batch) = (0, self.parked.borrow().batch_size());
        let mut short = None;
        while done < batch
            && let Some(waiting) = self.take_parked()
        {
            let (asked, request) = &waiting.request;
            let (read, memory) = (self.next_read(), waiting.size);
            let arrival = Arrival { now, read_at: waiting.read_at, read, memory };
            if let Some(append_size) = self.carry_out(*asked, request, arrival) {
                self.parked.borrow_mut().put_back(ParkedRequest { append_size, ..waiting });
                short = (done == 0).then_some(append_size);
                break;
            }
            done += waiting.append_size;
            if arrival.waited_ms() < self.common.patience.wait_max_ms() {
                self.note_admission(asked.read_at, instant);
                self.common.patience.note_wait(arrival.waited_ms(), now.moment);
            }
        }
        self.parked_share.set(self.parked.borrow().memory());
        short
    }

    fn take_parked(&self) -> Option<ParkedRequest<(Asked, S::Request)>> {
        let mut parked = self.parked.borrow_mut();
        let size = parked.front()?.size;
        if self.has_share(size) { parked.pop() } else { None }
    }

    pub(super) fn is_unparked(&self) -> bool {
        self.is_closed.get() || self.parked.borrow().is_empty()
    }

    /// Refuses requests that have waited for room too long. Called at the deadline. Keeps those for
    /// which room is held: they are about to be executed, which takes as long as refusing them.
    pub fn refuse_overdue(self: &Rc<Self>, now: Moment) {
        let next = {
            let parked = &mut *self.parked.borrow_mut();
            let wait_max_ms = self.common.patience.wait_max_ms();
            let due = |parked: &Parked<_>| match parked.is_granted() {
                true => Some(now.plus_ms(TURN_MS)),
                false => Some(parked.front()?.read_at.plus_ms(wait_max_ms)),
            };
            while due(parked).is_some_and(|due| due <= now) {
                self.refuse_parked(parked, now);
            }
            self.parked_share.set(parked.memory());
            parked.has_deadline = !parked.is_empty();
            parked.wake();
            due(parked)
        };
        if let Some(next) = next {
            self.owner.clone().set_deadline(next, self.id);
        }
        self.let_next_read();
        self.flush();
        self.moved.notify();
    }

    fn refuse_parked(&self, parked: &mut Parked<(Asked, S::Request)>, now: Moment) {
        let waiting = parked.pop().expect("there is a front");
        self.refuse_late(waiting.request.0, now.ms_since(waiting.read_at), now);
    }

    /// Refuses a produce request that has waited for room too long: its client is about to give up,
    /// and storing it would only lengthen the queue.
    fn refuse_late(&self, asked: Asked, wait_ms: u64, now: Moment) {
        self.note_admission(asked.read_at, Instant::now());
        self.common.patience.note_wait(wait_ms, now);
        self.refuse_busy(asked, "append_queue", wait_ms);
    }

    /// Refuses a request that may be retried later.
    pub(super) fn refuse_busy(&self, asked: Asked, reason: &'static str, wait_ms: u64) {
        let refusal = Refusal::Busy {
            reason,
            wait_ms,
            retry_after_ms: crate::broker::RETRY_AFTER_MS,
            shard: self.common.id.0,
        };
        self.reply(asked.to, Answer::refused(refusal));
    }

    fn note_admission(&self, read_at: Instant, now: Instant) {
        let waited = now.saturating_duration_since(read_at);
        self.common.metrics.admission_wait.record(waited.as_nanos() as u64);
    }
}
