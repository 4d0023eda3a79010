//! The network between processes and clients: what it delays, loses, repeats and cuts.

use std::collections::{BTreeMap, BTreeSet};

use crate::chance::Chance;
use crate::world::Place;

/// The state of the network.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    /// The shortest and the longest delay, in microseconds.
    pub(crate) delay: (u64, u64),
    /// One message in so many takes up to [`STRAGGLE_MICROS_MAX`]; 0 for none.
    pub(crate) straggles_one_in: u64,
    /// One message in so many is lost; 0 for none.
    pub(crate) lost_one_in: u64,
    /// One message in so many arrives twice; 0 for none.
    pub(crate) repeated_one_in: u64,
    /// Ways, from whom to whom, that are long, with the longest time that a message takes in addition.
    pub(crate) long: BTreeMap<(Place, Place), u64>,
    /// From whom to whom nothing arrives.
    cut: BTreeSet<(Place, Place)>,
}

/// The longest delay of a straggler, in microseconds: longer than an election.
const STRAGGLE_MICROS_MAX: u64 = 2_500_000;

/// When a message arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    Lost,
    Once(u64),
    Twice(u64, u64),
}

impl Network {
    pub(crate) fn healthy() -> Self {
        Self {
            delay: (50, 500),
            straggles_one_in: 0,
            lost_one_in: 0,
            repeated_one_in: 0,
            long: BTreeMap::new(),
            cut: BTreeSet::new(),
        }
    }

    /// Decides what becomes of a message; times are delays in microseconds.
    pub(crate) fn deliver(&self, chance: &mut Chance, from: Place, to: Place) -> Delivery {
        if self.is_cut(from, to) || chance.one_in(self.lost_one_in) {
            return Delivery::Lost;
        }
        let first = self.delay(chance, from, to);
        if chance.one_in(self.repeated_one_in) {
            return Delivery::Twice(first, first + self.delay(chance, from, to));
        }
        Delivery::Once(first)
    }

    /// Whether messages in this direction are lost.
    pub(crate) fn is_cut(&self, from: Place, to: Place) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Cuts one direction.
    pub(crate) fn cut(&mut self, from: Place, to: Place) {
        self.cut.insert((from, to));
    }

    fn delay(&self, chance: &mut Chance, from: Place, to: Place) -> u64 {
        let (shortest, longest) = self.delay;
        if chance.one_in(self.straggles_one_in) {
            return chance.between(longest..=STRAGGLE_MICROS_MAX);
        }
        let way = self.long.get(&(from, to));
        chance.between(shortest..=longest) + way.map_or(0, |micros| chance.between(micros / 2..=*micros))
    }
}
