//! Requests between shards, and from the process to its shards: those that concern the broker as a
//! whole.
//!
//! The data path never uses the mesh. Threads exchange the requests that come off the wire, as
//! owned data. A request is executed without calling another shard, so two shards can never wait
//! for each other.

use std::time::{Duration, Instant};

use crate::model::{Refusal, Reply, Request, ShardId};
use crate::reactor;

/// Maximum requests queued at one shard. A further one waits on its sender's thread.
const INBOX_CAPACITY: usize = 1024;

#[derive(Debug)]
pub enum Envelope {
    /// Execute on this shard only; the reply holds once the change is durable.
    Ask { request: Box<Request>, answer: flume::Sender<Result<Reply, Refusal>> },
    /// Finish what is in flight, then stop.
    Stop,
}

pub type Inbox = flume::Receiver<Envelope>;

/// Channels to all shards of the process.
#[derive(Clone, Debug)]
pub struct Mesh {
    lines: Vec<flume::Sender<Envelope>>,
}

impl Mesh {
    pub fn new(shards: u16) -> (Self, Vec<Inbox>) {
        let (lines, inboxes) = (0..shards).map(|_| flume::bounded(INBOX_CAPACITY)).unzip();
        (Self { lines }, inboxes)
    }

    /// Has every shard except `own` execute `request`. Returns the first refusal.
    pub async fn ask_others(&self, own: ShardId, request: &Request) -> Result<(), Refusal> {
        let mut answers = Vec::new();
        for (shard, line) in self.lines.iter().enumerate() {
            if shard == usize::from(own.0) {
                continue;
            }
            let (answer, answered) = flume::bounded(1);
            let envelope = Envelope::Ask { request: Box::new(request.clone()), answer };
            // A shard that has stopped can no longer execute it.
            let sent = reactor::reachable(line.send_async(envelope)).await;
            sent.map_err(|_| Refusal::ShuttingDown)?;
            answers.push(answered);
        }
        for answered in answers {
            let answer = reactor::reachable(answered.recv_async()).await;
            answer.map_err(|_| Refusal::ShuttingDown)??;
        }
        Ok(())
    }

    /// Has all shards execute `request`, and waits for at most `patience`. Returns the refusals.
    pub fn ask_all(&self, request: &Request, patience: Duration) -> Vec<Refusal> {
        let deadline = Instant::now() + patience;
        let ask = |line: &flume::Sender<Envelope>| {
            let (answer, answered) = flume::bounded(1);
            let envelope = Envelope::Ask { request: Box::new(request.clone()), answer };
            line.send_deadline(envelope, deadline).map(|()| answered)
        };
        let asked: Vec<_> = self.lines.iter().map(ask).collect();
        let answers = asked.into_iter().map(|answered| match answered {
            Ok(answered) => answered.recv_deadline(deadline).unwrap_or(Err(Refusal::ShuttingDown)),
            Err(_) => Err(Refusal::ShuttingDown),
        });
        answers.filter_map(Result::err).collect()
    }

    /// Tells all shards to stop; some may have stopped already.
    pub fn stop_all(&self) {
        for line in &self.lines {
            let _ = line.send(Envelope::Stop);
        }
    }
}
