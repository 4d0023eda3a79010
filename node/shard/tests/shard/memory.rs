//! Rows in memory, for a machine to change and for views to read.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use semel_raft::{Row, State, Store, StoreError, Table};

#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Rows(BTreeMap<Table, BTreeMap<Bytes, Bytes>>);

impl Rows {
    fn read(&self, table: Table, key: &[u8]) -> Option<Bytes> {
        self.0.get(&table)?.get(key).cloned()
    }

    fn range(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Vec<Row> {
        let range = (Bound::Included(from), Bound::Excluded(to));
        let rows = self.0.get(&table).filter(|_| from < to).map(|rows| rows.range::<[u8], _>(range));
        rows.into_iter().flatten().take(rows_max).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl Store for Rows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.read(table, key))
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], rows_max: usize) -> Result<Vec<Row>, StoreError> {
        Ok(self.range(table, from, to, rows_max))
    }
}

impl State for Rows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.read(table, key))
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
