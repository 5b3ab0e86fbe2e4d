//! The list of NameServers, and which one to ask next.
//!
//! Invariant: the list is not empty. A NameServer that answers is used until it fails, as stock
//! clients do (remoting reference, 1.7). Losing one then costs one timeout, not one per request.

use crate::client::error::ClientError;

/// Maximum number of NameServers in a list.
const COUNT_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServers {
    addresses: Vec<String>,
    preferred: usize,
}

impl NameServers {
    /// Parses `host:port,host:port`; `;` separates too. Skips blanks, empty parts and duplicates.
    pub fn parse(list: &str) -> Result<Self, ClientError> {
        let bad = |problem: String| ClientError::NameServerList { given: list.to_owned(), problem };
        let mut addresses: Vec<String> = Vec::new();
        for address in list.split([',', ';']).map(str::trim).filter(|address| !address.is_empty()) {
            check(address).map_err(|problem| bad(format!("{address:?} {problem}")))?;
            if !addresses.iter().any(|known| known == address) {
                addresses.push(address.to_owned());
            }
        }
        match addresses.len() {
            0 => Err(bad("it is empty".to_owned())),
            1..=COUNT_MAX => Ok(Self { addresses, preferred: 0 }),
            count => Err(bad(format!("it has {count} addresses, at most {COUNT_MAX} are allowed"))),
        }
    }

    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// All addresses, the preferred one first.
    pub fn in_order(&self) -> impl Iterator<Item = &str> {
        let (later, first) = self.addresses.split_at(self.preferred);
        first.iter().chain(later).map(String::as_str)
    }

    /// Makes `address` the first one to ask.
    pub fn prefer(&mut self, address: &str) {
        if let Some(index) = self.addresses.iter().position(|known| known == address) {
            self.preferred = index;
        }
    }
}

fn check(address: &str) -> Result<(), &'static str> {
    let (host, port) = address.rsplit_once(':').ok_or("has no port")?;
    if host.is_empty() {
        return Err("has no host");
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(()),
        _ => Err("has no port from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_addresses_between_commas_or_semicolons() {
        let rows: [(&str, Option<&[&str]>); 9] = [
            ("a:1,b:2;c:3", Some(&["a:1", "b:2", "c:3"])),
            ("10.0.0.1:9876", Some(&["10.0.0.1:9876"])),
            ("10.0.0.1:9876;10.0.0.2:9876", Some(&["10.0.0.1:9876", "10.0.0.2:9876"])),
            (" a:1 ; b:2 ;", Some(&["a:1", "b:2"])),
            ("a:1;a:1", Some(&["a:1"])),
            ("", None),
            ("10.0.0.1", None),
            ("a:0", None),
            (":9876", None),
        ];
        for (list, expected) in rows {
            let parsed = NameServers::parse(list).ok();
            assert_eq!(
                parsed.as_ref().map(NameServers::addresses),
                expected
                    .map(|expected| {
                        expected.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()
                    })
                    .as_deref(),
                "{list}"
            );
        }
    }

    #[test]
    fn the_one_that_answered_is_asked_first() {
        let mut servers = NameServers::parse("a:1;b:2;c:3").unwrap();
        servers.prefer("b:2");
        assert_eq!(servers.in_order().collect::<Vec<_>>(), ["b:2", "c:3", "a:1"]);
        servers.prefer("unknown:1");
        assert_eq!(servers.in_order().next(), Some("b:2"));
    }
}
