//! Errors of the client: what was attempted, why it failed, what to do.

use std::fmt::{self, Display};

use crate::client::session::CallError;
use crate::model::Refusal;
use crate::wire::codes::response::SERVICE_NOT_AVAILABLE;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error("{given:?} is not a list of NameServers: {problem}; write it as host:port,host:port")]
    NameServerList { given: String, problem: String },
    #[error("no NameServer could {what}: {tried}; start one, or use other addresses")]
    NoNameServer { what: String, tried: Attempts },
    /// The request was not sent and had no effect.
    #[error(
        "could not {what}: cannot reach {address}: {why}; check that it is running and accepts connections from this machine"
    )]
    NotReached { what: String, address: String, why: String },
    /// The request was sent; whether it took effect is unknown.
    #[error(
        "could not {what}: {address} did not answer: {why}; the request may have taken effect, so check before repeating it"
    )]
    Unanswered { what: String, address: String, why: String },
    #[error("{address} refused to {what}: {remark} (code {code})")]
    Refused { what: String, address: String, code: i32, remark: String },
    /// Succeeded on some brokers, failed on others.
    #[error("could not {what} on all brokers: done on [{}], failed on {failed}; repeating it is safe", .done.join(", "))]
    Partly { what: String, done: Vec<String>, failed: Attempts },
    /// The refusal that a broker would send; detected before asking one.
    #[error("{0}")]
    TopicExists(Refusal),
    #[error("topic {0} is unknown to the NameServers; create it first")]
    UnknownTopic(String),
    #[error("cluster {0} has no live broker; `ringmq cluster` lists those that have")]
    UnknownCluster(String),
    #[error("no leader of a broker or shard named {0} is known; `ringmq cluster` lists the names")]
    UnknownBrokerName(String),
    #[error(
        "no replica of broker {0} leads; repeat the command when `ringmq cluster` shows a leader"
    )]
    NoLeader(String),
    #[error("topic {topic} has no queue that may be {used}; change the topic's permission")]
    NoQueue { topic: String, used: &'static str },
    #[error("topic {topic} has no broker named {broker}; its route may have changed")]
    UnknownBroker { topic: String, broker: String },
    #[error("message refused before it was sent: {0}")]
    BadMessage(String),
    #[error("{0:?} is not a message id, which has 32 hexadecimal digits")]
    BadMessageId(String),
    #[error("{count} outcomes have not been collected; collect them before sending more")]
    OutcomesWaiting { count: usize },
    #[error("{what} did not happen within {waited_ms} ms")]
    TookTooLong { what: String, waited_ms: u64 },
    #[error("cannot encode the request: {0}")]
    Encoding(String),
}

impl ClientError {
    /// The error of a failed call: `what` was requested from `address`.
    pub(crate) fn of_call(what: &str, address: &str, error: CallError) -> Self {
        let (what, address) = (what.to_owned(), address.to_owned());
        match error {
            CallError::NotSent(why) => Self::NotReached { what, address, why },
            CallError::Unanswered(why) => Self::Unanswered { what, address, why },
        }
    }

    /// Whether another replica of the broker may execute the request.
    pub(crate) fn is_about_replica(&self) -> bool {
        self.is_about_reaching()
            || matches!(self, Self::Refused { code: SERVICE_NOT_AVAILABLE, .. })
    }

    /// Whether the server could not be reached or did not reply, so that another one may help.
    pub(crate) fn is_about_reaching(&self) -> bool {
        matches!(self, Self::NotReached { .. } | Self::Unanswered { .. })
    }
}

/// The servers that were tried, and how each attempt failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempts(pub Vec<(String, String)>);

impl Attempts {
    pub fn push(&mut self, address: &str, error: &ClientError) {
        let outcome = match error {
            ClientError::NotReached { why, .. } | ClientError::Unanswered { why, .. } => {
                why.clone()
            }
            ClientError::Refused { code, remark, .. } => format!("{remark} (code {code})"),
            other => other.to_string(),
        };
        self.0.push((address.to_owned(), outcome));
    }
}

impl Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (address, outcome)) in self.0.iter().enumerate() {
            let between = if index == 0 { "" } else { ", " };
            write!(f, "{between}{address} ({outcome})")?;
        }
        Ok(())
    }
}
