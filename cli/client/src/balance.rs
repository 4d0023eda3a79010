//! Which coordinator is asked next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::coordinator::Coordinator;
use crate::error::InvalidAddress;
use crate::settings::Settings;

/// Addresses that a client takes at most; a cluster has up to 5 coordinators, each perhaps under several names.
const ADDRESSES_MAX: usize = 32;

/// The coordinators of one cluster.
pub(crate) struct Coordinators {
    all: Vec<Arc<Coordinator>>,
    /// Where the next search for the least busy one begins, so that calls that come one after another are spread too.
    turn: AtomicUsize,
}

impl Coordinators {
    pub(crate) fn new(addresses: &[String], settings: &Settings) -> Result<Self, InvalidAddress> {
        match addresses.len() {
            0 => return Err(InvalidAddress::None),
            1..=ADDRESSES_MAX => {}
            given => return Err(InvalidAddress::TooMany { given, max: ADDRESSES_MAX }),
        }
        let all = addresses.iter().map(|address| Coordinator::new(address, settings).map(Arc::new));
        // Clients that start together do not all begin with the first address.
        let turn = AtomicUsize::new(rand::random_range(0..addresses.len()));
        Ok(Self { all: all.collect::<Result<_, _>>()?, turn })
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The least busy coordinator among the healthy ones not `tried` yet; where none is healthy, among all not tried. `None` ends
    /// a round.
    pub(crate) fn next(&self, tried: &[Arc<Coordinator>]) -> Option<Arc<Coordinator>> {
        let from = self.turn.fetch_add(1, Ordering::Relaxed) % self.all.len();
        let in_turn = || self.all[from..].iter().chain(&self.all[..from]);
        let any_healthy = in_turn().any(|coordinator| coordinator.is_healthy());
        let untried = in_turn().filter(|coordinator| !tried.iter().any(|other| Arc::ptr_eq(coordinator, other)));
        let eligible = untried.filter(|coordinator| !any_healthy || coordinator.is_healthy());
        eligible.min_by_key(|coordinator| coordinator.in_work()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coordinators(count: usize) -> Coordinators {
        let addresses: Vec<String> = (1..=count).map(|number| format!("127.0.0.1:{number}")).collect();
        Coordinators::new(&addresses, &Settings::default()).expect("valid")
    }

    #[test]
    fn calls_are_spread_over_the_least_busy() {
        let all = coordinators(3);
        let guards: Vec<_> = (0..9).map(|_| all.next(&[]).expect("one").begin()).collect();
        assert!(all.all.iter().all(|coordinator| coordinator.in_work() == 3));
        drop(guards);
        assert!(all.all.iter().all(|coordinator| coordinator.in_work() == 0));
    }

    #[test]
    fn a_round_asks_everybody_once() {
        let all = coordinators(3);
        let mut tried = Vec::new();
        while let Some(next) = all.next(&tried) {
            tried.push(next);
        }
        assert_eq!(tried.len(), 3);
    }

    #[tokio::test]
    async fn whoever_is_suspect_is_asked_only_if_nobody_is_healthy() {
        let all = coordinators(3);
        all.all[1].suspect();
        let mut tried = Vec::new();
        while let Some(next) = all.next(&tried) {
            assert_ne!(next.address, "127.0.0.1:2");
            tried.push(next);
        }
        assert_eq!(tried.len(), 2);
        tried.iter().for_each(Coordinator::suspect);
        let next = all.next(&tried).expect("nobody is healthy, so the one not tried is");
        assert_eq!(next.address, "127.0.0.1:2");
    }

    #[test]
    fn what_is_no_list_of_coordinators_is_refused() {
        let refused = |addresses: &[&str]| {
            let addresses: Vec<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
            Coordinators::new(&addresses, &Settings::default()).err().expect("refused").to_string()
        };
        assert!(refused(&[]).contains("at least one"));
        assert!(refused(&["a:1"; 33]).contains("33 addresses"));
        assert!(refused(&["not an address"]).contains("`not an address`: is not host:port"));
        assert!(refused(&["coordinator-1"]).contains("is not host:port"));
    }
}
