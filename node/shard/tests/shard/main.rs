//! The shard's machine, driven as a cluster of shards without replication: rules one by one, then a model.

mod casework;
mod hostile;
mod memory;
mod model;
mod settling;
mod staging;
mod world;
