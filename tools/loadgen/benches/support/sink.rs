//! A server that acknowledges every produce request immediately and keeps nothing, so that only the
//! cost of the generator remains.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use loadgen::engine::connection::{Connection, FrameView};
use loadgen::engine::poller::{Interest, Poller, Ready};
use ringmq::model::record::Host;
use ringmq::model::reply::Produced;
use ringmq::model::{LogOffset, QueueId, QueueOffset, Reply};
use ringmq::wire::{self, HeaderEncoding, ReplyTo};
use zerocopy::FromBytes;
use zerocopy::byteorder::big_endian;

/// Token of the listener; connections use the numbers below.
const LISTENER: u64 = 1 << 32;

/// Serves on loopback for the rest of the process.
pub fn start(before: impl FnOnce() + Send + 'static) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("sink".to_owned()).spawn(move || {
        before();
        serve(&listener).expect("the sink serves");
    })?;
    Ok(address)
}

fn serve(listener: &TcpListener) -> io::Result<()> {
    let mut poller = Poller::new()?;
    poller.add(listener, LISTENER)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut events: Vec<Ready> = Vec::new();
    loop {
        poller.wait(Duration::from_secs(1), |ready| events.push(ready))?;
        for ready in events.drain(..) {
            if ready.token == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    let connection = Connection::from_stream(stream)?;
                    poller.add(&connection, connections.len() as u64)?;
                    connections.push(Some(connection));
                }
                continue;
            }
            let slot = &mut connections[ready.token as usize];
            let Some(connection) = slot else { continue };
            match answer(connection) {
                Ok(is_out) => {
                    let interest = if is_out { Interest::Read } else { Interest::ReadWrite };
                    if !is_out || ready.is_writable {
                        poller.change(&*connection, ready.token, interest)?;
                    }
                }
                Err(_) => *slot = None,
            }
        }
    }
}

/// Reads what has arrived and acknowledges every complete request in it.
fn answer(connection: &mut Connection) -> io::Result<bool> {
    connection.receive()?;
    let mut out = Vec::new();
    while let Some(frame) = connection.next_frame()? {
        let (code, opaque) = request_of(&frame)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no produce request"))?;
        let to = ReplyTo { encoding: frame.encoding, code, opaque, version: 453 };
        wire::encode_reply(&mut out, to, &Ok(Reply::Produced(stored())), 0);
    }
    connection.output().append(&mut out);
    connection.flush()
}

/// Code and number of a request, decoded as cheaply as by a server that does nothing else.
fn request_of(frame: &FrameView<'_>) -> Option<(i32, i32)> {
    match frame.encoding {
        HeaderEncoding::Json => {
            const OPAQUE: &[u8] = b"\"opaque\":";
            let at = memchr::memmem::find(frame.header, OPAQUE)? + OPAQUE.len();
            let digits = frame.header.get(at..at + 10)?;
            Some((310, std::str::from_utf8(digits).ok()?.parse().ok()?))
        }
        HeaderEncoding::Binary => {
            let (opaque, _) = big_endian::I32::ref_from_prefix(frame.header.get(5..)?).ok()?;
            Some((310, opaque.get()))
        }
        HeaderEncoding::Fixed => {
            let (start, _) =
                wire::header::fixed::HeaderStart::ref_from_prefix(frame.header).ok()?;
            Some((i32::from(start.kind), start.opaque.get()))
        }
    }
}

fn stored() -> Produced {
    Produced {
        queue: QueueId(0),
        queue_offset: QueueOffset(0),
        positions: [LogOffset(0)].into(),
        store_host: Host { address: [127, 0, 0, 1], port: big_endian::U32::new(10_911) },
        recall_handle: None,
    }
}
