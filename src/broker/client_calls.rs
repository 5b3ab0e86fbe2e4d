//! Sends requests to clients, and waits for their replies. The requests, the calls in flight and what
//! ends a call are in [`clients`](super::clients); the shard knows the connections.
//!
//! Whatever queues a request wakes the shard. A call whose caller no longer waits is given up, so it
//! does not count until its deadline.

use std::rc::Rc;

use super::Broker;
use super::clients::{CallError, CallId, Outgoing};
use super::groups::Groups;
use crate::model::{ClientReply, ClientRequest, GroupName, Moment};
use crate::storage::disk::Disk;
use crate::storage::signal::Signal;

impl<D: Disk> Broker<D> {
    /// The next request to send.
    pub fn take_outgoing(&self) -> Option<Outgoing> {
        self.state.borrow_mut().clients.take_outgoing()
    }

    /// The next notification that can be sent at `now`: a member's group has changed.
    pub fn take_notice(&self, now: Moment) -> Option<Outgoing> {
        self.state.borrow_mut().clients.take_notice(now)
    }

    /// When a notification can be sent; `None` if there is none.
    pub fn next_notice(&self) -> Option<Moment> {
        self.state.borrow().clients.next_notice()
    }

    /// Waits until there is a request to send, or a notification, whether it can be sent already or
    /// not.
    pub async fn has_outgoing_or_notice(&self) {
        let is_there = || self.has_outgoing_now() || self.next_notice().is_some();
        self.outgoing.wait(|| is_there().then_some(())).await;
    }

    /// Waits until there is a request to send.
    pub async fn has_outgoing(&self) {
        self.outgoing.wait(|| self.has_outgoing_now().then_some(())).await;
    }

    fn has_outgoing_now(&self) -> bool {
        self.state.borrow().clients.has_outgoing()
    }

    /// Sends a one-way request to the client behind `connection`. Returns false if the queue is
    /// full.
    pub fn notify_client(&self, connection: u64, request: ClientRequest) -> bool {
        let is_taken = self.state.borrow_mut().clients.notify(connection, request);
        self.outgoing.notify();
        is_taken
    }

    /// Sends a request to the client behind `connection` and waits for the reply, until `until`.
    pub async fn call_client(
        &self,
        connection: u64,
        request: ClientRequest,
        until: Moment,
    ) -> Result<ClientReply, CallError> {
        self.begin_call(connection, request, until)?.reply().await
    }

    /// Begins a call without waiting for it, so that calls to several clients run concurrently.
    pub(super) fn begin_call(
        &self,
        connection: u64,
        request: ClientRequest,
        until: Moment,
    ) -> Result<PendingCall<'_, D>, CallError> {
        let (id, moved) = {
            let state = &mut *self.state.borrow_mut();
            state.clients.begin_call(connection, request, until, &mut state.deadlines)?
        };
        self.outgoing.notify();
        Ok(PendingCall { broker: self, id, moved })
    }

    /// Ends a call that the client has answered or refused. Ignored if the call has already ended.
    pub fn reply_arrived(&self, call: CallId, reply: Result<ClientReply, CallError>) {
        let state = &mut *self.state.borrow_mut();
        state.clients.end_call(call, reply, &mut state.deadlines);
    }

    /// Notifies the members of a group that its members or topics have changed (remoting reference,
    /// 5.23). Clients also check every 20 s on their own, so a missed notification only delays
    /// them.
    pub(super) fn notify_members(&self, group: &GroupName) {
        let state = &mut *self.state.borrow_mut();
        state.clients.add_notices(group, state.groups.connections_to_notify(group));
        self.outgoing.notify();
    }
}

/// A call whose caller waits.
pub(super) struct PendingCall<'a, D: Disk> {
    broker: &'a Broker<D>,
    id: CallId,
    moved: Rc<Signal>,
}

impl<D: Disk> PendingCall<'_, D> {
    pub async fn reply(self) -> Result<ClientReply, CallError> {
        self.reply_while(|_| true).await
    }

    /// Waits for the reply as long as `is_there` is true.
    pub async fn reply_while(
        self,
        is_there: impl Fn(&Groups) -> bool,
    ) -> Result<ClientReply, CallError> {
        let take_ended = || {
            let state = &mut *self.broker.state.borrow_mut();
            let left = || (!is_there(&state.groups)).then_some(Err(CallError::Left));
            state.clients.take_ended(self.id).or_else(left)
        };
        self.moved.wait(take_ended).await
    }
}

impl<D: Disk> Drop for PendingCall<'_, D> {
    fn drop(&mut self) {
        let state = &mut *self.broker.state.borrow_mut();
        state.clients.give_up(self.id, &mut state.deadlines);
    }
}
