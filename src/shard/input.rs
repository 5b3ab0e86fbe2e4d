//! Bytes that a connection has received and not yet split into frames.
//!
//! ```text
//!   Spares ─▶ room ─▶ (a read) ─▶ received ─▶ take ─▶ frames, all dropped ─▶ give_back ─▶ Spares
//!              ▲                                                                 │
//!              └─────────── what is left of a cut frame, copied ◀────────────────┘
//! ```
//!
//! All connections of a shard read into the same few buffers, one after the other. So the
//! processor's cache still holds what was received when its frames are checked and stored, and a
//! connection between two frames holds no memory. The buffers are zeroed once, because zeroing them
//! for every read would cost as much as checksumming the data.
//!
//! A connection that yields while it handles its frames may keep its buffer once, if few others do.
//! Otherwise it copies what it has not handled. So nobody waits for a buffer.
//!
//! A buffer is used again once all frames in it have been dropped. A frame that is kept, because it
//! waits for room in the log, pins a whole buffer, so what a short read brings is copied.
//!
//! A connection has a buffer of its own only while a frame arrives in pieces. Its size doubles until
//! the frame fits, and it takes nothing but that frame.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use crate::wire;

/// Size of a shared buffer: the most that a read brings, except of a frame that arrives in pieces.
pub const SHARED_SIZE: usize = 128 << 10;
/// Minimum size of a buffer of a connection's own.
const OWN_SIZE_MIN: usize = 4 << 10;
/// Buffers up to this size are not counted as large ([`Input::is_large`]).
const ORDINARY_MAX: usize = 256 << 10;
/// The frames of shorter reads are copied.
const COPY_MAX: usize = 16 << 10;
/// Number of connections that may keep a shared buffer while they yield.
const KEPT_MAX: usize = 4;
/// Maximum number of buffers with kept frames that are used again. Others are freed.
const PINNED_MAX: usize = 64;

/// Buffers that are not in use, fully initialized. All but one have [`SHARED_SIZE`] bytes.
#[derive(Default)]
pub struct Spares {
    /// The last one used is the next one to be used.
    free: RefCell<Vec<BytesMut>>,
    /// Frames in these have been kept; the oldest is in front.
    pinned: RefCell<VecDeque<Bytes>>,
    /// The own buffer of the last frame for which a shared one was too small.
    own: RefCell<Option<BytesMut>>,
    /// Number of connections that have kept a buffer while they yield.
    kept: Cell<usize>,
}

impl Spares {
    fn take(&self) -> BytesMut {
        if let Some(free) = self.free.borrow_mut().pop() {
            return free;
        }
        let pinned = &mut *self.pinned.borrow_mut();
        match pinned.pop_front().map(Bytes::try_into_mut) {
            Some(Ok(free)) => free,
            Some(Err(still_pinned)) => {
                // A frame may be kept for long, so the next one is tried next time.
                pinned.push_back(still_pinned);
                BytesMut::zeroed(SHARED_SIZE)
            }
            None => BytesMut::zeroed(SHARED_SIZE),
        }
    }

    fn take_own(&self, size: usize) -> BytesMut {
        let own = &mut *self.own.borrow_mut();
        let fitting = own.take_if(|own| own.len() == size);
        fitting.unwrap_or_else(|| BytesMut::zeroed(size))
    }

    fn take_back_own(&self, buffer: Bytes) {
        if buffer.len() > SHARED_SIZE
            && let Ok(own) = buffer.try_into_mut()
        {
            self.own.replace(Some(own));
        }
    }

    fn take_back(&self, buffer: BytesMut) {
        let free = &mut *self.free.borrow_mut();
        if free.len() <= KEPT_MAX {
            free.push(buffer);
        }
    }

    /// Takes back a buffer in which frames may have been kept.
    fn take_back_frozen(&self, buffer: Bytes) {
        match buffer.try_into_mut() {
            Ok(free) => self.take_back(free),
            Err(pinned) => {
                let all = &mut *self.pinned.borrow_mut();
                if all.len() == PINNED_MAX {
                    all.pop_front();
                }
                all.push_back(pinned);
            }
        }
    }
}

/// Where received bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Nowhere, or in memory of exactly their size.
    #[default]
    Copy,
    Shared,
    /// As [`Self::Shared`], while the connection yields or has yielded.
    Kept,
    Own,
}

/// Invariant: `filled <= buffer.len()` while there is a buffer.
pub struct Input {
    spares: Rc<Spares>,
    /// Fully initialized; received bytes are at the front. Empty if none are to be read into.
    buffer: BytesMut,
    filled: usize,
    /// Received bytes, while frames point into them.
    taken: Bytes,
    /// Where `buffer` or `taken` is.
    place: Place,
    /// The beginning of a cut frame, if it is not in `buffer`.
    rest: Vec<u8>,
    /// The last read has not completed a frame.
    is_slow: bool,
    /// Size of the buffer for the next read.
    planned: usize,
}

impl Input {
    pub fn new(spares: Rc<Spares>) -> Self {
        Self {
            spares,
            buffer: BytesMut::new(),
            filled: 0,
            taken: Bytes::new(),
            place: Place::Copy,
            rest: Vec::new(),
            is_slow: false,
            planned: 0,
        }
    }

    /// The beginning of a cut frame.
    fn begun(&self) -> &[u8] {
        match self.buffer.is_empty() {
            true => &self.rest,
            false => &self.buffer[..self.filled],
        }
    }

    /// Size of the buffer that the next read needs, bytes.
    fn next_size(&self) -> usize {
        if self.buffer.is_empty() && !self.needs_own() {
            return SHARED_SIZE;
        }
        let size = self.begun().len();
        if size < self.buffer.len() {
            return self.buffer.len();
        }
        let doubled = match size < ORDINARY_MAX {
            true => (2 * size).clamp(OWN_SIZE_MIN, ORDINARY_MAX),
            false => 2 * size,
        };
        let needed = doubled.min(self.frame_size());
        match self.spares.own.borrow().as_ref().map_or(0, BytesMut::len) {
            spare if (needed..=self.frame_size()).contains(&spare) => spare,
            _ => needed,
        }
    }

    /// Decides on the buffer for the next read; returns its size, bytes.
    pub fn plan(&mut self) -> usize {
        self.planned = self.next_size();
        self.planned
    }

    /// Size of the frame that has begun: a bound if it is not known or invalid.
    fn frame_size(&self) -> usize {
        let size = wire::announced_size(self.begun()).unwrap_or(usize::MAX);
        size.max(self.begun().len() + 1)
    }

    /// Whether that is much, so that the memory of all connections for such reads is bounded.
    pub fn is_large(&self) -> bool {
        self.next_size() > ORDINARY_MAX
    }

    fn needs_own(&self) -> bool {
        self.is_slow || self.rest.len() >= SHARED_SIZE / 2
    }

    /// Memory that kept frames hold, bytes, after [`take`](Self::take).
    pub fn memory(&self) -> usize {
        self.taken.len()
    }

    /// The space for the next read, as planned.
    pub fn room(&mut self) -> &mut [u8] {
        if self.begun().len() >= self.buffer.len() {
            let (mut next, place) = match self.needs_own() {
                true => (self.spares.take_own(self.planned), Place::Own),
                false => (self.spares.take(), Place::Shared),
            };
            let filled = self.begun().len();
            next[..filled].copy_from_slice(self.begun());
            (self.buffer, self.place, self.filled) = (next, place, filled);
        }
        let end = match self.place {
            Place::Own => self.frame_size().min(self.buffer.len()),
            _ => self.buffer.len(),
        };
        &mut self.buffer[self.filled..end]
    }

    /// A read has written `size` bytes.
    pub fn received(&mut self, size: usize) {
        self.filled += size;
        self.rest = Vec::new();
    }

    /// Hands over a shared buffer, because a read has found nothing.
    pub fn release(&mut self) {
        if self.place == Place::Shared {
            self.place = Place::Copy;
            self.spares.take_back(std::mem::take(&mut self.buffer));
        }
    }

    /// All received bytes, to split frames off the front. The rest must be given back.
    pub fn take(&mut self) -> Bytes {
        let buffer = std::mem::take(&mut self.buffer);
        self.taken = match self.place == Place::Shared && self.filled <= COPY_MAX {
            true => {
                let copy = Bytes::copy_from_slice(&buffer[..self.filled]);
                self.spares.take_back(buffer);
                self.place = Place::Copy;
                copy
            }
            false => buffer.freeze(),
        };
        self.taken.slice(..self.filled)
    }

    /// Called before the connection yields: it may keep a shared buffer once, unless `takes_long`.
    /// Otherwise replaces `unread` by a copy and returns true: later frames pin other memory.
    pub fn before_yield(&mut self, unread: &mut Bytes, takes_long: bool) -> bool {
        let kept = &self.spares.kept;
        match self.place {
            Place::Shared if !takes_long && kept.get() < KEPT_MAX => {
                kept.set(kept.get() + 1);
                self.place = Place::Kept;
                false
            }
            Place::Shared | Place::Kept => {
                *unread = Bytes::copy_from_slice(unread);
                let taken = std::mem::replace(&mut self.taken, unread.clone());
                self.hand_over(taken);
                true
            }
            Place::Copy | Place::Own => false,
        }
    }

    /// Takes back `rest`, the bytes that follow the frames.
    pub fn give_back(&mut self, rest: Bytes) {
        self.is_slow = rest.len() == self.filled;
        let stays = self.is_slow && self.place == Place::Own;
        if !stays {
            self.rest = rest.to_vec();
        }
        drop(rest);
        let taken = std::mem::take(&mut self.taken);
        if stays {
            self.buffer = taken.try_into_mut().expect("no frame points into it");
        } else {
            self.hand_over(taken);
        }
    }

    /// Gives a buffer back, in which frames may have been kept.
    fn hand_over(&mut self, taken: Bytes) {
        match std::mem::take(&mut self.place) {
            Place::Shared => self.spares.take_back_frozen(taken),
            Place::Kept => {
                self.spares.kept.set(self.spares.kept.get() - 1);
                self.spares.take_back_frozen(taken);
            }
            Place::Own => self.spares.take_back_own(taken),
            Place::Copy => {}
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let taken =
            if buffer.is_empty() { std::mem::take(&mut self.taken) } else { buffer.freeze() };
        self.hand_over(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> (Rc<Spares>, Input) {
        let spares = Rc::new(Spares::default());
        (spares.clone(), Input::new(spares))
    }

    /// A frame of `size` bytes.
    fn frame(size: usize) -> Vec<u8> {
        let mut frame: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
        frame[..4].copy_from_slice(&(size as u32 - 4).to_be_bytes());
        frame
    }

    fn frames(size: usize, count: usize) -> Vec<u8> {
        frame(size).repeat(count)
    }

    /// One read of as much of `bytes` as fits. Calls `during` with each frame and what is not handled
    /// yet, which it may replace.
    fn read(
        input: &mut Input,
        bytes: &mut &[u8],
        mut during: impl FnMut(&mut Input, Bytes, Bytes) -> Bytes,
    ) {
        input.plan();
        let room = input.room();
        assert!(!room.is_empty(), "a read of no bytes would be taken for the end");
        let size = room.len().min(bytes.len());
        let (now, later) = bytes.split_at(size);
        room[..size].copy_from_slice(now);
        *bytes = later;
        input.received(size);
        let mut unread = input.take();
        while let Some(size) = wire::announced_size(&unread).filter(|size| *size <= unread.len()) {
            let frame = unread.split_to(size);
            unread = during(input, frame, unread);
        }
        input.give_back(unread);
    }

    /// Reads all of `bytes`; returns the number of frames and of reads.
    fn read_all(input: &mut Input, mut bytes: &[u8]) -> (usize, usize) {
        let (mut frames, mut reads) = (0, 0);
        while !bytes.is_empty() {
            reads += 1;
            read(input, &mut bytes, |_, _, unread| {
                frames += 1;
                unread
            });
        }
        (frames, reads)
    }

    /// Reads one frame, and keeps it.
    fn keep(input: &mut Input, size: usize) -> Bytes {
        let mut kept = Bytes::new();
        read(input, &mut &frame(size)[..], |_, frame, unread| {
            kept = frame;
            unread
        });
        kept
    }

    /// Whatever the sizes of reads and frames, and whether frames are kept or not, every byte
    /// arrives once and in order.
    #[test]
    fn what_is_received_is_taken_once_and_in_order() {
        for (read_size, frame_size, yields, keeps) in [
            (1_000, 300, 0, false),
            (7_000, 5_000, 1, true),
            (20_000, 7_000, 2, true),
            (SHARED_SIZE, 10_000, 3, false),
            (200_000, 150_000, 1, false),
            (70_000, 600_000, 0, false),
            (3_000, 500_000, 0, true),
            (10, 4_096, 0, false),
            (3, 20, 0, true),
        ] {
            let (spares, mut input) = input();
            let sent = frames(frame_size, (20_000 * read_size).min(3_000_000) / frame_size + 1);
            let (mut taken, mut kept) = (Vec::new(), Vec::new());
            for mut bytes in sent.chunks(read_size) {
                input.plan();
                input.room();
                input.release();
                while !bytes.is_empty() {
                    let mut yielded = 0;
                    read(&mut input, &mut bytes, |input, frame, mut unread| {
                        taken.extend_from_slice(&frame);
                        kept.extend(keeps.then_some(frame));
                        yielded += 1;
                        if yielded <= yields {
                            input.before_yield(&mut unread, yields > 2);
                        }
                        unread
                    });
                }
            }
            assert!(taken == sent, "reads of {read_size}, frames of {frame_size}");
            assert!(!keeps || kept.concat() == sent, "kept frames have changed");
            assert_eq!(spares.kept.get(), 0);
        }
    }

    fn spare_count(spares: &Spares) -> usize {
        spares.free.borrow().len()
    }

    #[test]
    fn all_connections_use_one_buffer_and_hold_no_memory_between_frames() {
        let (spares, first) = input();
        let mut inputs = [first, Input::new(spares.clone())];
        let mut addresses = Vec::new();
        for size in [1_000, 100_000, SHARED_SIZE] {
            for input in &mut inputs {
                addresses.push(input.room().as_ptr());
                assert_eq!(read_all(input, &frame(size)), (1, 1));
                assert!(input.buffer.is_empty() && input.rest.capacity() == 0);
            }
        }
        assert!(addresses.iter().all(|address| *address == addresses[0]), "{addresses:?}");
        assert_eq!(spare_count(&spares), 1);
        inputs[0].room();
        drop(inputs);
        assert_eq!(spare_count(&spares), 1, "a closed connection leaves its buffer");
    }

    #[test]
    fn what_is_kept_of_a_short_read_pins_no_shared_buffer() {
        let (spares, mut input) = input();
        let short = keep(&mut input, COPY_MAX);
        assert_eq!(spare_count(&spares), 1);
        let long = keep(&mut input, COPY_MAX + 1);
        let longer = keep(&mut input, COPY_MAX + 2);
        assert_eq!((spare_count(&spares), spares.pinned.borrow().len()), (0, 2));
        drop(longer);
        for (left, free) in [(2, 1), (1, 2)] {
            // Empties the list of free buffers.
            let free_before = std::mem::take(&mut *spares.free.borrow_mut());
            read_all(&mut input, &frame(1_000));
            spares.free.borrow_mut().extend(free_before);
            assert_eq!((spares.pinned.borrow().len(), spare_count(&spares)), (left, free));
        }
        drop((short, long));
    }

    #[test]
    fn few_connections_keep_a_shared_buffer_while_they_yield_and_none_keeps_it_twice() {
        let (spares, _) = input();
        let begin = || {
            let mut input = Input::new(spares.clone());
            let bytes = frames(20_000, 2);
            input.room()[..bytes.len()].copy_from_slice(&bytes);
            input.received(bytes.len());
            let mut unread = input.take();
            (unread.split_to(20_000), unread, input)
        };
        let yielding: Vec<_> = (0..=KEPT_MAX)
            .map(|nth| {
                let (frame, mut unread, mut input) = begin();
                drop(frame);
                assert_eq!(input.before_yield(&mut unread, false), nth >= KEPT_MAX, "{nth}");
                (unread, input)
            })
            .collect();
        assert_eq!((spares.kept.get(), spare_count(&spares)), (KEPT_MAX, 1));
        for (nth, (mut unread, mut input)) in yielding.into_iter().enumerate() {
            assert_eq!(input.before_yield(&mut unread, false), nth < KEPT_MAX, "{nth}");
            assert_eq!(unread, frame(20_000));
            assert_eq!(input.memory(), 20_000);
            input.give_back(unread.slice(20_000..));
        }
        assert_eq!((spares.kept.get(), spare_count(&spares)), (0, KEPT_MAX + 1));
    }

    /// 600,000 bytes in pieces of 1,000: without doubling, each would be copied 300 times.
    #[test]
    fn a_frame_in_pieces_has_a_buffer_of_its_own_that_doubles() {
        let (spares, mut input) = input();
        let (sent, mut sizes) = (frames(600_000, 2), vec![]);
        for bytes in sent[..600_000].chunks(1_000) {
            assert_eq!(input.is_large(), input.next_size() > ORDINARY_MAX);
            sizes.push(input.next_size());
            read_all(&mut input, bytes);
        }
        sizes.dedup();
        assert_eq!(sizes[..3], [SHARED_SIZE, OWN_SIZE_MIN, 2 * OWN_SIZE_MIN]);
        assert_eq!(sizes.last(), Some(&600_000), "no more than the frame needs");
        assert!(sizes.len() < 12, "{sizes:?}");
        assert!(input.buffer.is_empty() && !input.is_large() && input.rest.capacity() == 0);
        // The next frame of this size, read at full speed, uses the memory of the first one.
        let address = |spares: &Spares| spares.own.borrow().as_ref().unwrap().as_ptr();
        let before = address(&spares);
        assert_eq!(read_all(&mut input, &sent[600_000..]), (1, 2), "up to 128 KiB, and the rest");
        assert_eq!(address(&spares), before);
    }

    /// The memory for large frames is bounded by what is planned.
    #[test]
    fn a_buffer_has_the_planned_size_whatever_becomes_spare_meanwhile() {
        let (spares, mut input) = input();
        read_all(&mut input, &frame(300_000)[..ORDINARY_MAX + 1]);
        spares.own.replace(Some(BytesMut::zeroed(16 << 20)));
        assert_eq!(input.plan(), 300_000, "a longer one is not lent");
        spares.own.replace(Some(BytesMut::zeroed(299_999)));
        input.room();
        assert_eq!(input.buffer.len(), 300_000);
    }
}
