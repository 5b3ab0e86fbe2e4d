//! Where the sets of the audit put what they do not work on: chunks of bits, in a file without a name.
//!
//! ```text
//!   put ──▶ waiting (memory) ──▶ thread "spill" ──▶ file ──▶ read, take
//! ```
//!
//! Threads that send on a schedule must not wait for a disk, so [`Spill::put`] only hands over, and a
//! thread of its own writes. The file is made when the first chunk is put away, which most runs never
//! do; it has no name, so nothing of it is left, however the run ends.
//!
//! What always holds:
//! - A chunk is in memory until it is in the file. A file that cannot be made or written, as on a
//!   full disk, ends the spilling: what is in memory stays there, and nothing is lost.
//! - A chunk that is read is what was put, or is said to be unreadable: each has a checksum.
//! - Waiting chunks are at most [`WAITING_MAX`]; when the disk is slower than that, sets keep theirs.
//!
//! Not here: which chunks are put away ([`crate::engine::bitmap`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;

use rustc_hash::FxHashMap;
use zerocopy::IntoBytes;

/// Words of a chunk.
pub const WORDS: usize = 128;
/// Bits of one chunk.
pub type Words = [u64; WORDS];
const CHUNK_SIZE: usize = size_of::<Words>();

/// Bytes of bits that the sets of a run hold in memory before they put some away: 300 million
/// messages in five groups when none of their chunks is of one kind.
pub const HELD_SIZE_MAX: usize = 256 << 20;
/// Chunks on their way to the file, 1 MiB.
const WAITING_MAX: usize = 1_024;

/// What the sets of one run hold in memory, and the file for what is too much.
#[derive(Debug)]
pub struct Spill {
    held_size_max: usize,
    /// Chunks in the sets' memory, now and at most.
    held: AtomicUsize,
    held_most: AtomicUsize,
    orders: flume::Sender<u32>,
    shelf: Arc<Shelf>,
}

/// A chunk that was put away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Index in the file.
    place: u32,
    checksum: u32,
}

/// What the sets and the thread share.
#[derive(Debug, Default)]
struct Shelf {
    state: Mutex<State>,
    file: OnceLock<File>,
}

#[derive(Debug, Default)]
struct State {
    /// Not yet written, by place.
    waiting: FxHashMap<u32, Arc<Words>>,
    /// Places below `places` that hold nothing.
    free: Vec<u32>,
    places: u32,
    unwritable: Option<String>,
    unreadable: Option<String>,
}

impl Spill {
    /// For sets that may hold `held_size_max` bytes together. The file will be in `directory`.
    pub fn start(held_size_max: usize, directory: PathBuf) -> io::Result<Arc<Self>> {
        Self::start_with(held_size_max, move || tempfile::tempfile_in(directory))
    }

    /// The same with a file of another making.
    fn start_with(
        held_size_max: usize,
        open: impl FnOnce() -> io::Result<File> + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let (orders, to_write) = flume::bounded(WAITING_MAX);
        let spill = Self::new(held_size_max, orders);
        let shelf = spill.shelf.clone();
        let work = move || shelf.write_all(&to_write, open);
        thread::Builder::new().name("spill".to_owned()).spawn(work)?;
        Ok(Arc::new(spill))
    }

    /// For sets that hold all they have.
    pub fn never() -> Arc<Self> {
        Arc::new(Self::new(usize::MAX, flume::bounded(0).0))
    }

    fn new(held_size_max: usize, orders: flume::Sender<u32>) -> Self {
        let (held, held_most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { held_size_max, held, held_most, orders, shelf: Arc::default() }
    }

    /// One more chunk is in a set's memory.
    pub fn hold(&self) {
        let held = self.held.fetch_add(1, Ordering::Relaxed) + 1;
        self.held_most.fetch_max(held, Ordering::Relaxed);
    }

    /// One less.
    pub fn release(&self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the sets hold all they may.
    pub fn is_full(&self) -> bool {
        self.held.load(Ordering::Relaxed) * CHUNK_SIZE >= self.held_size_max
    }

    /// Bytes of bits that the sets held in memory at most.
    pub fn held_size_most(&self) -> usize {
        self.held_most.load(Ordering::Relaxed) * CHUNK_SIZE
    }

    /// Puts away a chunk that a set held. Does not wait; the chunk comes back when there is no room
    /// among the waiting, or nothing can be written.
    pub fn put(&self, words: Box<Words>) -> Result<Stored, Box<Words>> {
        let mut state = self.shelf.lock();
        let place = state.take_place();
        if state.unwritable.is_some() || self.orders.try_send(place).is_err() {
            state.free.push(place);
            return Err(words);
        }
        let checksum = crc32c::crc32c(words.as_bytes());
        state.waiting.insert(place, Arc::from(words));
        drop(state);
        self.release();
        Ok(Stored { place, checksum })
    }

    /// A copy of a chunk that was put away. `None`: it cannot be read, which
    /// [`unreadable`](Self::unreadable) tells from then on.
    ///
    /// Costs a read of the kernel's cache, or of the device when it has left that.
    pub fn read(&self, stored: Stored) -> Option<Box<Words>> {
        let waiting = self.shelf.lock().waiting.get(&stored.place).cloned();
        let read = match waiting {
            Some(words) => Ok(Box::new(*words)),
            None => self.shelf.read(stored),
        };
        read.inspect_err(|cause| self.shelf.lock().unreadable = Some(cause.to_string())).ok()
    }

    /// As [`read`](Self::read), and a set holds the chunk again.
    pub fn take(&self, stored: Stored) -> Option<Box<Words>> {
        let words = self.read(stored)?;
        self.forget(stored);
        self.hold();
        Some(words)
    }

    /// A chunk that was put away is not needed any more.
    pub fn forget(&self, stored: Stored) {
        let mut state = self.shelf.lock();
        state.waiting.remove(&stored.place);
        state.free.push(stored.place);
    }

    /// Why sets keep in memory what they would put away.
    pub fn unwritable(&self) -> Option<String> {
        self.shelf.lock().unwritable.clone()
    }

    /// Why the audit does not know all that it knew.
    pub fn unreadable(&self) -> Option<String> {
        self.shelf.lock().unreadable.clone()
    }
}

impl State {
    fn take_place(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.places += 1;
            self.places - 1
        })
    }
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the shelf")
    }

    /// Writes what is ordered until nobody can order any more, or a write fails: from then on what
    /// waits stays.
    fn write_all(&self, orders: &flume::Receiver<u32>, open: impl FnOnce() -> io::Result<File>) {
        let mut open = Some(open);
        for place in orders {
            let opened =
                open.take().map_or(Ok(()), |open| open().map(|file| drop(self.file.set(file))));
            if let Err(cause) = opened.and_then(|()| self.write(place)) {
                self.lock().unwritable = Some(cause.to_string());
                return;
            }
        }
    }

    /// What waits for this place may have been taken back, and another may wait there meanwhile:
    /// that one has an order of its own, which comes later.
    fn write(&self, place: u32) -> io::Result<()> {
        let Some(words) = self.lock().waiting.get(&place).cloned() else { return Ok(()) };
        let file = self.file.get().ok_or(io::ErrorKind::NotFound)?;
        file.write_all_at(words.as_bytes(), offset(place))?;
        let mut state = self.lock();
        if state.waiting.get(&place).is_some_and(|waiting| Arc::ptr_eq(waiting, &words)) {
            state.waiting.remove(&place);
        }
        Ok(())
    }

    fn read(&self, stored: Stored) -> io::Result<Box<Words>> {
        let mut words = Box::new([0; WORDS]);
        let file = self.file.get().ok_or(io::ErrorKind::NotFound)?;
        file.read_exact_at(words.as_mut_bytes(), offset(stored.place))?;
        if crc32c::crc32c(words.as_bytes()) == stored.checksum {
            Ok(words)
        } else {
            Err(io::Error::other("what was read is not what was written"))
        }
    }
}

fn offset(place: u32) -> u64 {
    u64::from(place) * CHUNK_SIZE as u64
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A spill whose file the test holds too, for sets that may hold `held_size_max` bytes.
    pub fn with_file(held_size_max: usize) -> (Arc<Spill>, File) {
        let file = tempfile::tempfile().unwrap();
        let own = file.try_clone().unwrap();
        (Spill::start_with(held_size_max, || Ok(own)).unwrap(), file)
    }

    /// A spill into a device that is always full.
    pub fn on_a_full_disk(held_size_max: usize) -> Arc<Spill> {
        let open = || File::options().read(true).write(true).open("/dev/full");
        Spill::start_with(held_size_max, open).unwrap()
    }

    /// Waits until all that was put is written, or cannot be.
    pub fn settle(spill: &Spill) {
        let is_busy = |state: &State| !state.waiting.is_empty() && state.unwritable.is_none();
        while is_busy(&spill.shelf.lock()) {
            thread::sleep(std::time::Duration::from_micros(50));
        }
    }

    fn chunk(number: u64) -> Box<Words> {
        Box::new([number; WORDS])
    }

    fn put(spill: &Spill, number: u64) -> Stored {
        spill.hold();
        spill.put(chunk(number)).unwrap()
    }

    #[test]
    fn what_was_put_is_read_whether_it_was_written_or_still_waits() {
        let (spill, file) = with_file(0);
        let stored: Vec<Stored> = (0..500).map(|number| put(&spill, number)).collect();
        assert!((0..).zip(&stored).all(|(number, it)| spill.read(*it) == Some(chunk(number))));
        settle(&spill);
        assert!((0..).zip(&stored).all(|(number, it)| spill.take(*it) == Some(chunk(number))));
        assert_eq!(spill.held_size_most(), 500 * CHUNK_SIZE);
        // Places are used again.
        for number in 0..500 {
            put(&spill, number);
        }
        settle(&spill);
        assert_eq!(file.metadata().unwrap().len(), 500 * CHUNK_SIZE as u64);
    }

    #[test]
    fn on_a_full_disk_everything_stays_in_memory() {
        let spill = on_a_full_disk(0);
        let stored = put(&spill, 7);
        settle(&spill);
        assert!(spill.unwritable().unwrap().contains("No space left"), "{:?}", spill.unwritable());
        assert_eq!(spill.put(chunk(8)), Err(chunk(8)), "nothing more is taken");
        assert_eq!(spill.take(stored), Some(chunk(7)), "what was taken is still there");
        assert_eq!(spill.unreadable(), None);
    }

    #[test]
    fn a_directory_that_is_not_there_is_a_disk_that_cannot_be_written() {
        let spill = Spill::start(0, PathBuf::from("/dev/null/none")).unwrap();
        let stored = put(&spill, 7);
        settle(&spill);
        assert!(spill.unwritable().is_some());
        assert_eq!(spill.read(stored), Some(chunk(7)));
    }

    #[test]
    fn what_reads_differently_or_not_at_all_is_unreadable() {
        let damages: [fn(&File); 2] =
            [|file| file.write_all_at(b"x", 100).unwrap(), |file| file.set_len(100).unwrap()];
        for damage in damages {
            let (spill, file) = with_file(0);
            let stored = put(&spill, 7);
            settle(&spill);
            damage(&file);
            assert_eq!((spill.read(stored), spill.take(stored)), (None, None));
            assert!(spill.unreadable().is_some());
        }
    }
}
