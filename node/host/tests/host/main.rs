//! The host against real files, threads and processes; one binary, since each links RocksDB.

mod child;
mod counter;

mod cluster;
mod failures;
mod rows;
mod snapshots;

mod disk;

mod failing_disk;
mod killed;
mod torn_log;
