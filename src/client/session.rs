//! The protocol state of one connection, without the connection: matches replies to requests, and
//! times out requests.
//!
//! Does no I/O and reads no clock. The driver carries bytes between a socket and
//! [`Session::handle_bytes`] and [`Session::poll_bytes`], and calls [`Session::handle_timeout`] when
//! [`Session::poll_timeout`] is due.
//!
//! Invariants:
//! - Every started request ends in exactly one result.
//! - `sent_bytes <= queued_bytes`, both counted from the start of the connection. A request whose
//!   last byte was not sent when the connection ended has had no effect, because a server acts only
//!   on complete frames.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::BytesMut;

use crate::model::{ClientReply, ClientRequest, Refusal, Timestamp};
use crate::wire::{
    EncodeError, EncodeRequest, FRAME_SIZE_MAX, FrameError, Head, HeaderEncoding, ReplyTo,
    Response, decode_command, decode_head, encode_reply, encode_request, next_frame,
};

/// Maximum number of requests in flight per connection.
pub const IN_FLIGHT_MAX: usize = 1_024;
/// Maximum bytes waiting to be sent; beyond it requests are refused. One frame always fits.
pub const QUEUED_BYTES_MAX: usize = 32 << 20;
/// Sent bytes are removed from the front of the buffer in steps of this size, bytes.
const COMPACT_STEP: usize = 1 << 20;

/// Maximum number of unread server requests. Further ones are refused as busy or, if one-way,
/// dropped: each only reports that something has changed.
pub const SERVER_REQUESTS_MAX: usize = 64;

/// The number that matches a request and its reply.
pub type Opaque = i32;

/// Why a request got no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It was not sent completely, so it had no effect.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It was sent; whether it took effect is unknown.
    #[error("not answered: {0}")]
    Unanswered(String),
}

/// Why a request was not started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("too many requests are in flight on this connection")]
    Full,
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

pub type CallResult = Result<Response, CallError>;

/// A server request, and where the reply goes; `None` if one-way.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerRequest {
    pub request: ClientRequest,
    pub reply_to: Option<ReplyTo>,
}

#[derive(Debug, Default)]
pub struct Session {
    input: BytesMut,
    output: Vec<u8>,
    /// Sent bytes still at the front of `output`.
    output_sent: usize,
    sent_bytes: u64,
    next_opaque: Opaque,
    in_flight: HashMap<Opaque, InFlight>,
    deadlines: BTreeSet<(Timestamp, Opaque)>,
    finished: VecDeque<(Opaque, CallResult)>,
    /// At most [`SERVER_REQUESTS_MAX`].
    server_requests: VecDeque<ServerRequest>,
}

#[derive(Debug)]
struct InFlight {
    deadline: Timestamp,
    /// Value of `sent_bytes` when the request's last byte is sent.
    ends_at: u64,
}

impl Session {
    /// Whether [`start`](Self::start) would accept another request.
    pub fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT_MAX && self.poll_bytes().len() < QUEUED_BYTES_MAX
    }

    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.poll_bytes().is_empty()
    }

    /// Queues a request for sending. Its result comes from [`poll_finished`](Self::poll_finished),
    /// at `deadline` at the latest.
    pub fn start(
        &mut self,
        encoding: HeaderEncoding,
        request: &impl EncodeRequest,
        deadline: Timestamp,
    ) -> Result<Opaque, StartError> {
        if !self.has_room() {
            return Err(StartError::Full);
        }
        let opaque = self.next_opaque;
        let before = self.output.len();
        encode_request(&mut self.output, encoding, opaque, false, request)
            .inspect_err(|_| self.output.truncate(before))?;
        self.next_opaque = opaque.wrapping_add(1) & Opaque::MAX;
        let ends_at = self.sent_bytes + self.poll_bytes().len() as u64;
        self.in_flight.insert(opaque, InFlight { deadline, ends_at });
        self.deadlines.insert((deadline, opaque));
        Ok(opaque)
    }

    /// Processes bytes from the server. After an error the connection is unusable.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        self.input.extend_from_slice(bytes);
        while let Some(frame) = next_frame(&mut self.input, FRAME_SIZE_MAX)? {
            let mut head = Head::of(&frame);
            decode_head(&mut head)?;
            if !head.is_reply() {
                self.handle_request(head);
            } else if self.in_flight.contains_key(&head.opaque) {
                self.complete(head.opaque, Ok(Response::of(head)?));
            }
            // A reply that arrives after its deadline has no waiter.
        }
        Ok(())
    }

    fn handle_request(&mut self, mut head: Head<'_>) {
        let reply_to = (!head.is_one_way()).then(|| head.reply_to());
        let refusal = match decode_command(&mut head) {
            Ok(request) if self.server_requests.len() < SERVER_REQUESTS_MAX => {
                return self.server_requests.push_back(ServerRequest { request, reply_to });
            }
            Ok(_) => {
                Refusal::Busy { reason: "client_queue", wait_ms: 0, retry_after_ms: 0, shard: 0 }
            }
            Err(refusal) => refusal,
        };
        if let Some(to) = reply_to {
            self.reply(to, &Err(refusal));
        }
    }

    /// The next server request, in order of arrival.
    pub fn poll_server_request(&mut self) -> Option<ServerRequest> {
        self.server_requests.pop_front()
    }

    /// Queues the reply to a server request. If the server does not read, further replies are
    /// dropped: it has a deadline for every request.
    pub fn reply(&mut self, to: ReplyTo, reply: &Result<ClientReply, Refusal>) {
        if self.poll_bytes().len() < QUEUED_BYTES_MAX {
            encode_reply(&mut self.output, to, reply, 0);
        }
    }

    /// The bytes to send next; may be empty.
    pub fn poll_bytes(&self) -> &[u8] {
        &self.output[self.output_sent..]
    }

    /// Notes that the first `count` bytes of [`poll_bytes`](Self::poll_bytes) have been sent.
    pub fn handle_sent(&mut self, count: usize) {
        assert!(count <= self.poll_bytes().len());
        self.output_sent += count;
        self.sent_bytes += count as u64;
        if self.output_sent == self.output.len() {
            self.output.clear();
            self.output_sent = 0;
        } else if self.output_sent >= COMPACT_STEP {
            self.output.drain(..self.output_sent);
            self.output_sent = 0;
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Times out all requests whose deadline has passed. Their frames stay queued: a part may have
    /// been sent, and the server needs the rest to find the next frame. Returns whether there were
    /// any.
    pub fn handle_timeout(&mut self, now: Timestamp) -> bool {
        let before = self.in_flight.len();
        while let Some(&(deadline, opaque)) = self.deadlines.first()
            && deadline <= now
        {
            self.complete(opaque, Err(CallError::Unanswered("no answer in time".to_owned())));
        }
        self.in_flight.len() < before
    }

    /// Ends all requests in flight, because the connection has closed.
    pub fn handle_closed(&mut self, why: &str) {
        let mut opaques: Vec<Opaque> = self.in_flight.keys().copied().collect();
        opaques.sort_unstable();
        for opaque in opaques {
            let was_sent = self.in_flight[&opaque].ends_at <= self.sent_bytes;
            let error = if was_sent { CallError::Unanswered } else { CallError::NotSent };
            self.complete(opaque, Err(error(why.to_owned())));
        }
    }

    /// The next result, in the order in which requests ended.
    pub fn poll_finished(&mut self) -> Option<(Opaque, CallResult)> {
        self.finished.pop_front()
    }

    fn complete(&mut self, opaque: Opaque, result: CallResult) {
        let call = self.in_flight.remove(&opaque).expect("callers have looked it up");
        self.deadlines.remove(&(call.deadline, opaque));
        self.finished.push_back((opaque, result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GroupName, NameServerReply, NameServerRequest, TopicName};
    use crate::wire::codes::response::{REQUEST_CODE_NOT_SUPPORTED, SYSTEM_BUSY};
    use crate::wire::{Dialect, decode_reply, decode_request, encode_client_request, encode_reply};

    const SECOND_MS: u64 = 1_000;

    /// The other side: answers everything, in reverse order.
    fn answer(bytes: &[u8], answer: &Result<NameServerReply, Refusal>) -> Vec<u8> {
        let mut input = BytesMut::from(bytes);
        let mut replies = Vec::new();
        while let Some(frame) = next_frame(&mut input, FRAME_SIZE_MAX).unwrap() {
            let incoming = decode_request::<NameServerRequest>(&frame).unwrap();
            let mut out = Vec::new();
            encode_reply(&mut out, incoming.reply_to, answer, 0);
            replies.push(out);
        }
        assert!(input.is_empty());
        replies.reverse();
        replies.concat()
    }

    fn take(session: &mut Session) -> Vec<u8> {
        let bytes = session.poll_bytes().to_vec();
        session.handle_sent(bytes.len());
        bytes
    }

    fn start(session: &mut Session, deadline_ms: u64) -> Opaque {
        let deadline = Timestamp(deadline_ms);
        session.start(HeaderEncoding::Json, &NameServerRequest::TopicList, deadline).unwrap()
    }

    fn start_many(session: &mut Session, count: usize) {
        for _ in 0..count {
            start(session, SECOND_MS);
        }
    }

    fn finished(session: &mut Session) -> Vec<(Opaque, Result<i32, CallError>)> {
        std::iter::from_fn(|| session.poll_finished())
            .map(|(opaque, result)| (opaque, result.map(|response| response.code)))
            .collect()
    }

    #[test]
    fn answers_find_their_requests_however_bytes_are_cut() {
        let sent = {
            let mut session = Session::default();
            start_many(&mut session, 3);
            take(&mut session)
        };
        let replies = answer(&sent, &Ok(NameServerReply::Done));
        for cut in 0..=replies.len() {
            let mut session = Session::default();
            start_many(&mut session, 3);
            session.handle_sent(cut.min(sent.len()));
            session.handle_bytes(&replies[..cut]).unwrap();
            session.handle_bytes(&replies[cut..]).unwrap();
            assert_eq!(
                finished(&mut session),
                [(2, Ok(0)), (1, Ok(0)), (0, Ok(0))],
                "cut at {cut}"
            );
            assert_eq!(session.poll_timeout(), None);
        }
    }

    #[test]
    fn a_request_ends_at_its_deadline_and_its_late_answer_is_dropped() {
        let mut session = Session::default();
        let patient = start(&mut session, 2 * SECOND_MS);
        let hasty = start(&mut session, SECOND_MS);
        let replies = answer(&take(&mut session), &Ok(NameServerReply::Done));
        assert_eq!(session.poll_timeout(), Some(Timestamp(SECOND_MS)));
        assert!(!session.handle_timeout(Timestamp(SECOND_MS - 1)));
        assert_eq!(finished(&mut session), []);
        assert!(session.handle_timeout(Timestamp(SECOND_MS)));
        let unanswered = CallError::Unanswered("no answer in time".to_owned());
        assert_eq!(finished(&mut session), [(hasty, Err(unanswered))]);
        session.handle_bytes(&replies).unwrap();
        assert_eq!(finished(&mut session), [(patient, Ok(0))]);
        assert!(session.is_idle());
    }

    #[test]
    fn what_was_not_sent_as_a_whole_had_no_effect() {
        let one = {
            let mut session = Session::default();
            start(&mut session, SECOND_MS);
            take(&mut session).len()
        };
        for sent in 0..=2 * one {
            let mut session = Session::default();
            start_many(&mut session, 2);
            session.handle_sent(sent);
            session.handle_closed("cut");
            let expected = |ends_at: usize| {
                let error =
                    if sent >= ends_at { CallError::Unanswered } else { CallError::NotSent };
                Err(error("cut".to_owned()))
            };
            let ended = finished(&mut session);
            assert_eq!(ended, [(0, expected(one)), (1, expected(2 * one))], "{sent} sent");
        }
    }

    fn group() -> GroupName {
        GroupName::new("g").unwrap()
    }

    /// The frame of a request that a server sends with the number `opaque`.
    fn asked(opaque: Opaque, request: &ClientRequest) -> Vec<u8> {
        let mut out = Vec::new();
        encode_client_request(&mut out, Dialect::default(), opaque, request).unwrap();
        out
    }

    /// The replies that a session has queued: number and code.
    fn replies(session: &mut Session) -> Vec<(Opaque, i32)> {
        let mut input = BytesMut::from(&take(session)[..]);
        std::iter::from_fn(|| next_frame(&mut input, FRAME_SIZE_MAX).unwrap())
            .map(|frame| decode_reply(&frame).unwrap())
            .filter(|response| response.is_reply)
            .map(|response| (response.opaque, response.code))
            .collect()
    }

    /// Works even while our own request with the same number is in flight.
    #[test]
    fn requests_of_the_server_are_handed_over_and_replied_to() {
        let mut session = Session::default();
        let own = start(&mut session, SECOND_MS);
        let own_sent = take(&mut session);
        let changed = ClientRequest::MembersChanged { group: group() };
        let status =
            ClientRequest::ConsumerStatus { topic: TopicName::new("T").unwrap(), group: group() };
        session.handle_bytes(&[asked(own, &changed), asked(own, &status)].concat()).unwrap();
        assert_eq!(finished(&mut session), []);
        let one_way = ServerRequest { request: changed, reply_to: None };
        assert_eq!(session.poll_server_request(), Some(one_way));
        let ServerRequest { request, reply_to } = session.poll_server_request().unwrap();
        assert_eq!(request, status);
        session.reply(reply_to.unwrap(), &Ok(ClientReply::ConsumerStatus(Vec::new())));
        assert_eq!(replies(&mut session), [(own, 0)]);
        assert_eq!(session.poll_server_request(), None);
        session.handle_bytes(&answer(&own_sent, &Ok(NameServerReply::Done))).unwrap();
        assert_eq!(finished(&mut session), [(own, Ok(0))]);
    }

    #[test]
    fn unknown_requests_of_the_server_are_refused_unless_one_way() {
        let mut session = Session::default();
        for (opaque, one_way) in [(1, false), (2, true)] {
            let mut out = Vec::new();
            let unknown = NameServerRequest::TopicList;
            encode_request(&mut out, HeaderEncoding::Json, opaque, one_way, &unknown).unwrap();
            session.handle_bytes(&out).unwrap();
        }
        assert_eq!(session.poll_server_request(), None);
        assert_eq!(replies(&mut session), [(1, REQUEST_CODE_NOT_SUPPORTED)]);
    }

    #[test]
    fn only_so_many_requests_of_the_server_wait() {
        let mut session = Session::default();
        let status =
            ClientRequest::ConsumerStatus { topic: TopicName::new("T").unwrap(), group: group() };
        for opaque in 0..=SERVER_REQUESTS_MAX as Opaque {
            session.handle_bytes(&asked(opaque, &status)).unwrap();
        }
        assert_eq!(replies(&mut session), [(SERVER_REQUESTS_MAX as Opaque, SYSTEM_BUSY)]);
        let waiting = std::iter::from_fn(|| session.poll_server_request()).count();
        assert_eq!(waiting, SERVER_REQUESTS_MAX);
    }

    #[test]
    fn replies_to_a_server_that_does_not_read_have_a_bound() {
        let mut session = Session::default();
        let mut unknown = Vec::new();
        let request = NameServerRequest::TopicList;
        encode_request(&mut unknown, HeaderEncoding::Json, 1, false, &request).unwrap();
        let flood = unknown.repeat(10_000);
        while session.poll_bytes().len() < QUEUED_BYTES_MAX {
            session.handle_bytes(&flood).unwrap();
        }
        let size = session.poll_bytes().len();
        session.handle_bytes(&flood).unwrap();
        assert_eq!(session.poll_bytes().len(), size);
    }

    #[test]
    fn a_reply_that_nobody_waits_for_is_dropped() {
        let sent = {
            let mut session = Session::default();
            start(&mut session, SECOND_MS);
            take(&mut session)
        };
        let mut session = Session::default();
        session.handle_bytes(&answer(&sent, &Ok(NameServerReply::Done))).unwrap();
        assert_eq!(finished(&mut session), []);
    }

    #[test]
    fn a_connection_has_room_for_so_many_requests() {
        let mut session = Session::default();
        start_many(&mut session, IN_FLIGHT_MAX);
        let full = session.start(HeaderEncoding::Json, &NameServerRequest::TopicList, Timestamp(0));
        assert_eq!(full, Err(StartError::Full));
        session.handle_closed("cut");
        assert_eq!(finished(&mut session).len(), IN_FLIGHT_MAX);
    }

    #[test]
    fn lost_framing_is_an_error() {
        let mut session = Session::default();
        assert!(session.handle_bytes(b"HTTP/1.1 400 Bad Request\r\n").is_err());
    }

    #[test]
    fn sent_bytes_leave_the_buffer() {
        let mut session = Session::default();
        let mut sent = 0;
        while sent < 3 * COMPACT_STEP {
            start(&mut session, SECOND_MS);
            start(&mut session, SECOND_MS);
            // One byte remains, so the buffer is never empty.
            let count = session.poll_bytes().len() - 1;
            session.handle_sent(count);
            sent += count;
            session.handle_closed("answered");
            finished(&mut session);
        }
        assert!(session.output.len() < 2 * COMPACT_STEP);
        assert_eq!(session.sent_bytes, sent as u64);
    }
}
