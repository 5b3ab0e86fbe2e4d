//! More held pulls than one client may have.

use std::io::Write;

use crate::server::{Ports, Scratch, Server, run};
use crate::wire::{answer, connect, frame, header};

/// Maximum number of held pulls per connection.
const OF_CONNECTION: i32 = 16_384;
const TOO_MANY: i32 = 100;

/// A pull at the end of queue 0, to be held for a minute.
fn pull(opaque: i32) -> Vec<u8> {
    let ext = r#""consumerGroup":"waiters","topic":"quiet","queueId":"0","queueOffset":"0","maxMsgNums":"32","sysFlag":"6","commitOffset":"0","suspendTimeoutMillis":"60000","subscription":"*","subVersion":"0","expressionType":"TAG""#;
    frame(&header(11, opaque, 0, ext), b"")
}

#[test]
fn a_client_with_too_many_held_pulls_leaves_room_for_others() {
    let scratch = Scratch::new("held");
    let ports = Ports::free();
    let server = Server::dev(&scratch.0.join("data"), ports, 1);
    let namesrv = ports.nameserver_address().to_string();
    let ordered = |args: &[&str]| {
        let output = run(&[args, &["--namesrv", &namesrv]].concat());
        assert!(output.status.success(), "{output:?}");
    };
    ordered(&["topic", "create", "quiet", "--queues", "1"]);

    let mut greedy = connect(ports);
    let pulls: Vec<u8> = (0..OF_CONNECTION + TOO_MANY).flat_map(pull).collect();
    greedy.write_all(&pulls).unwrap();
    for nth in 0..TOO_MANY {
        let refused = answer(&mut greedy);
        let opaque = format!(r#""opaque":{},"#, OF_CONNECTION + nth);
        for part in [r#""code":2,"#, "reason=held_pulls_of_connection", &opaque] {
            assert!(refused.contains(part), "{refused} does not say {part}");
        }
    }

    let mut other = connect(ports);
    other.write_all(&pull(7)).unwrap();
    // The reply to this comes second only if the previous pull was refused.
    other.write_all(&frame(&header(28, 8, 0, ""), b"")).unwrap();
    assert!(answer(&mut other).contains(r#""opaque":8"#), "its pull is held");
    drop(greedy);
    ordered(&["msg", "send", "quiet", "at last"]);
    let found = answer(&mut other);
    assert!(found.contains(r#""opaque":7"#) && found.contains(r#""code":0"#), "{found}");
    assert!(server.terminate().success());
}
