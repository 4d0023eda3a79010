//! Rows in memory, for machines to change and for views to read.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use semel_raft::{Row, State, Store, StoreError, Table};

/// The rows of one group.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Rows(BTreeMap<Table, BTreeMap<Bytes, Bytes>>);

impl Rows {
    /// Every row of a table, in order.
    pub fn table(&self, table: Table) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.0.get(&table).into_iter().flatten()
    }

    fn range(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Vec<Row> {
        let range = (Bound::Included(from), Bound::Excluded(to));
        let rows = self.0.get(&table).filter(|_| from < to).map(|rows| rows.range::<[u8], _>(range));
        rows.into_iter().flatten().take(rows_max).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl Store for Rows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        Ok(self.range(table, from, to, rows_max))
    }
}

impl State for Rows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Store::get(self, table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        Ok(self.range(table, from, to, rows_max))
    }

    fn put(&mut self, table: Table, key: Bytes, value: Bytes) {
        self.0.entry(table).or_default().insert(key, value);
    }

    fn delete(&mut self, table: Table, key: Bytes) {
        self.0.entry(table).or_default().remove(&key);
    }
}
