//! What shards and the process ask of a shard: requests about the broker as a whole.
//!
//! The data path never comes here. Between threads travel the requests that come off the wire, as
//! owned data; an ask is carried out without asking anybody else, so two shards can never wait for
//! each other.

use crate::model::{Refusal, Reply, Request, ShardId};

/// Asks that wait at one shard. A further one waits on its own thread.
const INBOX_CAPACITY: usize = 1024;

#[derive(Debug)]
pub enum Envelope {
    /// To be carried out here only; the answer holds once it is durable.
    Ask { request: Box<Request>, answer: flume::Sender<Result<Reply, Refusal>> },
    /// To finish what is under way and end.
    Stop,
}

pub type Inbox = flume::Receiver<Envelope>;

/// Lines to all shards of the process.
#[derive(Clone, Debug)]
pub struct Mesh {
    lines: Vec<flume::Sender<Envelope>>,
}

impl Mesh {
    pub fn new(shards: u16) -> (Self, Vec<Inbox>) {
        let (lines, inboxes) = (0..shards).map(|_| flume::bounded(INBOX_CAPACITY)).unzip();
        (Self { lines }, inboxes)
    }

    /// Asks every shard but `own` to carry out `request`. The first refusal counts.
    pub async fn ask_others(&self, own: ShardId, request: &Request) -> Result<(), Refusal> {
        let mut answers = Vec::new();
        for (shard, line) in self.lines.iter().enumerate() {
            if shard == usize::from(own.0) {
                continue;
            }
            let (answer, answered) = flume::bounded(1);
            let envelope = Envelope::Ask { request: Box::new(request.clone()), answer };
            // A shard that is gone has stopped; what it would have answered it can no longer do.
            line.send_async(envelope).await.map_err(|_| Refusal::ShuttingDown)?;
            answers.push(answered);
        }
        for answered in answers {
            answered.recv_async().await.map_err(|_| Refusal::ShuttingDown)??;
        }
        Ok(())
    }

    /// Asks all shards to end. A shard that is gone has ended.
    pub fn stop_all(&self) {
        for line in &self.lines {
            let _ = line.send(Envelope::Stop);
        }
    }
}
