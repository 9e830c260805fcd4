//! Processor time and memory of a process and its children.

use std::fs;
use std::time::Duration;

/// Returns the processor time of a process and its children so far, including that of ended threads, in nanosecond
/// resolution.
pub(crate) fn processor_time(id: u32) -> Duration {
    family(id).into_iter().filter_map(clock_of).sum()
}

/// Returns the resident memory of a process and its children, in KiB.
pub(crate) fn memory_kib(id: u32) -> u64 {
    let resident = |id: &u32| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    family(id).iter().filter_map(resident).sum()
}

/// Returns the process and all its descendants.
fn family(id: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(id).chain(children.flat_map(family).collect::<Vec<_>>()).collect()
}

/// Reads the clock of a process. `/proc` has a resolution of only 10 ms for the time of ended threads.
fn clock_of(id: u32) -> Option<Duration> {
    let id = libc::pid_t::try_from(id).ok()?;
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(unsafe_code, reason = "std cannot read the clock of another process")]
    // SAFETY: both calls write only to the variables that they are given, which outlive the calls.
    let result = unsafe {
        match libc::clock_getcpuclockid(id, &raw mut clock) {
            0 => libc::clock_gettime(clock, &raw mut time),
            error => error,
        }
    };
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let nanoseconds = u32::try_from(time.tv_nsec).ok()?;
    (result == 0).then(|| Duration::new(seconds, nanoseconds))
}
