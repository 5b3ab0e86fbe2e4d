//! The members of a shard's set of copies, as bytes in the log.
//!
//! ```text
//!   number of configurations | each: number of voters, their ids | number of learners, their ids
//! ```
//!
//! All numbers are little-endian and have 64 bits.

use std::collections::BTreeSet;
use std::io;

use super::types::{Members, ReplicaId, failed};

pub fn encode(members: &Members) -> Vec<u8> {
    let configs = members.get_joint_config();
    let mut numbers = vec![configs.len() as u64];
    let mut list = |ids: Vec<ReplicaId>| {
        numbers.push(ids.len() as u64);
        numbers.extend(ids);
    };
    configs.iter().for_each(|voters| list(voters.iter().copied().collect()));
    list(members.learner_ids().collect());
    numbers.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// `None` if the bytes are not what [`encode`] writes.
pub fn decode(bytes: &[u8]) -> Option<Members> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    let mut numbers = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes));
    let config_count = numbers.next().filter(|_| rest.is_empty())?;
    let mut list = || -> Option<BTreeSet<ReplicaId>> {
        let count = numbers.next()?;
        (0..count).map(|_| numbers.next()).collect()
    };
    let configs: Vec<_> = (0..config_count).map(|_| list()).collect::<Option<_>>()?;
    let learners = list()?;
    numbers.next().is_none().then(|| Members::new_with_defaults(configs, learners))
}

/// Members that are in the log.
pub fn read(bytes: &[u8]) -> io::Result<Members> {
    decode(bytes).ok_or_else(|| failed("the members in the log cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_as_they_are_written() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
        let cases = [
            Members::new_with_defaults(vec![set(&[1])], []),
            Members::new_with_defaults(vec![set(&[1, 2, 3])], [4]),
            Members::new_with_defaults(vec![set(&[1, 2, 3]), set(&[2, 3, 4])], [7, 9]),
        ];
        for members in cases {
            let bytes = encode(&members);
            assert_eq!(decode(&bytes), Some(members));
            for cut in 0..bytes.len() {
                assert_eq!(decode(&bytes[..cut]), None, "cut at {cut}");
            }
            assert_eq!(decode(&[&bytes[..], &[0; 8]].concat()), None);
        }
    }
}
