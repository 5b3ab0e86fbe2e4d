//! Sending: all output in one system call; a full socket gets a task that waits for it.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use super::Connection;
use crate::reactor;
use crate::shard::output::Sent;
use crate::shard::service::Service;

/// Reply bytes passed at a time to a socket that was full.
const SEND_SIZE_MAX: usize = 256 << 10;
/// Memory for unsent replies at which a connection is closed: its client does not read, and replies
/// of held pulls arrive whether or not there is room for them.
pub(super) const OUTPUT_LIMIT: usize = 64 << 20;

impl<S: Service> Connection<S> {
    /// Sends the output. If the socket is full, a task continues. Returns the number of bytes sent
    /// immediately.
    pub fn flush(self: &Rc<Self>) -> usize {
        if self.is_blocked.get() || self.is_closed.get() {
            self.close_if_hopeless();
            return 0;
        }
        let (sent, size) = {
            let output = &mut self.replies.borrow_mut().output;
            let before = output.unsent();
            if before == 0 {
                return 0;
            }
            let sent = output.send(self.socket);
            self.output_share.set(output.held());
            (sent, before - output.unsent())
        };
        if size > 0 {
            self.last_used.set(Instant::now());
            self.common.metrics.sent_bytes.add(size as u64);
        }
        match sent {
            Ok(Sent::All) => {}
            Ok(Sent::Blocked) => {
                self.send_when_writable();
                self.close_if_hopeless();
            }
            Err(_) => self.close(),
        }
        size
    }

    /// Closes the connection if its unsent replies exceed [`OUTPUT_LIMIT`]: replies of held pulls
    /// arrive whether or not there is room for them.
    fn close_if_hopeless(&self) {
        if self.replies.borrow().output.held() > OUTPUT_LIMIT {
            self.close();
        }
    }

    fn send_when_writable(self: &Rc<Self>) {
        self.is_blocked.set(true);
        let connection = self.clone();
        reactor::spawn(async move {
            let result = connection.drain().await;
            connection.is_blocked.set(false);
            if result.is_err() {
                connection.close();
            }
            connection.flush();
            connection.moved.notify();
        })
        .detach();
    }

    async fn drain(&self) -> io::Result<()> {
        loop {
            let bytes = self.replies.borrow().output.next_bytes(SEND_SIZE_MAX);
            if bytes.is_empty() || self.is_closed.get() {
                return Ok(());
            }
            let size = poll_fn(|context| self.stream.poll_write(context, &bytes)).await?;
            if self.is_closed.get() {
                return Ok(()); // The output may be gone.
            }
            self.last_used.set(Instant::now());
            let output = &mut self.replies.borrow_mut().output;
            let before = output.unsent();
            output.advance(size);
            let sent = output.send(self.socket);
            self.output_share.set(output.held());
            self.common.metrics.sent_bytes.add((before - output.unsent()) as u64);
            sent?;
            self.moved.notify();
        }
    }
}
