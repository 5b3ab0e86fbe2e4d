//! A permission that only clients check does not stop requests sent directly to the broker.
//!
//! Kind of report: "messages are still stored after the topic was set to read-only" (the route
//! reaches clients half a minute late, and some never ask for it).
//!
//! Source: apache/rocketmq issues 4109 and 6706.

use crate::client::{Client, PULL, SEND, SEND_BATCH, batch_item, send_fields};
use crate::server::{Scratch, Server, free_ports, local};

#[test]
fn the_broker_itself_enforces_permissions() {
    let scratch = Scratch::new("permissions");
    let port = free_ports();
    let server = Server::dev(&scratch, port, &[]);
    // The second port is the one for old clients.
    for port in [port + 3, port + 1] {
        let mut client = Client::connect(local(port));
        for perm in [6, 4, 2, 0] {
            assert_eq!(client.set_topic("doors", 1, perm).code, 0);
            let fields = send_fields("doors", 0);
            let sent = [
                client.ask(SEND, &fields, b"body"),
                client.ask(SEND_BATCH, &fields, &batch_item(b"body")),
            ];
            for said in sent {
                match perm & 2 != 0 {
                    true => assert_eq!(said.code, 0, "perm {perm}: {said:?}"),
                    false => {
                        assert_eq!(said.code, 16, "perm {perm}: {said:?}");
                        assert!(said.remark.contains("RINGMQ-1008"), "{said:?}");
                    }
                }
            }
            let said = client.ask(PULL, &Client::pull_fields("doors", 0, 0, 0), b"");
            match perm & 4 != 0 {
                true => assert_eq!(said.code, 0, "perm {perm}: {said:?}"),
                false => {
                    assert_eq!(said.code, 16, "perm {perm}: {said:?}");
                    assert!(said.remark.contains("RINGMQ-1007"), "{said:?}");
                }
            }
        }
    }
    assert!(server.stop().success());
}
