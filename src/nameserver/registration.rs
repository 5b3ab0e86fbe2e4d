//! Checks one registration: whether its fields are valid, and whether it is a broker's whole topic
//! table. Pure functions, used by [`super::Routes`].

use crate::model::Refusal;
use crate::model::nameserver::{BrokerId, Registration};
use crate::model::topic::{PERM_READ, PERM_WRITE, WHOLE_TABLE_MARK};

/// Longest cluster name, broker name and address, bytes.
const TEXT_SIZE_MAX: usize = 255;

/// How much of a broker's table a registration holds.
///
/// A stock NameServer never removes a topic because a registration does not list it; a route is
/// removed by DELETE_TOPIC_IN_NAMESRV (216) or with the whole broker. It has no choice: a 5.x
/// broker that creates or changes topics sends a registration with only those, and nothing in it
/// says so: not the count (several topics can be created together), not the data version (two
/// consecutive changes can have the same one). Taking such a part for the whole would remove all
/// other topics of the broker; taking a whole table for a part keeps a deleted topic in the routes,
/// and its broker then refuses requests. So a registration counts as the whole table only if that
/// is certain:
///
/// - it carries [`WHOLE_TABLE_MARK`], as all registrations of our brokers do; or
/// - it is the first one from this address, because a broker starts by registering everything. One
///   exception follows the reference: a first table of exactly one topic is a change that overtook
///   the table it belongs to. It is refused, and the broker registers everything again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    Part,
}

pub(super) fn extent(registration: &Registration, is_first: bool) -> Result<Extent, Refusal> {
    if registration.topics.iter().any(is_mark) {
        return Ok(Extent::Whole);
    }
    match (is_first, registration.topics.len()) {
        (true, 1) => Err(Refusal::Registration(
            "one topic from a broker that is not known here is taken for a change; \
             register the whole table first"
                .to_owned(),
        )),
        (true, _) => Ok(Extent::Whole),
        (false, _) => Ok(Extent::Part),
    }
}

/// Whether this is not a topic but the marker of a whole table.
pub(super) fn is_mark(topic: &crate::model::TopicConfig) -> bool {
    topic.name.as_str() == WHOLE_TABLE_MARK && topic.perm & (PERM_READ | PERM_WRITE) == 0
}

/// Checks the strings of a registration. Clients receive them unchanged, and one client splits
/// routes at commas and colons (remoting reference, 2.4), so strings that would break it are
/// refused.
pub(super) fn check(broker: &BrokerId) -> Result<(), Refusal> {
    check_text("cluster name", &broker.cluster)?;
    check_text("broker name", &broker.name)?;
    check_text("address", &broker.address)?;
    let port = broker.address.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
    match port {
        Some((host, Ok(1..))) if !host.is_empty() => Ok(()),
        _ => Err(Refusal::Registration(format!(
            "address {:?} is not of the form ip:port",
            broker.address
        ))),
    }
}

fn check_text(what: &str, text: &str) -> Result<(), Refusal> {
    let is_misleading = |c: char| c.is_whitespace() || c.is_control() || "\"'\\,{}".contains(c);
    let problem = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > TEXT_SIZE_MAX {
        format!("has {} bytes, at most {TEXT_SIZE_MAX} are allowed", text.len())
    } else if let Some(c) = text.chars().find(|&c| is_misleading(c)) {
        format!("holds {c:?}, which clients cannot parse")
    } else {
        return Ok(());
    };
    Err(Refusal::Registration(format!("the {what} {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(cluster: &str, name: &str, address: &str) -> BrokerId {
        let [cluster, name, address] = [cluster, name, address].map(str::to_owned);
        BrokerId { cluster, name, address, id: 0 }
    }

    #[test]
    fn a_broker_must_be_one_that_clients_can_be_told_of() {
        let long = "n".repeat(TEXT_SIZE_MAX + 1);
        let rows = [
            (broker("c", "s00-broker-a", "10.0.0.1:10911"), true),
            (broker("c", "b", "broker-a.example:10911"), true),
            (broker("", "b", "10.0.0.1:10911"), false),
            (broker("c", "", "10.0.0.1:10911"), false),
            (broker("c", "a,b", "10.0.0.1:10911"), false),
            (broker("c", "a\"b", "10.0.0.1:10911"), false),
            (broker("c", &long, "10.0.0.1:10911"), false),
            (broker("c", "b", "10.0.0.1"), false),
            (broker("c", "b", "10.0.0.1:0"), false),
            (broker("c", "b", "10.0.0.1:65536"), false),
            (broker("c", "b", ":10911"), false),
            (broker("c", "b", "10.0.0.1: 10911"), false),
        ];
        for (broker, is_legal) in rows {
            assert_eq!(check(&broker).is_ok(), is_legal, "{broker:?}");
        }
    }
}
