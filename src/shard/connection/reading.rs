//! Reading: splits bytes into frames and decodes requests, while another request may be accepted.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};

use super::sending::OUTPUT_LIMIT;
use super::{Closed, Connection};
use crate::broker::Answer;
use crate::model::Refusal;
use crate::reactor;
use crate::shard::asked::{Arrival, Asked};
use crate::shard::clock;
use crate::shard::input::Input;
use crate::shard::service::Service;
use crate::shard::turn::Turn;
use crate::wire::{self, Frame, FrameError, Head};

/// Maximum number of cold pulls and operations in flight at which a connection takes further
/// requests without waiting.
pub(super) const TASKS_MAX: usize = 64;
/// How long requests wait for one of these to end before they are taken all the same, until all that
/// has arrived is handled: they may be heartbeats, and clients wait for 3 s.
const TASKS_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a large request waits for memory that other connections hold.
const MEMORY_WAIT_MAX: Duration = Duration::from_secs(5);

impl<S: Service> Connection<S> {
    /// If this connection brings messages, waits for its turn to read, or for its end.
    pub(super) async fn turn_to_read(&self) {
        if !self.has_stored.replace(false) {
            return;
        }
        self.waits_to_read.set(true);
        let turn = pin!(self.common.readers.turn(|| self.common.service.spare_room()));
        let is_over = || self.is_closed.get() || self.common.is_stopping.get();
        let ended = pin!(self.ended.wait(|| is_over().then_some(())));
        select(turn, ended).await;
        self.waits_to_read.set(false);
    }

    pub(super) fn let_next_read(&self) {
        self.common.readers.call_next(|| self.common.service.spare_room());
    }

    pub(super) async fn take_frames(self: &Rc<Self>, input: &mut Input) -> Result<(), Closed> {
        let (now, read_instant) = (clock::now(), self.last_used.get());
        let read = self.next_read();
        let mut arrival = Arrival { now, read_at: now.moment, read, memory: 0 };
        let mut turn = Turn::begin();
        let mut unread = input.take();
        let (mut is_over, mut yields) = (false, 0);
        loop {
            let is_ready = self.check_ready()?.is_some();
            if (is_over || !is_ready) && has_frame(&unread) {
                self.flush();
                self.common.beat();
                yields += 1;
                if input.before_yield(&mut unread, !is_ready || yields > 1) {
                    arrival.read = self.next_read();
                }
                match is_ready {
                    true => {
                        // Time spent waiting for other connections does not count as waiting for
                        // the log.
                        let before = clock::moment();
                        reactor::pass().await;
                        let passed_ms = clock::moment().ms_since(before);
                        arrival.read_at = arrival.read_at.plus_ms(passed_ms);
                    }
                    false => self.ready_to_read().await?,
                }
                (turn, arrival.now) = (Turn::begin(), clock::now());
            }
            let Some(frame) = wire::next_frame_of(&mut unread, wire::FRAME_SIZE_MAX)? else {
                break;
            };
            is_over = turn.is_over(frame.size());
            if let Some((asked, request)) = self.decode(&frame, read_instant) {
                arrival.memory = input.memory();
                self.take(asked, request, arrival);
            }
        }
        input.give_back(unread);
        if !input.is_large() {
            self.input_share.set(0);
        }
        self.flush();
        Ok(())
    }

    /// A new number for [`Arrival::read`].
    pub(super) fn next_read(&self) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.reads.get()
    }

    /// The request in a frame; `None` if there is nothing to execute.
    fn decode(self: &Rc<Self>, frame: &Frame, read_at: Instant) -> Option<(Asked, S::Request)> {
        let mut head = Head::of(frame);
        if let Err(error) = wire::decode_head(&mut head) {
            self.refuse_unreadable(frame, &error);
            return None;
        }
        if head.is_reply() {
            if let Some((call, reply)) = self.calls.borrow_mut().take_reply(head) {
                self.common.service.reply_arrived(call, reply);
            }
            return None;
        }
        self.calls.borrow_mut().note_dialect(head.dialect());
        let ticket = {
            let next = &mut self.replies.borrow_mut().next_ticket;
            *next += 1;
            *next
        };
        let to = (!head.is_one_way()).then(|| head.reply_to());
        let principal = self.common.service.principal(&head, self.peer);
        let request = principal.and_then(|principal| {
            let request = wire::decode_command(&mut head)?;
            Ok((Asked { ticket, to, principal, size: frame.size(), read_at }, request))
        });
        match request {
            Ok(request) => Some(request),
            Err(refusal) => {
                self.reply(to, Answer::refused(refusal));
                None
            }
        }
    }

    /// Refuses a frame whose header cannot be decoded; other frames are not affected. Logged once per
    /// connection.
    #[cold]
    fn refuse_unreadable(&self, frame: &Frame, error: &FrameError) {
        if !self.has_unreadable.replace(true) {
            tracing::warn!(id = self.id, peer = %self.peer, "a frame was refused: {error}");
        }
        let refusal = Refusal::Malformed(error.to_string());
        self.reply(wire::unreadable_reply_to(frame), Answer::refused(refusal));
    }

    /// Waits until another request may be accepted.
    pub(super) async fn ready_to_read(self: &Rc<Self>) -> Result<(), Closed> {
        loop {
            let ready = pin!(self.moved.wait(|| self.check_ready().transpose()));
            if !self.may_wait_for_tasks() {
                return ready.await;
            }
            let later = pin!(reactor::sleep(TASKS_WAIT_MAX));
            if let Either::Left((is_ready, _)) = select(ready, later).await {
                return is_ready;
            }
        }
    }

    /// Whether only time may make the connection ready. A released pull may start to read the disk.
    fn may_wait_for_tasks(&self) -> bool {
        let replies = self.replies.borrow();
        replies.tasks > 0 || !replies.held.is_empty()
    }

    /// Whether another request may be accepted; `None` if not yet.
    fn check_ready(&self) -> Result<Option<()>, Closed> {
        let replies = self.replies.borrow();
        let held = replies.output.held();
        // Until the socket has been full, the replies may still be sent immediately.
        if self.is_blocked.get() && held > OUTPUT_LIMIT {
            return Err(Closed::NotReading { unsent: replies.output.unsent() });
        }
        if self.is_closed.get() {
            return Err(Closed::ByPeer);
        }
        let is_ready = held <= self.output_max()
            && !self.parked.borrow().is_full(self.parked_share.is_scarce())
            && (replies.tasks < TASKS_MAX || self.has_awaited_tasks());
        Ok(is_ready.then_some(()))
    }

    /// Whether requests have waited long enough for one of the tasks to end. Not only the front one:
    /// behind it there may be a hundred others that need a task, and then a heartbeat.
    fn has_awaited_tasks(&self) -> bool {
        let since = self.tasks_awaited_since.get().unwrap_or_else(Instant::now);
        self.tasks_awaited_since.set(Some(since));
        since.elapsed() >= TASKS_WAIT_MAX
    }

    pub(super) async fn read(&self, input: &mut Input) -> Result<usize, Closed> {
        self.memory_for(input).await?;
        let size = loop {
            let read = poll_fn(|context| Poll::Ready(self.stream.poll_read(context, input.room())));
            match read.await {
                Poll::Ready(size) => break size?,
                Poll::Pending => input.release(),
            }
            self.stream.readable().await;
        };
        input.received(size);
        self.common.metrics.received_bytes.add(size as u64);
        Ok(size)
    }

    /// Waits until there is memory for the next read. Only large frames count, so connections with
    /// small ones never wait here.
    async fn memory_for(&self, input: &mut Input) -> Result<(), Closed> {
        let size = input.plan();
        let large = if input.is_large() { size } else { 0 };
        if self.input_share.try_set(large) {
            return Ok(());
        }
        let granted = pin!(self.input_share.set_in_turn(large));
        match select(granted, pin!(self.no_memory())).await {
            Either::Left(_) => Ok(()),
            Either::Right((why, _)) => Err(why),
        }
    }

    /// Why the connection stops waiting for memory: it took too long, or this connection was closed.
    /// Meanwhile it has those closed that hold memory and make no progress.
    async fn no_memory(&self) -> Closed {
        let deadline = Instant::now() + MEMORY_WAIT_MAX;
        while Instant::now() < deadline {
            let next = self.owner.close_stalled_input().min(deadline);
            let pause = pin!(reactor::sleep(next.saturating_duration_since(Instant::now())));
            let closed = pin!(self.ended.wait(|| self.is_closed.get().then_some(())));
            if let Either::Right(_) = select(pause, closed).await {
                return Closed::ByPeer;
            }
        }
        Closed::NoMemory
    }
}

fn has_frame(bytes: &[u8]) -> bool {
    wire::announced_size(bytes).is_some_and(|size| size <= bytes.len())
}
