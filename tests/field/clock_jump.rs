//! The wall clock jumps by years and back, and messages that should be kept for days are deleted.
//!
//! Kind of report: "all messages disappeared after the VM was resumed", "NTP was broken for a
//! moment and the commit log was cleaned" (issue trackers of brokers that delete by the time of
//! day).
//!
//! Source: apache/rocketmq issue 9455, of another effect of a jump.

use std::path::Path;

use serde_json::json;

use crate::client::{Client, MIN_OFFSET};
use crate::server::{Scratch, Server, build_library, dev, free_ports, local, wait_until};

/// Adds the number of seconds in a file to the wall clock of the process.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int outcome = syscall(SYS_clock_gettime, clock, time);
    const char *path = getenv("CLOCK_AHEAD");
    if (outcome == 0 && clock == CLOCK_REALTIME && path) {
        char text[32] = "0";
        int file = open(path, O_RDONLY);
        if (file >= 0) {
            ssize_t size = read(file, text, sizeof text - 1);
            if (size > 0) text[size] = 0;
            close(file);
        }
        time->tv_sec += atoll(text);
    }
    return outcome;
}
"#;

fn set_ahead(path: &str, seconds: u64) {
    let next = format!("{path}.next");
    std::fs::write(&next, seconds.to_string()).unwrap();
    std::fs::rename(next, path).unwrap();
}

#[test]
fn a_jump_of_ten_years_and_back_deletes_nothing() {
    const TEN_YEARS_S: u64 = 10 * 365 * 86_400;
    let scratch = Scratch::new("clock-jump");
    let (shim, ahead) = (build_library(&scratch, "clock", SHIM), scratch.path("ahead"));
    set_ahead(&ahead, 0);
    let port = free_ports();
    let more = ["--retention", "72h", "--segment-size", "1MiB"];
    let mut command = dev(&scratch, port, &more);
    command.env("LD_PRELOAD", &shim).env("CLOCK_AHEAD", &ahead);
    let server = Server::start(command, &scratch.path("dev.log"));
    let mut client = Client::connect(local(port + 3));
    assert_eq!(client.set_topic("kept", 1, 6).code, 0);
    let body = vec![b'x'; 70_000];
    let mut send = |count: usize| {
        for _ in 0..count {
            let said = client.send("kept", 0, &body);
            assert_eq!(said.code, 0, "{said:?}");
        }
    };
    send(150);
    set_ahead(&ahead, TEN_YEARS_S);
    let says = |text: &str| server.log().contains(text);
    wait_until("the step is logged", || {
        says(&format!("set by +{TEN_YEARS_S}.")) || says("+315359999.")
    });
    send(50);
    set_ahead(&ahead, 0);
    wait_until("the step back is logged", || says("set by -315"));
    send(100);
    // Lets retention run many times: it runs ten times a second, with a snapshot every few
    // megabytes.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let said = client.ask(MIN_OFFSET, &json!({"topic": "kept", "queueId": "0"}), b"");
    assert_eq!(said.number("offset"), 0, "all 300 messages are there\n{}", server.log());
    assert!(Path::new(&ahead).exists() && server.stop().success());
}
