//! Targets: the largest accepted cost of the gateway, compared with the other subjects of the same run.

use super::report::{Report, Row};
use super::{IDLE, MONGODB, PROXIES, RULES};

/// One target.
struct Goal {
    /// What the value means, after the number.
    unit: &'static str,
    table: &'static str,
    row: &'static str,
    measure: Measure,
    most: f64,
}

#[derive(Clone, Copy)]
enum Measure {
    /// The gateway's median, divided by the smallest median of these subjects.
    OverBestOf(&'static [&'static str]),
    /// The median of the first subject, divided by that of the second.
    Over(&'static str, &'static str),
    /// The gateway's median, divided by its median in another row.
    OverRow(&'static str),
    /// The gateway's median.
    Median,
    /// The median of this subject.
    MedianOf(&'static str),
}

use Measure::{Median, MedianOf, Over, OverBestOf, OverRow};

const GATEWAY: &str = "mongate";
const NO_POOL: &str = "mongate off";
const REQUEST: &str = "mongate request";
const FAST: &[&str] = &["haproxy", "nginx", "envoy"];
const PEERS: &[&str] = &["haproxy", "nginx", "stunnel", "envoy"];
const COPY: &[&str] = &["plain copy"];
const PLAIN: &[&str] = &["direct plain"];

const fn goal(unit: &'static str, table: &'static str, row: &'static str, measure: Measure, most: f64) -> Goal {
    Goal { unit, table, row, measure, most }
}

const GOALS: [Goal; 31] = [
    goal("× the best of haproxy, nginx, envoy", PROXIES, "CPU, round trip, 16", OverBestOf(FAST), 0.80),
    goal("× the best of haproxy, nginx, envoy", PROXIES, "CPU, round trip, 64", OverBestOf(FAST), 0.80),
    goal("× the best of haproxy, nginx, envoy", PROXIES, "CPU, round trip, 256", OverBestOf(FAST), 0.80),
    goal("× plain copy", PROXIES, "CPU, round trip, 16", OverBestOf(COPY), 1.10),
    goal("× plain copy", PROXIES, "CPU, round trip, 64", OverBestOf(COPY), 1.10),
    goal("× plain copy", PROXIES, "CPU, round trip, 256", OverBestOf(COPY), 1.10),
    goal("× the best other proxy", PROXIES, "time p50, round trip, 1 connection", OverBestOf(PEERS), 1.00),
    goal("× the best other proxy", PROXIES, "CPU, insert, 1 MiB", OverBestOf(PEERS), 1.00),
    goal("× the best other proxy", PROXIES, "CPU, insert, 12 MiB", OverBestOf(PEERS), 1.00),
    goal("× the best other proxy", PROXIES, "CPU, find, 16 MiB reply", OverBestOf(PEERS), 1.00),
    goal("× the best other proxy", PROXIES, "CPU, find, 64 KiB reply, 16", OverBestOf(PEERS), 1.00),
    goal("× direct plain", MONGODB, "time p50, new connection, 8 at a time", OverBestOf(PLAIN), 1.50),
    goal("× direct plain", MONGODB, "time p50, new connection, 1 at a time", OverBestOf(PLAIN), 1.50),
    goal("× the best other proxy", MONGODB, "time p50, new connection, 8 at a time", OverBestOf(PEERS), 0.35),
    goal("× direct plain", MONGODB, "time p50, first command, 8 at a time", OverBestOf(PLAIN), 1.50),
    goal("× direct plain", MONGODB, "time p50, first command, 1 at a time", OverBestOf(PLAIN), 1.50),
    goal("× the best other proxy", MONGODB, "time p50, first command, 8 at a time", OverBestOf(PEERS), 0.35),
    goal("× the best other proxy", PROXIES, "CPU, new connection, 8 at a time", OverBestOf(PEERS), 0.60),
    goal("× direct TLS", MONGODB, "CPU of mongod, new connection, 8 at a time", Over(GATEWAY, "direct TLS"), 0.20),
    goal("× no pool", PROXIES, "CPU, round trip, 16", Over(REQUEST, NO_POOL), 1.02),
    goal("× no pool", PROXIES, "CPU, round trip, 64", Over(REQUEST, NO_POOL), 1.02),
    goal("× no pool", PROXIES, "CPU, round trip, 256", Over(REQUEST, NO_POOL), 1.02),
    goal("KiB per connection, session", IDLE, "memory, 5,000 idle, fresh", Median, 6.0),
    goal("KiB per connection, request", IDLE, "memory, 5,000 idle, after 256 KiB each", MedianOf(REQUEST), 12.0),
    goal("KiB per connection", IDLE, "memory, 1,000 idle, fresh", Median, 12.0),
    goal("KiB per connection", IDLE, "memory, 1,000 idle, after 256 KiB each", Median, 24.0),
    goal("KiB per connection", IDLE, "memory, 5,000 idle, fresh", Median, 12.0),
    goal("KiB per connection", IDLE, "memory, 5,000 idle, after 256 KiB each", Median, 24.0),
    goal("× 1 rule", RULES, "CPU, round trip, 64, policy", Over("10,000 rules", "1 rule"), 1.02),
    goal("× 1 rule", RULES, "CPU, round trip, 16, policy", Over("10,000 rules", "1 rule"), 1.02),
    goal(
        "× 100 connections without idle ones",
        PROXIES,
        "CPU, round trip, 100 of 5,000",
        OverRow("CPU, round trip, 100"),
        1.10,
    ),
];

/// Returns the lines of the table of targets; targets without a measured value are left out.
pub(crate) fn table(report: &Report) -> Vec<Vec<String>> {
    let mut lines = vec![["figure", "target", "measured", "result"].map(str::to_owned).to_vec()];
    for goal in &GOALS {
        let Some(value) = goal.measured(report) else { continue };
        let met = if value <= goal.most { "met" } else { "**missed**" };
        let most = format!("≤ {:.2} {}", goal.most, goal.unit);
        lines.push(vec![goal.row.to_owned(), most, format!("{value:.2}"), met.to_owned()]);
    }
    lines
}

impl Goal {
    fn measured(&self, report: &Report) -> Option<f64> {
        let row = report.row(self.table, self.row)?;
        Some(match self.measure {
            OverBestOf(others) => row.median(GATEWAY)? / least(row, others)?,
            Over(one, other) => row.median(one)? / row.median(other)?,
            OverRow(other) => row.median(GATEWAY)? / report.row(self.table, other)?.median(GATEWAY)?,
            Median => row.median(GATEWAY)?,
            MedianOf(subject) => row.median(subject)?,
        })
    }
}

fn least(row: &Row, of: &[&str]) -> Option<f64> {
    of.iter().filter_map(|subject| row.median(subject)).min_by(f64::total_cmp)
}
