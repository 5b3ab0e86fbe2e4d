//! Requests that the broker sends to its clients (remoting reference, 3.10): one-way, or with a reply
//! that an operation waits for, until a deadline.
//!
//! ```text
//!   notify, call ─▶ outgoing ─▶ (the shard takes them, each to its connection)
//!   group changed ─▶ notices ─▶ (likewise, at a limited rate)
//!        call waits ◀── reply_arrived | deadline | connection_closed
//! ```
//!
//! Invariants: a call ends exactly once, by whichever of the three comes first. The queue of
//! requests to send and the number of calls in flight are bounded; at the bound, a call is refused
//! and a notification is dropped, since clients also check on a timer.
//!
//! Nothing here wakes the shard that sends: that is in [`client_calls`](super::client_calls).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use super::notices::Notices;
use crate::model::deadlines::{DeadlineId, Deadlines};
use crate::model::{ClientReply, ClientRequest, GroupName, Moment};
use crate::storage::signal::Signal;

/// Maximum number of requests waiting to be sent: a reset for every member of the largest group.
const OUTGOING_MAX: usize = 50_000;
/// Maximum number of calls in flight per shard.
const CALLS_MAX: usize = 10_000;

/// Identifies a call until it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u64);

/// A request on its way to a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    pub connection: u64,
    pub request: ClientRequest,
    /// The call that waits for the reply; `None` for a one-way request.
    pub call: Option<CallId>,
}

/// Why a call got no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("the client did not reply in time")]
    TimedOut,
    #[error("the client's connection was closed")]
    Closed,
    #[error("the client refused with code {code}: {remark}")]
    Refused { code: i32, remark: String },
    #[error("the client left the group, or uses another connection now")]
    Left,
    #[error("too many requests to clients are in flight")]
    TooMany,
}

#[derive(Default)]
pub struct Clients {
    outgoing: VecDeque<Outgoing>,
    notices: Notices,
    calls: BTreeMap<CallId, Call>,
    by_connection: BTreeSet<(u64, CallId)>,
    next_call: u64,
}

struct Call {
    connection: u64,
    deadline: DeadlineId,
    ended: Option<Result<ClientReply, CallError>>,
    /// Wakes the caller, and no other: the call has ended, or its client may have left.
    moved: Rc<Signal>,
}

impl Clients {
    /// Takes the next request to send.
    pub fn take_outgoing(&mut self) -> Option<Outgoing> {
        self.outgoing.pop_front()
    }

    /// Whether there is a request to send.
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Takes the next notification that can be sent at `now`: a member's group has changed.
    pub fn take_notice(&mut self, now: Moment) -> Option<Outgoing> {
        let (connection, group) = self.notices.take(now)?;
        Some(Outgoing { connection, request: ClientRequest::MembersChanged { group }, call: None })
    }

    /// When a notification can be sent; `None` if there is none.
    pub fn next_notice(&self) -> Option<Moment> {
        self.notices.next()
    }

    /// Members of a group are to be notified that it has changed.
    pub fn add_notices(&mut self, group: &GroupName, connections: BTreeSet<u64>) {
        self.notices.add(group, connections);
    }

    /// Queues a one-way request; returns false if the queue is full.
    pub fn notify(&mut self, connection: u64, request: ClientRequest) -> bool {
        assert!(request.is_one_way(), "nobody would get the reply");
        let has_room = self.outgoing.len() < OUTGOING_MAX;
        if has_room {
            self.outgoing.push_back(Outgoing { connection, request, call: None });
        }
        has_room
    }

    /// Queues a request whose reply is waited for until `until`. Returns what wakes the caller.
    pub fn begin_call<T: From<CallId>>(
        &mut self,
        connection: u64,
        request: ClientRequest,
        until: Moment,
        deadlines: &mut Deadlines<T>,
    ) -> Result<(CallId, Rc<Signal>), CallError> {
        if self.calls.len() >= CALLS_MAX || self.outgoing.len() >= OUTGOING_MAX {
            return Err(CallError::TooMany);
        }
        let id = CallId(self.next_call);
        self.next_call += 1;
        let deadline = deadlines.insert(until, id.into());
        let moved = Rc::<Signal>::default();
        self.calls.insert(id, Call { connection, deadline, ended: None, moved: moved.clone() });
        self.by_connection.insert((connection, id));
        self.outgoing.push_back(Outgoing { connection, request, call: Some(id) });
        Ok((id, moved))
    }

    /// Ends a call if it is still in flight.
    pub fn end_call<T>(
        &mut self,
        id: CallId,
        how: Result<ClientReply, CallError>,
        deadlines: &mut Deadlines<T>,
    ) {
        if let Some(call) = self.calls.get_mut(&id)
            && call.ended.is_none()
        {
            deadlines.cancel(call.deadline);
            call.ended = Some(how);
            call.moved.notify();
        }
    }

    /// Takes the result of a call, which is available once.
    pub fn take_ended(&mut self, id: CallId) -> Option<Result<ClientReply, CallError>> {
        let how = self.calls.get_mut(&id)?.ended.take()?;
        self.remove(id);
        Some(how)
    }

    /// Forgets a call whose caller no longer waits.
    pub fn give_up<T>(&mut self, id: CallId, deadlines: &mut Deadlines<T>) {
        if let Some(call) = self.remove(id) {
            deadlines.cancel(call.deadline);
        }
    }

    fn remove(&mut self, id: CallId) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        self.by_connection.remove(&(call.connection, id));
        Some(call)
    }

    pub fn connection_closed<T>(&mut self, connection: u64, deadlines: &mut Deadlines<T>) {
        let ids: Vec<CallId> = self.calls_over(connection).collect();
        ids.into_iter().for_each(|id| self.end_call(id, Err(CallError::Closed), deadlines));
    }

    /// Wakes the callers of clients that may be reached no longer over these connections.
    pub fn notice_superseded(&self, connections: &BTreeSet<u64>) {
        let calls = connections.iter().flat_map(|connection| self.calls_over(*connection));
        calls.filter_map(|id| self.calls.get(&id)).for_each(|call| call.moved.notify());
    }

    fn calls_over(&self, connection: u64) -> impl Iterator<Item = CallId> {
        let all = (connection, CallId(0))..=(connection, CallId(u64::MAX));
        self.by_connection.range(all).map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TopicName;

    fn status() -> ClientRequest {
        let (topic, group) = (TopicName::new("t").unwrap(), GroupName::new("g").unwrap());
        ClientRequest::ConsumerStatus { topic, group }
    }

    fn changed() -> ClientRequest {
        ClientRequest::MembersChanged { group: GroupName::new("g").unwrap() }
    }

    #[test]
    fn a_call_ends_once_by_whatever_comes_first() {
        let (mut clients, mut deadlines) = (Clients::default(), Deadlines::default());
        let reply = || Ok(ClientReply::ConsumerStatus(Vec::new()));
        let call = |clients: &mut Clients, deadlines: &mut Deadlines<CallId>, connection| {
            clients.begin_call(connection, status(), Moment(10), deadlines).unwrap().0
        };
        let replied = call(&mut clients, &mut deadlines, 1);
        let late = call(&mut clients, &mut deadlines, 1);
        let closed = call(&mut clients, &mut deadlines, 2);
        let given_up = call(&mut clients, &mut deadlines, 3);
        assert_eq!(clients.take_ended(replied), None);
        clients.end_call(replied, reply(), &mut deadlines);
        clients.connection_closed(2, &mut deadlines);
        clients.give_up(given_up, &mut deadlines);
        let mut due = Vec::new();
        while let Some(id) = deadlines.take_due(Moment(10)) {
            due.push(id);
            clients.end_call(id, Err(CallError::TimedOut), &mut deadlines);
        }
        assert_eq!(due, [late]);
        clients.end_call(late, reply(), &mut deadlines);
        for (id, expected) in [
            (replied, Some(reply())),
            (late, Some(Err(CallError::TimedOut))),
            (closed, Some(Err(CallError::Closed))),
            (given_up, None),
        ] {
            assert_eq!(clients.take_ended(id), expected);
            assert_eq!(clients.take_ended(id), None, "it was taken");
        }
        assert!(clients.calls.is_empty() && deadlines.is_empty());
        assert!(clients.by_connection.is_empty());
    }

    #[test]
    fn what_waits_to_be_sent_has_a_bound() {
        let (mut clients, mut deadlines) = (Clients::default(), Deadlines::<CallId>::default());
        for _ in 0..OUTGOING_MAX {
            assert!(clients.notify(1, changed()));
        }
        assert!(!clients.notify(1, changed()));
        let call = clients.begin_call(1, status(), Moment(10), &mut deadlines);
        assert_eq!(call.err(), Some(CallError::TooMany));
    }
}
