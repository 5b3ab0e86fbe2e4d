//! The broker statistics that stock tools show.

use super::rates::Counts;
use super::{Broker, metrics};
use crate::model::{Moment, Reply};
use crate::storage::disk::{Disk, Space};

/// Keys of both release lines for things that this broker does not have: thread pools, a page
/// cache, a timer wheel. Tools of either line fail without them (remoting reference, 3.13).
const ZEROS: [&str; 44] = [
    "msgPutTotalYesterdayMorning",
    "msgPutTotalTodayMorning",
    "msgGetTotalYesterdayMorning",
    "msgGetTotalTodayMorning",
    "sendThreadPoolQueueSize",
    "pullThreadPoolQueueSize",
    "ackThreadPoolQueueSize",
    "queryThreadPoolQueueSize",
    "litePullThreadPoolQueueSize",
    "EndTransactionQueueSize",
    "sendThreadPoolQueueHeadWaitTimeMills",
    "pullThreadPoolQueueHeadWaitTimeMills",
    "ackThreadPoolQueueHeadWaitTimeMills",
    "queryThreadPoolQueueHeadWaitTimeMills",
    "litePullThreadPoolQueueHeadWaitTimeMills",
    "pageCacheLockTimeMills",
    "startAcceptSendRequestTimeStamp",
    "dispatchBehindBytes",
    "dispatchMaxBuffer",
    "remainTransientStoreBufferNumbs",
    "remainHowManyDataToCommit",
    "putMessageFailedTimes",
    "putMessageEntireTimeMax",
    "getMessageEntireTimeMax",
    "putLatency99",
    "putLatency999",
    "timerReadBehind",
    "timerOffsetBehind",
    "timerCongestNum",
    "timerEnqueueTps",
    "timerDequeueTps",
    "sendThreadPoolQueueCapacity",
    "pullThreadPoolQueueCapacity",
    "ackThreadPoolQueueCapacity",
    "queryThreadPoolQueueCapacity",
    "litePullThreadPoolQueueCapacity",
    "EndTransactionThreadPoolQueueCapacity",
    "EndTransactionQueueCapacity",
    "queryAssignmentThreadPoolQueueSize",
    "commitThreadPoolQueueSize",
    "consumerManageThreadPoolQueueSize",
    "clientManageThreadPoolQueueSize",
    "heartbeatThreadPoolQueueSize",
    "replyThreadPoolQueueSize",
];

impl<D: Disk> Broker<D> {
    /// Samples the counters, for rates. To be called at least every few seconds.
    pub fn sample_rates(&self, now: Moment) {
        self.rates.borrow_mut().sample(now, || Counts::of(self.store.metrics()));
    }

    /// The values shown by `clusterList` and `brokerStatus` (remoting reference, 3.13), followed by
    /// all metrics of this shard under their own names.
    pub(super) fn runtime_info(&self, now: Moment) -> Reply {
        let counted = self.store.metrics();
        let mut table: Vec<(String, String)> =
            ZEROS.iter().map(|name| ((*name).to_owned(), "0".to_owned())).collect();
        let (rates, counts) = (self.rates.borrow(), Counts::of(counted));
        let rate = |counter: fn(Counts) -> u64| {
            let [short, middle, long] = rates.per_second(now, counts, counter);
            format!("{short:.2} {middle:.2} {long:.2}")
        };
        let uptime_ms = now.ms_since(self.config.started.moment).max(1);
        let mut add = |name: &str, value: String| table.push((name.to_owned(), value));
        add("brokerActive", "true".into());
        add("brokerVersionDesc", format!("RingMQ_{}", env!("CARGO_PKG_VERSION")));
        add("bootTimestamp", self.config.started.wall.0.to_string());
        add("runtime", format!("[ {} ms ]", uptime_ms));
        add("msgPutTotalTodayNow", counted.messages_stored.get().to_string());
        add("msgGetTotalTodayNow", counted.messages_pulled.get().to_string());
        add("putTps", rate(|counts| counts.stored));
        // The spellings of 5.x and of 4.x.
        for name in ["getTransferredTps", "getTransferedTps"] {
            add(name, rate(|counts| counts.pulled));
        }
        add("getTotalTps", rate(|counts| counts.pulls_found + counts.pulls_missed));
        add("getFoundTps", rate(|counts| counts.pulls_found));
        add("getMissTps", rate(|counts| counts.pulls_missed));
        add("putMessageTimesTotal", counted.messages_stored.get().to_string());
        add("putMessageSizeTotal", counted.stored_bytes.get().to_string());
        let average =
            counted.stored_bytes.get() as f64 / counted.messages_stored.get().max(1) as f64;
        add("putMessageAverageSize", format!("{average:.1}"));
        add("putMessageDistributeTime", "[<=0ms]:0".into());
        // Tools expect a queue for each level; here, messages of all levels are stored by due time.
        for level in 1..=self.config.delay_levels_ms.len() {
            add(&format!("scheduleMessageOffset_{level}"), "0,0".into());
        }
        add("commitLogMinOffset", self.store.begin().0.to_string());
        add("commitLogMaxOffset", self.store.end().0.to_string());
        add(
            "remainHowManyDataToFlush",
            (self.store.end().0 - self.store.committed().0).to_string(),
        );
        let stats = self.store.stats();
        let oldest = stats.oldest_stored_at.map_or(-1, |at| at.0 as i64);
        add("earliestMessageTimeStamp", oldest.to_string());
        let used = |space: Space| 1.0 - space.free_bytes as f64 / space.total_bytes.max(1) as f64;
        // -1, the reference's value for unknown.
        let ratio = stats.disk_space.map_or("-1".to_owned(), |space| format!("{:.2}", used(space)));
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
        let capacity = stats.disk_space.map_or("Total : -1, Free : -1".to_owned(), |space| {
            format!("Total : {}, Free : {}", gib(space.total_bytes), gib(space.free_bytes))
        });
        add("commitLogDirCapacity", capacity);
        add("commitLogDiskRatio", ratio.clone());
        add("consumeQueueDiskRatio", ratio);
        table.extend(self.samples().into_iter().flat_map(metrics::rows));
        table.sort();
        Reply::RuntimeInfo(table)
    }
}
