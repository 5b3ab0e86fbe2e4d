//! The open descriptors of a directory's files.
//!
//! ```text
//!   KnownFile ── handle ──▶ open? ──▶ yes: used once more
//!                             └─────▶ no: room is made, and it is opened by the name it has now
//! ```
//!
//! Invariants:
//! - At most [`OPEN_MAX`] descriptors are open besides those in use; the least recently used is
//!   closed first. One that is in use, has unsynced writes, or belongs to a file without a name,
//!   stays open.
//! - Renames and opening by name are serialized, so a name always leads to the intended file: a
//!   rename updates the known files, and a file that is about to lose its name is opened before
//!   that.
//! - If the process has no descriptor left, all idle ones are closed first.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::Duration;

use glommio::io::OpenOptions;
use glommio::sync::{Permit, Semaphore};
use nix::errno::Errno;
use nix::libc::O_DSYNC;

use super::handle::{Handle, Mode, is, read_write};
use crate::reactor;

/// Maximum number of idle descriptors per directory. A log has more segments than a process may
/// have descriptors, but few are read or written at a time.
pub const OPEN_MAX: usize = 32;
/// Retry interval when no descriptor is available.
const RETRY: Duration = Duration::from_millis(100);
/// Attempts before creating a file fails. A write never fails for lack of a descriptor, because a
/// failed write would close the log.
const CREATE_TRIES: u32 = 10;

/// The descriptors of one directory.
#[derive(Debug)]
pub struct OpenFiles {
    directory: Rc<Path>,
    mode: Mode,
    /// Held while opening a file by name or changing names.
    names: Semaphore,
    known: RefCell<Vec<Weak<KnownFile>>>,
    open_count: Cell<usize>,
    /// Counts uses, to find the least recently used.
    use_count: Cell<u64>,
}

/// Which of the two descriptors of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// For reads, and for writes followed by a sync.
    Plain,
    /// With O_DSYNC: a write is on stable media when it returns.
    Durable,
}

/// A known file, with or without a descriptor at the moment.
#[derive(Debug)]
pub struct KnownFile {
    files: Rc<OpenFiles>,
    name: RefCell<String>,
    /// False if it was removed or another file took its name.
    has_name: Cell<bool>,
    pub size: u64,
    handles: [RefCell<Option<Rc<Handle>>>; 2],
    used_at: Cell<u64>,
    /// There are writes that no sync has followed yet.
    is_dirty: Cell<bool>,
}

impl OpenFiles {
    pub fn new(directory: Rc<Path>, mode: Mode) -> Rc<Self> {
        Rc::new(Self {
            directory,
            mode,
            names: Semaphore::new(1),
            known: RefCell::default(),
            open_count: Cell::new(0),
            use_count: Cell::new(0),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Creates a file and reserves its space; its size is then durable. Without a descriptor,
    /// retries for a second.
    pub async fn create(self: &Rc<Self>, name: &str, size: u64) -> io::Result<Rc<KnownFile>> {
        let mut tries = 0;
        let handle = Rc::new(loop {
            match self.open(name, read_write().create_new(true)).await {
                Err(error) if is_out_of_descriptors(&error) && tries < CREATE_TRIES => {
                    tries += 1;
                    reactor::sleep(RETRY).await;
                }
                outcome => break outcome?,
            }
        });
        let made = async {
            if size > 0 {
                handle.reserve(size).await?;
            }
            reactor::sync(handle.clone()).await
        };
        if let Err(error) = made.await {
            // No task has the file yet. A partial one must not be found later, nor take up space.
            std::fs::remove_file(self.path(name)).ok();
            return Err(error);
        }
        let file = self.known(name, size);
        file.put(Which::Plain, handle);
        Ok(file)
    }

    /// An existing file of `size` bytes. It gets a descriptor when it is used.
    pub fn known(self: &Rc<Self>, name: &str, size: u64) -> Rc<KnownFile> {
        let file = Rc::new(KnownFile {
            files: self.clone(),
            name: RefCell::new(name.to_owned()),
            has_name: Cell::new(true),
            size,
            handles: Default::default(),
            used_at: Cell::new(0),
            is_dirty: Cell::new(false),
        });
        let mut known = self.known.borrow_mut();
        known.retain(|file| file.strong_count() > 0);
        known.push(Rc::downgrade(&file));
        file
    }

    pub async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let _names = self.names().await;
        self.keep_open(to).await?;
        let (from_path, to_path) = (self.path(from), self.path(to));
        reactor::blocking(move || std::fs::rename(from_path, to_path)).await?;
        for file in self.known_as(to) {
            file.has_name.set(false);
        }
        for file in self.known_as(from) {
            to.clone_into(&mut file.name.borrow_mut());
        }
        Ok(())
    }

    pub async fn remove(&self, name: &str) -> io::Result<()> {
        let _names = self.names().await;
        self.keep_open(name).await?;
        let path = self.path(name);
        reactor::blocking(move || std::fs::remove_file(path)).await?;
        for file in self.known_as(name) {
            file.has_name.set(false);
        }
        Ok(())
    }

    /// Opens the files that are about to lose this name, for tasks that still read them.
    async fn keep_open(&self, name: &str) -> io::Result<()> {
        for file in self.known_as(name) {
            if file.opened(Which::Plain).is_none() {
                let handle = self.open(name, &read_write()).await?;
                file.put(Which::Plain, Rc::new(handle));
            }
        }
        Ok(())
    }

    async fn names(&self) -> Permit<'_> {
        self.names.acquire_permit(1).await.expect("it is never closed")
    }

    fn known_as(&self, name: &str) -> Vec<Rc<KnownFile>> {
        let is_meant = |file: &Rc<KnownFile>| file.has_name.get() && *file.name.borrow() == name;
        self.known.borrow().iter().filter_map(Weak::upgrade).filter(is_meant).collect()
    }

    async fn open(&self, name: &str, options: &OpenOptions) -> io::Result<Handle> {
        while self.open_count.get() >= OPEN_MAX && self.close_one().await {}
        let path = self.path(name);
        match Handle::open(self.mode, &path, options).await {
            Err(error) if is_out_of_descriptors(&error) => {
                while self.close_one().await {}
                Handle::open(self.mode, &path, options).await
            }
            outcome => outcome,
        }
    }

    /// Closes the least recently used descriptor; false if none may be closed.
    async fn close_one(&self) -> bool {
        let idle = {
            let known = self.known.borrow();
            let files = known.iter().filter_map(Weak::upgrade);
            let handles = files
                .flat_map(|file| [Which::Plain, Which::Durable].map(|which| (file.clone(), which)));
            let closable = handles.filter(|(file, which)| file.may_close(*which));
            closable.min_by_key(|(file, _)| file.used_at.get())
        };
        let Some((file, which)) = idle else { return false };
        let handle = file.handles[which as usize].take().and_then(Rc::into_inner);
        self.open_count.set(self.open_count.get() - 1);
        let Some(handle) = handle else { return true };
        if let Err(error) = handle.close().await {
            tracing::warn!("close {}: {error}", file.name());
        }
        true
    }
}

impl KnownFile {
    pub fn name(&self) -> String {
        self.name.borrow().clone()
    }

    /// The descriptor for reads or for writes.
    pub async fn handle(&self, which: Which) -> io::Result<Rc<Handle>> {
        let count = self.files.use_count.get() + 1;
        self.files.use_count.set(count);
        self.used_at.set(count);
        if let Some(handle) = self.opened(which) {
            return Ok(handle);
        }
        let _names = self.files.names().await;
        if let Some(handle) = self.opened(which) {
            return Ok(handle);
        }
        if !self.has_name.get() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut options = read_write();
        if which == Which::Durable {
            options.custom_flags(O_DSYNC);
        }
        let handle = Rc::new(self.files.open(&self.name(), &options).await?);
        self.put(which, handle.clone());
        Ok(handle)
    }

    /// The descriptor for writes; waits as long as it takes.
    pub async fn handle_to_write(&self, which: Which) -> io::Result<Rc<Handle>> {
        if which == Which::Plain {
            self.is_dirty.set(true);
        }
        let mut is_logged = false;
        loop {
            match self.handle(which).await {
                Err(error) if is_out_of_descriptors(&error) => {
                    if !is_logged {
                        tracing::error!(
                            "open {} to write: {error}; retrying until a descriptor is free",
                            self.name()
                        );
                    }
                    is_logged = true;
                    reactor::sleep(RETRY).await;
                }
                outcome => return outcome,
            }
        }
    }

    pub async fn sync(&self) -> io::Result<()> {
        let handle = self.handle_to_write(Which::Plain).await?;
        // Later writes are for the next sync.
        self.is_dirty.set(false);
        let synced = reactor::sync(handle).await;
        if synced.is_err() {
            self.is_dirty.set(true);
        }
        synced
    }

    fn opened(&self, which: Which) -> Option<Rc<Handle>> {
        self.handles[which as usize].borrow().clone()
    }

    fn put(&self, which: Which, handle: Rc<Handle>) {
        *self.handles[which as usize].borrow_mut() = Some(handle);
        self.files.open_count.set(self.files.open_count.get() + 1);
    }

    fn may_close(&self, which: Which) -> bool {
        let is_idle = |handle: &Rc<Handle>| Rc::strong_count(handle) == 1;
        let is_open_and_idle = self.handles[which as usize].borrow().as_ref().is_some_and(is_idle);
        let is_needed = which == Which::Plain && (self.is_dirty.get() || !self.has_name.get());
        is_open_and_idle && !is_needed
    }
}

impl Drop for KnownFile {
    fn drop(&mut self) {
        let open = self.handles.iter().filter(|handle| handle.borrow().is_some()).count();
        self.files.open_count.set(self.files.open_count.get() - open);
    }
}

/// The limit of the process or of the system.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    is(error, Errno::EMFILE) || is(error, Errno::ENFILE)
}
