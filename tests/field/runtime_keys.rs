//! Tools that parse a broker's figures end with an exception if one is missing.
//!
//! Kind of report: "NullPointerException in clusterList" with a broker of the other release line:
//! 4.x reads `getTransferedTps`, 5.x `getTransferredTps` (mqadmin, exporters).
//!
//! Source: apache/rocketmq-exporter issues 111, 127 and 131.

use serde_json::json;

use crate::client::{Client, RUNTIME_INFO};
use crate::server::{Scratch, Server, free_ports, local};

#[test]
fn figures_of_both_release_lines_are_present_and_parse() {
    let scratch = Scratch::new("runtime");
    let port = free_ports();
    let server = Server::dev(&scratch, port, &[]);
    let mut client = Client::connect(local(port + 3));
    let said = client.ask(RUNTIME_INFO, &json!({}), b"");
    let table = said.json()["table"].take();
    let text =
        |name: &str| table[name].as_str().unwrap_or_else(|| panic!("{name} is missing")).to_owned();
    // Three decimals separated by spaces: over 10, 60 and 600 seconds.
    for name in [
        "putTps",
        "getTransferedTps",
        "getTransferredTps",
        "getFoundTps",
        "getMissTps",
        "getTotalTps",
    ] {
        let parts: Vec<f64> = text(name).split(' ').map(|part| part.parse().unwrap()).collect();
        assert_eq!(parts.len(), 3, "{name}");
    }
    // Whole numbers.
    for name in [
        "bootTimestamp",
        "msgPutTotalYesterdayMorning",
        "msgPutTotalTodayMorning",
        "msgPutTotalTodayNow",
        "msgGetTotalYesterdayMorning",
        "msgGetTotalTodayMorning",
        "msgGetTotalTodayNow",
        "sendThreadPoolQueueSize",
        "pullThreadPoolQueueSize",
        "ackThreadPoolQueueSize",
        "queryThreadPoolQueueSize",
        "litePullThreadPoolQueueSize",
        "EndTransactionQueueSize",
        "sendThreadPoolQueueCapacity",
        "pullThreadPoolQueueCapacity",
        "ackThreadPoolQueueCapacity",
        "queryThreadPoolQueueCapacity",
        "litePullThreadPoolQueueCapacity",
        "EndTransactionThreadPoolQueueCapacity",
        "EndTransactionQueueCapacity",
        "sendThreadPoolQueueHeadWaitTimeMills",
        "pullThreadPoolQueueHeadWaitTimeMills",
        "ackThreadPoolQueueHeadWaitTimeMills",
        "queryThreadPoolQueueHeadWaitTimeMills",
        "litePullThreadPoolQueueHeadWaitTimeMills",
        "pageCacheLockTimeMills",
        "earliestMessageTimeStamp",
        "startAcceptSendRequestTimeStamp",
        "commitLogMinOffset",
        "commitLogMaxOffset",
        "dispatchBehindBytes",
        "remainTransientStoreBufferNumbs",
        "remainHowManyDataToCommit",
        "remainHowManyDataToFlush",
        "putMessageTimesTotal",
        "putMessageFailedTimes",
        "putMessageSizeTotal",
        "putMessageEntireTimeMax",
        "getMessageEntireTimeMax",
        "putLatency99",
        "putLatency999",
        "dispatchMaxBuffer",
        "timerReadBehind",
        "timerOffsetBehind",
        "timerCongestNum",
    ] {
        assert!(text(name).parse::<i64>().is_ok(), "{name}: {}", text(name));
    }
    for name in [
        "commitLogDiskRatio",
        "consumeQueueDiskRatio",
        "putMessageAverageSize",
        "timerEnqueueTps",
        "timerDequeueTps",
    ] {
        assert!(text(name).parse::<f64>().is_ok(), "{name}: {}", text(name));
    }
    for level in 1..=18 {
        assert_eq!(text(&format!("scheduleMessageOffset_{level}")).split(',').count(), 2);
    }
    for name in ["brokerVersionDesc", "runtime", "putMessageDistributeTime", "commitLogDirCapacity"]
    {
        assert!(!text(name).is_empty(), "{name}");
    }
    assert_eq!(text("brokerActive"), "true");
    assert!(server.stop().success());
}
