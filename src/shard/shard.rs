//! All connections of one shard, and what wakes them.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Deref;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::select;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::clock;
use super::common::{Common, Owner};
use super::connection::Connection;
use super::connection_limit::ConnectionLimit;
use super::nudge::Pulse;
use super::service::Service;
use super::turn::Turn;
use super::uncommitted::Uncommitted;
use crate::broker::Released;
use crate::broker::clients::{CallError, Outgoing};
use crate::model::{Deadlines, LogOffset, Moment, ShardId};
use crate::reactor;
use crate::reactor::net::{TcpListener, TcpStream};
use crate::storage::Standing;
use crate::storage::signal::Signal;

/// Maximum number of requests to clients sent in one step; each is a system call.
const REQUESTS_AT_A_TIME: usize = 64;
/// Number of connections that get replies between two readings of the clock.
const RELEASE_COUNT: usize = 16;
/// Maximum number of connections per shard.
const CONNECTIONS_MAX: usize = 50_000;
/// A connection that holds memory for a large request and has received nothing for this long is
/// closed if others need the memory.
const STALLED_AFTER: Duration = Duration::from_secs(1);
/// How long a connection that is closed takes to return its memory.
const CLOSE_TIME: Duration = Duration::from_millis(5);

/// All connections of one shard. Dereferences to what they share.
pub struct Shard<S: Service> {
    common: Rc<Common<S>>,
    connections: RefCell<FxHashMap<u64, Rc<Connection<S>>>>,
    connection_limit: ConnectionLimit,
    /// Connections with replies that wait for a commit.
    uncommitted: RefCell<Uncommitted>,
    /// Number of cuts of the log up to the last commit.
    cut_count: Cell<u32>,
    /// A task is sending the committed replies.
    pub is_answering: Cell<bool>,
    next_connection: Cell<u64>,
    /// Deadlines of the connections' parked requests.
    deadlines: RefCell<Deadlines<u64>>,
    is_watching: Cell<bool>,
    /// Notified when a deadline is set that is earlier than all others.
    earlier: Signal,
}

impl<S: Service> Deref for Shard<S> {
    type Target = Common<S>;

    fn deref(&self) -> &Common<S> {
        &self.common
    }
}

impl<S: Service> Shard<S> {
    pub fn new(
        id: ShardId,
        service: S,
        connection_limit: ConnectionLimit,
        pulse: Pulse,
    ) -> Rc<Self> {
        Rc::new(Self {
            common: Rc::new(Common::new(id, service, pulse)),
            connections: RefCell::default(),
            connection_limit,
            uncommitted: RefCell::default(),
            cut_count: Cell::new(0),
            is_answering: Cell::new(false),
            next_connection: Cell::new(1),
            deadlines: RefCell::default(),
            is_watching: Cell::new(false),
            earlier: Signal::default(),
        })
    }

    /// Adds a connection and serves it in its own task.
    ///
    /// # Errors
    ///
    /// The shard has [`CONNECTIONS_MAX`] connections, or the process has no descriptor for another.
    pub fn accept(self: &Rc<Self>, stream: TcpStream) -> io::Result<()> {
        if self.connections.borrow().len() >= CONNECTIONS_MAX {
            return Err(io::Error::other(format!("{CONNECTIONS_MAX} connections are open")));
        }
        let Some(counted) = self.connection_limit.count() else {
            let why = "the remaining open files are for the log; raise the limit (ulimit -n, LimitNOFILE=)";
            return Err(io::Error::other(why));
        };
        let id = self.next_connection.replace(self.next_connection.get() + 1);
        let connection = Connection::new(id, stream, counted, self.common.clone(), self.clone())?;
        self.connections.borrow_mut().insert(id, connection.clone());
        self.metrics.connections_opened.add(1);
        reactor::spawn(connection.run()).detach();
        Ok(())
    }

    pub fn connection_count(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Sends replies, for about `time`, after the committed watermark has advanced, or when it
    /// never will again. Returns whether there are more; the caller then calls again.
    pub fn release(self: &Rc<Self>, released: Vec<Released<S::Reply>>, time: Duration) -> bool {
        let moved_at = Instant::now();
        let mut touched: SmallVec<[Rc<Connection<S>>; 8]> = SmallVec::new();
        for Released { origin, outcome } in released {
            if let Some(connection) = self.find(origin.connection) {
                connection.release(origin.ticket, outcome);
                touched.push(connection);
            }
        }
        let Standing { committed, is_fenced, cut_count } = self.service.standing();
        if is_fenced || self.cut_count.replace(cut_count) != cut_count {
            self.release_all(moved_at);
        }
        let has_more = self.release_up_to(committed, moved_at, time);
        touched.into_iter().for_each(|connection| connection.flush_released());
        self.beat();
        has_more
    }

    /// Releases all connections, whatever log offsets their replies wait for: those no longer mean
    /// anything.
    fn release_all(self: &Rc<Self>, moved_at: Instant) {
        let all = self.uncommitted.borrow_mut().take_all();
        all.for_each(|id| self.release_of(id, moved_at));
    }

    /// Sends the committed replies of a connection. The others keep waiting.
    fn release_of(&self, id: u64, moved_at: Instant) {
        if let Some(connection) = self.find(id)
            && let Some(mark) = connection.release_committed(moved_at)
        {
            self.uncommitted.borrow_mut().push(id, mark);
        }
    }

    fn release_up_to(
        self: &Rc<Self>,
        committed: LogOffset,
        moved_at: Instant,
        time: Duration,
    ) -> bool {
        for count in 1.. {
            let Some(id) = self.take_committed(committed) else { break };
            self.release_of(id, moved_at);
            if count % RELEASE_COUNT == 0 && moved_at.elapsed() >= time {
                return true;
            }
        }
        false
    }

    fn take_committed(&self, committed: LogOffset) -> Option<u64> {
        self.uncommitted.borrow_mut().take(committed)
    }

    /// Sends some of the requests that the service has for clients. Returns whether there may be
    /// more; the caller then calls again.
    pub fn send_requests(&self) -> bool {
        for _ in 0..REQUESTS_AT_A_TIME {
            let Some(outgoing) = self.service.take_outgoing() else { return false };
            self.send(&outgoing);
        }
        true
    }

    pub fn send(&self, outgoing: &Outgoing) {
        let sent = match self.find(outgoing.connection) {
            Some(connection) => connection.send_request(outgoing),
            None => Err((outgoing.call, CallError::Closed)),
        };
        if let Err((Some(call), error)) = sent {
            self.service.reply_arrived(call, Err(error));
        }
    }

    fn find(&self, connection: u64) -> Option<Rc<Connection<S>>> {
        self.connections.borrow().get(&connection).cloned()
    }

    /// Refuses overdue requests while there is any deadline.
    async fn watch_deadlines(self: Rc<Self>) {
        let next = || self.deadlines.borrow().next();
        while let Some(at) = next() {
            let wait = Duration::from_millis(at.ms_since(clock::moment()));
            let is_earlier = || next().is_some_and(|next| next < at).then_some(());
            let timer = pin!(reactor::sleep(wait));
            select(timer, self.earlier.wait(is_earlier)).await;
            let mut turn = Turn::begin();
            while let Some(id) = self.take_due(clock::moment()) {
                if let Some(connection) = self.find(id) {
                    connection.refuse_overdue(clock::moment());
                }
                // All connections may be due at the same time, and refusing takes as long as
                // admitting.
                if turn.is_over(0) {
                    self.beat();
                    reactor::pass().await;
                    turn = Turn::begin();
                }
            }
            self.beat();
        }
        self.is_watching.set(false);
    }

    fn take_due(&self, now: Moment) -> Option<u64> {
        self.deadlines.borrow_mut().take_due(now)
    }

    /// Closes idle connections.
    pub fn close_idle(&self, now: Instant) {
        for connection in self.connections.borrow().values() {
            connection.close_if_idle(now);
        }
    }

    /// Accepts nothing new: no connection, and reads no more from the existing ones.
    ///
    /// The listeners close first. A stock client reconnects as soon as a connection ends; if the
    /// new one were accepted and closed, requests that the client has sent in the meantime could
    /// wait for their whole timeout (its `closeChannel` fails them only if it still knows the
    /// connection).
    pub fn stop_accepting(&self, listeners: &[Rc<TcpListener>]) {
        listeners.iter().for_each(|listener| listener.close());
        self.is_stopping.set(true);
    }

    /// Wakes the connections, which then end. Pending replies are still sent.
    pub fn stop_reading(&self) {
        for connection in self.connections.borrow().values() {
            connection.stop_reading();
        }
    }
}

impl<S: Service> Owner for Shard<S> {
    fn wait_for_commit(&self, connection: u64, mark: LogOffset) {
        self.uncommitted.borrow_mut().push(connection, mark);
    }

    fn set_deadline(self: Rc<Self>, at: Moment, connection: u64) {
        let is_earlier = {
            let deadlines = &mut *self.deadlines.borrow_mut();
            let before = deadlines.next();
            deadlines.insert(at, connection);
            before.is_none_or(|before| at < before)
        };
        if !self.is_watching.replace(true) {
            reactor::spawn(self.watch_deadlines()).detach();
        } else if is_earlier {
            self.earlier.notify();
        }
    }

    fn send_outgoing(&self) {
        self.send_requests();
    }

    fn close_stalled_input(&self) -> Instant {
        let (connections, now) = (self.connections.borrow(), Instant::now());
        let since = |connection: &Rc<Connection<S>>| connection.holds_large_input_since();
        let holding = connections.values().filter_map(|one| Some((since(one)?, one)));
        let Some((since, first)) = holding.min_by_key(|(since, _)| *since) else {
            return now + STALLED_AFTER;
        };
        let stalls_at = since + STALLED_AFTER;
        if now < stalls_at {
            return stalls_at;
        }
        tracing::warn!(id = first.id, "closed: it holds memory but makes no progress");
        first.close();
        now + CLOSE_TIME
    }

    fn forget(&self, connection: u64) {
        if self.connections.borrow_mut().remove(&connection).is_some() {
            self.common.metrics.connections_closed.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::net::{self, SocketAddr};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use bytes::BytesMut;

    use super::*;
    use crate::broker::operation::Context;
    use crate::broker::{Answer, Handled, Origin, Outcome, PullTask};
    use crate::model::{Metrics, NameServerReply, NameServerRequest, Now};
    use crate::reactor::net::TcpListener;
    use crate::shard::common::OPERATIONS_MAX;
    use crate::shard::executor::{self, settings_of_tests};
    use crate::shard::nudge::Nudger;
    use crate::storage::{AppendError, Ticket};
    use crate::wire::{FRAME_SIZE_MAX, HeaderEncoding, Response};
    use crate::wire::{decode_reply, encode_request, next_frame};

    const WAIT_MAX: Duration = Duration::from_secs(10);
    const LOOK_AGAIN: Duration = Duration::from_millis(1);

    /// What a test sees of the service, and what it tells it.
    #[derive(Default)]
    struct Control {
        /// Number of requests that each connection has passed to the service.
        handled: Mutex<BTreeMap<u64, usize>>,
        /// Number of operations that may end now.
        permits: AtomicUsize,
        is_over: AtomicBool,
    }

    impl Control {
        fn permit(&self, count: usize) {
            self.permits.fetch_add(count, Ordering::Relaxed);
        }

        async fn wait_for_permit(&self) -> Answer<NameServerReply> {
            let take = |count: usize| count.checked_sub(1);
            let (relaxed, permits) = (Ordering::Relaxed, &self.permits);
            while permits.fetch_update(relaxed, relaxed, take).is_err() {
                reactor::sleep(LOOK_AGAIN).await;
            }
            Answer { reply: Ok(NameServerReply::Done), chunks: Vec::new() }
        }

        fn handled(&self, connection: u64) -> usize {
            self.handled.lock().unwrap().get(&connection).copied().unwrap_or_default()
        }

        /// Waits until `count` requests of the connection have been passed to the service.
        fn wait_for(&self, connection: u64, count: usize) {
            let deadline = Instant::now() + WAIT_MAX;
            while self.handled(connection) != count {
                assert!(Instant::now() < deadline, "{} are handled", self.handled(connection));
                std::thread::sleep(LOOK_AGAIN);
            }
        }
    }

    /// A service whose device stalls: cluster requests are operations and deletions are pulls that
    /// read the disk, both of which take as long as the test wants; route requests append, and are
    /// never committed. Others are answered immediately.
    struct Slow(Arc<Control>);

    impl Service for Slow {
        type Request = NameServerRequest;
        type Reply = NameServerReply;

        fn stores(request: &NameServerRequest) -> bool {
            matches!(request, NameServerRequest::Route { .. })
        }

        fn handle(
            &self,
            request: &NameServerRequest,
            origin: Origin,
            _: Now,
        ) -> Handled<Self::Reply> {
            *self.0.handled.lock().unwrap().entry(origin.connection).or_default() += 1;
            let reply = NameServerReply::Done;
            Handled::Done(match request {
                NameServerRequest::ClusterInfo => return Handled::Operation,
                NameServerRequest::DeleteTopicRoute { .. } => {
                    Outcome::Cold(Box::new(PullTask::for_test(origin)))
                }
                NameServerRequest::Route { .. } => Outcome::Committed { mark: LogOffset(1), reply },
                _ => Outcome::Now(Answer { reply: Ok(reply), chunks: Vec::new() }),
            })
        }

        async fn operate(&self, _: NameServerRequest, _: &impl Context) -> Answer<Self::Reply> {
            self.0.wait_for_permit().await
        }

        async fn pull_cold(&self, _: Box<PullTask>, _: &impl Context) -> Outcome<Self::Reply> {
            Outcome::Now(self.0.wait_for_permit().await)
        }

        fn metrics(&self) -> Rc<Metrics> {
            Rc::default()
        }

        fn standing(&self) -> Standing {
            Standing { committed: LogOffset(0), is_fenced: false, cut_count: 0 }
        }

        fn connection_budget(&self) -> usize {
            usize::MAX
        }

        fn ticket(&self, _size: usize) -> Result<Ticket, AppendError> {
            unreachable!("there is no log")
        }

        fn connection_closed(&self, _: u64) {}
    }

    /// Runs `test` with the address of a shard on which this many operations are already in flight.
    fn with_shard(operations: usize, test: impl FnOnce(SocketAddr, &Control)) {
        let control = Arc::new(Control::default());
        let service = Slow(control.clone());
        let over = control.clone();
        let (tell, address) = flume::bounded(1);
        let nudger = Nudger::start(1).unwrap();
        let main = async move |pulse| {
            let shard = Shard::new(ShardId(0), service, ConnectionLimit::new(u64::MAX), pulse);
            shard.operations.set(operations);
            let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let accepting = shard.clone();
            reactor::spawn(async move {
                while let Ok(stream) = listener.accept().await {
                    accepting.accept(stream).unwrap();
                }
            })
            .detach();
            while !over.is_over.load(Ordering::Relaxed) {
                reactor::sleep(LOOK_AGAIN).await;
            }
        };
        let builder = settings_of_tests(Duration::from_millis(100));
        let starting = executor::start("slow", builder, Duration::ZERO, nudger.pulse(0), main);
        let executor = starting.unwrap().begin().unwrap();
        test(address.recv_timeout(WAIT_MAX).unwrap(), &control);
        control.is_over.store(true, Ordering::Relaxed);
        executor.join().unwrap();
    }

    struct Client {
        stream: net::TcpStream,
        input: BytesMut,
    }

    impl Client {
        fn connect(address: SocketAddr) -> Self {
            let stream = net::TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
            Self { stream, input: BytesMut::new() }
        }

        /// Sends operations with these numbers at once.
        fn send(&mut self, numbers: std::ops::Range<i32>) {
            self.send_each(numbers, &NameServerRequest::ClusterInfo);
        }

        fn send_each(&mut self, numbers: std::ops::Range<i32>, request: &NameServerRequest) {
            let mut out = Vec::new();
            for number in numbers {
                encode_request(&mut out, HeaderEncoding::Json, number, false, request).unwrap();
            }
            self.stream.write_all(&out).unwrap();
        }

        /// Sends an operation with a body of this many bytes.
        fn send_large(&mut self, number: i32, body: usize) {
            let (mut out, request) = (Vec::new(), NameServerRequest::ClusterInfo);
            encode_request(&mut out, HeaderEncoding::Json, number, false, &request).unwrap();
            out.resize(out.len() + body, 0);
            let size = out.len() as u32 - 4;
            out[..4].copy_from_slice(&size.to_be_bytes());
            self.stream.write_all(&out).unwrap();
        }

        /// The next reply is that to request `number`, which was refused as busy.
        fn expect_busy(&mut self, number: i32, reason: &str) {
            let refused = self.reply();
            let remark = refused.remark.unwrap();
            assert_eq!(refused.opaque, number, "{remark}");
            for part in ["RINGMQ-2001".to_owned(), format!("reason={reason} ")] {
                assert!(remark.contains(&part), "{remark}");
            }
        }

        fn reply(&mut self) -> Response {
            loop {
                if let Some(frame) = next_frame(&mut self.input, FRAME_SIZE_MAX).unwrap() {
                    return decode_reply(&frame).unwrap();
                }
                let mut bytes = [0; 4_096];
                let size = self.stream.read(&mut bytes).unwrap();
                assert!(size > 0, "the connection was closed");
                self.input.extend_from_slice(&bytes[..size]);
            }
        }
    }

    #[test]
    fn a_connection_with_64_operations_waits_and_others_do_not() {
        with_shard(0, |address, control| {
            let (mut first, mut second) = (Client::connect(address), Client::connect(address));
            first.send(0..66);
            control.wait_for(1, 64);
            second.send(0..1);
            control.wait_for(2, 1);
            assert_eq!(control.handled(1), 64);
            control.permit(67);
            control.wait_for(1, 66);
            let mut numbers: Vec<i32> = (0..66).map(|_| first.reply().opaque).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (0..66).collect::<Vec<_>>());
            assert_eq!(second.reply().code, 0);
        });
    }

    #[test]
    fn operations_with_large_requests_are_refused_before_they_fill_the_memory() {
        const BODY: usize = 15 << 20;
        with_shard(0, |address, control| {
            let (mut first, mut second) = (Client::connect(address), Client::connect(address));
            for number in 0..5 {
                first.send_large(number, BODY);
                control.wait_for(1, number as usize + 1);
            }
            first.send_large(5, BODY);
            first.expect_busy(5, "operations");
            second.send_large(0, BODY);
            control.wait_for(2, 1);
            control.permit(6);
            (0..5).for_each(|_| assert_eq!(first.reply().code, 0));
            assert_eq!(second.reply().code, 0, "it had its share");
            first.send_large(6, BODY);
            control.permit(1);
            assert_eq!(first.reply().code, 0, "there is memory again");
        });
    }

    /// A heartbeat is an operation too, and its client gives up after 3 s.
    #[test]
    fn operations_that_do_not_end_hold_back_other_requests_only_for_a_while() {
        const MAX: i32 = 1024;
        with_shard(0, |address, control| {
            let mut client = Client::connect(address);
            client.send(0..66);
            client.send_each(66..67, &NameServerRequest::TopicList);
            assert_eq!((client.reply().opaque, control.handled(1)), (66, 67));
            client.send(67..MAX + 2);
            client.expect_busy(MAX + 1, "operations_of_connection");
            // Once one has ended, another is accepted.
            control.permit(1);
            assert_eq!(client.reply().code, 0);
            client.send(MAX + 2..MAX + 3);
            control.permit(MAX as usize);
            (0..MAX).for_each(|_| assert_eq!(client.reply().code, 0));
        });
    }

    #[test]
    fn pulls_that_read_the_disk_count_as_operations() {
        const MAX: i32 = 1024;
        with_shard(0, |address, control| {
            let cold = NameServerRequest::DeleteTopicRoute { topic: "t".into(), cluster: None };
            let mut client = Client::connect(address);
            client.send(0..MAX / 2);
            client.send_each(MAX / 2..MAX + 1, &cold);
            client.expect_busy(MAX, "operations_of_connection");
            control.permit(MAX as usize);
            (0..MAX).for_each(|_| assert_eq!(client.reply().code, 0));
            client.send_each(MAX..MAX + 1, &cold);
            control.permit(1);
            assert_eq!(client.reply().code, 0, "there is room again");
        });
    }

    /// Each that ends lets one of the others begin, which is not enough for those at the end.
    #[test]
    fn operations_that_end_slowly_do_not_hold_back_a_request_behind_hundreds() {
        with_shard(0, |address, control| {
            let mut client = Client::connect(address);
            client.send(0..264);
            let begin = Instant::now();
            while control.handled(1) < 264 {
                assert!(begin.elapsed() < Duration::from_secs(5), "{} began", control.handled(1));
                control.permit(1);
                std::thread::sleep(Duration::from_millis(50));
            }
            control.permit(264);
            (0..264).for_each(|_| assert_eq!(client.reply().code, 0));
        });
    }

    #[test]
    fn messages_that_are_not_committed_do_not_hold_back_other_requests() {
        const IN_FLIGHT: i32 = 8192;
        with_shard(0, |address, control| {
            let mut client = Client::connect(address);
            let append = NameServerRequest::Route { topic: "t".into() };
            client.send_each(0..IN_FLIGHT + 1, &append);
            client.send_each(IN_FLIGHT + 1..IN_FLIGHT + 2, &NameServerRequest::TopicList);
            assert_eq!(client.reply().opaque, IN_FLIGHT + 1);
            client.expect_busy(IN_FLIGHT, "append_queue");
            assert_eq!(control.handled(1), IN_FLIGHT as usize + 1, "the last one was not appended");
        });
    }

    #[test]
    fn one_operation_more_than_a_shard_may_have_is_refused_as_busy() {
        with_shard(OPERATIONS_MAX - 1, |address, control| {
            let (mut first, mut second) = (Client::connect(address), Client::connect(address));
            first.send(0..1);
            control.wait_for(1, 1);
            second.send(0..1);
            second.expect_busy(0, "operations");
            control.permit(2);
            assert_eq!(first.reply().code, 0);
            second.send(1..2);
            let reply = second.reply();
            assert_eq!((reply.code, reply.opaque), (0, 1), "there is room again");
        });
    }
}
