//! All metrics of one shard: its counters (`model::metrics`), and gauges of its log and tables. An
//! exporter needs only [`Broker::samples`].

use super::Broker;
use crate::model::metrics::{Description, Sample, Value};
use crate::model::replicas::ReplicaSet;
use crate::storage::StoreStats;
use crate::storage::disk::Disk;

/// A gauge that is read from the store's statistics.
struct Gauge {
    about: Description,
    of: fn(&StoreStats) -> u64,
}

const fn gauge(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    of: fn(&StoreStats) -> u64,
) -> Gauge {
    Gauge { about: Description { name, unit, help }, of }
}

const GAUGES: [Gauge; 16] = [
    gauge("ringmq_log_begin", "bytes", "Oldest log offset that is kept.", |s| s.begin),
    gauge("ringmq_log_durable", "bytes", "Log offset below which all is on stable media.", |s| {
        s.durable
    }),
    gauge("ringmq_log_committed", "bytes", "Log offset below which all may be read.", |s| {
        s.committed
    }),
    gauge("ringmq_log_written", "bytes", "Log offset below which the device has all.", |s| {
        s.written
    }),
    gauge("ringmq_log_end", "bytes", "Log offset of the next entry.", |s| s.end),
    gauge("ringmq_log_padding_bytes", "bytes", "Log taken up by fillers since the start.", |s| {
        s.padding_bytes
    }),
    gauge("ringmq_log_damaged_bytes", "bytes", "Parts of the log that are quarantined.", |s| {
        s.damaged_bytes
    }),
    gauge("ringmq_segments", "segments", "Segments of the log.", |s| s.segment_count as u64),
    gauge("ringmq_segments_ready", "segments", "Files written ahead to become segments.", |s| {
        s.ready_count as u64
    }),
    gauge("ringmq_writes_in_flight", "writes", "Writes of the log in flight.", |s| {
        s.writes_in_flight as u64
    }),
    gauge("ringmq_in_flight_max_bytes", "bytes", "Bytes that appends may have in flight.", |s| {
        s.in_flight_max
    }),
    gauge("ringmq_queues", "queues", "Message queues in the index.", |s| s.queue_count as u64),
    gauge("ringmq_tail_cache_bytes", "bytes", "Memory of the newest part of the log.", |s| {
        s.tail_cache_bytes as u64
    }),
    gauge("ringmq_index_cache_bytes", "bytes", "Memory of cached index pages.", |s| {
        s.index_cache_bytes as u64
    }),
    gauge(
        "ringmq_disk_full",
        "flag",
        "1 while messages are refused because the disk is full.",
        |s| u64::from(s.is_disk_full),
    ),
    gauge("ringmq_fenced", "flag", "1 once a storage fault has closed the shard.", |s| {
        u64::from(s.is_fenced)
    }),
];

/// Gauges of the state.
const OF_STATE: [Description; 3] = [
    Description {
        name: "ringmq_delayed_messages",
        unit: "messages",
        help: "Delayed messages that are not due yet.",
    },
    Description { name: "ringmq_delayed_bytes", unit: "bytes", help: "Their records in the log." },
    Description {
        name: "ringmq_dedup_keys",
        unit: "keys",
        help: "Recent messages that are recognized if they are sent again.",
    },
];

/// Gauges of a shard with replicas.
const EPOCH: Description =
    Description { name: "ringmq_epoch", unit: "elections", help: "The epoch of the leader." };
const LEADS: Description =
    Description { name: "ringmq_leads", unit: "flag", help: "1 while this replica leads." };
/// Gauges of each replica, at the leader.
const LAG_BYTES: Description = Description {
    name: "ringmq_replica_lag_bytes",
    unit: "bytes",
    help: "Part of the leader's log that a replica is missing.",
};
const LAG: Description = Description {
    name: "ringmq_replica_lag",
    unit: "ns",
    help: "Age of the oldest entry that a replica is missing.",
};
const REACHABLE: Description = Description {
    name: "ringmq_replica_reachable",
    unit: "flag",
    help: "1 while a replica replies to the leader.",
};

fn replica_samples(set: &ReplicaSet) -> Vec<Sample> {
    let value = Value::Gauge;
    let plain = |about, value| Sample { about, labels: Vec::new(), value };
    let mut samples =
        vec![plain(EPOCH, value(set.term)), plain(LEADS, value(u64::from(set.leads())))];
    for replica in &set.replicas {
        let Some(lag) = replica.lag else { continue };
        let of = |about, value| Sample {
            about,
            labels: vec![("replica", replica.id.to_string())],
            value,
        };
        samples.push(of(LAG_BYTES, value(lag.bytes)));
        samples.push(of(LAG, value(lag.ms.saturating_mul(1_000_000))));
        samples.push(of(REACHABLE, value(u64::from(lag.is_reachable()))));
    }
    samples
}

impl<D: Disk> Broker<D> {
    /// All metrics of this shard with their current values.
    pub fn samples(&self) -> Vec<Sample> {
        let stats = self.store.stats();
        let mut samples = self.store.metrics().samples();
        samples.extend(GAUGES.iter().map(|gauge| {
            let value = Value::Gauge((gauge.of)(&stats));
            Sample { about: gauge.about, labels: Vec::new(), value }
        }));
        let state = self.state.borrow();
        let pending = state.durable.delays.pending();
        let keys = state.durable.sent.as_ref().map_or(0, |sent| sent.count() as u64);
        for (about, value) in OF_STATE.into_iter().zip([pending.count, pending.bytes, keys]) {
            samples.push(Sample { about, labels: Vec::new(), value: Value::Gauge(value) });
        }
        samples.extend(self.replicas().iter().flat_map(replica_samples));
        samples
    }
}

/// A sample as rows of names and values. A histogram becomes a row for its count and one for each
/// of several quantiles.
pub fn rows(sample: Sample) -> Vec<(String, String)> {
    let Sample { about, labels, value } = sample;
    let mut name = about.name.to_owned();
    for (_, label) in labels {
        name.push('.');
        name.push_str(&label);
    }
    match value {
        Value::Counter(value) | Value::Gauge(value) => vec![(name, value.to_string())],
        Value::Histogram(histogram) => {
            let quantile = |(text, quantile)| {
                (format!("{name}.{text}"), histogram.value_at_quantile(quantile).to_string())
            };
            let mut rows: Vec<_> =
                [("p50", 0.5), ("p99", 0.99), ("p99_9", 0.999), ("max", 1.0)].map(quantile).into();
            rows.push((format!("{name}.count"), histogram.len().to_string()));
            rows
        }
    }
}
