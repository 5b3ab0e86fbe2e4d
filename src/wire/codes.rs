//! Protocol numbers: request codes, response codes, and the code of each refusal.

use crate::model::reply::PullStatus;
use crate::model::{Refusal, excerpt};

/// A request of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    pub code: i32,
    pub name: &'static str,
}

/// The command with this code, supported or not.
pub fn command(code: i32) -> Option<&'static Command> {
    let table = request::TABLE;
    table.binary_search_by_key(&code, |command| command.code).ok().map(|at| &table[at])
}

/// Request codes (remoting reference, appendix A), sorted. [`broker`], [`nameserver`] and
/// [`client`] say which of them are supported.
///
/// [`broker`]: crate::wire::broker
/// [`nameserver`]: crate::wire::nameserver
/// [`client`]: crate::wire::client
pub mod request {
    use super::Command;

    macro_rules! commands {
        ($($name:ident = $code:literal;)*) => {
            $(pub const $name: i32 = $code;)*

            pub const TABLE: &[Command] =
                &[$(Command { code: $code, name: stringify!($name) },)*];
        };
    }

    commands! {
        SEND_MESSAGE = 10;
        PULL_MESSAGE = 11;
        QUERY_MESSAGE = 12;
        QUERY_BROKER_OFFSET = 13;
        QUERY_CONSUMER_OFFSET = 14;
        UPDATE_CONSUMER_OFFSET = 15;
        UPDATE_AND_CREATE_TOPIC = 17;
        UPDATE_AND_CREATE_TOPIC_LIST = 18;
        GET_ALL_TOPIC_CONFIG = 21;
        GET_TOPIC_CONFIG_LIST = 22;
        GET_TOPIC_NAME_LIST = 23;
        UPDATE_BROKER_CONFIG = 25;
        GET_BROKER_CONFIG = 26;
        TRIGGER_DELETE_FILES = 27;
        GET_BROKER_RUNTIME_INFO = 28;
        SEARCH_OFFSET_BY_TIMESTAMP = 29;
        GET_MAX_OFFSET = 30;
        GET_MIN_OFFSET = 31;
        GET_EARLIEST_MSG_STORETIME = 32;
        VIEW_MESSAGE_BY_ID = 33;
        HEART_BEAT = 34;
        UNREGISTER_CLIENT = 35;
        CONSUMER_SEND_MSG_BACK = 36;
        END_TRANSACTION = 37;
        GET_CONSUMER_LIST_BY_GROUP = 38;
        CHECK_TRANSACTION_STATE = 39;
        NOTIFY_CONSUMER_IDS_CHANGED = 40;
        LOCK_BATCH_MQ = 41;
        UNLOCK_BATCH_MQ = 42;
        GET_ALL_CONSUMER_OFFSET = 43;
        GET_ALL_DELAY_OFFSET = 45;
        CHECK_CLIENT_CONFIG = 46;
        GET_CLIENT_CONFIG = 47;
        UPDATE_AND_CREATE_ACL_CONFIG = 50;
        DELETE_ACL_CONFIG = 51;
        GET_BROKER_CLUSTER_ACL_INFO = 52;
        UPDATE_GLOBAL_WHITE_ADDRS_CONFIG = 53;
        GET_TIMER_CHECK_POINT = 60;
        GET_TIMER_METRICS = 61;
        PUT_KV_CONFIG = 100;
        GET_KV_CONFIG = 101;
        DELETE_KV_CONFIG = 102;
        REGISTER_BROKER = 103;
        UNREGISTER_BROKER = 104;
        GET_ROUTEINFO_BY_TOPIC = 105;
        GET_BROKER_CLUSTER_INFO = 106;
        UPDATE_AND_CREATE_SUBSCRIPTIONGROUP = 200;
        GET_ALL_SUBSCRIPTIONGROUP_CONFIG = 201;
        GET_TOPIC_STATS_INFO = 202;
        GET_CONSUMER_CONNECTION_LIST = 203;
        GET_PRODUCER_CONNECTION_LIST = 204;
        WIPE_WRITE_PERM_OF_BROKER = 205;
        GET_ALL_TOPIC_LIST_FROM_NAMESERVER = 206;
        DELETE_SUBSCRIPTIONGROUP = 207;
        GET_CONSUME_STATS = 208;
        DELETE_TOPIC_IN_BROKER = 215;
        DELETE_TOPIC_IN_NAMESRV = 216;
        REGISTER_TOPIC_IN_NAMESRV = 217;
        GET_KVLIST_BY_NAMESPACE = 219;
        RESET_CONSUMER_CLIENT_OFFSET = 220;
        GET_CONSUMER_STATUS_FROM_CLIENT = 221;
        INVOKE_BROKER_TO_RESET_OFFSET = 222;
        INVOKE_BROKER_TO_GET_CONSUMER_STATUS = 223;
        GET_TOPICS_BY_CLUSTER = 224;
        UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST = 225;
        QUERY_TOPIC_CONSUME_BY_WHO = 300;
        REGISTER_FILTER_SERVER = 301;
        REGISTER_MESSAGE_FILTER_CLASS = 302;
        QUERY_CONSUME_TIME_SPAN = 303;
        GET_SYSTEM_TOPIC_LIST_FROM_NS = 304;
        GET_SYSTEM_TOPIC_LIST_FROM_BROKER = 305;
        CLEAN_EXPIRED_CONSUMEQUEUE = 306;
        GET_CONSUMER_RUNNING_INFO = 307;
        QUERY_CORRECTION_OFFSET = 308;
        CONSUME_MESSAGE_DIRECTLY = 309;
        SEND_MESSAGE_V2 = 310;
        GET_UNIT_TOPIC_LIST = 311;
        GET_HAS_UNIT_SUB_TOPIC_LIST = 312;
        GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST = 313;
        CLONE_GROUP_OFFSET = 314;
        VIEW_BROKER_STATS_DATA = 315;
        CLEAN_UNUSED_TOPIC = 316;
        GET_BROKER_CONSUME_STATS = 317;
        UPDATE_NAMESRV_CONFIG = 318;
        GET_NAMESRV_CONFIG = 319;
        SEND_BATCH_MESSAGE = 320;
        QUERY_CONSUME_QUEUE = 321;
        QUERY_DATA_VERSION = 322;
        RESUME_CHECK_HALF_MESSAGE = 323;
        SEND_REPLY_MESSAGE = 324;
        SEND_REPLY_MESSAGE_V2 = 325;
        PUSH_REPLY_MESSAGE_TO_CLIENT = 326;
        ADD_WRITE_PERM_OF_BROKER = 327;
        GET_ALL_PRODUCER_INFO = 328;
        DELETE_EXPIRED_COMMITLOG = 329;
        QUERY_TOPICS_BY_CONSUMER = 343;
        QUERY_SUBSCRIPTION_BY_CONSUMER = 345;
        GET_TOPIC_CONFIG = 351;
        GET_SUBSCRIPTIONGROUP_CONFIG = 352;
        UPDATE_AND_GET_GROUP_FORBIDDEN = 353;
        LITE_PULL_MESSAGE = 361;
        RECALL_MESSAGE = 370;
        QUERY_ASSIGNMENT = 400;
        SET_MESSAGE_REQUEST_MODE = 401;
        GET_ALL_MESSAGE_REQUEST_MODE = 402;
        UPDATE_AND_CREATE_STATIC_TOPIC = 513;
        GET_BROKER_MEMBER_GROUP = 901;
        ADD_BROKER = 902;
        REMOVE_BROKER = 903;
        BROKER_HEARTBEAT = 904;
        NOTIFY_MIN_BROKER_ID_CHANGE = 905;
        EXCHANGE_BROKER_HA_INFO = 906;
        GET_BROKER_HA_STATUS = 907;
        RESET_MASTER_FLUSH_OFFSET = 908;
        CONTROLLER_ALTER_SYNC_STATE_SET = 1001;
        CONTROLLER_ELECT_MASTER = 1002;
        CONTROLLER_REGISTER_BROKER = 1003;
        CONTROLLER_GET_REPLICA_INFO = 1004;
        CONTROLLER_GET_METADATA_INFO = 1005;
        CONTROLLER_GET_SYNC_STATE_DATA = 1006;
        GET_BROKER_EPOCH_CACHE = 1007;
        NOTIFY_BROKER_ROLE_CHANGED = 1008;
        UPDATE_CONTROLLER_CONFIG = 1009;
        GET_CONTROLLER_CONFIG = 1010;
        CLEAN_BROKER_DATA = 1011;
        CONTROLLER_GET_NEXT_BROKER_ID = 1012;
        CONTROLLER_APPLY_BROKER_ID = 1013;
        UPDATE_COLD_DATA_FLOW_CTR_CONFIG = 2001;
        REMOVE_COLD_DATA_FLOW_CTR_CONFIG = 2002;
        GET_COLD_DATA_FLOW_CTR_INFO = 2003;
        SET_COMMITLOG_READ_MODE = 2004;
        AUTH_CREATE_USER = 3001;
        AUTH_UPDATE_USER = 3002;
        AUTH_DELETE_USER = 3003;
        AUTH_GET_USER = 3004;
        AUTH_LIST_USER = 3005;
        AUTH_CREATE_ACL = 3006;
        AUTH_UPDATE_ACL = 3007;
        AUTH_DELETE_ACL = 3008;
        AUTH_GET_ACL = 3009;
        AUTH_LIST_ACL = 3010;
        // Ours.
        REPLICAS = 30001;
        POP_MESSAGE = 200050;
        ACK_MESSAGE = 200051;
        PEEK_MESSAGE = 200052;
        CHANGE_MESSAGE_INVISIBLETIME = 200053;
        NOTIFICATION = 200054;
        POLLING_INFO = 200055;
        POP_ROLLBACK = 200056;
        BATCH_ACK_MESSAGE = 200151;
    }
}

/// Response codes (remoting reference, appendix B) that we send or that our client distinguishes.
pub mod response {
    pub const SUCCESS: i32 = 0;
    pub const SYSTEM_ERROR: i32 = 1;
    pub const SYSTEM_BUSY: i32 = 2;
    pub const REQUEST_CODE_NOT_SUPPORTED: i32 = 3;
    pub const FLUSH_DISK_TIMEOUT: i32 = 10;
    pub const SLAVE_NOT_AVAILABLE: i32 = 11;
    pub const FLUSH_SLAVE_TIMEOUT: i32 = 12;
    pub const MESSAGE_ILLEGAL: i32 = 13;
    pub const SERVICE_NOT_AVAILABLE: i32 = 14;
    pub const NO_PERMISSION: i32 = 16;
    pub const TOPIC_NOT_EXIST: i32 = 17;
    pub const TOPIC_EXIST_ALREADY: i32 = 18;
    pub const PULL_NOT_FOUND: i32 = 19;
    pub const PULL_RETRY_IMMEDIATELY: i32 = 20;
    pub const PULL_OFFSET_MOVED: i32 = 21;
    pub const QUERY_NOT_FOUND: i32 = 22;
    pub const SUBSCRIPTION_PARSE_FAILED: i32 = 23;
    pub const SUBSCRIPTION_NOT_EXIST: i32 = 24;
    pub const SUBSCRIPTION_NOT_LATEST: i32 = 25;
    pub const SUBSCRIPTION_GROUP_NOT_EXIST: i32 = 26;
    pub const INVALID_PARAMETER: i32 = 29;
    pub const CONSUMER_NOT_ONLINE: i32 = 206;
    pub const CONSUME_MSG_TIMEOUT: i32 = 207;
    pub const ILLEGAL_OPERATION: i32 = 604;
}

/// Code and status word of a pull reply (remoting reference, 5.3).
pub const PULL_STATUSES: [(PullStatus, i32, &str); 4] = [
    (PullStatus::Found, response::SUCCESS, "FOUND"),
    (PullStatus::NothingNew, response::PULL_NOT_FOUND, "OFFSET_OVERFLOW_ONE"),
    (PullStatus::NothingMatched, response::PULL_RETRY_IMMEDIATELY, "NO_MATCHED_MESSAGE"),
    (PullStatus::OffsetMoved, response::PULL_OFFSET_MOVED, "OFFSET_MOVED"),
];

pub fn pull_code(status: PullStatus) -> (i32, &'static str) {
    let row = PULL_STATUSES.iter().find(|row| row.0 == status).expect("every status has a row");
    (row.1, row.2)
}

pub fn pull_status(code: i32) -> Option<PullStatus> {
    PULL_STATUSES.iter().find(|row| row.1 == code).map(|row| row.0)
}

/// The code of a refusal. There is no wildcard arm, so a new refusal does not compile until its
/// code has been chosen.
pub fn refusal_code(refusal: &Refusal) -> i32 {
    use response::*;
    match refusal {
        Refusal::UnknownRequest { .. } => REQUEST_CODE_NOT_SUPPORTED,
        Refusal::IllegalName(_) | Refusal::TooMany { .. } | Refusal::UnknownReplica { .. } => {
            INVALID_PARAMETER
        }
        // Makes clients refresh their routes, as needed when a queue has moved.
        Refusal::UnknownTopic(_) | Refusal::UnknownQueue { .. } | Refusal::UnknownRoute(_) => {
            TOPIC_NOT_EXIST
        }
        Refusal::ReservedTopic(_)
        | Refusal::NotReadable(_)
        | Refusal::NotWritable(_)
        | Refusal::NotConsumable(_)
        | Refusal::NotBroadcast(_) => NO_PERMISSION,
        Refusal::NoRecall(_) => ILLEGAL_OPERATION,
        Refusal::UnknownGroup(_) => SUBSCRIPTION_GROUP_NOT_EXIST,
        Refusal::NotOnline(_) => CONSUMER_NOT_ONLINE,
        Refusal::AnswerTimedOut { .. } => CONSUME_MSG_TIMEOUT,
        Refusal::TopicExists { .. } => TOPIC_EXIST_ALREADY,
        Refusal::TooLarge { .. }
        | Refusal::EmptyBody
        | Refusal::BadBatch(_)
        | Refusal::BadDelay(_) => MESSAGE_ILLEGAL,
        Refusal::NotOffered(_) => REQUEST_CODE_NOT_SUPPORTED,
        Refusal::Busy { .. } | Refusal::Full { .. } => SYSTEM_BUSY,
        Refusal::DiskFull | Refusal::ShuttingDown | Refusal::Fenced | Refusal::NotLeader { .. } => {
            SERVICE_NOT_AVAILABLE
        }
        Refusal::NoOffset(_) | Refusal::NothingFound => QUERY_NOT_FOUND,
        Refusal::NotSubscribed { .. } => SUBSCRIPTION_NOT_EXIST,
        Refusal::SubscriptionOutdated(_) => SUBSCRIPTION_NOT_LATEST,
        Refusal::BadSubscription(_) => SUBSCRIPTION_PARSE_FAILED,
        Refusal::Malformed(_)
        | Refusal::OutcomeUnknown
        | Refusal::Damaged(_)
        | Refusal::DiskFault { .. }
        | Refusal::NoConsumer(_)
        | Refusal::NoProducer(_)
        | Refusal::NoRequester { .. }
        | Refusal::Unanswered { .. }
        | Refusal::NoMessage(_)
        | Refusal::UnsupportedFilter(_)
        | Refusal::NotReplicated { .. }
        | Refusal::NotReady { .. }
        | Refusal::NotTakenOver { .. }
        | Refusal::CatchingUp { .. }
        | Refusal::LosesMajority { .. }
        | Refusal::LeaderStays { .. }
        | Refusal::Bug(_)
        | Refusal::Registration(_) => SYSTEM_ERROR,
    }
}

/// Maximum length of a remark, characters. Many repeat what the client sent, each character may
/// take six bytes in a header, and the size of a header is limited.
const REMARK_SIZE_MAX: usize = 512;

/// The remark: the stable number, then text. Stock tools print it.
pub fn remark(refusal: &Refusal) -> String {
    let number = refusal.number();
    let mut remark = excerpt(format_args!("RINGMQ-{number} {refusal}"), REMARK_SIZE_MAX);
    if let Refusal::UnknownRequest { code } = refusal
        && let Some(command) = command(*code)
    {
        remark += &format!(" ({})", command.name);
    }
    remark
}
