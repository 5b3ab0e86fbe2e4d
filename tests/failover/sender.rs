//! Senders that know only the addresses of a shard's replicas. Each has one message in flight, and
//! sends it to one replica after another, the same bytes every time, until one of them acknowledges
//! it.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{fmt, thread};

use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::{MessageKey, body_of};

/// Request code and success (remoting reference, 5.1).
const SEND_MESSAGE: i32 = 10;
const SUCCESS: i64 = 0;
/// Separate the properties of a message (remoting reference, 5.1).
const NAME_END: char = '\u{1}';
const PROPERTY_END: char = '\u{2}';
const FRAME_SIZE_MAX: usize = 1 << 20;

/// If a replica does not reply for this long, the sender tries the next one. Short, so that it adds
/// little to the time that the broker takes until another replica acknowledges.
const ANSWER_MAX: Duration = Duration::from_millis(250);
const CONNECT_MAX: Duration = Duration::from_millis(100);
/// Pause after a refusal, as during an election.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// Pause between messages.
const PAUSE: Duration = Duration::from_millis(20);
/// A message that no replica acknowledges is given up after this time, which is shorter than the
/// window in which brokers recognize repetitions.
const GIVE_UP: Duration = Duration::from_secs(30);

type Failure = Box<dyn Error + Send + Sync>;

/// What the senders have done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub acknowledged: u64,
    /// Messages that were sent again after an attempt without a reply: they may have been stored
    /// already.
    pub repeated: u64,
    pub given_up: u64,
}

pub struct Sender<'a> {
    pub shard: usize,
    pub number: usize,
    pub queue: usize,
    pub topic: &'a str,
    /// Addresses of the shard on each replica.
    pub replicas: Vec<SocketAddr>,
    /// Gets a line for every acknowledgement.
    pub acks: &'a Mutex<File>,
}

impl Sender<'_> {
    /// Sends until the file `stop` exists.
    pub fn run(&self, stop: &Path) -> io::Result<Tally> {
        let mut connections: Vec<Option<Connection>> = self.replicas.iter().map(|_| None).collect();
        let (mut tally, mut turn) = (Tally::default(), self.number);
        for sequence in 0.. {
            if stop.exists() {
                break;
            }
            let key = MessageKey { shard: self.shard, sender: self.number, sequence };
            self.deliver(&key, &mut connections, &mut turn, &mut tally)?;
            thread::sleep(PAUSE);
        }
        Ok(tally)
    }

    fn deliver(
        &self,
        key: &MessageKey,
        connections: &mut [Option<Connection>],
        turn: &mut usize,
        tally: &mut Tally,
    ) -> io::Result<()> {
        let (frame, begun, begun_us) = (self.frame(key), Instant::now(), now_us()?);
        let mut was_unanswered = false;
        while begun.elapsed() < GIVE_UP {
            let replica = *turn % self.replicas.len();
            match attempt(&mut connections[replica], self.replicas[replica], &frame) {
                Ok(Answer::Stored { offset }) => {
                    tally.acknowledged += 1;
                    tally.repeated += u64::from(was_unanswered);
                    return self.note(replica, key, &offset, begun_us);
                }
                Ok(Answer::Refused) => thread::sleep(REFUSED_PAUSE),
                Err(_) => {
                    // A request that got no reply may have been executed.
                    was_unanswered |= connections[replica].take().is_some();
                }
            }
            *turn += 1;
        }
        tally.given_up += 1;
        Ok(())
    }

    /// Writes a line: time in microseconds since 1970, shard, number of the replica, key, queue,
    /// offset in the queue, time of the first attempt. Replicas that do not lead acknowledge
    /// messages that they know to be stored, but no new ones.
    fn note(
        &self,
        replica: usize,
        key: &MessageKey,
        offset: &str,
        begun_us: i64,
    ) -> io::Result<()> {
        let (shard, queue, replica, now_us) = (self.shard, self.queue, replica + 1, now_us()?);
        let line = format!("{now_us} s{shard:02} {replica} {key} {queue} {offset} {begun_us}\n");
        self.acks.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).write_all(line.as_bytes())
    }

    fn frame(&self, key: &MessageKey) -> Vec<u8> {
        let properties = format!("UNIQ_KEY{NAME_END}{key}{PROPERTY_END}");
        let header = json!({
            "code": SEND_MESSAGE, "language": "OTHER", "version": 0, "opaque": 1, "flag": 0,
            "extFields": {
                "producerGroup": "failover", "topic": self.topic, "defaultTopic": "TBW102",
                "defaultTopicQueueNums": "4", "queueId": self.queue.to_string(), "sysFlag": "0",
                "bornTimestamp": "1", "flag": "0", "properties": properties,
                "reconsumeTimes": "0", "unitMode": "false", "batch": "false",
            },
        });
        let (header, body) = (header.to_string(), body_of(key));
        let size = 4 + header.len() + body.len();
        // Header type 0, JSON, in the highest byte.
        [
            &(size as u32).to_be_bytes()[..],
            &(header.len() as u32).to_be_bytes(),
            header.as_bytes(),
            body.as_bytes(),
        ]
        .concat()
    }
}

fn now_us() -> io::Result<i64> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
    Ok(now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000)
}

enum Answer {
    Stored { offset: String },
    Refused,
}

/// Sends a request and waits for the reply. After an error, `connection` is `Some` if the request
/// may have been sent.
fn attempt(
    connection: &mut Option<Connection>,
    address: SocketAddr,
    frame: &[u8],
) -> Result<Answer, Failure> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::open(address)?),
    };
    connection.stream.write_all(frame)?;
    let reply = connection.reply()?;
    match (&reply["code"], reply["extFields"]["queueOffset"].as_str()) {
        (code, Some(offset)) if code.as_i64() == Some(SUCCESS) => {
            Ok(Answer::Stored { offset: offset.to_owned() })
        }
        _ => Ok(Answer::Refused),
    }
}

struct Connection {
    stream: TcpStream,
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_MAX)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// The header of the next frame.
    fn reply(&mut self) -> Result<Value, Failure> {
        let mut word = [0; 4];
        self.stream.read_exact(&mut word)?;
        let size = u32::from_be_bytes(word) as usize;
        if !(4..=FRAME_SIZE_MAX).contains(&size) {
            return Err(format!("a frame of {size} bytes").into());
        }
        let mut frame = vec![0; size];
        self.stream.read_exact(&mut frame)?;
        let header_size = u32::from_be_bytes([0, frame[1], frame[2], frame[3]]) as usize;
        let header = frame.get(4..4 + header_size).ok_or("the header is longer than the frame")?;
        Ok(serde_json::from_slice(header)?)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, repeated, given_up } = self;
        write!(
            f,
            "acknowledged {acknowledged}, sent again without an answer {repeated}, given up {given_up}"
        )
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.repeated += other.repeated;
        self.given_up += other.given_up;
    }
}
