//! How long bulk lets interactive searches go first.

/// Of so many turns in a row in which bulk waits, it has at least one.
pub const BULK_EVERY: u32 = 4;

/// The turns in which bulk waited and was passed over, since it last had one.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    passed_over: u32,
}

impl Turns {
    /// Whether the next turn is that of whoever waits longest in bulk.
    pub(crate) fn is_bulk_due(&self) -> bool {
        self.passed_over >= BULK_EVERY - 1
    }

    /// Notes a turn: whether bulk had it, or else still waits.
    pub(crate) fn taken(&mut self, by_bulk: bool, bulk_waits: bool) {
        self.passed_over = if by_bulk || !bulk_waits { 0 } else { self.passed_over + 1 };
    }
}
