//! The client of `tests/failover/run`: sends to the shards of a broker with replicas, and audits what they stored.
//!
//! ```text
//! failover send --replicas ADDRESS,… --shards N --topic T --acks FILE --stop FILE    until FILE exists
//! failover audit --namesrv LIST --topic T --acks FILE
//! ```

mod audit;
mod sender;

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Mutex;
use std::thread;

use clap::Parser;

use sender::{Sender, Tally};

/// Each sender has one message in flight, and its own queue.
const SENDERS_PER_SHARD: usize = 4;
/// Distance between the ports of two shards.
const PORTS_PER_SHARD: u16 = 4;
const BODY_SIZE: usize = 200;

#[derive(Parser)]
#[command(name = "failover")]
enum Command {
    /// Sends until the file `stop` exists; writes a line for every acknowledgement.
    Send {
        /// Addresses of the first shard on all replicas.
        #[arg(long, value_delimiter = ',')]
        replicas: Vec<SocketAddr>,
        #[arg(long)]
        shards: usize,
        /// Must have as many queues as senders per shard.
        #[arg(long)]
        topic: String,
        #[arg(long)]
        acks: PathBuf,
        #[arg(long)]
        stop: PathBuf,
    },
    /// Reads everything back: nothing acknowledged may be missing, and nothing may be stored twice.
    Audit {
        #[arg(long)]
        namesrv: String,
        #[arg(long)]
        topic: String,
        #[arg(long)]
        acks: PathBuf,
    },
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    match Command::parse() {
        Command::Send { replicas, shards, topic, acks, stop } => {
            let acks = Mutex::new(File::create(acks)?);
            let sender = |index: usize| {
                let (shard, number) = (index / SENDERS_PER_SHARD, index % SENDERS_PER_SHARD);
                let address = |first: &SocketAddr| {
                    SocketAddr::new(first.ip(), first.port() + PORTS_PER_SHARD * shard as u16)
                };
                let replicas = replicas.iter().map(address).collect();
                Sender { shard, number, queue: number, topic: &topic, replicas, acks: &acks }
            };
            let senders: Vec<Sender<'_>> = (0..shards * SENDERS_PER_SHARD).map(sender).collect();
            println!("{}", run_all(&senders, &stop)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Audit { namesrv, topic, acks } => {
            let found = audit::audit(&namesrv, &topic, &acks)?;
            println!("{found}");
            Ok(if found.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn run_all(senders: &[Sender<'_>], stop: &std::path::Path) -> io::Result<Tally> {
    thread::scope(|scope| {
        let running: Vec<_> =
            senders.iter().map(|sender| scope.spawn(|| sender.run(stop))).collect();
        let mut all = Tally::default();
        for thread in running {
            all += thread.join().map_err(|_| io::Error::other("a sender panicked"))??;
        }
        Ok(all)
    })
}

/// Identifies a message in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct MessageKey {
    shard: usize,
    sender: usize,
    sequence: u64,
}

/// Returns a body that begins with the key and a space.
fn body_of(key: &MessageKey) -> String {
    let key = key.to_string();
    let filling = "0123456789abcdef".chars().cycle().take(BODY_SIZE - key.len() - 1);
    format!("{key} {}", filling.collect::<String>())
}

impl fmt::Display for MessageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.shard, self.sender, self.sequence)
    }
}

impl FromStr for MessageKey {
    type Err = Box<dyn Error>;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('-').collect();
        let [shard, sender, sequence] = parts[..] else {
            return Err(format!("not a key: {text}").into());
        };
        let (shard, sender) = (shard.parse()?, sender.parse()?);
        Ok(Self { shard, sender, sequence: sequence.parse()? })
    }
}
