//! Cached routes, and when to refresh them.
//!
//! An old route is still used, so traffic continues while no NameServer answers. A route that a
//! broker has contradicted is due for a refresh immediately.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::Timestamp;
use crate::model::nameserver::Route;

/// How long a route is fresh, ms; the value of stock clients (remoting reference, 6.1).
pub const FRESH_MS: u64 = 30_000;
/// Delay after an attempt to refresh a route, successful or not, ms.
pub const RETRY_MS: u64 = 500;
/// Maximum number of cached topics. Beyond it, the least recently used one is evicted.
pub const TOPICS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub struct RouteCache {
    routes: HashMap<String, Known>,
    /// When NameServers were last asked about unknown topics; at most [`TOPICS_MAX`].
    missing: HashMap<String, Timestamp>,
}

#[derive(Debug)]
struct Known {
    route: Arc<Route>,
    heard_at: Timestamp,
    asked_at: Timestamp,
    is_doubtful: bool,
}

impl RouteCache {
    pub fn find(&self, topic: &str) -> Option<Arc<Route>> {
        self.routes.get(topic).map(|known| known.route.clone())
    }

    /// Whether a NameServer should be asked about `topic` now.
    pub fn is_due(&self, topic: &str, now: Timestamp) -> bool {
        let Some(known) = self.routes.get(topic) else {
            return self.missing.get(topic).is_none_or(|at| now.ms_since(*at) >= RETRY_MS);
        };
        let is_old = known.is_doubtful || now.ms_since(known.heard_at) >= FRESH_MS;
        is_old && now.ms_since(known.asked_at) >= RETRY_MS
    }

    pub fn handle_route(&mut self, topic: &str, route: Route, now: Timestamp) -> Arc<Route> {
        if !self.routes.contains_key(topic) && self.routes.len() >= TOPICS_MAX {
            self.forget_oldest();
        }
        self.missing.remove(topic);
        let route = Arc::new(route);
        let known =
            Known { route: route.clone(), heard_at: now, asked_at: now, is_doubtful: false };
        self.routes.insert(topic.to_owned(), known);
        route
    }

    /// Notes that a request returned no route; the cached one stays.
    pub fn handle_no_answer(&mut self, topic: &str, now: Timestamp) {
        if let Some(known) = self.routes.get_mut(topic) {
            known.asked_at = now;
            return;
        }
        if self.missing.len() >= TOPICS_MAX {
            self.missing.clear();
        }
        self.missing.insert(topic.to_owned(), now);
    }

    /// Notes that a broker contradicts the cached route, or is unreachable.
    pub fn doubt(&mut self, topic: &str) {
        if let Some(known) = self.routes.get_mut(topic) {
            known.is_doubtful = true;
        }
    }

    pub fn forget(&mut self, topic: &str) {
        self.routes.remove(topic);
    }

    fn forget_oldest(&mut self) {
        let oldest = self.routes.iter().min_by_key(|(_, known)| known.asked_at);
        if let Some(topic) = oldest.map(|(topic, _)| topic.clone()) {
            self.routes.remove(&topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_asked_for_when_unknown_old_or_doubtful() {
        let mut cache = RouteCache::default();
        assert!(cache.is_due("T", Timestamp(0)));
        cache.handle_route("T", Route::default(), Timestamp(0));
        assert!(!cache.is_due("T", Timestamp(FRESH_MS - 1)));
        assert!(cache.is_due("T", Timestamp(FRESH_MS)));

        cache.handle_no_answer("T", Timestamp(FRESH_MS));
        assert!(!cache.is_due("T", Timestamp(FRESH_MS + RETRY_MS - 1)), "not in a loop");
        assert!(cache.is_due("T", Timestamp(FRESH_MS + RETRY_MS)));
        assert!(cache.find("T").is_some(), "an old route still serves");

        cache.handle_route("T", Route::default(), Timestamp(FRESH_MS + RETRY_MS));
        cache.doubt("T");
        assert!(!cache.is_due("T", Timestamp(FRESH_MS + 2 * RETRY_MS - 1)));
        assert!(cache.is_due("T", Timestamp(FRESH_MS + 2 * RETRY_MS)));
    }

    #[test]
    fn an_unknown_topic_is_not_asked_for_in_a_loop() {
        let mut cache = RouteCache::default();
        cache.handle_no_answer("T", Timestamp(1_000));
        assert!(!cache.is_due("T", Timestamp(1_000 + RETRY_MS - 1)));
        assert!(cache.is_due("T", Timestamp(1_000 + RETRY_MS)));
        cache.handle_route("T", Route::default(), Timestamp(2_000));
        assert!(!cache.is_due("T", Timestamp(2_000 + RETRY_MS)), "it is known");
    }

    #[test]
    fn the_cache_has_a_bound() {
        let mut cache = RouteCache::default();
        for number in 0..=TOPICS_MAX {
            cache.handle_route(&format!("T{number}"), Route::default(), Timestamp(number as u64));
        }
        assert_eq!(cache.routes.len(), TOPICS_MAX);
        assert!(cache.find("T0").is_none() && cache.find("T1").is_some());
    }
}
