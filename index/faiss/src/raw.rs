//! The C++ boundary, and the only `unsafe` of this crate: creates, trains, fills and searches FAISS indices.
//!
//! Lengths are checked before every call, results are copied out into `Vec`s, and no FAISS type leaves this module. It
//! knows nothing of files, templates, scores, cuts or proposals.
//!
//! # Why each `unsafe` here is sound
//!
//! * `RawIndex` owns its pointer: it comes from one factory or clone call that reported success, is never copied out, and
//!   is freed once, in `Drop`.
//! * FAISS reads `n · d` numbers from, and writes `n · k` to, the buffers it is given: each method derives n from a slice
//!   whose length it has checked to be a multiple of d, and allocates the outputs itself.
//! * C++ exceptions are caught by the C interface, which returns a code; the message is copied at once.
//! * `Sync`: `search` is `const` in C++ and reads the index only, for every type [`Factory`] lets through. Flat, scalar
//!   quantiser and fast-scan searches touch nothing else. The others add to process-wide statistics without
//!   synchronisation, so those run one at a time, in the whole process, under [`STATISTICS`].
//! * `Send`: an index holds plain memory and no thread-local state.
//! * [`RawIndex::from_bytes`] takes only what [`RawIndex::to_bytes`] gave, unchanged: FAISS 1.12 believes every length in its
//!   format, so other bytes could make it write anywhere. Callers see to that with a seal over the bytes, checked before; the
//!   streams between are the C library's over memory, opened and closed within one call.
//!
//! OpenMP is told to use one thread before every call that could start more. The setting belongs to the calling thread,
//! so it cannot be made once at start-up.

use std::ffi::{CStr, CString, c_int};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Mutex, PoisonError};

use faiss_sys::{
    FaissIndex, FaissMetricType_METRIC_INNER_PRODUCT, faiss_Index_add, faiss_Index_d, faiss_Index_free,
    faiss_Index_is_trained, faiss_Index_metric_type, faiss_Index_ntotal, faiss_Index_reset, faiss_Index_search,
    faiss_Index_train, faiss_clone_index, faiss_get_last_error, faiss_get_version, faiss_index_factory,
    faiss_read_index, faiss_write_index, idx_t,
};

use crate::factory::Factory;

unsafe extern "C" {
    /// OpenMP's `omp_set_num_threads`, for the calling thread; FAISS' C interface has no equivalent.
    fn omp_set_num_threads(threads: c_int);
}

/// Held while FAISS searches an index type that writes process-wide statistics.
static STATISTICS: Mutex<()> = Mutex::new(());

/// What FAISS, or a length check before it, refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RawError {
    /// FAISS threw.
    #[error("faiss {operation} fails with code {code}: {message}")]
    Faiss { operation: &'static str, code: i32, message: String },
    /// A buffer that is not a whole number of rows.
    #[error("faiss {operation} of {numbers} numbers in dimension {dimension}")]
    Length { operation: &'static str, numbers: usize, dimension: usize },
    /// The index does not hold what was added.
    #[error("faiss index holds {found} rows of {expected}")]
    Rows { found: i64, expected: usize },
    /// The C library gave no stream over memory, or could not finish one.
    #[error("faiss {operation} has no stream over memory")]
    Stream { operation: &'static str },
    /// What was read is not the index that was asked for.
    #[error("faiss index read is of another kind")]
    OtherIndex,
    /// A label that is no row of this index.
    #[error("faiss search answers row {label} of {rows}")]
    Label { label: i64, rows: usize },
}

/// One entry of a list: a row and the engine's estimate of its cosine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) row: u32,
    pub(crate) cosine: f32,
}

/// An inner-product index over rows of one dimension.
#[derive(Debug)]
pub(crate) struct RawIndex {
    index: NonNull<FaissIndex>,
    dimension: usize,
    rows: usize,
    writes_statistics: bool,
}

// SAFETY: see the module's comment.
unsafe impl Send for RawIndex {}
// SAFETY: see the module's comment; every method that changes the index takes `&mut self`.
unsafe impl Sync for RawIndex {}

impl RawIndex {
    /// An empty index, trained only if its type needs no training.
    pub(crate) fn new(dimension: u32, factory: &Factory) -> Result<Self, RawError> {
        let description = CString::new(factory.as_str()).expect("a factory string holds no NUL");
        let dimension_c = c_int::try_from(dimension).expect("at most EMBEDDING_DIMENSION_MAX");
        let mut index = ptr::null_mut();
        // SAFETY: the description outlives the call; `index` is a valid place for one pointer.
        let code = unsafe {
            faiss_index_factory(&raw mut index, dimension_c, description.as_ptr(), FaissMetricType_METRIC_INNER_PRODUCT)
        };
        checked("index factory", code)?;
        let index = NonNull::new(index).ok_or_else(|| null("index factory"))?;
        Ok(Self { index, dimension: dimension as usize, rows: 0, writes_statistics: factory.writes_statistics() })
    }

    /// A copy with the same training and rows.
    pub(crate) fn copy(&self) -> Result<Self, RawError> {
        let mut index = ptr::null_mut();
        // SAFETY: the index lives as long as `self`; `index` is a valid place for one pointer.
        let code = unsafe { faiss_clone_index(self.index.as_ptr(), &raw mut index) };
        checked("clone", code)?;
        let index = NonNull::new(index).ok_or_else(|| null("clone"))?;
        Ok(Self { index, ..*self })
    }

    /// The index in FAISS' own format.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, RawError> {
        const OPERATION: &str = "write";
        let (mut memory, mut length) = (ptr::null_mut(), 0);
        // SAFETY: both places outlive the stream, which is closed below.
        let stream = unsafe { libc::open_memstream(&raw mut memory, &raw mut length) };
        if stream.is_null() {
            return Err(RawError::Stream { operation: OPERATION });
        }
        // SAFETY: the index lives as long as `self`; the stream is open for writing.
        let written = checked(OPERATION, unsafe { faiss_write_index(self.index.as_ptr(), stream.cast()) });
        // SAFETY: the stream is open and not used after this; closing it makes `memory` and `length` final.
        let closed = unsafe { libc::fclose(stream) };
        let bytes = if memory.is_null() {
            Vec::new()
        } else {
            // SAFETY: the C library holds `length` bytes there until they are freed, which is done once, below.
            unsafe { slice::from_raw_parts(memory.cast::<u8>(), length) }.to_vec()
        };
        // SAFETY: allocated by the stream and not freed before; null is allowed.
        unsafe { libc::free(memory.cast()) };
        written?;
        if closed == 0 { Ok(bytes) } else { Err(RawError::Stream { operation: OPERATION }) }
    }

    /// The index that [`Self::to_bytes`] gave these bytes for. The caller has made sure that they are unchanged; see the
    /// module's comment.
    pub(crate) fn from_bytes(bytes: &[u8], dimension: u32, rows: usize, factory: &Factory) -> Result<Self, RawError> {
        const OPERATION: &str = "read";
        if bytes.is_empty() {
            return Err(RawError::Stream { operation: OPERATION });
        }
        // SAFETY: the bytes outlive the stream, which is closed below; opened with "r" it only reads them.
        let stream = unsafe { libc::fmemopen(bytes.as_ptr().cast_mut().cast(), bytes.len(), c"r".as_ptr()) };
        if stream.is_null() {
            return Err(RawError::Stream { operation: OPERATION });
        }
        let mut index = ptr::null_mut();
        // SAFETY: the stream is open for reading; `index` is a valid place for one pointer.
        let read = checked(OPERATION, unsafe { faiss_read_index(stream.cast(), 0, &raw mut index) });
        // SAFETY: the stream is open and not used after this. A stream that was only read has nothing to lose.
        unsafe { libc::fclose(stream) };
        read?;
        let index = NonNull::new(index).ok_or_else(|| null(OPERATION))?;
        // Owned from here on, hence freed also if it is not the one wanted.
        let read = Self { index, dimension: dimension as usize, rows, writes_statistics: factory.writes_statistics() };
        // SAFETY: the index lives as long as `read`.
        let (found_dimension, found_rows, is_trained, metric) = unsafe {
            let index = read.index.as_ptr();
            let trained = faiss_Index_is_trained(index) != 0;
            (faiss_Index_d(index), faiss_Index_ntotal(index), trained, faiss_Index_metric_type(index))
        };
        let fits = u32::try_from(found_dimension) == Ok(dimension)
            && usize::try_from(found_rows) == Ok(rows)
            && is_trained
            && metric == FaissMetricType_METRIC_INNER_PRODUCT;
        if fits { Ok(read) } else { Err(RawError::OtherIndex) }
    }

    /// Trains on whole rows, if the type needs it.
    pub(crate) fn train(&mut self, rows: &[f32]) -> Result<(), RawError> {
        let count = self.count("train", rows)?;
        // SAFETY: the index lives as long as `self`.
        if unsafe { faiss_Index_is_trained(self.index.as_ptr()) } != 0 {
            return Ok(());
        }
        pin_openmp();
        // SAFETY: `rows` holds `count · dimension` numbers, and the index is borrowed mutably.
        checked("train", unsafe { faiss_Index_train(self.index.as_ptr(), count, rows.as_ptr()) })
    }

    /// Appends whole rows; the first ever added is row 0.
    pub(crate) fn add(&mut self, rows: &[f32]) -> Result<(), RawError> {
        let count = self.count("add", rows)?;
        pin_openmp();
        // SAFETY: `rows` holds `count · dimension` numbers, and the index is borrowed mutably.
        checked("add", unsafe { faiss_Index_add(self.index.as_ptr(), count, rows.as_ptr()) })?;
        let expected = self.rows + rows.len() / self.dimension;
        // SAFETY: the index lives as long as `self`.
        let found = unsafe { faiss_Index_ntotal(self.index.as_ptr()) };
        if usize::try_from(found) != Ok(expected) {
            return Err(RawError::Rows { found, expected });
        }
        self.rows = expected;
        Ok(())
    }

    /// Drops all rows and keeps the training.
    pub(crate) fn reset(&mut self) -> Result<(), RawError> {
        // SAFETY: the index is borrowed mutably.
        checked("reset", unsafe { faiss_Index_reset(self.index.as_ptr()) })?;
        self.rows = 0;
        Ok(())
    }

    /// For each probe its `k` best rows, best first; fewer where FAISS reports fewer.
    pub(crate) fn search(&self, probes: &[f32], k: usize) -> Result<Vec<Vec<Estimate>>, RawError> {
        let (cosines, labels) = self.search_plainly(probes, k)?;
        labels
            .chunks_exact(k)
            .zip(cosines.chunks_exact(k))
            .map(|(labels, cosines)| self.list(labels, cosines))
            .collect()
    }

    /// For each probe `k` estimates and as many labels, as FAISS hands them over.
    pub(crate) fn search_plainly(&self, probes: &[f32], k: usize) -> Result<(Vec<f32>, Vec<idx_t>), RawError> {
        let count = self.count("search", probes)?;
        assert!(k > 0, "an empty list answers nothing");
        let k_c = idx_t::try_from(k).expect("a list fits in memory");
        let entries = (probes.len() / self.dimension).checked_mul(k).expect("lists fit in memory");
        let mut cosines = vec![0.0_f32; entries];
        let mut labels: Vec<idx_t> = vec![-1; entries];
        pin_openmp();
        let statistics = self.writes_statistics.then(|| STATISTICS.lock().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: `probes` holds `count · dimension` numbers, both outputs have `count · k` places, and searching reads
        // the index only.
        let code = unsafe {
            faiss_Index_search(
                self.index.as_ptr(),
                count,
                probes.as_ptr(),
                k_c,
                cosines.as_mut_ptr(),
                labels.as_mut_ptr(),
            )
        };
        checked("search", code)?;
        drop(statistics);
        Ok((cosines, labels))
    }

    /// One probe's list without the places FAISS left empty, which it marks with −1.
    fn list(&self, labels: &[idx_t], cosines: &[f32]) -> Result<Vec<Estimate>, RawError> {
        let filled = labels.iter().zip(cosines).filter(|(label, _)| **label != -1);
        filled
            .map(|(label, cosine)| match u32::try_from(*label) {
                Ok(row) if (row as usize) < self.rows => Ok(Estimate { row, cosine: *cosine }),
                Ok(_) | Err(_) => Err(RawError::Label { label: *label, rows: self.rows }),
            })
            .collect()
    }

    /// The number of rows in a buffer.
    fn count(&self, operation: &'static str, numbers: &[f32]) -> Result<idx_t, RawError> {
        if numbers.is_empty() || !numbers.len().is_multiple_of(self.dimension) {
            return Err(RawError::Length { operation, numbers: numbers.len(), dimension: self.dimension });
        }
        Ok(idx_t::try_from(numbers.len() / self.dimension).expect("a slice's length fits an i64"))
    }
}

impl Drop for RawIndex {
    fn drop(&mut self) {
        // SAFETY: the pointer is owned, valid, and not used after this.
        unsafe { faiss_Index_free(self.index.as_ptr()) }
    }
}

/// The library's version, such as `1.12.0`.
pub(crate) fn version() -> String {
    // SAFETY: FAISS answers with a constant string.
    let version = unsafe { faiss_get_version() };
    if version.is_null() {
        return "unknown".to_owned();
    }
    // SAFETY: not null, and a constant string ends in NUL and stays.
    unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned()
}

/// Keeps FAISS on the calling thread: the search pool runs segments in parallel, and OpenMP would start a pool of its
/// own for each of the pool's threads.
fn pin_openmp() {
    // SAFETY: sets one variable of the calling thread's OpenMP environment; any positive number is valid.
    unsafe { omp_set_num_threads(1) }
}

fn checked(operation: &'static str, code: c_int) -> Result<(), RawError> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the C interface has just stored this thread's exception; its message is valid until the next call and is
    // copied before that.
    let message = unsafe {
        let text = faiss_get_last_error();
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    Err(RawError::Faiss { operation, code, message })
}

fn null(operation: &'static str) -> RawError {
    RawError::Faiss { operation, code: 0, message: "null index".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(dimension: u32) -> RawIndex {
        let factory: Factory = "Flat".parse().expect("known");
        RawIndex::new(dimension, &factory).expect("created")
    }

    #[test]
    fn lengths_that_are_no_whole_rows_are_refused() {
        let mut index = flat(4);
        for numbers in [&[][..], &[1.0; 3], &[1.0; 5]] {
            let expected = |operation| Err(RawError::Length { operation, numbers: numbers.len(), dimension: 4 });
            assert_eq!(index.add(numbers), expected("add"));
            assert_eq!(index.train(numbers), expected("train"));
            assert_eq!(index.search(numbers, 1).map(drop), expected("search"));
        }
    }

    #[test]
    fn a_list_longer_than_the_index_has_no_empty_places() {
        let mut index = flat(2);
        index.add(&[1.0, 0.0, 0.0, 1.0]).expect("added");
        let lists = index.search(&[0.6, 0.8], 5).expect("searched");
        assert_eq!(lists, [vec![Estimate { row: 1, cosine: 0.8 }, Estimate { row: 0, cosine: 0.6 }]]);
        index.reset().expect("reset");
        assert_eq!(index.search(&[0.6, 0.8], 5).expect("searched"), [vec![]]);
    }

    #[test]
    fn what_faiss_throws_is_a_typed_error() {
        let factory: Factory = "PQ4x4fs".parse().expect("known");
        let mut index = RawIndex::new(16, &factory).expect("created");
        let Err(RawError::Faiss { operation: "add", code: -2, message }) = index.add(&[0.0; 16]) else {
            panic!("an untrained index takes no rows");
        };
        assert!(message.contains("is_trained"), "{message}");
    }

    /// Pseudo-random numbers of mean zero, good enough to train on.
    fn numbers(count: usize) -> Vec<f32> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..count).map(|_| next()).collect()
    }

    fn fast_scan(dimension: u32, rows: &[f32]) -> RawIndex {
        let factory = Factory::default_for(dimension).expect("divisible");
        let mut index = RawIndex::new(dimension, &factory).expect("created");
        index.train(rows).expect("trained");
        index
    }

    /// Every type is read back with equal answers, and another one than was asked for is refused.
    #[test]
    fn an_index_is_the_same_after_it_was_written_and_read() {
        let (rows, probes) = (numbers(3_000 * 16), numbers(20 * 16));
        for text in ["Flat", "SQ8", "PQ4x4fs", "PQ4x8", "HNSW8", "IVF4,Flat"] {
            let factory: Factory = text.parse().expect("known");
            let mut index = RawIndex::new(16, &factory).expect("created");
            index.train(&rows).expect("trained");
            index.add(&rows).expect("added");
            let bytes = index.to_bytes().expect("written");
            let read = RawIndex::from_bytes(&bytes, 16, 3_000, &factory).expect("read");
            let answers = |index: &RawIndex| index.search(&probes, 10).expect("searched");
            assert_eq!(answers(&read), answers(&index), "{text}");
            for (dimension, rows) in [(8, 3_000), (16, 2_999)] {
                let refused = RawIndex::from_bytes(&bytes, dimension, rows, &factory).map(drop);
                assert_eq!(refused, Err(RawError::OtherIndex), "{text}");
            }
            // What measures estimates is a copy of what was read.
            let mut ruler = read.copy().expect("copied");
            ruler.reset().expect("reset");
            ruler.add(&rows[..32 * 16]).expect("added");
        }
        assert!(version().starts_with("1."));
    }

    fn sorted(list: &[Estimate]) -> Vec<(u32, u32)> {
        let mut pairs: Vec<_> = list.iter().map(|estimate| (estimate.row, estimate.cosine.to_bits())).collect();
        pairs.sort_unstable();
        pairs
    }

    /// Cuts are measured on a few rows at a time and used on whole segments, in other batches and list lengths.
    #[test]
    fn a_fast_scan_estimate_depends_on_the_probe_and_the_row_alone() {
        const DIMENSION: usize = 64;
        let (rows, probes) = (numbers(2_000 * DIMENSION), numbers(3_000 * DIMENSION));
        let probes = &probes[2_950 * DIMENSION..];
        let mut index = fast_scan(64, &rows);
        let mut ruler = index.copy().expect("copied");
        index.add(&rows).expect("added");
        let all = index.search(probes, 2_000).expect("searched");
        for (probe, all) in probes.chunks_exact(DIMENSION).zip(&all) {
            assert_eq!(sorted(&index.search(probe, 2_000).expect("searched")[0]), sorted(all), "one by one");
        }
        ruler.add(&rows[320 * DIMENSION..352 * DIMENSION]).expect("added");
        for (few, all) in ruler.search(probes, 32).expect("searched").iter().zip(&all) {
            let all: std::collections::BTreeMap<_, _> = sorted(all).into_iter().collect();
            assert!(few.len() >= 31, "only a row of the lowest estimate of all is left out");
            assert!(few.iter().all(|estimate| all.get(&(estimate.row + 320)) == Some(&estimate.cosine.to_bits())));
        }
    }

    /// A list is complete only because no row outside it has a higher estimate than its last.
    #[test]
    fn a_list_holds_the_highest_estimates() {
        const DIMENSION: usize = 64;
        let rows = numbers(2_000 * DIMENSION);
        let mut index = fast_scan(64, &rows);
        index.add(&rows).expect("added");
        let probes = &rows[..40 * DIMENSION];
        let all = index.search(probes, 2_000).expect("searched");
        for k in [64, 128, 512, 1_024] {
            for (list, all) in index.search(probes, k).expect("searched").iter().zip(&all) {
                let cosines = |list: &[Estimate]| list.iter().map(|estimate| estimate.cosine).collect::<Vec<_>>();
                assert_eq!(cosines(list), cosines(&all[..k]));
            }
        }
    }

    /// 257 sub-quantisers at most: one more byte could take a 16-bit sum past its end, and the best row to the bottom.
    #[test]
    fn sums_do_not_overflow_with_the_most_quantisers() {
        const DIMENSION: usize = 257;
        let factory: Factory = "PQ257x4fs".parse().expect("known");
        let mut index = RawIndex::new(257, &factory).expect("created");
        // Every code of row 0 is the largest its table has, for a probe of ones.
        let mut rows: Vec<f32> = numbers(1_000 * DIMENSION);
        rows[..DIMENSION].fill(0.6);
        index.train(&rows).expect("trained");
        index.add(&rows).expect("added");
        let lists = index.search(&[1.0; DIMENSION], 64).expect("searched");
        assert_eq!(lists[0][0].row, 0);
        assert!(lists[0][0].cosine > 0.4 * DIMENSION as f32, "{}", lists[0][0].cosine);
    }
}
