//! Names, addresses and configuration of the shards of one broker process.
//!
//! ```text
//!   name "broker-a", 2 shards ──▶ s00-broker-a at port, s01-broker-a at port + 4
//! ```
//!
//! The shard number comes first because stock producers retry a failed send on the next broker
//! *name* in sorted order, and adjacent names are then on different machines
//! (`docs/decisions/0003-each-shard-is-a-broker.md`).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs, UdpSocket};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;

use super::clock;
use super::data::DataDirectory;
use super::error::RunError;
use crate::broker::BrokerConfig;
use crate::config::{
    Address, DEDUP_WINDOW_MS, EngineOptions, FlushMode, PORTS_PER_SHARD, SHARDS_MAX,
};
use crate::model::nameserver::{BrokerId, Registration, machine_of_shard};
use crate::model::record::Host;
use crate::model::topic::is_built_in;
use crate::model::{DataVersion, NameServerRequest, ShardId};
use crate::nameserver::{ConnectionId, Routes};
use crate::storage::{CommitRule, Epoch, Flush, StoreConfig};

/// What all shards of one broker process have in common.
#[derive(Clone, Debug)]
pub struct Plan {
    pub listen: SocketAddr,
    pub advertised: Ipv4Addr,
    pub name: String,
    pub namesrv: Vec<Address>,
    pub auto_create_topics: bool,
    pub allow_buffered: bool,
    pub engine: EngineOptions,
    /// `None` without `--replicas`.
    pub replication: Option<Replication>,
}

/// The replicas of a broker.
#[derive(Clone, Debug)]
pub struct Replication {
    /// Number of this one.
    pub id: u64,
    pub members: BTreeMap<u64, Address>,
}

impl Replication {
    pub fn new(id: u64, members: BTreeMap<u64, Address>) -> Result<Self, RunError> {
        match members.contains_key(&id) {
            true => Ok(Self { id, members }),
            false => Err(RunError::usage(format!(
                "--replica {id} is not one of --replicas; they must list this one too"
            ))),
        }
    }

    /// Addresses at which the replicas of a shard reach each other.
    pub fn peers(&self, shard: u16) -> BTreeMap<u64, Address> {
        let peer = |(id, address): (&u64, &Address)| {
            let port = replication_port(address.port.saturating_add(shard * PORTS_PER_SHARD));
            (*id, Address { host: address.host.clone(), port })
        };
        self.members.iter().map(peer).collect()
    }
}

impl Plan {
    pub fn address(&self, shard: u16) -> Result<SocketAddr, RunError> {
        let port = u32::from(self.listen.port()) + u32::from(shard) * u32::from(PORTS_PER_SHARD);
        let port =
            u16::try_from(port).map_err(|_| RunError::new(format!("port {port} is too high")))?;
        Ok(SocketAddr::new(self.listen.ip(), port))
    }

    pub fn broker_name(&self, shard: u16) -> String {
        broker_name(&self.name, shard)
    }

    /// The shards as registered with NameServers, by shard number.
    pub fn brokers(&self, shards: u16) -> Result<Vec<BrokerId>, RunError> {
        let broker = |shard| {
            Ok(BrokerId {
                cluster: self.engine.cluster.clone(),
                name: self.broker_name(shard),
                address: self.advertised(shard)?.to_string(),
                id: 0,
            })
        };
        (0..shards).map(broker).collect()
    }

    fn advertised(&self, shard: u16) -> Result<SocketAddrV4, RunError> {
        Ok(SocketAddrV4::new(self.advertised, self.address(shard)?.port()))
    }

    pub fn store_config(&self, data: &DataDirectory, shard: u16) -> StoreConfig {
        let engine = &self.engine;
        StoreConfig {
            segment_size: engine.segment_size.0,
            ready_segments: engine.ready_segments,
            tail_cache_bytes: engine.tail_cache.0 as usize,
            append_budget_bytes: engine.append_budget.0 as usize,
            index_cache_bytes: engine.index_cache.0 as usize,
            flush: match engine.flush {
                FlushMode::Sync => Flush::Sync,
                FlushMode::Async => Flush::Async,
            },
            commit: match self.replication {
                None => CommitRule::Local,
                Some(_) => CommitRule::Driven,
            },
            epoch: Epoch::Found,
            retention_age_ms: engine.retention.0.as_millis() as u64,
            retention_bytes: match engine.retention_size.0 {
                0 => u64::MAX,
                size => size,
            },
            reserve_bytes: engine.disk_reserve.0,
            checksum_seed: data.checksum_seed(shard),
        }
    }

    /// By default, only replicated shards have one: when a leader dies, producers resend messages
    /// that were already stored.
    fn dedup_window_ms(&self) -> u64 {
        let default_ms = if self.replication.is_some() { DEDUP_WINDOW_MS } else { 0 };
        self.engine.dedup_window.map_or(default_ms, |window| window.0.as_millis() as u64)
    }

    pub fn broker_config(&self, shard: u16) -> Result<BrokerConfig, RunError> {
        Ok(BrokerConfig {
            cluster: self.engine.cluster.clone(),
            broker_name: self.broker_name(shard).into(),
            shard: ShardId(shard),
            store_host: Host::from(self.advertised(shard)?),
            auto_create_topics: self.auto_create_topics,
            started: clock::now(),
            offset_retention_ms: self.engine.retention.0.as_millis() as u64,
            delay_levels_ms: self.engine.delay_levels.0.clone(),
            dedup_window_ms: self.dedup_window_ms(),
            catch_up_bytes_per_s: self.engine.catch_up_rate.0,
        })
    }
}

/// The port at which a shard that clients reach at `port` listens for its replicas. RocketMQ uses
/// it for replication too.
pub fn replication_port(port: u16) -> u16 {
    port.saturating_add(1)
}

/// The reverse of [`replication_port`].
pub fn client_port(port: u16) -> u16 {
    port.saturating_sub(1)
}

/// Refuses port 0. The configured port is advertised to clients, so it must be the one that the
/// server listens on.
fn check_port(option: &str, address: &Address) -> Result<(), RunError> {
    match address.port {
        0 => Err(RunError::usage(format!(
            "{option} {address}: port 0 would let the system choose a port that clients cannot \
             know; give a port"
        ))),
        _ => Ok(()),
    }
}

/// Refuses a name that starts like a shard's, and names that every NameServer would refuse: it
/// registers with an empty route table to find out.
pub fn check_names(cluster: &str, name: &str) -> Result<(), RunError> {
    if let Some(rest) = machine_of_shard(name) {
        return Err(RunError::usage(format!(
            "--name {name} starts like the name of a shard; the prefix s00-, s01-, … is added \
             automatically, so use --name {rest}"
        )));
    }
    if is_built_in(cluster) {
        return Err(RunError::usage(format!(
            "--cluster {cluster} is the name of a topic that every broker has; choose another"
        )));
    }
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1).to_string();
    let (cluster, name) = (cluster.to_owned(), broker_name(name, SHARDS_MAX - 1));
    let registration = Registration {
        broker: BrokerId { cluster, name, address, id: 0 },
        ha_address: String::new(),
        lease_ms: None,
        version: DataVersion::default(),
        topics: Vec::new(),
        skipped: Vec::new(),
        misnamed: Vec::new(),
    };
    let request = NameServerRequest::RegisterBroker(registration);
    match Routes::default().handle(&request, ConnectionId(0), clock::moment()) {
        Ok(_) => Ok(()),
        Err(refusal) => Err(RunError::usage(format!(
            "NameServers would refuse this broker: {refusal}; choose another --name or --cluster"
        ))),
    }
}

/// The broker name of a shard, as NameServers and clients see it.
fn broker_name(name: &str, shard: u16) -> String {
    format!("s{shard:02}-{name}")
}

/// The address that a server listens on.
pub fn listen_address(option: &str, address: &Address) -> Result<SocketAddr, RunError> {
    check_port(option, address)?;
    let found = resolve(&address.host, address.port);
    found.map_err(|error| RunError::new(format!("{option} {address}: {error}")))
}

/// The first address of a host, IPv4 before IPv6.
fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let mut found: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found.first().copied().ok_or_else(|| io::Error::other("the name has no address"))
}

/// The advertised address. Records store IPv4, so it must be IPv4. `wanted` is `--advertise`. Warns
/// if clients of a NameServer cannot reach it.
pub fn advertised_address(
    listen: IpAddr,
    wanted: Option<&str>,
    namesrv: &[Address],
) -> Result<Ipv4Addr, RunError> {
    let address = match wanted {
        Some(host) => {
            let found = resolve(host, 0);
            found.map_err(|error| RunError::new(format!("--advertise {host}: {error}")))?.ip()
        }
        None => listen,
    };
    match address {
        IpAddr::V4(address) if !address.is_unspecified() => {
            let mut elsewhere = namesrv.iter().filter(|namesrv| is_out_of_reach(address, namesrv));
            if let Some(namesrv) = elsewhere.next() {
                tracing::warn!(
                    "{address} is advertised, which only clients on this machine can reach, but \
                     the NameServer {namesrv} is not on the loopback; set the address that its \
                     clients can reach with --advertise"
                );
            }
            Ok(address)
        }
        IpAddr::V6(address) if !address.is_unspecified() => Err(RunError::new(format!(
            "{address} cannot be advertised: stock clients read IPv4 addresses only; use --advertise"
        ))),
        _ => Ok(address_of_interface(namesrv)),
    }
}

/// Whether clients get a loopback address from a NameServer that is not on the loopback. One that
/// cannot be resolved yet does not count.
fn is_out_of_reach(advertised: Ipv4Addr, namesrv: &Address) -> bool {
    advertised.is_loopback()
        && resolve(&namesrv.host, namesrv.port)
            .is_ok_and(|found| !found.ip().is_loopback() && !found.ip().is_unspecified())
}

/// The address of the interface that routes to the first NameServer; if that is on this machine, of
/// the default route's interface, or of any.
fn address_of_interface(namesrv: &[Address]) -> Ipv4Addr {
    let first = namesrv.first().and_then(|first| resolve(&first.host, first.port).ok());
    let is_remote = |address: &Ipv4Addr| !address.is_loopback() && !address.is_unspecified();
    let towards = |to: SocketAddr| address_towards(to).filter(is_remote);
    let found = first.and_then(towards);
    found.or_else(|| towards(ELSEWHERE.into())).or_else(any_interface).unwrap_or_else(|| {
        tracing::warn!(
            "this machine has no network interface except the loopback, so 127.0.0.1 is advertised \
             and only clients on this machine can reach the broker; set another address with \
             --advertise"
        );
        Ipv4Addr::LOCALHOST
    })
}

/// An unreachable address (RFC 5737), which selects the default route.
const ELSEWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);

/// The address of the interface that routes to `to`. Sends nothing.
fn address_towards(to: SocketAddr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(to).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// The first address of an interface that is up and not the loopback.
fn any_interface() -> Option<Ipv4Addr> {
    let usable = |interface: &InterfaceAddress| {
        let is_up = interface.flags.contains(InterfaceFlags::IFF_UP);
        let address = interface.address.as_ref()?.as_sockaddr_in()?.ip();
        (is_up && !address.is_loopback() && !address.is_link_local()).then_some(address)
    };
    getifaddrs().ok()?.find_map(|interface| usable(&interface))
}

/// The address at which this process reaches its own server that listens on `listen`.
pub fn reachable(listen: SocketAddr) -> Address {
    let host = match listen.ip().is_unspecified() {
        true => IpAddr::from(Ipv4Addr::LOCALHOST),
        false => listen.ip(),
    };
    Address { host: host.to_string(), port: listen.port() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After a failed send, a stock producer takes the next queue in the order of broker names,
    /// skipping only the name that it tried last.
    #[test]
    fn names_next_to_each_other_are_on_different_machines() {
        let machines = ["broker-a", "broker-b"];
        let of = |shard| machines.map(|machine| (broker_name(machine, shard), machine));
        let mut names: Vec<(String, &str)> = (0..SHARDS_MAX).flat_map(of).collect();
        names.sort();
        let mut ring = names.iter().zip(names.iter().cycle().skip(1));
        assert!(ring.all(|((_, machine), (_, next))| machine != next), "{names:?}");
    }

    #[test]
    fn a_loopback_address_is_out_of_reach_for_clients_of_a_nameserver_elsewhere() {
        let (loopback, other) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(198, 51, 100, 7));
        for (advertised, host, expected) in [
            (loopback, "198.51.100.7", true),
            (loopback, "2001:db8::7", true),
            (loopback, "127.0.0.1", false),
            (loopback, "::1", false),
            (loopback, "localhost", false),
            (loopback, "0.0.0.0", false),
            (loopback, "not a name", false),
            (other, "198.51.100.7", false),
            (other, "127.0.0.1", false),
        ] {
            let namesrv = Address { host: host.to_owned(), port: 9876 };
            assert_eq!(is_out_of_reach(advertised, &namesrv), expected, "{advertised} {host}");
        }
    }

    #[test]
    fn names_that_begin_like_those_of_shards_are_refused() {
        let error = check_names("c", "s00-broker-a").unwrap_err();
        assert!(error.is_usage && error.to_string().contains("--name broker-a"), "{error}");
        for legal in ["broker-a", "s-1", "s0-broker", "s000-broker", "sales", "s1x-b"] {
            assert!(check_names("c", legal).is_ok(), "{legal}");
        }
        assert!(check_names("c", "a,b").is_err());
    }
}
