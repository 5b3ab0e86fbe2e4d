//! The cost of recognizing messages that are sent again: nanoseconds per new message and per
//! repeated one, and bytes of memory per remembered message.
//!
//! ```text
//! cargo bench --bench dedup
//! cargo bench --bench dedup -- --test          a smoke test of a few milliseconds
//! ```

use std::hint::black_box;
use std::time::Instant;

use clap::Parser;
use ringmq::broker::sent::{KEYS_MAX, SentKeys, SentRow, key_of};
use ringmq::model::{LogOffset, QueueId, QueueOffset, Timestamp};

#[derive(Clone, Debug, Parser)]
#[command(about = "Measures the window of repeated messages.")]
struct Options {
    /// Run everything once, very briefly. The figures mean nothing.
    #[arg(long)]
    test: bool,

    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// The properties of a stock client's message.
fn properties(nth: usize) -> String {
    let tags = "KEYS\u{1}order-17\u{2}TAGS\u{1}paid\u{2}WAIT\u{1}true\u{2}";
    format!("UNIQ_KEY\u{1}7F0000010BB818B4AAC2{nth:012X}\u{2}{tags}")
}

fn main() {
    let options = Options::parse();
    let count = if options.test { 1_000 } else { KEYS_MAX };
    let all: Vec<String> = (0..count).map(properties).collect();
    let mut keys = SentKeys::new(60_000);
    let per_message = |begin: Instant| begin.elapsed().as_nanos() as f64 / count as f64;

    let begin = Instant::now();
    for properties in &all {
        black_box(key_of(7, 1, [properties.as_bytes(), &[]]));
    }
    let hashed = per_message(begin);

    let begin = Instant::now();
    for (nth, properties) in all.iter().enumerate() {
        let key = key_of(7, 1, [properties.as_bytes(), &[]]).expect("it has a unique key");
        assert!(keys.find(&key, NOW).is_none());
        let place = (LogOffset(nth as u64 * 1_000), QueueId(3), QueueOffset(nth as u64));
        keys.note(SentRow::new(key, place, 5), NOW);
    }
    let new = per_message(begin);

    let begin = Instant::now();
    for properties in &all {
        let key = key_of(7, 1, [properties.as_bytes(), &[]]).expect("it has a unique key");
        assert!(black_box(keys.find(&key, NOW)).is_some());
    }
    let again = per_message(begin);

    println!("{count} messages");
    println!("key of a message        {hashed:6.1} ns");
    println!("a new message           {new:6.1} ns");
    println!("a message sent again    {again:6.1} ns");
    println!("memory                  {:6.1} bytes per key", keys.memory() as f64 / count as f64);
}
