//! The figures of all rounds: medians as a table for people, everything as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::json;

use super::Measurement;
use super::load::{Scenario, Work};

/// Figures by scenario and subject, in the order of their first measurement.
#[derive(Default)]
pub(crate) struct Figures {
    rows: Vec<Row>,
}

struct Row {
    title: String,
    unit: &'static str,
    /// Subjects in their order, with one value a round.
    columns: Vec<(&'static str, Vec<f64>)>,
}

impl Figures {
    /// Adds what one subject did in one round.
    pub(crate) fn add(&mut self, subject: &'static str, scenario: &Scenario, measured: Measurement) {
        let Measurement { outcome, processor } = measured;
        #[expect(clippy::cast_precision_loss, reason = "operations of a second")]
        let operations = outcome.operations as f64;
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let megabytes = operations * scenario.work.bytes() as f64 / 1e6;
        if let Some(processor) = processor {
            let (per, unit) = if megabytes > 0.0 { (megabytes, "us/MB") } else { (operations, "us/op") };
            self.put(format!("CPU, {}", scenario.name), unit, subject, processor.as_secs_f64() * 1e6 / per);
        }
        if matches!(scenario.work, Work::RoundTrip | Work::Connection) {
            for (percentile, name) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
                #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a second")]
                let microseconds = outcome.latencies.value_at_quantile(percentile) as f64 / 1e3;
                self.put(format!("time {name}, {}", scenario.name), "us", subject, microseconds);
            }
        }
        let seconds = outcome.elapsed.as_secs_f64();
        let (rate, unit) = if megabytes > 0.0 { (megabytes / seconds, "MB/s") } else { (operations / seconds, "op/s") };
        self.put(format!("throughput, {}", scenario.name), unit, subject, rate);
    }

    /// Adds the memory of idle connections.
    pub(crate) fn add_memory(&mut self, subject: &'static str, count: usize, [fresh, used]: [f64; 2]) {
        self.put(format!("memory, {count} idle, fresh"), "KiB/conn", subject, fresh);
        self.put(format!("memory, {count} idle, after 256 KiB each"), "KiB/conn", subject, used);
    }

    fn put(&mut self, title: String, unit: &'static str, subject: &'static str, value: f64) {
        let at = self.rows.iter().position(|row| row.title == title).unwrap_or_else(|| {
            self.rows.push(Row { title, unit, columns: Vec::new() });
            self.rows.len() - 1
        });
        let columns = &mut self.rows[at].columns;
        match columns.iter_mut().find(|(name, _)| *name == subject) {
            Some((_, values)) => values.push(value),
            None => columns.push((subject, vec![value])),
        }
    }

    /// Writes every value of every round to a file below the build's folder.
    pub(crate) fn write_json(&self) -> anyhow::Result<PathBuf> {
        let row = |row: &Row| {
            let columns: BTreeMap<_, _> = row.columns.iter().map(|(name, values)| (*name, values)).collect();
            json!({ "title": row.title, "unit": row.unit, "rounds": columns })
        };
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gateway.json");
        std::fs::write(&file, serde_json::to_string_pretty(&self.rows.iter().map(row).collect::<Vec<_>>())?)?;
        Ok(file)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Half of the values are within this much of the median, in per cent of it.
fn spread(values: &[f64]) -> f64 {
    let middle = median(values);
    let distances: Vec<_> = values.iter().map(|value| (value - middle).abs()).collect();
    if middle > 0.0 { median(&distances) / middle * 100.0 } else { 0.0 }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: Vec<&str> = Vec::new();
        for row in &self.rows {
            let kind = row.title.split(',').next().unwrap_or_default();
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        for kind in kinds {
            writeln!(f)?;
            for row in self.rows.iter().filter(|row| row.title.starts_with(&format!("{kind},"))) {
                write!(f, "{:<44} {:>8}", row.title, row.unit)?;
                for (subject, values) in &row.columns {
                    write!(f, "  {subject} {:.1} ±{:.0}%", median(values), spread(values))?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
