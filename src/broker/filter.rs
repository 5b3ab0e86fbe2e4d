//! Filters messages by the hash of their tag.
//!
//! The shard compares only hashes; the client then compares the tags (remoting reference, 5.5). So
//! a false match is harmless, but a missed match is not.

use smallvec::SmallVec;

use crate::model::record::tag_hash;
use crate::model::request::Expression;
use crate::model::{Refusal, excerpt};

/// Maximum number of tags in an expression.
const TAGS_MAX: usize = 256;
/// Maximum number of characters shown of an invalid expression.
const SHOWN_MAX: usize = 200;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagFilter {
    All,
    AnyOf(SmallVec<[i32; 4]>),
}

impl TagFilter {
    /// Parses `*`, an empty expression, or `TagA || TagB`.
    pub fn parse(expression: &Expression) -> Result<Self, Refusal> {
        if !matches!(expression.kind.as_str(), "" | "TAG") {
            return Err(Refusal::UnsupportedFilter(excerpt(&expression.kind, SHOWN_MAX)));
        }
        let text = expression.text.trim();
        if text.is_empty() || text == "*" {
            return Ok(Self::All);
        }
        let tags = text.split("||").map(str::trim).filter(|tag| !tag.is_empty());
        let hashes: SmallVec<[i32; 4]> = tags.map(tag_hash).take(TAGS_MAX + 1).collect();
        match hashes.len() {
            0 => {
                let shown = excerpt(text, SHOWN_MAX);
                Err(Refusal::BadSubscription(format!("no tag in {shown:?}")))
            }
            count if count > TAGS_MAX => {
                Err(Refusal::BadSubscription(format!("more than {TAGS_MAX} tags")))
            }
            _ => Ok(Self::AnyOf(hashes)),
        }
    }

    /// Number of tags.
    pub fn tag_count(&self) -> usize {
        match self {
            Self::All => 0,
            Self::AnyOf(hashes) => hashes.len(),
        }
    }

    pub fn takes(&self, tag_hash: i32) -> bool {
        match self {
            Self::All => true,
            Self::AnyOf(hashes) => hashes.contains(&tag_hash),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: &str, text: &str) -> Result<TagFilter, Refusal> {
        TagFilter::parse(&Expression { kind: kind.into(), text: text.into() })
    }

    #[test]
    fn expressions_are_read_as_stock_clients_write_them() {
        let any_of =
            |tags: &[&str]| Ok(TagFilter::AnyOf(tags.iter().map(|tag| tag_hash(tag)).collect()));
        let rows = [
            ("TAG", "*", Ok(TagFilter::All)),
            ("", "", Ok(TagFilter::All)),
            ("TAG", " TagA ", any_of(&["TagA"])),
            ("TAG", "TagA||TagB", any_of(&["TagA", "TagB"])),
            ("TAG", "TagA || 订单", any_of(&["TagA", "订单"])),
            ("TAG", "||", Err(Refusal::BadSubscription("no tag in \"||\"".into()))),
            ("SQL92", "a > 1", Err(Refusal::UnsupportedFilter("SQL92".into()))),
        ];
        for (kind, text, expected) in rows {
            assert_eq!(parse(kind, text), expected, "{kind} {text}");
        }
        assert!(matches!(parse("TAG", &"a||".repeat(300)), Err(Refusal::BadSubscription(_))));
    }

    #[test]
    fn a_filter_takes_its_own_tags_only() {
        let filter = parse("TAG", "TagA || TagB").unwrap();
        assert!(filter.takes(tag_hash("TagA")) && filter.takes(tag_hash("TagB")));
        assert!(!filter.takes(tag_hash("TagC")) && !filter.takes(0));
    }
}
