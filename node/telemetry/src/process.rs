//! The process's use of the machine, from /proc. A value that cannot be read is left out.

use std::fmt;
use std::fs;
use std::time::Instant;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

use crate::export;
use crate::families::Families;

/// Resident memory of the process in bytes; `None` where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    status_field(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:").map(|kibibytes| kibibytes * 1_024)
}

/// A number of `/proc/self/status`.
fn status_field(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// For a server that has run since `started`.
pub(crate) fn collect(families: &mut Families<'_>, started: Instant) -> fmt::Result {
    let uptime = started.elapsed().as_secs_f64();
    families.gauge_f64("semel_process_uptime_seconds", "Time since the process started to serve", uptime)?;
    if let Some(bytes) = resident_bytes() {
        families.gauge("semel_process_resident_memory_bytes", "Resident memory of the process", bytes)?;
    }
    if let Ok(status) = fs::read_to_string("/proc/self/status")
        && let Some(threads) = status_field(&status, "Threads:")
    {
        families.gauge("semel_process_threads", "Threads of the process", threads)?;
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        families.gauge("semel_process_open_fds", "Open file descriptors of the process", open.count() as u64)?;
    }
    if let Ok((fds_max, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        families.gauge("semel_process_max_fds", "File descriptors that the process may open", fds_max)?;
    }
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        let used = seconds(usage.user_time()) + seconds(usage.system_time());
        families.counter_f64("semel_process_cpu_seconds_total", "Processor time used, user and system", used)?;
    }
    export::collect(families)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_the_status_is_found_by_its_whole_name() {
        let status = "Name:\tsemel\nVmHWM:\t  9 kB\nVmRSS:\t    123 kB\nThreads:\t7\n";
        assert_eq!(status_field(status, "VmRSS:"), Some(123));
        assert_eq!(status_field(status, "Threads:"), Some(7));
        assert_eq!(status_field(status, "VmSwap:"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
    }
}
