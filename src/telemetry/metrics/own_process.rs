//! The metrics `process_*` that every client of Prometheus exports, with their usual names.
//!
//! Spec: Prometheus, "Writing client libraries" § Process metrics.

use std::fmt::Write;
use std::sync::OnceLock;

use procfs::process::{LimitValue, Process, Stat};
use procfs::{ProcResult, boot_time_secs, page_size, ticks_per_second};

/// One metric: name, kind, help text, value.
type Series = (&'static str, &'static str, &'static str, f64);

/// The series in the Prometheus text format, version 0.0.4. Without `/proc`, those that it would give are left out.
pub fn render_process_metrics() -> String {
    let mut text = String::new();
    for (name, kind, help, value) in series() {
        let value = if value.is_infinite() { "+Inf".to_owned() } else { value.to_string() };
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    }
    text
}

fn series() -> Vec<Series> {
    let Ok(process) = Process::myself() else { return Vec::new() };
    let mut all = Vec::new();
    if let Ok(stat) = process.stat() {
        all.extend(of_stat(&stat));
    }
    if let Ok(open) = process.fd_count() {
        all.push(("process_open_fds", "gauge", "Number of open file descriptors.", as_f64(open as u64)));
    }
    if let Ok(limits) = process.limits() {
        let limit = |value| if let LimitValue::Value(value) = value { as_f64(value) } else { f64::INFINITY };
        let help = "Maximum number of open file descriptors.";
        all.push(("process_max_fds", "gauge", help, limit(limits.max_open_files.soft_limit)));
        let help = "Maximum amount of virtual memory available in bytes.";
        all.push(("process_virtual_memory_max_bytes", "gauge", help, limit(limits.max_address_space.soft_limit)));
    }
    all
}

fn of_stat(stat: &Stat) -> Vec<Series> {
    let processor_time = as_f64(stat.utime + stat.stime) / as_f64(ticks_per_second());
    let resident = as_f64(stat.rss * page_size());
    let threads = as_f64(u64::try_from(stat.num_threads).unwrap_or_default());
    let mut all = vec![
        ("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", processor_time),
        ("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", resident),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", as_f64(stat.vsize)),
        ("process_threads", "gauge", "Number of OS threads in the process.", threads),
    ];
    if let Some(start) = start_time(stat) {
        let help = "Start time of the process since unix epoch in seconds.";
        all.push(("process_start_time_seconds", "gauge", help, start));
    }
    all
}

/// Seconds since 1970. Determined once: the system computes the time of its start from the clock, which may be set.
fn start_time(stat: &Stat) -> Option<f64> {
    static START: OnceLock<Option<f64>> = OnceLock::new();
    let since_boot = as_f64(stat.starttime) / as_f64(ticks_per_second());
    *START.get_or_init(|| {
        let boot: ProcResult<u64> = boot_time_secs();
        Some(as_f64(boot.ok()?) + since_boot)
    })
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_every_metric_with_a_plausible_value() {
        let text = render_process_metrics();
        let value = |name: &str| {
            let line =
                text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{text}"));
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap_or_else(|_| panic!("{line}"))
        };
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!((now - 86_400.0..=now + 60.0).contains(&value("process_start_time_seconds")), "{text}");
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_resident_memory_bytes") > 1e6, "{text}");
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"), "{text}");
        assert!(value("process_threads") >= 1.0, "{text}");
        assert!(value("process_open_fds") >= 3.0, "{text}");
        assert!(value("process_max_fds") >= value("process_open_fds"), "{text}");
        assert!(value("process_virtual_memory_max_bytes") > 0.0, "{text}");
        assert!(text.contains("# TYPE process_cpu_seconds_total counter\n"), "{text}");
    }
}
