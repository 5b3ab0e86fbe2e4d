//! Replies: sent immediately, once the log is committed up to the offset that they wait for, or
//! when a held pull is released.

use std::rc::Rc;
use std::time::Instant;

use super::Connection;
use crate::broker::clients::{CallError, CallId, Outgoing};
use crate::broker::{Answer, Outcome};
use crate::model::{LogOffset, Metrics, Principal, Refusal};
use crate::shard::asked::Asked;
use crate::shard::replies::UncommittedReply;
use crate::shard::service::Service;
use crate::storage::{Awaited, Standing};
use crate::wire::{self, ReplyTo};

/// Memory for unsent replies, including the buffers they share, at which a connection accepts no
/// further requests, bytes.
const OUTPUT_MAX: usize = 8 << 20;
/// The same while the shard's connections together use more than half of their budget.
const OUTPUT_SHARE: usize = 256 << 10;

impl<S: Service> Connection<S> {
    pub(super) fn settle(self: &Rc<Self>, asked: Asked, outcome: Outcome<S::Reply>) {
        match outcome {
            Outcome::Now(answer) => self.reply(asked.to, answer),
            Outcome::Committed { mark, reply } => self.settle_committed(asked, mark, reply),
            Outcome::Held => {
                // The reply of a one-way pull is dropped.
                if let Some(to) = asked.to {
                    self.replies.borrow_mut().held.insert(asked.ticket, to);
                }
            }
            Outcome::Cold(task) => self.run_released(asked, task),
        }
    }

    fn settle_committed(self: &Rc<Self>, asked: Asked, mark: LogOffset, reply: S::Reply) {
        let Asked { to, size, read_at, .. } = asked;
        // There may be no further commit that would send this reply.
        let Standing { committed, is_fenced, cut_count } = self.common.service.standing();
        let reply = match mark <= committed {
            true => Ok(reply),
            false if is_fenced => Err(Refusal::OutcomeUnknown),
            false => {
                let replies = &mut *self.replies.borrow_mut();
                if replies.uncommitted.is_empty() {
                    self.owner.wait_for_commit(self.id, mark);
                }
                let mark = Awaited { end: mark, cut_count };
                replies.in_flight += size;
                replies.uncommitted.push_back(UncommittedReply { mark, to, reply, size, read_at });
                return;
            }
        };
        self.reply(to, Answer { reply, chunks: Vec::new() });
    }

    pub(super) fn reply(&self, to: Option<ReplyTo>, answer: Answer<S::Reply>) {
        if let Err(refusal) = &answer.reply {
            self.common.metrics.refused.add(refusal);
        }
        let Some(to) = to else { return };
        let chunk_bytes = answer.chunks.iter().map(|chunk| chunk.len()).sum();
        if self.is_closed.get() {
            return;
        }
        let write = |out: &mut Vec<u8>| wire::encode_reply(out, to, &answer.reply, chunk_bytes);
        let output = &mut self.replies.borrow_mut().output;
        output.push(write, answer.chunks);
        self.output_share.set(output.held());
    }

    /// Sends a request to the client. Returns the call if it cannot be sent.
    pub fn send_request(
        self: &Rc<Self>,
        outgoing: &Outgoing,
    ) -> Result<(), (Option<CallId>, CallError)> {
        let frame = self.calls.borrow_mut().encode(outgoing)?;
        {
            let output = &mut self.replies.borrow_mut().output;
            output.push(|out| out.extend_from_slice(&frame), Vec::new());
            self.output_share.set(output.held());
        }
        self.flush();
        Ok(())
    }

    /// Handles the reply of a held pull. [`flush_released`](Self::flush_released) follows.
    pub fn release(self: &Rc<Self>, ticket: u64, outcome: Outcome<S::Reply>) {
        let to = self.replies.borrow_mut().held.remove(&ticket);
        // The service knows the request's origin.
        let principal = Principal::default();
        let read_at = self.last_used.get();
        self.settle(Asked { ticket, to, principal, size: 0, read_at }, outcome);
    }

    pub fn flush_released(self: &Rc<Self>) {
        self.flush();
        self.moved.notify();
    }

    /// Encodes and sends all replies that are now committed, which happened at `moved_at`. Returns
    /// the first log offset that others wait for.
    pub fn release_committed(self: &Rc<Self>, moved_at: Instant) -> Option<LogOffset> {
        let mut times =
            CommitTimes { metrics: &self.common.metrics, moved_at, run: None, count: 0 };
        let Standing { committed, is_fenced, cut_count } = self.common.service.standing();
        let is_gone =
            |mark: Awaited| mark.cut_count != cut_count && self.common.service.was_cut(mark);
        let next = {
            let replies = &mut *self.replies.borrow_mut();
            let is_over = |waiting: &mut UncommittedReply<_>| {
                waiting.mark.end <= committed || is_fenced || is_gone(waiting.mark)
            };
            while let Some(waiting) = replies.uncommitted.pop_front_if(is_over) {
                let UncommittedReply { mark, to, reply, size, read_at } = waiting;
                replies.in_flight -= size;
                let is_true = mark.end <= committed && !is_gone(mark);
                let reply = if is_true { Ok(reply) } else { Err(Refusal::OutcomeUnknown) };
                match &reply {
                    Ok(_) => times.note(read_at),
                    Err(refusal) => self.common.metrics.refused.add(refusal),
                }
                let Some(to) = to else { continue };
                replies.output.push(|out| wire::encode_reply(out, to, &reply, 0), Vec::new());
            }
            self.output_share.set(replies.output.held());
            replies.uncommitted.front().map(|waiting| waiting.mark.end)
        };
        let count = times.end();
        if self.flush() > 0 {
            let sent_after = self.last_used.get().saturating_duration_since(moved_at);
            self.common.metrics.reply.record_many(sent_after.as_nanos() as u64, count);
        }
        self.moved.notify();
        self.parked.borrow_mut().wake();
        next
    }

    pub(super) fn output_max(&self) -> usize {
        if self.output_share.is_scarce() { OUTPUT_SHARE } else { OUTPUT_MAX }
    }
}

/// Times from read to commit; requests of one read share theirs.
struct CommitTimes<'a> {
    metrics: &'a Metrics,
    moved_at: Instant,
    /// When the latest requests were read, and their number.
    run: Option<(Instant, u64)>,
    count: u64,
}

impl CommitTimes<'_> {
    fn note(&mut self, read_at: Instant) {
        self.count += 1;
        match &mut self.run {
            Some((of, count)) if *of == read_at => *count += 1,
            _ => {
                self.record();
                self.run = Some((read_at, 1));
            }
        }
    }

    /// Returns the total number.
    fn end(mut self) -> u64 {
        self.record();
        self.count
    }

    fn record(&mut self) {
        if let Some((read_at, count)) = self.run.take() {
            let took = self.moved_at.saturating_duration_since(read_at);
            self.metrics.commit.record_many(took.as_nanos() as u64, count);
        }
    }
}
