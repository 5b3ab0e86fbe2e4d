//! Reads back all queues of the topic and compares them with the acknowledgements.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use ringmq::client::consumer::{ConsumerOptions, Event, QueueRef};
use ringmq::client::{ClientOptions, Consumer};
use ringmq::model::TopicName;

use super::{MessageKey, body_of};

/// How long the queues may return nothing new before they have been read to their end.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const FETCH_WAIT_MS: u64 = 200;

/// Shard, queue, offset.
type Place = (usize, u32, u64);

#[derive(Debug, Default)]
pub struct Findings {
    acknowledged: usize,
    stored: usize,
    /// Acknowledged but missing.
    lost: usize,
    /// Stored more than once.
    duplicates: usize,
    /// Acknowledged at a position where it is not stored.
    misplaced: usize,
    /// Not sent by any sender.
    damaged: usize,
    /// Keys of some of these messages, as examples.
    keys: Vec<String>,
}

impl Findings {
    pub fn is_clean(&self) -> bool {
        [self.lost, self.duplicates, self.misplaced, self.damaged] == [0; 4]
            && self.acknowledged > 0
    }

    fn compare(acknowledged: &HashMap<MessageKey, Place>, stored: &Stored) -> Self {
        let mut found = Self { damaged: stored.damaged, ..Self::default() };
        (found.acknowledged, found.stored) = (acknowledged.len(), stored.places.len());
        for (key, place) in acknowledged {
            match stored.places.get(key) {
                None => found.note(key, |found| &mut found.lost),
                Some(places) if !places.contains(place) => {
                    found.note(key, |found| &mut found.misplaced)
                }
                Some(_) => {}
            }
        }
        for (key, _) in stored.places.iter().filter(|(_, places)| places.len() > 1) {
            found.note(key, |found| &mut found.duplicates);
        }
        found
    }

    fn note(&mut self, key: &MessageKey, count: impl FnOnce(&mut Self) -> &mut usize) {
        const EXAMPLES_MAX: usize = 20;
        *count(self) += 1;
        if self.keys.len() < EXAMPLES_MAX {
            self.keys.push(key.to_string());
        }
    }
}

#[derive(Default)]
struct Stored {
    places: HashMap<MessageKey, Vec<Place>>,
    damaged: usize,
}

pub fn audit(namesrv: &str, topic: &str, acks: &Path) -> Result<Findings, Box<dyn Error>> {
    let acknowledged = read_acks(acks)?;
    let mut consumer = Consumer::new(ConsumerOptions::new(ClientOptions::new(namesrv)))?;
    let stored = read_back(&mut consumer, &TopicName::new(topic)?)?;
    Ok(Findings::compare(&acknowledged, &stored))
}

fn read_acks(path: &Path) -> Result<HashMap<MessageKey, Place>, Box<dyn Error>> {
    let mut acknowledged = HashMap::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let cells: Vec<&str> = line.split(' ').collect();
        let [_, _, _, key, queue, offset, _] = cells[..] else {
            return Err(format!("not an acknowledgement: {line}").into());
        };
        let key: MessageKey = key.parse()?;
        let place = (key.shard, queue.parse()?, offset.parse()?);
        if acknowledged.insert(key, place).is_some() {
            return Err(format!("acknowledged twice: {line}").into());
        }
    }
    Ok(acknowledged)
}

fn read_back(consumer: &mut Consumer, topic: &TopicName) -> Result<Stored, Box<dyn Error>> {
    let mut open: HashMap<QueueRef, u64> = HashMap::new();
    for queue in consumer.queues(topic)? {
        let (first, end) = (consumer.min_offset(&queue)?, consumer.max_offset(&queue)?);
        if first.0 > 0 {
            return Err(format!("{queue:?} has been cut to offset {}", first.0).into());
        }
        if end > first {
            consumer.assign(queue.clone(), first);
            open.insert(queue, end.0);
        }
    }
    let (mut stored, mut heard) = (Stored::default(), Instant::now());
    while !open.is_empty() {
        for event in consumer.fetch(FETCH_WAIT_MS) {
            let Event::Messages(fetched) = event else { continue };
            heard = Instant::now();
            let shard = shard_of(&fetched.queue.broker)?;
            for record in fetched.records() {
                let record = record?;
                let place = (shard, record.queue.0, record.queue_offset.0);
                match MessageKey::of_body(record.body) {
                    Some(key) => stored.places.entry(key).or_default().push(place),
                    None => stored.damaged += 1,
                }
            }
            if open.get(&fetched.queue).is_some_and(|end| fetched.next_offset.0 >= *end) {
                open.remove(&fetched.queue);
                consumer.unassign(&fetched.queue);
            }
        }
        if heard.elapsed() > SILENCE_MAX {
            return Err(format!("cannot be read to their end: {open:?}").into());
        }
    }
    Ok(stored)
}

/// The broker of shard 1 is `s01-NAME`.
fn shard_of(broker: &str) -> Result<usize, Box<dyn Error>> {
    let digits = broker.strip_prefix('s').and_then(|rest| rest.split('-').next());
    Ok(digits.ok_or_else(|| format!("not the name of a shard: {broker}"))?.parse()?)
}

impl MessageKey {
    fn of_body(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let key = text.split(' ').next()?.parse().ok()?;
        (body_of(&key) == text).then_some(key)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, stored, lost, duplicates, misplaced, damaged, keys } = self;
        write!(
            f,
            "acknowledged {acknowledged}, stored {stored}, lost {lost}, duplicates {duplicates}, \
             misplaced {misplaced}, damaged {damaged}"
        )?;
        if !keys.is_empty() {
            write!(f, "; for instance {}", keys.join(" "))?;
        }
        Ok(())
    }
}
