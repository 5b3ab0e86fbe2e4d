//! Which replica of a broker to ask, as far as this client knows.
//!
//! The route names the replica that leads, but NameServers learn of a new leader only when it registers,
//! and clients only when they ask. A client that is refused by a replica, or cannot reach it, asks
//! the next one immediately. It keeps asking that one until a route names a leader other than the
//! one that was abandoned.

use std::collections::{HashMap, HashSet};

use crate::model::Timestamp;
use crate::model::nameserver::{Route, RouteBroker};

/// After this long, ms, the leader that the route names is tried again.
const GUESS_MAX_MS: u64 = 30_000;
/// A replica that has not replied is skipped for this long, ms: waiting for it again would take
/// longer than asking the others.
const SILENT_MS: u64 = 2_000;
/// Maximum number of addresses that are remembered; further ones count as those of single brokers.
const ADDRESSES_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub struct Replicas {
    /// By broker name.
    guesses: HashMap<String, Guess>,
    /// Addresses of brokers that have more than one.
    addresses: HashSet<String>,
    /// Replicas that have not replied, and until when each is skipped.
    silent: HashMap<String, Timestamp>,
}

/// A replica to ask instead of the leader that the route names.
#[derive(Debug)]
struct Guess {
    address: String,
    /// The leader according to the route that was found wrong.
    left: Option<String>,
    until: Timestamp,
}

impl Replicas {
    pub fn handle_route(&mut self, route: &Route) {
        for broker in &route.brokers {
            if addresses(broker).nth(1).is_some() && self.addresses.len() < ADDRESSES_MAX {
                self.addresses.extend(addresses(broker).map(str::to_owned));
            }
            let leader = broker.master();
            let is_new = |guess: &mut Guess| leader.is_some() && guess.left.as_deref() != leader;
            if self.guesses.get_mut(&broker.name).is_some_and(is_new) {
                self.guesses.remove(&broker.name);
            }
        }
    }

    /// Whether a replica other than the leader of this route is asked.
    pub fn guess_for(&self, route: &Route, now: Timestamp) -> bool {
        let mut guesses = route.brokers.iter().filter_map(|broker| self.guesses.get(&broker.name));
        guesses.any(|guess| now < guess.until)
    }

    /// Whether this is the address of a broker with replicas.
    pub fn are_at(&self, address: &str) -> bool {
        self.addresses.contains(address)
    }

    /// The replica to ask: the leader, if it is known, otherwise any replica.
    pub fn find<'a>(&self, route: &'a Route, broker: &str, now: Timestamp) -> Option<&'a str> {
        let broker = route.brokers.iter().find(|known| known.name == broker)?;
        let guess = self.guesses.get(&broker.name).filter(|guess| now < guess.until);
        let guessed = guess.and_then(|guess| addresses(broker).find(|one| *one == guess.address));
        guessed.or_else(|| broker.master()).or_else(|| addresses(broker).next())
    }

    /// Stops asking a replica that does not lead or, if it `is_silent`, could not be reached or did
    /// not reply. Returns whether there is another one to ask.
    pub fn leave(
        &mut self,
        route: &Route,
        broker: &str,
        address: &str,
        is_silent: bool,
        now: Timestamp,
    ) -> bool {
        let Some(of) = route.brokers.iter().find(|known| known.name == broker) else {
            return false;
        };
        let mut all: Vec<&str> = addresses(of).collect();
        all.sort_unstable();
        all.dedup();
        if all.len() < 2 {
            return false;
        }
        self.silent.retain(|_, until| now < *until);
        if is_silent {
            self.silent.insert(address.to_owned(), now.plus_ms(SILENT_MS));
        }
        if self.find(route, broker, now) != Some(address) {
            // It has already been abandoned for an earlier request.
            return true;
        }
        let place = all.iter().position(|one| *one == address).unwrap_or(0);
        let others = || all[place + 1..].iter().chain(&all[..place]);
        let next =
            others().find(|one| !self.silent.contains_key(**one)).or_else(|| others().next());
        let guess = Guess {
            address: (*next.expect("there are two at least")).to_owned(),
            left: of.master().map(str::to_owned),
            until: now.plus_ms(GUESS_MAX_MS),
        };
        self.guesses.insert(broker.to_owned(), guess);
        true
    }
}

fn addresses(broker: &RouteBroker) -> impl Iterator<Item = &str> {
    broker.addresses.iter().map(|(_, address)| address.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(addresses: &[(u64, &str)]) -> Route {
        let addresses = addresses.iter().map(|(id, address)| (*id, (*address).to_owned()));
        let (cluster, name) = ("c".into(), "b".into());
        let broker = RouteBroker { cluster, name, addresses: addresses.collect() };
        Route { brokers: vec![broker], ..Route::default() }
    }

    const NOW: Timestamp = Timestamp(1_000);

    #[test]
    fn a_client_goes_round_the_replicas_until_the_route_names_a_new_leader() {
        let (mut replicas, old) = (Replicas::default(), route(&[(0, "x"), (2, "y"), (3, "z")]));
        replicas.handle_route(&old);
        assert!(replicas.are_at("y") && !replicas.are_at("w"));
        for (from, to) in [("x", "y"), ("y", "z"), ("z", "x"), ("x", "y")] {
            assert_eq!(replicas.find(&old, "b", NOW), Some(from));
            assert!(replicas.leave(&old, "b", from, false, NOW));
            let is_left = replicas.leave(&old, "b", from, false, NOW);
            assert!(is_left, "that other requests fail changes nothing");
            assert_eq!(replicas.find(&old, "b", NOW), Some(to));
        }
        replicas.handle_route(&old);
        assert_eq!(replicas.find(&old, "b", NOW), Some("y"), "the NameServer does not know yet");
        let none = route(&[(2, "y"), (3, "z")]);
        replicas.handle_route(&none);
        assert_eq!(replicas.find(&none, "b", NOW), Some("y"));
        let new = route(&[(0, "z"), (2, "y")]);
        replicas.handle_route(&new);
        assert_eq!(replicas.find(&new, "b", NOW), Some("z"));
    }

    #[test]
    fn a_leader_that_was_left_is_tried_again_some_time_later() {
        let (mut replicas, route) = (Replicas::default(), route(&[(0, "x"), (2, "y")]));
        assert!(replicas.leave(&route, "b", "x", false, NOW));
        assert_eq!(replicas.find(&route, "b", NOW.plus_ms(GUESS_MAX_MS - 1)), Some("y"));
        assert_eq!(replicas.find(&route, "b", NOW.plus_ms(GUESS_MAX_MS)), Some("x"));
    }

    #[test]
    fn a_replica_that_does_not_answer_is_passed_over_for_a_while() {
        let mut replicas = Replicas::default();
        let route = route(&[(0, "x"), (2, "y"), (3, "z")]);
        for (from, is_silent, to) in [
            ("x", true, "y"),
            ("y", false, "z"),
            ("z", false, "y"),
            ("y", true, "z"),
            ("z", true, "x"),
        ] {
            assert!(replicas.leave(&route, "b", from, is_silent, NOW));
            assert_eq!(replicas.find(&route, "b", NOW), Some(to));
        }
        let later = NOW.plus_ms(SILENT_MS);
        assert!(replicas.leave(&route, "b", "x", false, later));
        assert_eq!(replicas.find(&route, "b", later), Some("y"));
    }

    #[test]
    fn without_a_leader_any_replica_is_asked_and_a_single_broker_is_never_left() {
        let mut replicas = Replicas::default();
        let followers = route(&[(2, "y"), (3, "z")]);
        assert_eq!(replicas.find(&followers, "b", NOW), Some("y"));
        assert_eq!(replicas.find(&followers, "other", NOW), None);
        let single = route(&[(0, "x")]);
        replicas.handle_route(&single);
        assert!(!replicas.leave(&single, "b", "x", true, NOW) && !replicas.are_at("x"));
        assert_eq!(replicas.find(&single, "b", NOW), Some("x"));
    }
}
