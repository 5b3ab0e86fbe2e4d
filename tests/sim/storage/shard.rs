//! A minimal broker: queues, verifiable records, and a count as its state.

use std::cell::{Cell, RefCell};

use ringmq::model::{Chunk, LogOffset, Moment, Now, QueueId, QueueOffset, Timestamp};
use ringmq::sim::copies::Sendable;
use ringmq::sim::{self, SimDisk, Tasks, pause};
use ringmq::storage::{
    Append, AppendError, Appended, CutError, EntryKind, Index, Located, LogCopy, Lookup, OpenError,
    Opening, QueueKey, QueueRow, RawError, ReadError, RecoveryReport, Replayed, SpaceClass, Store,
    StoreConfig, WRITES_IN_FLIGHT_MAX,
};

use zerocopy::{FromBytes, IntoBytes};

pub const TOPIC: u32 = 7;
pub const MESSAGES: EntryKind = EntryKind(3);
pub const OFFSETS: EntryKind = EntryKind(5);
pub const SEED: u32 = 0xC0FFEE;

pub fn config() -> StoreConfig {
    StoreConfig {
        tail_cache_bytes: 64 << 10,
        index_cache_bytes: 256 << 10,
        checksum_seed: SEED,
        ..sim::small_store()
    }
}

pub fn key(queue: u32) -> QueueKey {
    QueueKey { topic: TOPIC, queue: QueueId(queue) }
}

/// A record: size, queue, number in the queue, store time, then a body derived from them.
const HEAD: usize = 24;

pub fn write_record(out: &mut [u8], queue: u32, number: u64, stored: u64) {
    let size = out.len() as u32;
    out[..4].copy_from_slice(&size.to_le_bytes());
    out[4..8].copy_from_slice(&queue.to_le_bytes());
    out[8..16].copy_from_slice(&number.to_le_bytes());
    out[16..24].copy_from_slice(&stored.to_le_bytes());
    let word = body_word(queue, number);
    for part in out[HEAD..].chunks_mut(word.len()) {
        part.copy_from_slice(&word[..part.len()]);
    }
}

fn body_word(queue: u32, number: u64) -> [u8; 16] {
    let seed = u128::from(number) << 32 | u128::from(queue) | 1;
    seed.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_le_bytes()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub size: usize,
    pub queue: u32,
    pub number: u64,
    pub stored: u64,
}

/// Reads the record at the beginning of `bytes` and checks every byte of it.
pub fn read_record(bytes: &[u8]) -> Record {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let record =
        Record { size: half(0) as usize, queue: half(4), number: word(8), stored: word(16) };
    let word = body_word(record.queue, record.number);
    for part in bytes[HEAD..record.size].chunks(word.len()) {
        assert_eq!(part, &word[..part.len()], "{record:?}");
    }
    record
}

/// A sent message, and where its entry ends.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub queue: u32,
    pub number: u64,
    pub end: LogOffset,
}

pub struct Shard {
    disk: SimDisk,
    pub store: Store<SimDisk>,
    pub report: RecoveryReport,
    pub now: Cell<u64>,
    /// All messages found or sent in this life, in log order.
    pub sent: RefCell<Vec<Sent>>,
    /// The state: the number of entries of kind [`OFFSETS`]. Each entry contains the number so far.
    pub offsets: Cell<u64>,
}

impl Shard {
    pub async fn open(disk: &SimDisk, config: StoreConfig) -> Result<Self, OpenError> {
        let mut opening = Store::open(disk.clone(), config).await?;
        let mut offsets = restore(&mut opening);
        let mut sent = Vec::new();
        let mut last = LogOffset(0);
        let (store, report) = opening
            .replay(messages_of, |index, entry| {
                assert!(entry.entry_offset >= last, "replay goes forward");
                last = entry.entry_offset;
                replay(index, &entry, &mut sent, &mut offsets);
            })
            .await?;
        let sent = sent.into();
        let (disk, now, offsets) = (disk.clone(), Cell::new(1000), Cell::new(offsets));
        Ok(Self { disk, store, report, now, sent, offsets })
    }

    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Appends `sizes.len()` messages as one entry.
    pub fn send(&self, queue: u32, sizes: &[usize]) -> Result<Appended, AppendError> {
        let first = self.store.with_index(|index| index.next_offset(key(queue))).0;
        let stored = self.now.get();
        let total = sizes.iter().sum();
        let append = Append {
            kind: MESSAGES,
            subject: TOPIC,
            payload_size: total,
            space: SpaceClass::Ordinary,
        };
        let appended = self.store.append(append, |payload, _| {
            let mut rest = payload;
            for (number, &size) in (first..).zip(sizes) {
                let record;
                (record, rest) = rest.split_at_mut(size);
                write_record(record, queue, number, stored);
            }
        })?;
        let mut offset = appended.payload_offset;
        self.store.with_index(|index| {
            for (number, &size) in (first..).zip(sizes) {
                let located = Located {
                    offset,
                    size: size as u32,
                    tag_hash: number as i32,
                    stored_at: Timestamp(stored),
                    entry_offset: appended.entry_offset,
                };
                index.push(key(queue), QueueOffset(number), located);
                offset = offset.plus(size as u64);
                let end = appended.end;
                self.sent.borrow_mut().push(Sent { queue, number, end });
            }
        });
        Ok(appended)
    }

    pub fn note_offsets(&self) -> Result<Appended, AppendError> {
        let space = SpaceClass::Reserved;
        let append = Append { kind: OFFSETS, subject: 0, payload_size: 8, space };
        let count = self.offsets.get() + 1;
        let fill = |payload: &mut [u8], _| payload.copy_from_slice(&count.to_le_bytes());
        let appended = self.store.append(append, fill)?;
        self.offsets.set(count);
        Ok(appended)
    }

    /// Cuts off everything after the entry with this ordinal.
    pub async fn cut_to(&self, ordinal: u64) -> Result<RecoveryReport, CutError> {
        let mut opening = self.store.cut_to(ordinal).await?;
        let mut offsets = restore(&mut opening);
        let mut found = Vec::new();
        let replayed = opening.replay(messages_of, |index, entry| {
            replay(index, &entry, &mut found, &mut offsets);
        });
        let (_, report) = replayed.await?;
        self.sent.borrow_mut().retain(|sent| sent.end <= report.end);
        self.offsets.set(offsets);
        Ok(report)
    }

    /// Replaces the log with a copy of another one that has arrived.
    pub async fn take_over(&self, copy: &LogCopy) -> Result<RecoveryReport, CutError> {
        let mut opening = self.store.take_over(copy).await?;
        let mut offsets = restore(&mut opening);
        let mut found = Vec::new();
        let replayed = opening.replay(messages_of, |index, entry| {
            replay(index, &entry, &mut found, &mut offsets);
        });
        let (_, report) = replayed.await?;
        self.sent.replace(found);
        self.offsets.set(offsets);
        Ok(report)
    }

    /// Appends entries of another replica's log.
    pub fn take_raw(&self, bytes: &[u8]) -> Result<(), RawError> {
        let (sent, mut offsets) = (&mut *self.sent.borrow_mut(), self.offsets.get());
        self.store.append_raw(bytes, |index, entry| replay(index, &entry, sent, &mut offsets))?;
        self.offsets.set(offsets);
        Ok(())
    }

    /// The state for a snapshot, in slices: the count, then the queues, each as of its slice.
    pub fn slices(&self) -> impl FnMut() -> Vec<u8> {
        let mut next = None;
        move || match next {
            None => {
                next = Some(QueueKey::FIRST);
                self.offsets.get().to_le_bytes().to_vec()
            }
            Some(from) => {
                let row = self.store.with_index(|index| index.rows_from(from, 1).next());
                next = row.map(|row| row.key().successor()).or(next);
                row.map_or_else(Vec::new, |row| row.as_bytes().to_vec())
            }
        }
    }

    /// This shard's time; both clocks agree.
    pub fn now(&self) -> Now {
        Now { wall: Timestamp(self.now.get()), moment: Moment(self.now.get()) }
    }

    pub async fn maintain(
        &self,
        force: bool,
    ) -> Result<ringmq::storage::Maintained, ringmq::storage::disk::DiskError> {
        let now = self.now();
        self.store.flush(now.moment).await?;
        self.store.maintain(now, force, self.slices()).await
    }

    /// Looks up a message, loading index pages as needed.
    pub async fn locate(&self, queue: u32, number: u64) -> Result<Lookup, ReadError> {
        loop {
            let found =
                self.store.with_index(|index| index.lookup(key(queue), QueueOffset(number), 32));
            match found {
                Lookup::Sealed(page) => self.store.load_index(page).await?,
                found => return Ok(found),
            }
        }
    }

    /// Reads message `number` of `queue` from disk or memory and checks it.
    pub async fn read(&self, queue: u32, number: u64) -> Result<Chunk, ReadError> {
        let Lookup::Here(found) = self.locate(queue, number).await? else {
            panic!("queue {queue} has no message {number}")
        };
        let chunk = self.store.read(&found[..1]).await?.remove(0);
        let record = read_record(&chunk);
        assert_eq!((record.queue, record.number, record.size), (queue, number, chunk.len()));
        assert_eq!(found[0].stored_at.0, record.stored);
        Ok(chunk)
    }

    /// Reads and checks all messages of `queue` that the log still has. Returns their number.
    pub async fn read_all(&self, queue: u32) -> Result<u64, ReadError> {
        let bounds = self.store.with_index(|index| index.bounds(key(queue)));
        let mut number = bounds.start;
        while number < bounds.end {
            let Lookup::Here(found) = self.locate(queue, number).await? else {
                panic!("queue {queue} has no message {number}")
            };
            for (located, chunk) in found.iter().zip(self.store.read(&found).await?) {
                let record = read_record(&chunk);
                assert_eq!((record.queue, record.number), (queue, number));
                assert_eq!((located.stored_at.0, chunk.len()), (record.stored, record.size));
                number += 1;
            }
        }
        Ok(bounds.end - bounds.start)
    }

    /// Writes everything appended, one write at a time.
    pub async fn commit(&self) {
        while self.store.written() < self.store.end() {
            self.store.commit_step().await.expect("no fault is planned");
        }
    }

    /// Spawns maintenance, flushes and reads of committed messages, until `is_over`.
    pub fn spawn_others<'a>(
        &'a self,
        tasks: &Tasks<'a>,
        entries: &'a [Sendable],
        is_over: &'a Cell<bool>,
    ) {
        tasks.spawn("maintains", async {
            while !is_over.get() {
                self.maintain(false).await.unwrap();
                self.store.sync().await.unwrap();
                pause().await;
            }
        });
        tasks.spawn("reads", async {
            let committed = self.store.committed();
            while !is_over.get() {
                for entry in entries.iter().filter(|entry| entry.end <= committed).take(3) {
                    let at = entry.at.plus(40);
                    if at < entry.end && !entry.is_filler() && at >= self.store.begin() {
                        let read = self.store.read_entry_at(at).await;
                        assert!(read.is_ok() || at < self.store.begin(), "{read:?}");
                    }
                }
                pause().await;
            }
        });
    }

    pub fn spawn_committers(&self, tasks: &Tasks<'_>) {
        for number in 0..WRITES_IN_FLIGHT_MAX {
            let store = self.store.clone();
            tasks.spawn(format!("committer {number}"), async move {
                while !matches!(
                    store.commit_step().await,
                    Err(_) | Ok(ringmq::storage::CommitStep::Stopped)
                ) {}
            });
        }
    }
}

/// Returns the state in the snapshot.
fn restore(opening: &mut Opening<SimDisk>) -> u64 {
    let Some(state) = opening.snapshot().map(<[u8]>::to_vec) else { return 0 };
    for row in <[QueueRow]>::ref_from_bytes(&state[8..]).unwrap() {
        opening.index().restore_row(row);
    }
    u64::from_le_bytes(state[..8].try_into().unwrap())
}

fn replay(index: &mut Index, entry: &Replayed<'_>, sent: &mut Vec<Sent>, offsets: &mut u64) {
    match entry.kind {
        MESSAGES => messages_of(entry, &mut |key, offset, located| {
            index.push(key, offset, located);
            let (queue, number, end) = (key.queue.0, offset.0, entry.end);
            sent.push(Sent { queue, number, end });
        }),
        OFFSETS if entry.in_snapshot => {}
        OFFSETS => *offsets = u64::from_le_bytes(entry.payload.try_into().unwrap()),
        kind => panic!("{kind:?} is not for the broker"),
    }
}

pub fn messages_of(entry: &Replayed<'_>, take: &mut dyn FnMut(QueueKey, QueueOffset, Located)) {
    let (mut at, mut rest) = (entry.payload_offset, entry.payload);
    while entry.kind == MESSAGES && !rest.is_empty() {
        let record = read_record(rest);
        let located = Located {
            offset: at,
            size: record.size as u32,
            tag_hash: record.number as i32,
            stored_at: Timestamp(record.stored),
            entry_offset: entry.entry_offset,
        };
        take(key(record.queue), QueueOffset(record.number), located);
        at = at.plus(record.size as u64);
        rest = &rest[record.size..];
    }
}
