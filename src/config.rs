//! Options of the servers. The doc comments are the manual; `ringmq help broker` prints them.
//!
//! An option takes its value from the first of: the command line, the environment, the file given
//! with `--config`, the default. The file is TOML with one section per command; its keys are the
//! long option names. `cli::file` passes it through the same parser, so both are validated alike.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

/// Shard numbers appear in broker names as two digits.
pub const SHARDS_MAX: u16 = 64;
/// Distance between the ports of consecutive shards: stock clients derive ports two below and one
/// above.
pub const PORTS_PER_SHARD: u16 = 4;

/// Largest number of a replica.
pub const REPLICAS_MAX: u64 = 99;

/// Longest name of a host, bytes (RFC 1035).
const HOST_SIZE_MAX: usize = 253;

/// Runs a broker.
#[derive(Args, Clone, Debug)]
pub struct BrokerOptions {
    /// NameServers to register with, `HOST:PORT`; separate several with `,` or `;`. Names are
    /// resolved for every new connection, and every few seconds.
    #[arg(long, env = "RINGMQ_BROKER_NAMESRV", value_name = "HOST:PORT[,HOST:PORT]")]
    pub namesrv: NameServers,

    /// Address of the first shard. Shard N listens on this port + 4 * N and, for old clients, on
    /// the port two below that.
    #[arg(
        long,
        env = "RINGMQ_BROKER_LISTEN",
        default_value = "0.0.0.0:10911",
        value_name = "HOST:PORT"
    )]
    pub listen: Address,

    /// IPv4 address, or name of one, at which clients reach this broker. Default: the listen
    /// address. If that is 0.0.0.0, the address of the interface that routes to the first
    /// NameServer, or of another interface if that is the loopback.
    #[arg(long, env = "RINGMQ_BROKER_ADVERTISE", value_name = "HOST")]
    pub advertise: Option<String>,

    #[command(flatten)]
    pub engine: EngineOptions,

    /// Name of this broker, unique to each machine. Shard N is advertised as s0N-NAME.
    #[arg(long, env = "RINGMQ_BROKER_NAME", default_value = "broker-a", value_name = "NAME")]
    pub name: String,

    /// Number of this replica in `--replicas`. The same command line on every machine, except for
    /// this number, makes a set of replicas that elect a leader for each shard.
    #[arg(long, env = "RINGMQ_BROKER_REPLICA", value_name = "N", requires = "replicas")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=REPLICAS_MAX))]
    pub replica: Option<u64>,

    /// All replicas of this broker: their numbers, and the address that each one listens on, such
    /// as `1=host1:10911,2=host2:10911,3=host3:10911`. A message is acknowledged when most of them
    /// have it on stable media. Replicas reach each other at the ports above those of the shards.
    #[arg(
        long,
        env = "RINGMQ_BROKER_REPLICAS",
        value_name = "N=HOST:PORT,...",
        requires = "replica"
    )]
    pub replicas: Option<Replicas>,

    /// Lets producers create topics by sending to them.
    #[arg(long, env = "RINGMQ_BROKER_AUTO_CREATE_TOPICS")]
    pub auto_create_topics: bool,

    /// Uses buffered I/O if the file system does not support direct I/O, instead of refusing to
    /// start. Messages are just as durable, but slower, and compete for the page cache.
    #[arg(long, env = "RINGMQ_BROKER_ALLOW_BUFFERED_IO")]
    pub allow_buffered_io: bool,
}

/// Runs a NameServer and a broker in one process, for development. Sending to a topic that does not
/// exist creates it. Files are small: an empty data directory takes less than 128 MiB. To try it at
/// full speed, use a broker's segments: --segment-size 256MiB --ready-segments 2.
#[derive(Args, Clone, Debug)]
pub struct DevOptions {
    /// Address of the broker's first shard.
    #[arg(
        long,
        env = "RINGMQ_DEV_LISTEN",
        default_value = "127.0.0.1:10911",
        value_name = "HOST:PORT"
    )]
    pub listen: Address,

    /// Address of the NameServer.
    #[arg(
        long,
        env = "RINGMQ_DEV_NAMESRV_LISTEN",
        default_value = "127.0.0.1:9876",
        value_name = "HOST:PORT"
    )]
    pub namesrv_listen: Address,

    /// IPv4 address, or name of one, at which clients reach the broker. Default: the listen address
    /// or, if that is 0.0.0.0, the address of an interface.
    #[arg(long, env = "RINGMQ_DEV_ADVERTISE", value_name = "HOST")]
    pub advertise: Option<String>,

    #[command(flatten)]
    pub engine: EngineOptions,

    /// Name of the broker. Shard N is advertised as s0N-NAME.
    #[arg(long, env = "RINGMQ_DEV_NAME", default_value = "broker-a", value_name = "NAME")]
    pub name: String,

    /// Runs this many brokers with replicas of the same shards, at least three, and two NameServers,
    /// each in a process of its own, to try what happens when one is killed. The ports of the
    /// processes follow each other: one for a NameServer, 4 for each shard of a broker. A process
    /// that ends is started again after 10 s. Default of `--shards`: 3.
    #[arg(long, env = "RINGMQ_DEV_REPLICAS", value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(3..=9))]
    pub replicas: Option<u16>,

    /// Which process of `--replicas` this is, and the one that has started it.
    #[arg(long, hide = true, requires_all = ["replicas", "parent"])]
    pub process: Option<DevProcess>,

    /// Id of the process that has started this one.
    #[arg(long, hide = true, requires = "process")]
    pub parent: Option<i32>,
}

/// A process of `ringmq dev --replicas`, by its number from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DevProcess {
    NameServer(u16),
    Broker(u16),
}

impl Display for DevProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameServer(number) => write!(f, "nameserver-{number}"),
            Self::Broker(number) => write!(f, "broker-{number}"),
        }
    }
}

impl FromStr for DevProcess {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a process such as broker-1");
        let (kind, number) = text.rsplit_once('-').ok_or_else(bad)?;
        let number = number.parse().map_err(|_| bad())?;
        match kind {
            "nameserver" => Ok(Self::NameServer(number)),
            "broker" => Ok(Self::Broker(number)),
            _ => Err(bad()),
        }
    }
}

/// Runs a NameServer.
#[derive(Args, Clone, Debug)]
pub struct NameServerOptions {
    /// Address to listen on.
    #[arg(
        long,
        env = "RINGMQ_NAMESERVER_LISTEN",
        default_value = "0.0.0.0:9876",
        value_name = "HOST:PORT"
    )]
    pub listen: Address,
}

/// Maximum default number of shards in `dev`. With [`DEV_SEGMENT_SIZE`] and [`DEV_READY_SEGMENTS`] an
/// empty directory takes less than 128 MiB: each shard has an open segment and its ready ones.
pub const DEV_SHARDS_MAX: u16 = 4;
/// Default of `--segment-size` in `dev`.
pub const DEV_SEGMENT_SIZE: &str = "15MiB";
/// Default of `--ready-segments` in `dev`.
pub const DEV_READY_SEGMENTS: &str = "1";

/// Default of `--tail-cache`, for the servers and for `ringmq check`.
pub const TAIL_CACHE: &str = "64MiB";

/// Default of `--dedup-window` for a broker with replicas, ms.
pub const DEDUP_WINDOW_MS: u64 = 60_000;

/// Default of `--delay-levels` (remoting reference, 5.9).
pub const DELAY_LEVELS: &str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";

/// Options that `broker` and `dev` share.
#[derive(Args, Clone, Debug)]
pub struct EngineOptions {
    /// Data directory, with one subdirectory per shard; created if it does not exist.
    #[arg(long, env = "RINGMQ_DATA", default_value = "ringmq-data", value_name = "DIR")]
    pub data: PathBuf,

    /// Number of shards, each on its own core if there are enough. Fixed for the life of a data
    /// directory. Default: the number in the directory, or one per core for a new directory (at
    /// most 4 in `dev`).
    #[arg(long, env = "RINGMQ_SHARDS", value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=SHARDS_MAX as i64))]
    pub shards: Option<u16>,

    /// Name of the cluster.
    #[arg(long, env = "RINGMQ_CLUSTER", default_value = "DefaultCluster", value_name = "NAME")]
    pub cluster: String,

    /// When a message is acknowledged. `sync`: once it is on stable media; it survives a power cut.
    /// `async`: once it is written, with a flush within 500 ms; it survives a crash of the process
    /// but not a power cut.
    #[arg(long, env = "RINGMQ_FLUSH", default_value = "sync", value_name = "MODE")]
    pub flush: FlushMode,

    /// Size of each segment file of the log.
    #[arg(long, env = "RINGMQ_SEGMENT_SIZE", default_value = "256MiB", value_name = "SIZE")]
    pub segment_size: Size,

    /// Number of segment files to write in advance. More of them sustain full speed for longer, and
    /// take more disk space; once they are used up, new segments are allocated but not prewritten,
    /// which is slower.
    #[arg(long, env = "RINGMQ_READY_SEGMENTS", default_value_t = 2, value_name = "N")]
    pub ready_segments: usize,

    /// Memory per shard for its newest messages, from which consumers that keep up are served.
    #[arg(long, env = "RINGMQ_TAIL_CACHE", default_value = TAIL_CACHE, value_name = "SIZE")]
    pub tail_cache: Size,

    /// Bytes per shard that may wait to be written. At the limit the shard stops reading from
    /// connections, and refuses requests that wait too long as busy.
    #[arg(long, env = "RINGMQ_APPEND_BUDGET", default_value = "32MiB", value_name = "SIZE")]
    pub append_budget: Size,

    /// Memory per shard to cache the index of old segments.
    #[arg(long, env = "RINGMQ_INDEX_CACHE", default_value = "32MiB", value_name = "SIZE")]
    pub index_cache: Size,

    /// How long messages are kept, in elapsed time: setting the clock deletes nothing. Time while the
    /// broker was stopped counts once it has run for ten minutes.
    #[arg(long, env = "RINGMQ_RETENTION", default_value = "72h", value_name = "DURATION")]
    pub retention: Span,

    /// Maximum size of the log per shard; the oldest segments are deleted first. 0: no limit except
    /// age and disk space.
    #[arg(long, env = "RINGMQ_RETENTION_SIZE", default_value = "0", value_name = "SIZE")]
    pub retention_size: Size,

    /// The delays of delay levels, from level 1 on, as a list such as `1s 5s 10s`: for producers,
    /// and for messages that a consumer could not process. Units: ms, s, m, h, d. At most 72h each.
    #[arg(long, env = "RINGMQ_DELAY_LEVELS", default_value = DELAY_LEVELS, value_name = "LIST")]
    pub delay_levels: DelayLevels,

    /// Free disk space below which the broker refuses new messages. Consumers and retention keep
    /// working, and writes resume once there is space again.
    #[arg(long, env = "RINGMQ_DISK_RESERVE", default_value = "1GiB", value_name = "SIZE")]
    pub disk_reserve: Size,

    /// A message that is sent again within this time, because its producer has seen no
    /// acknowledgement, is stored once and answered with the offset of the first attempt. It is
    /// recognized by its unique key, on the same shard. 0s: it is stored again. Default: 60s for a
    /// broker with replicas, otherwise 0s.
    #[arg(long, env = "RINGMQ_DEDUP_WINDOW", value_name = "DURATION")]
    pub dedup_window: Option<Span>,

    /// Maximum rate, per second, at which each shard sends old parts of its log to replicas that lack
    /// them; not what is still among its newest 16,384 groups of messages. A lower rate disturbs
    /// producers less. 0: no limit; otherwise at least 4MiB.
    #[arg(long, env = "RINGMQ_CATCH_UP_RATE", default_value = "0", value_name = "SIZE")]
    #[arg(value_parser = catch_up_rate)]
    pub catch_up_rate: Size,

    /// How long an idle shard busy-polls before it sleeps, in microseconds. 50 to 100 lowers the
    /// latency of single messages, at the cost of CPU under light load.
    #[arg(long, env = "RINGMQ_SPIN_US", default_value_t = 0, value_name = "US")]
    pub spin_us: u64,

    /// CPUs to pin shards to, such as `0,2-3`. Default: all CPUs that this process may use.
    #[arg(long, env = "RINGMQ_CPUS", value_name = "LIST")]
    pub cpus: Option<CpuList>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FlushMode {
    Sync,
    Async,
}

/// Where a server is: a name or an IP address, and a port. Names are looked up when they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not HOST:PORT, such as 127.0.0.1:9876 or localhost:9876");
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().map_err(|_| bad())?;
        let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_legal = match in_brackets {
            Some(host) => host.parse::<Ipv6Addr>().is_ok(),
            None => is_host_name(host),
        };
        let host = in_brackets.unwrap_or(host).to_owned();
        is_legal.then_some(Self { host, port }).ok_or_else(bad)
    }
}

/// Whether a text is a valid host name or IPv4 address.
fn is_host_name(text: &str) -> bool {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    !text.is_empty() && text.len() <= HOST_SIZE_MAX && text.chars().all(is_legal)
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Addresses of NameServers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServers(pub Vec<Address>);

impl FromStr for NameServers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let addresses = items(text);
        let addresses: Vec<Address> = addresses.map(str::parse).collect::<Result<_, _>>()?;
        if addresses.is_empty() {
            return Err("no address given".into());
        }
        Ok(Self(addresses))
    }
}

/// At a lower rate, a replica would wait too long for what has been committed meanwhile.
const CATCH_UP_RATE_MIN: u64 = 4 << 20;

fn catch_up_rate(text: &str) -> Result<Size, String> {
    let rate: Size = text.parse()?;
    match rate.0 {
        0 | CATCH_UP_RATE_MIN.. => Ok(rate),
        _ => Err(format!("{text}: the rate is 0, for no limit, or at least 4MiB")),
    }
}

/// The replicas of a broker, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas(pub BTreeMap<u64, Address>);

impl FromStr for Replicas {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut replicas = BTreeMap::new();
        for part in items(text) {
            let (number, address) =
                part.split_once('=').ok_or_else(|| format!("{part}: expected N=HOST:PORT"))?;
            let number: u64 =
                number.trim().parse().map_err(|_| format!("{part}: {number} is not a number"))?;
            if !(1..=REPLICAS_MAX).contains(&number) {
                return Err(format!("{part}: replicas have numbers from 1 to {REPLICAS_MAX}"));
            }
            if replicas.insert(number, address.trim().parse::<Address>()?).is_some() {
                return Err(format!("replica {number} is given twice"));
            }
        }
        match replicas.len() {
            0..=2 => Err("give at least three: of two, neither could be lost".into()),
            _ => Ok(Self(replicas)),
        }
    }
}

/// A size in bytes: `4096`, `64KiB`, `256MiB`, `1GiB`, also `KB`, `MB`, `GB` for powers of ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let factor: u64 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" | "k" => 1 << 10,
            "mib" | "m" => 1 << 20,
            "gib" | "g" => 1 << 30,
            "tib" | "t" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(format!("{unit:?} is not a unit of size; use KiB, MiB, GiB or TiB")),
        };
        let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a size"))?;
        number.checked_mul(factor).map(Self).ok_or_else(|| format!("{text:?} is too large"))
    }
}

/// A span of time: `500ms`, `30s`, `15m`, `72h`, `1h30m`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| format!("{text:?} is not a duration, such as 500ms, 90s, 1h30m or 7d");
        humantime::parse_duration(text).map(Self).map_err(wrong)
    }
}

/// The delay of each level, from level 1 on, milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayLevels(pub Vec<u64>);

/// Maximum number of delay levels, and maximum delay of one: that of a single message.
const DELAY_LEVELS_MAX: usize = 64;
const DELAY_LEVEL_MAX_MS: u64 = 259_200_000;

impl FromStr for DelayLevels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let level = |part: &str| {
            let delay = part.parse::<Span>()?.0;
            let ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            match ms {
                1..=DELAY_LEVEL_MAX_MS if Duration::from_millis(ms) == delay => Ok(ms),
                _ => Err(format!("{part:?} is not between 1ms and 72h")),
            }
        };
        let levels: Vec<u64> =
            items(text).flat_map(str::split_whitespace).map(level).collect::<Result<_, _>>()?;
        match levels.len() {
            1..=DELAY_LEVELS_MAX => Ok(Self(levels)),
            count => Err(format!("{count} levels; there must be 1 to {DELAY_LEVELS_MAX}")),
        }
    }
}

/// The items of a list, which are separated by commas or semicolons.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ';']).map(str::trim).filter(|part| !part.is_empty())
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// CPU numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |part: &str| format!("{part:?} is not a CPU number or a range such as 2-3");
        let mut cpus = Vec::new();
        for part in items(text) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.parse().map_err(|_| bad(part))?;
            let last: usize = last.parse().map_err(|_| bad(part))?;
            if first > last || last >= 4096 {
                return Err(bad(part));
            }
            cpus.extend(first..=last);
        }
        if cpus.is_empty() {
            return Err("no CPU given".into());
        }
        Ok(Self(cpus))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_carry_their_units() {
        let rows = [
            ("4096", Ok(4096)),
            ("64KiB", Ok(64 << 10)),
            ("256 MiB", Ok(256 << 20)),
            ("1gib", Ok(1 << 30)),
            ("1GB", Ok(1_000_000_000)),
            (
                "1parsec",
                Err("\"parsec\" is not a unit of size; use KiB, MiB, GiB or TiB".to_owned()),
            ),
            ("-1", Err("\"-1\" is not a unit of size; use KiB, MiB, GiB or TiB".to_owned())),
            ("99999999999TiB", Err("\"99999999999TiB\" is too large".to_owned())),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse::<Size>().map(|size| size.0), expected, "{text}");
        }
        let rows = [
            ("72h", 259_200_000),
            ("72 h", 259_200_000),
            ("15min", 900_000),
            ("7d", 604_800_000),
            ("0s", 0),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("90m", 5_400_000),
            ("1.5h", 5_400_000),
        ];
        for (text, ms) in rows {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(ms))), "{text}");
        }
        for text in ["", "72", "s", "-1s", "1 parsec", "99999999999999999999d"] {
            let error = format!("{text:?} is not a duration, such as 500ms, 90s, 1h30m or 7d");
            assert_eq!(text.parse::<Span>(), Err(error));
        }
    }

    #[test]
    fn delay_levels_are_a_list_of_durations() {
        let standard = DELAY_LEVELS.parse::<DelayLevels>().unwrap().0;
        assert_eq!((standard.len(), standard[3], standard[17]), (18, 30_000, 7_200_000));
        assert_eq!("100ms,2s 72h".parse(), Ok(DelayLevels(vec![100, 2_000, 259_200_000])));
        assert_eq!("100ms; 2s;72h".parse(), Ok(DelayLevels(vec![100, 2_000, 259_200_000])));
        for bad in ["", "5", "0s", "73h", "-1s", "1s 1w", "1500us"] {
            assert!(bad.parse::<DelayLevels>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_are_parsed_or_refused_with_the_part_that_is_wrong() {
        assert_eq!("0,2-3".parse(), Ok(CpuList(vec![0, 2, 3])));
        assert_eq!("0; 2-3,".parse(), Ok(CpuList(vec![0, 2, 3])));
        for bad in ["3-2", "", ",", "a"] {
            assert!(bad.parse::<CpuList>().is_err(), "{bad}");
        }
        let replicas = |text: &str| text.parse::<Replicas>();
        assert_eq!(replicas("1=a:1;2=b:2; 3=c:3"), replicas("1=a:1, 2=b:2,3=c:3"));
        assert_eq!(replicas("1=a:1;2=b:2;3=c:3").unwrap().0.len(), 3);
        let rows = [
            ("127.0.0.1:9876; ns-1.svc.local:1,", "127.0.0.1:9876 ns-1.svc.local:1"),
            ("[::1]:9876,localhost:9", "[::1]:9876 localhost:9"),
        ];
        for (list, expected) in rows {
            let addresses = list.parse::<NameServers>().unwrap().0;
            let texts: Vec<String> = addresses.iter().map(Address::to_string).collect();
            assert_eq!(texts.join(" "), expected);
        }
        for bad in ["127.0.0.1", "a b:1", ":1", "x:70000", "::1:9", "http://ns:9876"] {
            let error =
                format!("{bad:?} is not HOST:PORT, such as 127.0.0.1:9876 or localhost:9876");
            assert_eq!(bad.parse::<NameServers>(), Err(error));
        }
    }
}
