//! Snapshots that a leader has asked its driver to send: to whom, and which entries must stay in the log meanwhile. What is
//! sent, and how, is the driver's affair.

use std::collections::BTreeMap;

/// What became of the last snapshot for each follower, as long as it matters.
#[derive(Debug, Default)]
pub(crate) struct Offers {
    by_follower: BTreeMap<u64, Offer>,
    retry_ticks: u64,
}

#[derive(Debug)]
enum Offer {
    /// It is being sent. Entries after `index` follow it.
    UnderWay { index: u64 },
    /// It arrived, and the follower has until then to ask for the entries that follow.
    Delivered { index: u64, until: u64 },
    /// It did not arrive. Another is not worth trying until then.
    Failed { until: u64 },
}

impl Offers {
    pub(crate) fn new(retry_ticks: u64) -> Self {
        Self { by_follower: BTreeMap::new(), retry_ticks }
    }

    /// Tells whether a snapshot may be offered to the follower.
    pub(crate) fn may_offer(&self, follower: u64) -> bool {
        !self.by_follower.contains_key(&follower)
    }

    pub(crate) fn offered(&mut self, follower: u64, index: u64) {
        self.by_follower.insert(follower, Offer::UnderWay { index });
    }

    /// The snapshot for the follower arrived, or is given up. Tells whether one was under way.
    pub(crate) fn ended(&mut self, follower: u64, delivered: bool, now: u64) -> bool {
        let until = now.saturating_add(self.retry_ticks);
        match self.by_follower.get_mut(&follower) {
            Some(offer) => {
                let Offer::UnderWay { index } = *offer else { return false };
                *offer = if delivered { Offer::Delivered { index, until } } else { Offer::Failed { until } };
                true
            }
            None => false,
        }
    }

    /// Forgets what has been waited for long enough.
    pub(crate) fn expire(&mut self, now: u64) {
        self.by_follower.retain(|_, offer| match offer {
            Offer::UnderWay { .. } => true,
            Offer::Delivered { until, .. } | Offer::Failed { until } => *until > now,
        });
    }

    /// Forgets followers that are none any more.
    pub(crate) fn retain(&mut self, is_follower: impl Fn(u64) -> bool) {
        self.by_follower.retain(|follower, _| is_follower(*follower));
    }

    pub(crate) fn clear(&mut self) {
        self.by_follower.clear();
    }

    /// Returns the index after which every entry is still needed, if there is one.
    pub(crate) fn pinned_after(&self) -> Option<u64> {
        let indices = self.by_follower.values().filter_map(|offer| match offer {
            Offer::UnderWay { index } | Offer::Delivered { index, .. } => Some(*index),
            Offer::Failed { .. } => None,
        });
        indices.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_until_a_snapshot_is_followed_up_or_given_up() {
        let mut offers = Offers::new(10);
        assert!(offers.may_offer(2) && offers.pinned_after().is_none());
        offers.offered(2, 70);
        offers.offered(3, 50);
        assert!(!offers.may_offer(2), "one at a time");
        assert_eq!(offers.pinned_after(), Some(50));
        assert!(offers.ended(3, false, 5));
        assert_eq!(offers.pinned_after(), Some(70), "what failed needs no entries");
        assert!(!offers.ended(3, true, 6), "it ended before");
        assert!(offers.ended(2, true, 7));
        offers.expire(14);
        assert!(!offers.may_offer(3) && offers.pinned_after() == Some(70));
        offers.expire(15);
        assert!(offers.may_offer(3) && !offers.may_offer(2));
        offers.expire(17);
        assert!(offers.may_offer(2) && offers.pinned_after().is_none());
        assert!(!offers.ended(2, true, 18), "nothing is under way");
    }
}
