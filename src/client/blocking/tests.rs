use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::client::blocking::testing::{Scripted, Server, dead_address, serve_one, until};
use crate::model::request::ProduceRecords;
use crate::model::{ClientRequest, GroupName, LogOffset, QueueId, Reply, Request, TopicName};
use crate::wire::{Dialect, decode_reply, decode_request, encode_client_request, encode_reply};

const JSON: HeaderEncoding = HeaderEncoding::Json;

fn done() -> Scripted {
    Scripted::Give(Ok(Reply::Done))
}

fn ask(connections: &mut Connections, server: &str) -> Result<i32, ClientError> {
    let response = connections.call(server, JSON, &Request::RuntimeInfo, 5_000)?;
    Ok(response.code)
}

#[test]
fn several_requests_to_several_servers_are_under_way_at_once() {
    let servers = [Server::start(|_, _| done()), Server::start(|_, _| done())];
    let mut connections = Connections::new(3_000);
    let mut calls: Vec<Call> = (0..100)
        .map(|number| {
            let server = &servers[number % 2].address;
            connections.start(server, JSON, &Request::RuntimeInfo, 5_000).unwrap()
        })
        .collect();
    // The replies to the other requests arrive too.
    assert_eq!(connections.wait_for(calls.swap_remove(50)).unwrap().code, 0);
    let mut finished = Vec::new();
    while finished.len() < calls.len() {
        connections.turn(connections.now().plus_ms(1_000));
        finished.extend(std::iter::from_fn(|| connections.poll_finished()));
    }
    let mut ended: Vec<Call> = finished.iter().map(|(call, _)| *call).collect();
    ended.sort_unstable();
    calls.sort_unstable();
    assert_eq!(ended, calls);
    assert_eq!(servers.each_ref().map(Server::connection_count), [1, 1]);
}

#[test]
fn a_server_that_is_not_there_is_not_reached() {
    let mut connections = Connections::new(3_000);
    let error = ask(&mut connections, &dead_address()).unwrap_err();
    assert!(matches!(error, ClientError::NotReached { .. }), "{error}");
    let error = ask(&mut connections, "no port").unwrap_err();
    assert!(matches!(error, ClientError::NotReached { .. }), "{error}");
}

#[test]
fn a_server_that_says_nothing_is_waited_for_so_long() {
    let server = Server::start(|_, _| Scripted::Silence);
    let mut connections = Connections::new(3_000);
    let error = connections.call(&server.address, JSON, &Request::RuntimeInfo, 50).unwrap_err();
    assert!(matches!(error, ClientError::Unanswered { .. }), "{error}");
}

#[test]
fn a_server_that_hangs_up_leaves_the_outcome_open() {
    let server = Server::start(|_, _| Scripted::HangUp);
    let mut connections = Connections::new(3_000);
    let error = ask(&mut connections, &server.address).unwrap_err();
    assert!(matches!(error, ClientError::Unanswered { .. }), "{error}");
}

/// Nothing is sent on a connection that the server has closed while it was idle.
#[test]
fn a_connection_closed_meanwhile_is_opened_anew() {
    let server = Server::start(|_, _| done());
    let mut connections = Connections::new(3_000);
    assert_eq!(ask(&mut connections, &server.address), Ok(0));
    let first = connections.line_to(&server.address);
    server.cut_connections();
    until("the connection is gone", || server.connection_count() == 0);
    assert_eq!(ask(&mut connections, &server.address), Ok(0));
    assert_ne!(connections.line_to(&server.address), first);
}

#[test]
fn a_server_that_comes_back_is_reached_again() {
    let server = Server::start(|_, _| done());
    let address = server.address.clone();
    let mut connections = Connections::new(3_000);
    assert_eq!(ask(&mut connections, &address), Ok(0));
    drop(server);
    assert!(ask(&mut connections, &address).is_err());
    let _server = Server::start_at(&address, |_, _| done());
    assert_eq!(ask(&mut connections, &address), Ok(0));
}

/// Both directions are full at the same time, and neither side waits for the other.
#[test]
fn large_requests_and_answers_pass_each_other() {
    const SIZE: usize = 1 << 20;
    let received = Arc::new(AtomicUsize::new(0));
    let count = received.clone();
    let server = Server::start(move |request, _| {
        let Request::ProduceRecords(batch) = request else { panic!("{request:?}") };
        count.fetch_add(batch.records.len(), Ordering::SeqCst);
        // Not a real reply to this request; only its size matters here.
        Scripted::GiveWith(Reply::Done, vec![0; SIZE])
    });
    let records =
        ProduceRecords { queue: QueueId(0), count: 1, checksum: 0, records: vec![0; SIZE].into() };
    let request = Request::ProduceRecords(records);
    let mut connections = Connections::new(3_000);
    let fixed = HeaderEncoding::Fixed;
    let calls: Vec<Call> = (0..16)
        .map(|_| connections.start(&server.address, fixed, &request, 20_000).unwrap())
        .collect();
    for call in calls {
        assert_eq!(connections.wait_for(call).unwrap().code, 0);
    }
    assert_eq!(received.load(Ordering::SeqCst), 16 * SIZE);
}

/// A network that drops everything would otherwise cost a timeout per request for many minutes.
#[test]
fn a_connection_that_stays_silent_is_given_up() {
    let server = Server::start(|request, _| match request {
        Request::RuntimeInfo => Scripted::Silence,
        _ => done(),
    });
    let mut connections = Connections::new(3_000);
    connections.silence_max_ms = 1_000;
    let first = connections.call(&server.address, JSON, &Request::RuntimeInfo, 10);
    assert!(matches!(first, Err(ClientError::Unanswered { .. })));
    let line = connections.line_to(&server.address);
    assert!(line.is_some(), "a slow answer is no reason yet");
    let held = connections.start(&server.address, JSON, &Request::RuntimeInfo, 10_000).unwrap();
    let patient = connections.start(&server.address, JSON, &Request::RuntimeInfo, 20).unwrap();
    assert!(connections.wait_for(patient).is_err());
    until("the line is closed", || {
        connections.turn(connections.now().plus_ms(10));
        connections.line_to(&server.address) != line
    });
    assert!(matches!(connections.wait_for(held), Err(CallError::Unanswered(_))));
    let other = Request::MessageByOffset { offset: LogOffset(0) };
    let response = connections.call(&server.address, JSON, &other, 5_000).unwrap();
    assert_eq!(response.code, 0);
}

/// A server that sends a request before its reply: the caller gets the request and replies to it.
#[test]
fn a_request_of_the_server_is_replied_to_over_its_connection() {
    let status = ClientRequest::ConsumerStatus {
        topic: TopicName::new("T").unwrap(),
        group: GroupName::new("g").unwrap(),
    };
    let asked = status.clone();
    let (address, server) = serve_one(move |mut peer| {
        let request = decode_request::<Request>(&peer.read_frame()).unwrap();
        let mut out = Vec::new();
        encode_client_request(&mut out, Dialect::default(), 5, &asked).unwrap();
        peer.write(&out);
        let status = decode_reply(&peer.read_frame()).unwrap();
        assert_eq!((status.opaque, status.is_reply), (5, true));
        out.clear();
        encode_reply(&mut out, request.reply_to, &Ok(Reply::Done), 0);
        peer.write(&out);
        status.consumer_status()
    });
    let mut connections = Connections::new(3_000);
    let call = connections.start(&address, JSON, &Request::RuntimeInfo, 5_000).unwrap();
    let mut asked = None;
    until("the server asks", || {
        connections.turn(connections.now().plus_ms(10));
        asked = connections.poll_server_request();
        asked.is_some()
    });
    let (caller, ServerRequest { request, reply_to }) = asked.unwrap();
    assert_eq!((caller.address.as_str(), request), (address.as_str(), status));
    let gone = Caller { line: caller.line + 1, ..caller.clone() };
    connections.reply(&gone, reply_to.unwrap(), &Err(Refusal::ShuttingDown));
    connections.reply(&caller, reply_to.unwrap(), &Ok(ClientReply::ConsumerStatus(Vec::new())));
    assert_eq!(connections.wait_for(call).unwrap().code, 0);
    assert_eq!(server.join().unwrap(), Ok(Vec::new()));
}
