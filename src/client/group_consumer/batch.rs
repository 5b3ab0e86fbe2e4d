//! Messages that are handed out together, and how a group sees them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::membership::Receipt;
use crate::client::consumer::{Fetched, QueueRef};
use crate::model::QueueOffset;
use crate::model::record::{
    PROPERTY_RETRY_TOPIC, PROPERTY_TAGS, RecordError, RecordView, property,
};
use crate::model::request::Expression;

/// Messages of one queue, to be acknowledged once they are dealt with.
#[derive(Debug)]
pub struct Batch {
    pub(super) receipt: Receipt,
    fetched: Fetched,
    tags: Option<Arc<Tags>>,
}

impl Batch {
    pub(super) fn new(receipt: Receipt, fetched: Fetched, tags: Option<Arc<Tags>>) -> Self {
        Self { receipt, fetched, tags }
    }

    pub fn queue(&self) -> &QueueRef {
        &self.receipt.queue
    }

    /// The offset behind the batch.
    pub fn next_offset(&self) -> QueueOffset {
        self.fetched.next_offset
    }

    /// The end of the queue when the batch was read.
    pub fn max_offset(&self) -> QueueOffset {
        self.fetched.max_offset
    }

    /// The messages that match the subscription. One that comes back for another attempt has the
    /// topic that it was sent to.
    pub fn messages(&self) -> impl Iterator<Item = Result<RecordView<'_>, RecordError>> {
        let tags = self.tags.as_deref();
        let matches = move |record: &RecordView<'_>| tags.is_none_or(|tags| tags.has(record));
        let records = self.fetched.records();
        let matching = records.filter(move |record| record.as_ref().map_or(true, matches));
        matching.map(|record| record.map(with_original_topic))
    }
}

fn with_original_topic(record: RecordView<'_>) -> RecordView<'_> {
    let original = property(record.properties, PROPERTY_RETRY_TOPIC);
    let topic = original.and_then(|topic| std::str::from_utf8(topic).ok());
    RecordView { topic: topic.unwrap_or(record.topic), ..record }
}

/// The tags of a subscription. Brokers compare hashes only, so the consumer compares the texts
/// (remoting reference, 5.5).
#[derive(Debug, PartialEq, Eq)]
pub struct Tags(BTreeSet<String>);

impl Tags {
    /// The tags of an expression such as `a || b`; `None` if it takes all messages.
    pub fn of(expression: &Expression) -> Option<Self> {
        let text = expression.text.trim();
        let is_all = text.is_empty() || text == "*" || expression.kind != "TAG";
        let tags = text.split("||").map(str::trim).filter(|tag| !tag.is_empty());
        (!is_all).then(|| Self(tags.map(str::to_owned).collect()))
    }

    fn has(&self, record: &RecordView<'_>) -> bool {
        let tag = property(record.properties, PROPERTY_TAGS);
        tag.and_then(|tag| std::str::from_utf8(tag).ok()).is_some_and(|tag| self.0.contains(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_names_tags_or_takes_everything() {
        let tags = |text: &str| {
            Tags::of(&Expression { kind: "TAG".into(), text: text.into() }).map(|tags| tags.0)
        };
        assert_eq!(tags("*"), None);
        assert_eq!(tags(" "), None);
        let expected = ["a", "b c"].map(str::to_owned);
        assert_eq!(tags(" a||b c ||"), Some(BTreeSet::from(expected)));
    }
}
