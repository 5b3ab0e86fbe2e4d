//! Tracks which data directories the replicas of a shard have, so that an emptied directory,
//! another replica's, or an older copy never votes or acknowledges anything.
//!
//! Every connection begins with what each side is and what it remembers of the other: the
//! directory, how often it was started, the term of its last vote, and an entry that it had. None
//! of these ever goes backwards. A side makes what is new durable before it answers. A replica that
//! is behind what others remember of it is not the one that it claims to be, and exits.
//!
//! A directory that has never been used takes part once every other replica has confirmed that it
//! knows no other directory of its number.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use super::types::{ReplicaId, failed};
use crate::storage::disk::Disk;
use crate::storage::signal::Turns;
use crate::storage::{Joined, Mark, Store, StoredIdentity};

/// Why a replica must not take part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityFault {
    #[error(
        "RINGMQ-5003 this is not the data directory of replica {replica}: {why}. It may have promised \
         and acknowledged what this directory does not know. Start it with its own directory; if that \
         is lost, replace it by a replica with a new number and an empty directory"
    )]
    OtherDirectory { replica: ReplicaId, why: String },
    #[error(
        "RINGMQ-5004 the data directory of replica {replica} is an older copy: {why}. It may have \
         promised and acknowledged what this copy does not know. Start it with its newest directory; if \
         that is lost, replace it by a replica with a new number and an empty directory"
    )]
    OlderCopy { replica: ReplicaId, why: String },
}

/// Checks a directory, which is `now`, against what is remembered of it, `known`.
pub fn compare(replica: ReplicaId, known: &Mark, now: &Mark) -> Result<(), IdentityFault> {
    if known.directory == 0 {
        return Ok(());
    }
    if known.directory != now.directory {
        let why = "another replica has met it with another directory".into();
        return Err(IdentityFault::OtherDirectory { replica, why });
    }
    let rows = [
        ("start", known.starts, now.starts),
        ("election", known.term, now.term),
        ("entry", known.index, now.index),
    ];
    match rows.iter().find(|(_, known, now)| known > now) {
        None => Ok(()),
        Some((what, known, now)) => {
            let why = format!("another replica has seen its {what} {known}, and here it is {now}");
            Err(IdentityFault::OlderCopy { replica, why })
        }
    }
}

/// The identity of this replica, and of the others that it has met. A clone is another handle.
pub struct KnownPeers<D: Disk>(Rc<State<D>>);

struct State<D: Disk> {
    store: Store<D>,
    stored: RefCell<StoredIdentity>,
    /// Serializes writes of the file.
    writes: Turns,
    fault: RefCell<Option<IdentityFault>>,
    /// The others that have confirmed this directory since this start.
    confirmed: RefCell<Vec<ReplicaId>>,
    /// Another replica has votes or entries.
    has_met_used: Cell<bool>,
    has_met_stranger: Cell<bool>,
}

impl<D: Disk> Clone for KnownPeers<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: Disk> KnownPeers<D> {
    /// Reads the identity of the directory, or gives it one. `directory` is random. `is_used`:
    /// there are votes or entries.
    pub async fn open(
        store: Store<D>,
        replica: ReplicaId,
        directory: u64,
        is_used: bool,
    ) -> io::Result<Self> {
        let found = store.read_identity().await.map_err(failed)?;
        let mut stored = match found {
            Some(found) if found.replica != replica => {
                let why = format!("it belongs to replica {}", found.replica);
                return Err(failed(IdentityFault::OtherDirectory { replica, why }));
            }
            Some(found) => found,
            None if is_used => {
                let why = "its identity is missing".into();
                return Err(failed(IdentityFault::OtherDirectory { replica, why }));
            }
            None => StoredIdentity { replica, directory, ..StoredIdentity::default() },
        };
        stored.starts += 1;
        store.write_identity(&stored).await.map_err(failed)?;
        Ok(Self(Rc::new(State {
            store,
            stored: stored.into(),
            writes: Turns::default(),
            fault: RefCell::default(),
            confirmed: RefCell::default(),
            has_met_used: Cell::default(),
            has_met_stranger: Cell::default(),
        })))
    }

    /// What this replica is now, given the term of its last vote and the index of its last entry.
    pub fn own(&self, term: u64, index: u64) -> Mark {
        let stored = self.0.stored.borrow();
        Mark { directory: stored.directory, starts: stored.starts, term, index }
    }

    /// What is remembered of another replica.
    pub fn known(&self, replica: ReplicaId) -> Mark {
        let stored = self.0.stored.borrow();
        let found = stored.peers.iter().find(|(known, _)| *known == replica);
        found.map(|(_, mark)| *mark).unwrap_or_default()
    }

    /// Handles what another replica reports: what it is, `theirs`, and what it remembers of this
    /// one, `known_of_us`. This replica is `own`. Durable when it returns. Fails if either replica
    /// is not what it was.
    pub async fn meet(
        &self,
        replica: ReplicaId,
        theirs: &Mark,
        own: &Mark,
        known_of_us: &Mark,
    ) -> io::Result<()> {
        let us = self.0.stored.borrow().replica;
        if let Err(fault) = compare(us, known_of_us, own) {
            self.0.fault.borrow_mut().get_or_insert(fault.clone());
            return Err(failed(fault));
        }
        if let Err(fault) = compare(replica, &self.known(replica), theirs) {
            // A hello that was overtaken by a later one looks like an older copy. The other side
            // can tell, and exits if it is one.
            let is_certain = matches!(fault, IdentityFault::OtherDirectory { .. });
            if is_certain && !self.0.has_met_stranger.replace(true) {
                tracing::error!("another replica is refused: {fault}");
            }
            return Err(failed(fault));
        }
        if theirs.term > 0 || theirs.index > 0 {
            self.0.has_met_used.set(true);
        }
        // Its last entry may not be committed, and may be cut off.
        self.note(&[(replica, Mark { index: 0, ..*theirs })]).await?;
        if known_of_us.directory == own.directory {
            let confirmed = &mut *self.0.confirmed.borrow_mut();
            if !confirmed.contains(&replica) {
                confirmed.push(replica);
            }
        }
        Ok(())
    }

    /// Remembers how far other replicas have got. Durable when it returns.
    pub async fn note(&self, marks: &[(ReplicaId, Mark)]) -> io::Result<()> {
        let _turn = self.0.writes.turn().await;
        let mut stored = self.0.stored.borrow().clone();
        for (replica, mark) in marks {
            let position = stored.peers.iter().position(|(known, _)| known == replica);
            let position = position.unwrap_or_else(|| {
                stored
                    .peers
                    .push((*replica, Mark { directory: mark.directory, ..Mark::default() }));
                stored.peers.len() - 1
            });
            let known = &mut stored.peers[position].1;
            known.starts = known.starts.max(mark.starts);
            known.term = known.term.max(mark.term);
            known.index = known.index.max(mark.index);
        }
        self.store(stored).await
    }

    async fn store(&self, stored: StoredIdentity) -> io::Result<()> {
        if *self.0.stored.borrow() == stored {
            return Ok(());
        }
        self.0.store.write_identity(&stored).await.map_err(failed)?;
        self.0.stored.replace(stored);
        Ok(())
    }

    pub fn joined(&self) -> Joined {
        self.0.stored.borrow().joined
    }

    /// Records that all others have confirmed this directory. Durable when it returns.
    pub async fn join(&self) -> io::Result<()> {
        let _turn = self.0.writes.turn().await;
        let joined = if self.0.has_met_used.get() { Joined::Old } else { Joined::New };
        let stored = StoredIdentity { joined, ..self.0.stored.borrow().clone() };
        self.store(stored).await
    }

    pub fn has_confirmed(&self, other: ReplicaId) -> bool {
        self.0.confirmed.borrow().contains(&other)
    }

    /// The fault, if another replica has reported that this one is not what it claims to be.
    pub fn fault(&self) -> Option<IdentityFault> {
        self.0.fault.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_back_is_an_older_copy() {
        let mark = |directory, starts, term, index| Mark { directory, starts, term, index };
        let known = mark(7, 3, 5, 100);
        let (other, older) = ("RINGMQ-5003", "RINGMQ-5004");
        let rows = [
            (Mark::default(), mark(9, 1, 0, 0), None),
            (known, mark(7, 3, 5, 100), None),
            (known, mark(7, 4, 6, 900), None),
            (known, mark(9, 4, 6, 900), Some(other)),
            (known, mark(7, 2, 5, 100), Some(older)),
            (known, mark(7, 3, 4, 100), Some(older)),
            (known, mark(7, 3, 5, 99), Some(older)),
        ];
        for (known, now, expected) in rows {
            let found = compare(2, &known, &now).err().map(|fault| fault.to_string());
            let is_as_expected = match (&found, expected) {
                (Some(found), Some(expected)) => found.starts_with(expected),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(is_as_expected, "{known:?}, {now:?}: {found:?}");
        }
    }
}
