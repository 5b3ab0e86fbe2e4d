//! The io_uring of one thread: what is requested from the kernel, and what it reports.
//!
//! The only file with `unsafe` code. What makes it sound:
//! - A transfer owns its memory and keeps its file open from before the kernel learns of it until the
//!   kernel has completed it. It does not matter whether a task still waits for it.
//! - The memory does not move: a [`DmaBuffer`] points to it, and only the pointer moves.
//! - No code can write to the memory of a write, because it is shared read-only, or access that of
//!   a read, because the transfer is its only owner.
//! - Dropping a ring first waits for its transfers.
//!
//! Watches point to no memory.
//!
//! Not here: which tasks are woken ([`super::readiness`], [`super::completion`]), and when the
//! thread enters the kernel ([`super::core`]).

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use glommio::io::DmaBuffer;
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::errno::Errno;
use nix::libc;
use slab::Slab;

use super::completion::Completion;
use super::readiness::Readiness;

/// Number of requests that fit in the ring before the kernel must be entered.
const ENTRIES: u32 = 1024;
/// Number of reports that fit in the ring before the kernel must keep them elsewhere.
const COMPLETIONS: u32 = 16 * ENTRIES;
/// How often, at most, one call enters the kernel for what it has not reported yet.
const ENTRIES_MAX: usize = 1024;
/// Marks the report of a request whose outcome does not matter.
const IGNORED: u64 = u64::MAX;

/// A file that bytes can be transferred to and from. It is dropped when its last transfer is
/// complete, and that must not use the ring.
pub trait TransferFile: AsRawFd {}

impl TransferFile for std::fs::File {}

/// A file that stays open while a transfer uses it.
pub type OpenFile = Rc<dyn TransferFile>;

pub struct Ring {
    uring: IoUring,
    /// Requests that the kernel knows of. A key is free again once its last report has been
    /// handled.
    requests: Slab<Request>,
    /// Reports that were collected to make room in the ring.
    collected: VecDeque<Report>,
}

enum Request {
    Watch(Rc<Readiness>),
    Transfer(Transfer),
}

struct Transfer {
    completion: Rc<Completion>,
    memory: Memory,
    _file: OpenFile,
}

enum Memory {
    None,
    /// The memory of a write.
    Shared {
        _buffer: Rc<DmaBuffer>,
    },
    /// The memory of a read.
    Owned(DmaBuffer),
}

struct Report {
    key: u64,
    result: i32,
    /// More reports with this key follow.
    has_more: bool,
}

impl Ring {
    pub fn new() -> io::Result<Self> {
        Ok(Self { uring: build()?, requests: Slab::new(), collected: VecDeque::new() })
    }

    /// Has the kernel report when the descriptor becomes ready, unless it already does. The
    /// descriptor must stay open until [`unwatch`](Self::unwatch).
    pub fn watch(&mut self, readiness: &Rc<Readiness>) {
        if readiness.watch.get().is_some() {
            return;
        }
        let key = self.requests.insert(Request::Watch(readiness.clone()));
        readiness.watch.set(Some(key));
        let (descriptor, events) = (Fd(readiness.descriptor), u32::from(readiness.events as u16));
        self.push(opcode::PollAdd::new(descriptor, events).multi(true).build(), key as u64);
    }

    /// Ends the watch. The descriptor may be closed afterwards, although the kernel keeps the file
    /// open until it gets the request. This does not use PollRemove, which does nothing if a report
    /// is under way.
    pub fn unwatch(&mut self, readiness: &Readiness) {
        if let Some(key) = readiness.watch.take() {
            self.push(opcode::AsyncCancel::new(key as u64).build(), IGNORED);
        }
    }

    /// Writes all of `buffer` at `offset`.
    pub fn write(
        &mut self,
        file: OpenFile,
        buffer: Rc<DmaBuffer>,
        offset: u64,
        completion: Rc<Completion>,
    ) {
        let (fd, begin, size) = (Fd(file.as_raw_fd()), buffer.as_ptr(), transfer_size(&buffer));
        let entry = opcode::Write::new(fd, begin, size).offset(offset).build();
        let memory = Memory::Shared { _buffer: buffer };
        self.transfer(entry, Transfer { completion, memory, _file: file });
    }

    /// Reads into `buffer`, which the completion returns.
    pub fn read(
        &mut self,
        file: OpenFile,
        mut buffer: DmaBuffer,
        offset: u64,
        completion: Rc<Completion>,
    ) {
        let size = transfer_size(&buffer);
        let (fd, begin) = (Fd(file.as_raw_fd()), buffer.as_bytes_mut().as_mut_ptr());
        let entry = opcode::Read::new(fd, begin, size).offset(offset).build();
        let memory = Memory::Owned(buffer);
        self.transfer(entry, Transfer { completion, memory, _file: file });
    }

    /// Flushes the contents of `file`, and what is needed to find them (fdatasync).
    pub fn sync(&mut self, file: OpenFile, completion: Rc<Completion>) {
        let entry = opcode::Fsync::new(Fd(file.as_raw_fd())).flags(FsyncFlags::DATASYNC).build();
        self.transfer(entry, Transfer { completion, memory: Memory::None, _file: file });
    }

    /// Submits a transfer. `entry` must point only to what `transfer` owns.
    fn transfer(&mut self, entry: squeue::Entry, transfer: Transfer) {
        let key = self.requests.insert(Request::Transfer(transfer));
        self.push(entry, key as u64);
    }

    fn push(&mut self, entry: squeue::Entry, key: u64) {
        let entry = entry.user_data(key);
        loop {
            // SAFETY: what the entry points to is owned by `requests` until the report that the
            // kernel has completed it (see the head of this file).
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.submit();
        }
    }

    /// Whether there are requests that the kernel has not been told of.
    pub fn has_unsubmitted(&mut self) -> bool {
        !self.uring.submission().is_empty()
    }

    /// Whether the kernel has reports that it delivers only when entered.
    pub fn has_deferred(&mut self) -> bool {
        let queue = self.uring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Whether there are reports.
    pub fn has_reports(&mut self) -> bool {
        !self.collected.is_empty() || !self.uring.completion().is_empty()
    }

    /// Submits all requests, and has the kernel report all that it can, without waiting.
    ///
    /// Entering the kernel once makes at most twenty reports (since Linux 6.13), first in first
    /// out. The completion of a write would come after the readiness of thousands of sockets.
    pub fn submit(&mut self) {
        for _ in 0..ENTRIES_MAX {
            let outcome = self.uring.submit();
            self.check(outcome);
            if self.uring.submission().cq_overflow() {
                self.collect();
            }
            if !self.has_deferred() {
                break;
            }
        }
    }

    /// Submits all requests, and waits for a report, a signal, or `timeout`.
    pub fn wait(&mut self, timeout: Option<Duration>) {
        let outcome = match timeout.map(Timespec::from) {
            None => self.uring.submit_and_wait(1),
            Some(timeout) => {
                let args = SubmitArgs::new().timespec(&timeout);
                self.uring.submitter().submit_with_args(1, &args)
            }
        };
        self.check(outcome);
    }

    /// Any other error is a bug: the ring would be unusable.
    fn check(&mut self, outcome: io::Result<usize>) {
        let Err(error) = outcome else { return };
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ETIME | Errno::EINTR) => {}
            // The kernel has too many reports, or is short of memory.
            Some(Errno::EBUSY | Errno::EAGAIN) => self.collect(),
            _ => panic!("io_uring_enter: {error}"),
        }
    }

    fn collect(&mut self) {
        let reports = self.uring.completion().map(|entry| Report::from(&entry));
        self.collected.extend(reports);
    }

    /// Delivers all reports to those waiting for them. Returns their number.
    pub fn deliver(&mut self) -> usize {
        let mut count = 0;
        while let Some(report) = self.next_report() {
            count += 1;
            self.handle(report);
        }
        count
    }

    fn next_report(&mut self) -> Option<Report> {
        match self.collected.pop_front() {
            Some(report) => Some(report),
            None => self.uring.completion().next().map(|entry| Report::from(&entry)),
        }
    }

    fn handle(&mut self, Report { key, result, has_more }: Report) {
        if key == IGNORED {
            return;
        }
        let key = key as usize;
        if let Request::Watch(readiness) = &self.requests[key] {
            readiness.report(result, has_more);
        }
        if has_more {
            return;
        }
        if let Request::Transfer(Transfer { completion, memory, .. }) = self.requests.remove(key) {
            let buffer = match memory {
                Memory::Owned(buffer) => Some(buffer),
                Memory::None | Memory::Shared { .. } => None,
            };
            completion.complete(result, buffer);
        }
    }

    /// Waits until the kernel has completed all transfers.
    pub fn wait_for_transfers(&mut self) {
        while self.has_transfers() {
            self.wait(None);
            self.deliver();
        }
    }

    #[cfg(test)]
    pub fn request_count(&self) -> usize {
        self.requests.len()
    }

    fn has_transfers(&self) -> bool {
        self.requests.iter().any(|(_, request)| matches!(request, Request::Transfer(_)))
    }
}

impl Drop for Ring {
    /// Waits, because the kernel may still read or write the memory of transfers.
    fn drop(&mut self) {
        self.wait_for_transfers();
    }
}

impl From<&cqueue::Entry> for Report {
    fn from(entry: &cqueue::Entry) -> Self {
        let has_more = cqueue::more(entry.flags());
        Self { key: entry.user_data(), result: entry.result(), has_more }
    }
}

fn transfer_size(buffer: &DmaBuffer) -> u32 {
    u32::try_from(buffer.len()).expect("a transfer of less than 4 GiB")
}

/// Creates the ring with what the kernel offers to avoid interrupts: since 6.1, it reports only
/// when the thread asks for it; since 5.19, only when the thread enters the kernel.
fn build() -> io::Result<IoUring> {
    let base = || {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS);
        builder
    };
    let mut deferred = base();
    deferred.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    let mut cooperative = base();
    cooperative.setup_coop_taskrun().setup_taskrun_flag();
    let is_unknown = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
    match deferred.build(ENTRIES) {
        Err(error) if is_unknown(&error) => match cooperative.build(ENTRIES) {
            Err(error) if is_unknown(&error) => base().build(ENTRIES),
            outcome => outcome,
        },
        outcome => outcome,
    }
}
