//! The fields of one stream.

use crate::options::Header;
use crate::plan::keys::Keys;
use crate::plan::sizes::Sizes;

#[derive(Clone, Debug)]
pub struct StreamSpec {
    pub name: String,
    pub role: String,
    /// Name of its topic, or prefix of the names of several.
    pub topic: String,
    pub topics: u32,
    /// Of all brokers together.
    pub partitions: u32,
    pub header: Header,
    pub load: Load,
    pub sizes: Sizes,
    pub batch: u32,
    pub producers: u32,
    pub in_flight: u32,
    pub keys: Keys,
    pub is_ordered: bool,
    pub is_one_way: bool,
    pub retries: u32,
    pub delay_ms: u64,
}

/// Messages per second of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    /// To be found by a search.
    Searched,
    /// As much as the windows allow. `instead_of` is the rate that was asked for, if it was too high
    /// for a schedule.
    Max {
        instead_of: Option<f64>,
    },
    Constant(f64),
    /// Linear interpolation between these points, ns; the last rate holds to the end.
    Points(Vec<(u64, f64)>),
}

impl StreamSpec {
    /// The name of each of its topics.
    pub fn topic_names(&self) -> impl Iterator<Item = String> {
        (0..self.topics).map(|number| match self.topics {
            1 => self.topic.clone(),
            _ => format!("{}-{number}", self.topic),
        })
    }
}
