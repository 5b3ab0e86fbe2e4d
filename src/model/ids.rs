//! Names, offsets and times as types, so that one cannot be passed for another.

use std::borrow::Borrow;
use std::fmt::{self, Display};

use bytestring::ByteString;
use serde::{Deserialize, Serialize};

/// A position in one shard's log, in bytes from its beginning.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct LogOffset(pub u64);

impl LogOffset {
    pub fn plus(self, size: u64) -> Self {
        Self(self.0 + size)
    }
}

impl Display for LogOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

/// The number of a message in its message queue: 0, 1, 2, … without gaps.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct QueueOffset(pub u64);

impl QueueOffset {
    pub fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl Display for QueueOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

/// The number of a message queue within its topic on one shard.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct QueueId(pub u32);

/// The number of a shard within its broker process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// Wall clock time, milliseconds since 1970. For stamps and comparisons with stamps. It may jump,
/// so a server's deadlines and leases use a [`Moment`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; 0 if the clock has gone backwards.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Monotonic time in milliseconds, from an arbitrary origin. For deadlines and leases; unrelated to
/// a [`Timestamp`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A time on both clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    pub wall: Timestamp,
    pub moment: Moment,
}

/// Why a text is not a topic or group name (remoting reference, 5.11).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name is empty")]
    Empty,
    #[error("the name has {size} bytes, at most {size_max} are allowed")]
    TooLong { size: usize, size_max: usize },
    #[error("the name contains {0:?}; only letters, digits and % | _ - are allowed")]
    BadCharacter(char),
}

/// Longest name of an ordinary topic in bytes: a record of version 1 stores its length in one
/// signed byte.
pub const TOPIC_NAME_SIZE_MAX: usize = 127;
/// Longest group name in bytes.
pub const GROUP_NAME_SIZE_MAX: usize = 255;
/// Prefix of the name of a group's retry topic; the group's name follows (remoting reference, 5.8).
pub const RETRY_TOPIC_PREFIX: &str = "%RETRY%";
/// Prefix of the name of a group's dead letter topic.
pub const DEAD_LETTER_TOPIC_PREFIX: &str = "%DLQ%";
/// Longest name of any topic in bytes: the retry topic of the group with the longest name.
pub const GROUP_TOPIC_NAME_SIZE_MAX: usize = RETRY_TOPIC_PREFIX.len() + GROUP_NAME_SIZE_MAX;

/// Topics that belong to a group may be as long as its name requires.
fn topic_name_size_max(name: &str) -> usize {
    let prefixes = [RETRY_TOPIC_PREFIX, DEAD_LETTER_TOPIC_PREFIX];
    let prefix = prefixes.iter().find(|prefix| name.starts_with(*prefix));
    prefix.map_or(TOPIC_NAME_SIZE_MAX, |prefix| prefix.len() + GROUP_NAME_SIZE_MAX)
}

fn check_name(name: &str, size_max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > size_max {
        return Err(NameError::TooLong { size: name.len(), size_max });
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '%' | '|' | '_' | '-');
    match name.chars().find(|&c| !legal(c)) {
        Some(c) => Err(NameError::BadCharacter(c)),
        None => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $size_max:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(ByteString);

        impl $name {
            /// Validates `name` once.
            pub fn new(name: impl Into<ByteString>) -> Result<Self, NameError> {
                let name = name.into();
                check_name(&name, $size_max(&name))?;
                Ok(Self(name))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// A copy with its own memory, for values that outlive the receive buffer.
            pub fn detached(&self) -> Self {
                Self(ByteString::from(self.as_str()))
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// A legal topic name. May point into a receive buffer.
    TopicName,
    topic_name_size_max
);
name_type!(
    /// A legal producer or consumer group name. May point into a receive buffer.
    GroupName,
    |_: &str| GROUP_NAME_SIZE_MAX
);

impl TopicName {
    /// The topic from which `group` again receives the messages that it could not process.
    pub fn retry_of(group: &GroupName) -> Self {
        Self(format!("{RETRY_TOPIC_PREFIX}{group}").into())
    }

    /// The topic of the messages that `group` could not process in any attempt.
    pub fn dead_letters_of(group: &GroupName) -> Self {
        Self(format!("{DEAD_LETTER_TOPIC_PREFIX}{group}").into())
    }

    /// The group whose retry topic this is, if it is one.
    pub fn retrying_group(&self) -> Option<GroupName> {
        let group = self.as_str().strip_prefix(RETRY_TOPIC_PREFIX)?;
        GroupName::new(group.to_owned()).ok()
    }
}

/// Longest id of a client in bytes. Stock clients stay below 100.
pub const CLIENT_ID_SIZE_MAX: usize = 255;

/// A client's id, usually `ip@pid#number`. Free text, see [`check_client_id`].
pub type ClientId = ByteString;

/// Checks the size of a client id on arrival.
pub fn check_client_id(client: &str) -> Result<(), NameError> {
    let (size, size_max) = (client.len(), CLIENT_ID_SIZE_MAX);
    if size > size_max { Err(NameError::TooLong { size, size_max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_by_the_rules_of_the_protocol() {
        let long = "a".repeat(TOPIC_NAME_SIZE_MAX + 1);
        let longest_group = "g".repeat(GROUP_NAME_SIZE_MAX);
        let rows = [
            ("TopicTest", Ok(())),
            ("%RETRY%group_1", Ok(())),
            ("a|b-c", Ok(())),
            ("", Err(NameError::Empty)),
            ("a b", Err(NameError::BadCharacter(' '))),
            ("主题", Err(NameError::BadCharacter('主'))),
            (&long, Err(NameError::TooLong { size: 128, size_max: 127 })),
            (&format!("%RETRY%{longest_group}"), Ok(())),
            (&format!("%DLQ%{longest_group}"), Ok(())),
            (
                &format!("%DLQ%{longest_group}a"),
                Err(NameError::TooLong { size: 261, size_max: 260 }),
            ),
        ];
        for (name, expected) in rows {
            assert_eq!(TopicName::new(name).map(|_| ()), expected, "{name}");
        }
    }

    #[test]
    fn a_group_and_its_topics_name_each_other() {
        let group = GroupName::new("g".repeat(GROUP_NAME_SIZE_MAX)).unwrap();
        let (retry, dead) = (TopicName::retry_of(&group), TopicName::dead_letters_of(&group));
        for topic in [&retry, &dead] {
            assert_eq!(TopicName::new(topic.as_str().to_owned()).as_ref(), Ok(topic));
        }
        assert_eq!(retry.as_str().len(), GROUP_TOPIC_NAME_SIZE_MAX);
        assert_eq!((retry.retrying_group(), dead.retrying_group()), (Some(group), None));
        assert_eq!(TopicName::new("%RETRY%").unwrap().retrying_group(), None);
    }
}
