//! Places for the calls that a server has in work: taken or refused, never waited for.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many places, of which bulk may take only a part, so that it leaves some to interactive calls.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    all_max: usize,
    bulk: Arc<Semaphore>,
    bulk_max: usize,
}

/// A place of a call; free again once dropped.
#[derive(Debug)]
pub struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_bulk: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// As many places as `all_max`, of which bulk takes `bulk_max` at most.
    pub fn new(all_max: usize, bulk_max: usize) -> Self {
        let (all, bulk) = (Arc::new(Semaphore::new(all_max)), Arc::new(Semaphore::new(bulk_max)));
        Self { all, all_max, bulk, bulk_max }
    }

    /// A place for an interactive call; `None` if all are taken.
    pub fn take_interactive(&self) -> Option<Place> {
        let of_all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place { _of_all: of_all, _of_bulk: None })
    }

    /// A place for a bulk call; `None` if all, or those for bulk, are taken.
    pub fn take_bulk(&self) -> Option<Place> {
        let of_bulk = Arc::clone(&self.bulk).try_acquire_owned().ok()?;
        Some(Place { _of_bulk: Some(of_bulk), ..self.take_interactive()? })
    }

    /// The places taken by interactive and by bulk calls. They change meanwhile: a figure for people.
    pub fn taken(&self) -> [(&'static str, u64); 2] {
        let bulk = self.bulk_max - self.bulk.available_permits();
        let all = self.all_max - self.all.available_permits();
        [("interactive", all.saturating_sub(bulk) as u64), ("bulk", bulk as u64)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_leaves_places_to_interactive_calls_and_all_are_bounded() {
        let places = Places::new(3, 2);
        let bulk = [places.take_bulk(), places.take_bulk()];
        assert!(bulk.iter().all(Option::is_some) && places.take_bulk().is_none());
        let interactive = places.take_interactive();
        assert!(interactive.is_some() && places.take_interactive().is_none());
        assert_eq!(places.taken(), [("interactive", 1), ("bulk", 2)]);
        drop(bulk);
        let more = [places.take_interactive(), places.take_interactive()];
        assert!(more.iter().all(Option::is_some) && places.take_bulk().is_none());
        drop((interactive, more));
        assert_eq!(places.taken(), [("interactive", 0), ("bulk", 0)]);
    }
}
