//! The end of a connection whose peer may still be sending.
//!
//! A socket that is closed with bytes unread, or that gets more of them later, is reset: the kernel
//! throws away what it has not delivered, and with it answers that the peer has a right to. So the
//! peer is told first that nothing more comes, and what it goes on sending is taken in until it has
//! closed too.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, Shutdown, SockaddrStorage, getpeername, recv, shutdown};

/// How long a peer may take to close after it has read the last answer.
const PART_MAX: Duration = Duration::from_secs(1);
/// How often to look whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Bytes taken in at a time, and how often in a row, so that nobody holds up the shard.
const UNREAD_SIZE: usize = 16 << 10;
const READS_PER_LOOK: usize = 16;

/// Ends the connection behind `socket`, whose answers have all been given to the kernel.
pub async fn part(socket: RawFd) {
    if shutdown(socket, Shutdown::Write).is_err() {
        return; // It is gone already.
    }
    let deadline = Instant::now() + PART_MAX;
    // Once both sides have closed it, or the peer has reset it, it has no peer.
    while getpeername::<SockaddrStorage>(socket).is_ok() && Instant::now() < deadline {
        discard(socket);
        glommio::timer::sleep(LOOK_AGAIN).await;
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
