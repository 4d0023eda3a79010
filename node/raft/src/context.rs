//! The mark that a replica puts on its proposals and barriers to know them again. Never reused: the counter is not across one
//! run, the boot nonce not across runs, the replica id not across replicas.

use crate::ids::ReplicaId;

const CONTEXT_BYTES: usize = 24;

/// The maker of marks of one run of one replica.
#[derive(Debug, Clone)]
pub(crate) struct Marker {
    origin: [u8; 16],
    next: u64,
}

impl Marker {
    pub(crate) fn new(replica: ReplicaId, boot_nonce: u64) -> Self {
        let mut origin = [0; 16];
        origin[..8].copy_from_slice(&replica.get().to_le_bytes());
        origin[8..].copy_from_slice(&boot_nonce.to_le_bytes());
        Self { origin, next: 0 }
    }

    /// Returns a number never given before, and the bytes that carry it.
    pub(crate) fn mark(&mut self) -> (u64, Vec<u8>) {
        let number = self.next;
        self.next += 1;
        let mut context = Vec::with_capacity(CONTEXT_BYTES);
        context.extend_from_slice(&self.origin);
        context.extend_from_slice(&number.to_le_bytes());
        (number, context)
    }

    /// Returns the number in `context` if this run made it.
    pub(crate) fn number(&self, context: &[u8]) -> Option<u64> {
        let (origin, number) = context.split_at_checked(self.origin.len())?;
        let number = number.try_into().ok()?;
        (origin == self.origin).then(|| u64::from_le_bytes(number))
    }
}
