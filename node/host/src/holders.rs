//! Who holds the database beside the host's own thread: transfers and clearing away. A host that ends waits a moment for them, so that
//! the data folder is free when it has ended.

use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::database::Database;

/// Counts holders.
#[derive(Clone, Default, Debug)]
pub(crate) struct Holders(Arc<(Mutex<usize>, Condvar)>);

/// The database, for as long as one of them needs it.
pub(crate) struct Held {
    /// `Some` until dropped.
    database: Option<Arc<Database>>,
    holders: Holders,
}

impl Holders {
    pub(crate) fn hold(&self, database: Arc<Database>) -> Held {
        *lock(&self.0.0) += 1;
        Held { database: Some(database), holders: self.clone() }
    }

    /// Waits until nobody holds the database, or the time is over.
    pub(crate) fn wait(&self, within: Duration) {
        let held = |holders: &mut usize| *holders > 0;
        let waited = self.0.1.wait_timeout_while(lock(&self.0.0), within, held);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Deref for Held {
    type Target = Arc<Database>;

    fn deref(&self) -> &Arc<Database> {
        self.database.as_ref().expect("held until dropped")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // First: whoever waits may then open the folder.
        self.database = None;
        *lock(&self.holders.0.0) -= 1;
        self.holders.0.1.notify_all();
    }
}

fn lock(count: &Mutex<usize>) -> MutexGuard<'_, usize> {
    count.lock().unwrap_or_else(PoisonError::into_inner)
}
