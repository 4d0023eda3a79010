//! How RocksDB is set up: what it may forget after a crash (nothing that was synced), and how much memory and disk it takes.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel, Options};

/// Cache of uncompressed blocks, for all tables together.
pub(crate) const BLOCK_CACHE_BYTES: usize = 64 << 20;
/// What is read of a file at once. Rows with templates are about 1 KiB: with RocksDB's 4 KiB an entry of a file's index would stand for
/// three of them, and the index of every file in use takes room in the cache.
const BLOCK_BYTES: usize = 16 << 10;
/// Rows in memory per table before they are written out as a file.
const WRITE_BUFFER_BYTES: usize = 16 << 20;
/// The same, for all tables together.
const WRITE_BUFFERS_BYTES_MAX: usize = 96 << 20;
/// Bounds both the disk that the write-ahead log takes and what a restart reads again (a second or two).
const WAL_BYTES_MAX: u64 = 128 << 20;
const OPEN_FILES_MAX: i32 = 256;
const INFO_LOG_BYTES_MAX: usize = 1 << 20;
const INFO_LOGS_MAX: usize = 2;
const BLOOM_BITS_PER_KEY: f64 = 10.0;

pub(crate) fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // After a crash the log may end in the middle of a record. Only that is tolerated: the record was still being
    // written, so nobody was told of it. Damage before the end may have hit what was synced, and a replica that forgets
    // a vote or an entry can make its group lose what others were promised, so it must fail to open. Of RocksDB's other
    // modes, point-in-time recovery would drop everything from the damage on without a word, and absolute consistency
    // would refuse the torn tail of an ordinary power cut. What this mode takes for a torn tail though it is not one is
    // found by `write_ahead_log`. The price: where a file system leaves a hole inside the
    // unsynced tail, this replica is refused too, and is rebuilt from the others.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // A log that was closed and then lost, or cut short, is noticed as well.
    options.set_track_and_verify_wals_in_manifest(true);
    // No atomic flush: the tables share one log, which replays to the same point for each of them.
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES_MAX);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    options.set_keep_log_file_num(INFO_LOGS_MAX);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

pub(crate) fn table_options(cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(BLOCK_BYTES);
    blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    // Indices and filters live in the cache too, so that memory stays bounded as the tables grow.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(2);
    // Templates do not compress, and no compressor is built in.
    options.set_compression_type(DBCompressionType::None);
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}
