//! Links from a queue's newest messages back to its older ones, segment by segment.
//!
//! A queue with messages in a thousand segments costs memory for one set of links: to the newest
//! sealed segment that has messages of it, and to the newest one before each aligned group of
//! [`GROUPS`] segments. Every run in an index file carries the queue's links at the time its
//! segment was sealed. So the runs of a queue form a list with two levels of skips that needs no
//! memory, and a consumer a thousand segments behind finds its position in about twenty steps.
//!
//! ```text
//!   segments   0 … 7 │ 8 … 15 │ 16 17 18 │ being filled
//!   links of the queue:               └─ newest (18)
//!                           └─ newest before the group of 8 that contains 18 (15)
//! ```
//!
//! Invariant of a link: every message below `end` that the log has is in `segment` or in an older
//! one. Pure.

use std::mem::size_of;

use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::model::LogOffset;
use crate::storage::disk::BLOCK_SIZE;

/// Number of segments in an aligned group, by level. The longest search through n segments takes
/// about n / 128 + 16 + 8 steps.
pub const GROUPS: [u64; 2] = [8, 128];
pub const LINK_COUNT: usize = 1 + GROUPS.len();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// A place in the segment; its base, unless the link is a guess.
    pub segment: LogOffset,
    /// Queue offset after the last message there; 0 if there is no such segment.
    pub end: u64,
}

impl Link {
    pub const NONE: Self = Self { segment: LogOffset(0), end: 0 };
}

/// First the newest segment, then the newest before each group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Links(pub [Link; LINK_COUNT]);

impl Default for Links {
    fn default() -> Self {
        Self::NONE
    }
}

impl Links {
    pub const NONE: Self = Self([Link::NONE; LINK_COUNT]);

    /// For a run whose links are lost: search the segment before `segment`, and from there one by
    /// one.
    pub fn guess(segment: LogOffset, first: u64) -> Self {
        let mut links = Self::NONE;
        if let Some(before) = segment.0.checked_sub(BLOCK_SIZE as u64) {
            links.0[0] = Link { segment: LogOffset(before), end: first };
        }
        links
    }

    /// Adds a newly sealed segment, which contains messages up to `end`.
    pub fn advance(&mut self, segment: LogOffset, segment_size: u64, end: u64) {
        let newest = self.0[0];
        if newest.end > 0 && newest.segment != segment {
            for (link, group) in self.0[1..].iter_mut().zip(GROUPS) {
                let group_of = |at: LogOffset| at.0 / segment_size.saturating_mul(group);
                if group_of(newest.segment) != group_of(segment) {
                    *link = newest;
                }
            }
        }
        self.0[0] = Link { segment, end };
    }

    /// Queue offset after the last message in a sealed segment.
    pub fn end(&self) -> u64 {
        self.0[0].end
    }

    /// The oldest linked segment of the log, which begins at `begin`, that can contain `offset` or
    /// lead to it.
    pub fn towards(&self, offset: u64, begin: LogOffset) -> Option<Link> {
        let leads_there = |link: &Link| link.end > offset && link.segment >= begin;
        self.0.into_iter().filter(leads_there).min_by_key(|link| link.segment)
    }

    /// Whether a linked segment is still in the log.
    pub fn is_any_left(&self, begin: LogOffset) -> bool {
        self.0.iter().any(|link| link.end > 0 && link.segment >= begin)
    }
}

/// A link in an index file, relative to the run that has it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct IndexLink {
    /// Base of the run's segment minus the linked offset, in blocks; 0 if there is no link.
    pub back: U32,
    /// Queue offset of the run's first message minus the link's end.
    pub gap: U32,
}

const _: () = assert!(size_of::<IndexLink>() == 8);

/// The links of a run in `segment` whose first message is `first`, as stored in its file. A skip
/// that does not fit is omitted. The link to the newest segment is clamped: it then leads to a
/// later segment, from which the search continues one by one, and the invariant still holds.
pub fn encode(links: &Links, segment: LogOffset, first: u64) -> [IndexLink; LINK_COUNT] {
    let mut level = 0;
    links.0.map(|link| {
        let is_newest = level == 0;
        level += 1;
        let none = IndexLink { back: U32::ZERO, gap: U32::ZERO };
        let Some(distance) = segment.0.checked_sub(link.segment.0).filter(|_| link.end > 0) else {
            return none;
        };
        let (back, gap) = (distance / BLOCK_SIZE as u64, first.saturating_sub(link.end));
        match (u32::try_from(back), u32::try_from(gap)) {
            (Ok(back), Ok(gap)) => IndexLink { back: U32::new(back), gap: U32::new(gap) },
            _ if is_newest => {
                let cut = |value: u64| U32::new(u32::try_from(value).unwrap_or(u32::MAX));
                IndexLink { back: cut(back), gap: cut(gap) }
            }
            _ => none,
        }
    })
}

pub fn decode(links: &[IndexLink; LINK_COUNT], segment: LogOffset, first: u64) -> Links {
    Links(links.map(|link| {
        let back = u64::from(link.back.get()) * BLOCK_SIZE as u64;
        let end = first.saturating_sub(u64::from(link.gap.get()));
        match segment.0.checked_sub(back).filter(|_| back > 0) {
            Some(segment) => Link { segment: LogOffset(segment), end },
            None => Link::NONE,
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    /// The links after each of the first `count` segments got ten messages of the queue.
    fn links(count: u64) -> Vec<Links> {
        let mut links = Links::NONE;
        let mut all = Vec::new();
        for number in 0..count {
            all.push(links);
            links.advance(LogOffset(number * SIZE), SIZE, (number + 1) * 10);
        }
        all.push(links);
        all
    }

    #[test]
    fn every_place_is_found_in_few_steps() {
        let all = links(1000);
        for wanted in 0..1000 {
            let mut at = 1000;
            let mut steps = 0;
            while at != wanted {
                let link = all[at as usize].towards(wanted * 10 + 5, LogOffset(0)).unwrap();
                assert!(link.segment.0 < at * SIZE, "forward");
                at = link.segment.0 / SIZE;
                steps += 1;
            }
            assert!(steps <= 1000 / 128 + 16 + 8, "{steps} steps to {wanted}");
        }
    }

    #[test]
    fn segments_that_have_expired_are_not_on_the_way() {
        let all = links(300);
        let begin = LogOffset(260 * SIZE);
        assert_eq!(all[300].towards(100, begin), Some(all[300].0[1]));
        assert_eq!(all[260].towards(100, begin), None);
        assert!(all[261].is_any_left(begin) && !all[260].is_any_left(begin));
    }

    #[test]
    fn links_are_read_as_they_are_written() {
        let links = *links(300).last().unwrap();
        let (segment, first) = (LogOffset(300 * SIZE), 3005);
        assert_eq!(decode(&encode(&links, segment, first), segment, first), links);
        let guess = Links::guess(segment, first);
        assert_eq!(decode(&encode(&guess, segment, first), segment, first), guess);
        assert_eq!(Links::guess(LogOffset(0), 7), Links::NONE);
    }

    /// The link then has a later segment and a higher end, so nothing is taken for lost.
    #[test]
    fn a_link_too_long_for_the_file_still_leads_there() {
        let newest = Link { segment: LogOffset(0), end: 5 };
        let links = Links([newest, newest, Link::NONE]);
        let (segment, first) = (LogOffset(1 << 45), 1 << 40);
        let read = decode(&encode(&links, segment, first), segment, first);
        assert!(read.0[0].segment > newest.segment && read.0[0].segment < segment);
        assert!(read.0[0].end > newest.end);
        assert_eq!(read.0[1], Link::NONE);
    }
}
