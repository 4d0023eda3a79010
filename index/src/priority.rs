//! Who is searched for first. What follows from it is decided where searches wait: in coordinators' queues, places and scans.

/// Whether somebody waits for a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Priority {
    /// Somebody stands at the desk.
    Interactive,
    /// Nobody does: a file that is enrolled, or what was left behind.
    Bulk,
}

impl Priority {
    /// How many of all places it may take. Bulk leaves an eighth, rounded down: whoever stands at the desk is not refused because of a file.
    pub fn share_of(self, places: usize) -> usize {
        match self {
            Self::Interactive => places,
            Self::Bulk => places - places / 8,
        }
    }
}
