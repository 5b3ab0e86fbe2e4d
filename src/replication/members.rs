//! Encodes the members of a shard's replica set as bytes in the log.
//!
//! ```text
//!   number of configurations | each: number of voters, their ids | number of learners, their ids
//!   number of places | each: id, size, bytes, zeros up to a multiple of 8
//! ```
//!
//! All numbers are little-endian and have 64 bits. A member without a place is one of the first
//! ones, which every replica knows from its own configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::types::{Members, Place, ReplicaId, failed};

pub fn encode(members: &Members) -> Vec<u8> {
    let configs = members.get_joint_config();
    let mut numbers = vec![configs.len() as u64];
    let mut list = |ids: Vec<ReplicaId>| {
        numbers.push(ids.len() as u64);
        numbers.extend(ids);
    };
    configs.iter().for_each(|voters| list(voters.iter().copied().collect()));
    list(members.learner_ids().collect());
    let places: Vec<_> = members.nodes().filter(|(_, place)| !place.0.is_empty()).collect();
    numbers.push(places.len() as u64);
    let mut bytes: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
    for (id, place) in places {
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&(place.0.len() as u64).to_le_bytes());
        bytes.extend_from_slice(place.0.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

/// Decodes members. `None` if the bytes are not what [`encode`] writes.
pub fn decode(bytes: &[u8]) -> Option<Members> {
    let mut rest = bytes;
    let configs: Vec<_> =
        (0..number(&mut rest)?).map(|_| list(&mut rest)).collect::<Option<_>>()?;
    let learners = list(&mut rest)?;
    let ids = configs.iter().flatten().chain(&learners);
    let mut places: BTreeMap<_, _> = ids.map(|id| (*id, Place::default())).collect();
    for _ in 0..number(&mut rest)? {
        let place = places.get_mut(&number(&mut rest)?)?;
        let size = usize::try_from(number(&mut rest)?).ok()?;
        let (padded, behind) = rest.split_at_checked(size.checked_next_multiple_of(8)?)?;
        let (text, zeros) = padded.split_at(size);
        *place = Place(str::from_utf8(text).ok().filter(|_| zeros.iter().all(|b| *b == 0))?.into());
        rest = behind;
    }
    let members = Members::new(configs, places).ok()?;
    rest.is_empty().then_some(members)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (number, behind) = rest.split_first_chunk::<8>()?;
    *rest = behind;
    Some(u64::from_le_bytes(*number))
}

fn list(rest: &mut &[u8]) -> Option<BTreeSet<ReplicaId>> {
    let count = number(rest)?;
    (0..count).map(|_| number(rest)).collect()
}

/// Decodes members that are in the log.
pub fn read(bytes: &[u8]) -> io::Result<Members> {
    decode(bytes).ok_or_else(|| failed("the members in the log cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_as_they_are_written() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
        let placed = |text: &str| Place(text.into());
        let places =
            BTreeMap::from([(1, placed("")), (2, placed("10.0.0.7:10912")), (9, placed("b"))]);
        let cases = [
            Members::new(vec![set(&[1, 2])], places).unwrap(),
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
