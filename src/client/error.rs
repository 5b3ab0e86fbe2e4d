//! What can go wrong for a user of the client: what was tried, why it did not work, what to do.

use std::fmt::{self, Display};

use crate::client::session::CallError;
use crate::model::Refusal;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error("{given:?} is no list of NameServers: {problem}; write it as host:port,host:port")]
    NameServerList { given: String, problem: String },
    #[error("no NameServer could {what}: {tried}; start one, or name others")]
    NoNameServer { what: String, tried: Attempts },
    /// The request did not go out; it had no effect.
    #[error(
        "could not {what}: {address} was not reached: {why}; check that it runs and that this machine may connect to it"
    )]
    NotReached { what: String, address: String, why: String },
    /// The request went out; whether it took effect is not known.
    #[error(
        "could not {what}: {address} did not answer: {why}; it may have been carried out, so look before repeating it"
    )]
    Unanswered { what: String, address: String, why: String },
    #[error("{address} refused to {what}: {remark} (code {code})")]
    Refused { what: String, address: String, code: i32, remark: String },
    /// Some brokers did it, others did not.
    #[error("could not {what} everywhere: done on [{}], not on {failed}; repeat it, what is done stays done", .done.join(", "))]
    Partly { what: String, done: Vec<String>, failed: Attempts },
    /// The broker's own refusal, without having asked it.
    #[error("{0}")]
    TopicExists(Refusal),
    #[error("topic {0} is unknown to the NameServers; create it first")]
    UnknownTopic(String),
    #[error("cluster {0} has no broker that is alive; `cluster` lists those that have")]
    UnknownCluster(String),
    #[error("topic {topic} has no queue that may be {used}; change its permission")]
    NoQueue { topic: String, used: &'static str },
    #[error("no broker of {topic} is called {broker}; its route may have changed")]
    UnknownBroker { topic: String, broker: String },
    #[error("message refused before it was sent: {0}")]
    BadMessage(String),
    #[error("{0:?} is no message id: 32 hexadecimal digits are expected")]
    BadMessageId(String),
    #[error("{count} outcomes wait to be taken; take them before sending more")]
    OutcomesWaiting { count: usize },
    #[error("{what} did not happen within {waited_ms} ms")]
    TookTooLong { what: String, waited_ms: u64 },
    #[error("the request cannot be written: {0}")]
    Encoding(String),
}

impl ClientError {
    /// What became of a request, as an error about `what` was asked of `address`.
    pub(crate) fn of_call(what: &str, address: &str, error: CallError) -> Self {
        let (what, address) = (what.to_owned(), address.to_owned());
        match error {
            CallError::NotSent(why) => Self::NotReached { what, address, why },
            CallError::Unanswered(why) => Self::Unanswered { what, address, why },
        }
    }

    /// Whether repeating the same at another server may help and can do no harm.
    pub(crate) fn is_about_reaching(&self) -> bool {
        matches!(self, Self::NotReached { .. } | Self::Unanswered { .. })
    }
}

/// Who was asked and what came of it.
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
