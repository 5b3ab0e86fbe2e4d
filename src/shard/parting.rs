//! Closes a connection whose peer may still be sending.
//!
//! If a socket is closed with unread bytes, or receives more later, the kernel resets the
//! connection and discards undelivered data, including replies to the peer. So the write side is
//! shut down first, and incoming bytes are discarded until the peer has closed too.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, Shutdown, SockaddrStorage, getpeername, recv, shutdown};

use crate::reactor;

/// How long a peer may take to close after reading the last reply.
const PART_MAX: Duration = Duration::from_secs(1);
/// How often to check for that.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Bytes read at a time, and reads in a row, so that one peer cannot hold up the shard.
const UNREAD_SIZE: usize = 16 << 10;
const READS_PER_LOOK: usize = 16;

/// Closes `socket`, whose replies have all been passed to the kernel.
pub async fn part(socket: RawFd) {
    if shutdown(socket, Shutdown::Write).is_err() {
        return; // The peer is gone already.
    }
    let deadline = Instant::now() + PART_MAX;
    // A socket has no peer once both sides have closed it or the peer has reset it.
    while getpeername::<SockaddrStorage>(socket).is_ok() && Instant::now() < deadline {
        discard(socket);
        reactor::sleep(LOOK_AGAIN).await;
    }
}

fn discard(socket: RawFd) {
    let mut unread = [0; UNREAD_SIZE];
    for _ in 0..READS_PER_LOOK {
        if !matches!(recv(socket, &mut unread, MsgFlags::MSG_DONTWAIT), Ok(1..)) {
            return;
        }
    }
}
