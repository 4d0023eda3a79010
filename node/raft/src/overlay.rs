//! What one batch of applied commands changes, laid over the store: the batch is not written yet, and later commands must see
//! what earlier ones did.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};

use crate::machine::State;
use crate::store::{Row, Store, StoreError, Table, WriteBatch};

/// Changed rows; `None` is a removed one. Ordered, so that equal changes make equal batches.
#[derive(Default)]
pub(crate) struct ChangedRows {
    tables: BTreeMap<Table, BTreeMap<Bytes, Option<Bytes>>>,
}

impl ChangedRows {
    /// Appends the changes to a batch.
    pub(crate) fn write_into(self, batch: &mut WriteBatch) {
        for (table, rows) in self.tables {
            for (key, value) in rows {
                match value {
                    Some(value) => batch.put(table, key, value),
                    None => batch.delete(table, key),
                }
            }
        }
    }
}

/// The rows as the next command sees them.
pub(crate) struct Overlay<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) changed: &'a mut ChangedRows,
    /// The tables the machine may write.
    pub(crate) tables: &'static [Table],
}

impl Overlay<'_> {
    fn change(&mut self, table: Table, key: Bytes, value: Option<Bytes>) {
        assert!(self.tables.contains(&table), "the machine writes {table:?}, which it did not declare");
        self.changed.tables.entry(table).or_default().insert(key, value);
    }
}

impl State for Overlay<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.changed.tables.get(&table).and_then(|rows| rows.get(key)) {
            Some(changed) => Ok(changed.clone()),
            None => self.store.get(table, key),
        }
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        let Some(changed) = self.changed.tables.get(&table) else {
            return self.store.scan(table, from, to, rows_max);
        };
        if from >= to || rows_max == 0 {
            return Ok(Vec::new());
        }
        let mut changes = changed.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).peekable();
        let mut merged = Vec::new();
        let mut cursor = Bytes::copy_from_slice(from);
        loop {
            let page = self.store.scan(table, &cursor, to, rows_max)?;
            let last_page = page.len() < rows_max;
            if let Some((key, _)) = page.last() {
                cursor = successor(key);
            }
            for (key, value) in page {
                while let Some((key, change)) = changes.next_if(|(changed, _)| **changed < key) {
                    merged.extend(change.clone().map(|value| (key.clone(), value)));
                }
                match changes.next_if(|(changed, _)| **changed == key) {
                    Some((_, change)) => merged.extend(change.clone().map(|value| (key, value))),
                    None => merged.push((key, value)),
                }
                if merged.len() >= rows_max {
                    merged.truncate(rows_max);
                    return Ok(merged);
                }
            }
            if last_page {
                merged.extend(changes.filter_map(|(key, change)| Some((key.clone(), change.clone()?))));
                merged.truncate(rows_max);
                return Ok(merged);
            }
        }
    }

    fn put(&mut self, table: Table, key: Bytes, value: Bytes) {
        self.change(table, key, Some(value));
    }

    fn delete(&mut self, table: Table, key: Bytes) {
        self.change(table, key, None);
    }
}

/// The first key after `key`.
fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::MemoryStore;

    const TABLE: Table = Table("rows");

    proptest! {
        #[test]
        fn reads_through_the_overlay_equal_reads_after_its_batch_is_written(
            stored in proptest::collection::btree_map(0_u8..40, any::<u8>(), 0..30),
            changes in proptest::collection::vec((0_u8..40, proptest::option::of(any::<u8>())), 0..30),
            from in 0_u8..40, to in 0_u8..41, rows_max in 0_usize..12,
        ) {
            let store = MemoryStore::new();
            let mut batch = WriteBatch::default();
            for (key, value) in stored {
                batch.put(TABLE, vec![key], vec![value]);
            }
            store.write(&batch);
            let mut changed = ChangedRows::default();
            let mut overlay = Overlay { store: &store, changed: &mut changed, tables: &[TABLE] };
            for (key, value) in changes {
                match value {
                    Some(value) => overlay.put(TABLE, vec![key].into(), vec![value].into()),
                    None => overlay.delete(TABLE, vec![key].into()),
                }
            }
            let scanned = overlay.scan(TABLE, &[from], &[to], rows_max).expect("memory reads do not fail");
            let got: Vec<_> = (0..40).map(|key| overlay.get(TABLE, &[key]).expect("memory reads do not fail")).collect();
            let mut batch = WriteBatch::default();
            changed.write_into(&mut batch);
            store.write(&batch);
            prop_assert_eq!(scanned, store.scan(TABLE, &[from], &[to], rows_max).expect("memory reads do not fail"));
            for (key, value) in (0..40).zip(got) {
                prop_assert_eq!(value, store.get(TABLE, &[key]).expect("memory reads do not fail"));
            }
        }
    }
}
