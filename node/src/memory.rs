//! Memory that was let go, given back to the system.
//!
//! Loading a catalogue or keeping a segment needs for a moment what it will not need again: a whole checkpoint, an engine's bytes, the
//! templates of a segment that are read from its file from then on. glibc keeps much of that for the next allocation, in an arena for
//! each thread, which on a node with its templates on disk is a large part of what it holds.

/// Gives back whole pages that nothing is in. Takes some milliseconds for each 100 MB, and other threads' allocations may wait for a
/// part of that, so it follows work that is rare and takes longer.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn give_back() {
    use std::ffi::c_int;

    #[allow(unsafe_code)]
    // SAFETY: glibc declares `int malloc_trim(size_t)`, which may be called at any time from any thread.
    unsafe extern "C" {
        /// Keeps `pad` bytes at the end of the heap; says whether anything was given back.
        safe fn malloc_trim(pad: usize) -> c_int;
    }

    malloc_trim(0);
}

/// Other allocators know best.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_back() {}
