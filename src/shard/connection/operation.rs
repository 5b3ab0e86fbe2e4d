//! Operations, and pulls that read the disk. Each has its own task, which is dropped at its next
//! await when the connection is closed.

use std::pin::pin;
use std::rc::Rc;

use futures_util::future::{Either, select};
use glommio::sync::Permit;

use super::Connection;
use crate::broker::operation::Context;
use crate::broker::{Origin, Outcome, PullTask};
use crate::model::Now;
use crate::model::Peer;
use crate::reactor;
use crate::shard::asked::{Arrival, Asked};
use crate::shard::budget::KeptMemory;
use crate::shard::clock;
use crate::shard::common::OPERATIONS_MAX;
use crate::shard::service::Service;

impl<S: Service> Connection<S> {
    pub(super) fn origin(&self, asked: Asked) -> Origin {
        Origin {
            connection: self.id,
            ticket: asked.ticket,
            host: self.peer,
            principal: asked.principal,
            wants_answer: asked.to.is_some(),
        }
    }

    pub(super) fn run_operation(
        self: &Rc<Self>,
        asked: Asked,
        request: S::Request,
        arrival: Arrival,
    ) {
        let Some(memory) = self.keep_memory(arrival) else {
            return self.refuse_busy(asked, "operations", 0);
        };
        self.start(asked, memory, async move |context: OperationContext<S>| {
            let service = &context.connection.common.service;
            Outcome::Now(service.operate(request, &context).await)
        });
    }

    pub(super) fn run_cold_pull(
        self: &Rc<Self>,
        asked: Asked,
        task: Box<PullTask>,
        arrival: Arrival,
    ) {
        match self.keep_memory(arrival) {
            Some(memory) => self.start_cold_pull(asked, task, memory),
            None => self.refuse_busy(asked, "operations", 0),
        }
    }

    /// Runs a pull that was held, whose request's memory was released then.
    pub(super) fn run_released(self: &Rc<Self>, asked: Asked, task: Box<PullTask>) {
        self.start_cold_pull(asked, task, Rc::default());
    }

    fn start_cold_pull(self: &Rc<Self>, asked: Asked, task: Box<PullTask>, memory: Rc<KeptMemory>) {
        self.start(asked, memory, async move |context: OperationContext<S>| {
            context.connection.common.service.pull_cold(task, &context).await
        });
    }

    /// Counts the memory of a request until its operation ends. `None` if it exceeds the shard's
    /// budget, or if that is scarce and the connection already has a part of it.
    fn keep_memory(&self, Arrival { read, memory, .. }: Arrival) -> Option<Rc<KeptMemory>> {
        let (last, kept) = &mut *self.last_kept.borrow_mut();
        if *last == read
            && let Some(kept) = kept.upgrade()
        {
            return Some(kept);
        }
        let share = &self.kept_share;
        let new = KeptMemory::take(share, memory)?;
        (*last, *kept) = (read, Rc::downgrade(&new));
        Some(new)
    }

    /// Runs an operation or cold pull in its own task, which is dropped at its current await when
    /// the connection is closed.
    fn start(
        self: &Rc<Self>,
        asked: Asked,
        memory: Rc<KeptMemory>,
        work: impl AsyncFnOnce(OperationContext<S>) -> Outcome<S::Reply> + 'static,
    ) {
        let under_way = self.common.operations.get();
        if under_way >= OPERATIONS_MAX {
            return self.refuse_busy(asked, "operations", 0);
        }
        self.common.operations.set(under_way + 1);
        self.replies.borrow_mut().tasks += 1;
        let connection = self.clone();
        reactor::spawn(async move {
            let outcome = {
                let context = OperationContext { connection: connection.clone(), asked };
                let work = pin!(work(context));
                let is_closed = || connection.is_closed.get().then_some(());
                match select(work, pin!(connection.ended.wait(is_closed))).await {
                    Either::Left((outcome, _)) => Some(outcome),
                    Either::Right(_) => None,
                }
            };
            drop(memory);
            connection.replies.borrow_mut().tasks -= 1;
            let operations = &connection.common.operations;
            operations.set(operations.get() - 1);
            // Requests of the operation to clients are sent before its reply.
            connection.owner.send_outgoing();
            if let Some(outcome) = outcome {
                connection.settle(asked, outcome);
                connection.flush();
            }
            connection.moved.notify();
        })
        .detach();
    }

    /// Waits until there is room for a reply of `size` bytes, and reserves it.
    async fn room_for_answer(self: &Rc<Self>, size: usize) -> ReservedReply<S> {
        let has_room = || {
            let replies = self.replies.borrow();
            let taken = replies.output.held() + replies.promised;
            (taken == 0 || taken + size <= self.output_max()).then_some(())
        };
        self.moved.wait(has_room).await;
        self.replies.borrow_mut().promised += size;
        ReservedReply { connection: self.clone(), size }
    }
}

/// The context of an operation requested by a client.
struct OperationContext<S: Service> {
    connection: Rc<Connection<S>>,
    asked: Asked,
}

impl<S: Service> Context for OperationContext<S> {
    type ColdRead<'a> = (ReservedReply<S>, Permit<'a>);

    fn origin(&self) -> Origin {
        self.connection.origin(self.asked)
    }

    fn peer(&self) -> Peer {
        Peer {
            host: self.connection.peer,
            language: self.connection.calls.borrow().language() as u8,
            version: self.asked.to.map_or(0, |to| to.version),
        }
    }

    fn now(&self) -> Now {
        clock::now()
    }

    async fn cold_read(&self, size_max: usize) -> Self::ColdRead<'_> {
        let promise = self.connection.room_for_answer(size_max).await;
        (promise, self.connection.common.cold_permit().await)
    }
}

/// Room reserved for a reply.
struct ReservedReply<S: Service> {
    connection: Rc<Connection<S>>,
    size: usize,
}

impl<S: Service> Drop for ReservedReply<S> {
    fn drop(&mut self) {
        let promised = &mut self.connection.replies.borrow_mut().promised;
        *promised -= self.size;
        self.connection.moved.notify();
    }
}
