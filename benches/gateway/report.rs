//! The results of a run, with the machine and the subjects. They are written as JSON, and can be read again for tables.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::Measurement;
use super::load::{Scenario, Work};

/// One run of the benchmark.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// The measured subjects, in the order of the columns.
    pub(crate) subjects: Vec<Facts>,
    pub(crate) tables: Vec<Table>,
}

/// The machine, the date and the parameters of the run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) revision: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    pub(crate) system: String,
    pub(crate) rounds: usize,
    pub(crate) milliseconds: u64,
}

/// A measured subject.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The cipher suite of its connections to the stub upstream.
    pub(crate) suite: String,
}

/// Rows that belong together.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
}

/// One figure of all subjects.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) title: String,
    pub(crate) unit: String,
    pub(crate) columns: Vec<Column>,
}

/// One figure of one subject.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Column {
    pub(crate) subject: String,
    /// One value per round.
    pub(crate) rounds: Vec<f64>,
}

impl Report {
    /// Creates an empty report for this machine.
    pub(crate) fn new(rounds: usize, milliseconds: u64) -> Self {
        Self { machine: Machine::this(rounds, milliseconds), subjects: Vec::new(), tables: Vec::new() }
    }

    /// Adds the results of one subject in one round.
    pub(crate) fn add(&mut self, table: &str, subject: &str, scenario: &Scenario, measured: &Measurement) {
        let Measurement { outcome, processor, server } = measured;
        #[expect(clippy::cast_precision_loss, reason = "the number of operations is small")]
        let operations = outcome.operations as f64;
        #[expect(clippy::cast_precision_loss, reason = "the number of bytes is small enough")]
        let megabytes = operations * scenario.work.bytes() as f64 / 1e6;
        let (per, unit) = if megabytes > 0.0 { (megabytes, "us/MB") } else { (operations, "us/op") };
        for (name, time) in [("CPU", processor), ("CPU of mongod", server)] {
            if let Some(time) = time {
                self.put((table, &format!("{name}, {}", scenario.name)), unit, subject, time.as_secs_f64() * 1e6 / per);
            }
        }
        // The 99.9th percentile is meaningful only with thousands of operations.
        let percentiles = [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")];
        let shown =
            if megabytes > 0.0 || matches!(scenario.work, Work::Connection | Work::FirstCommand) { 2 } else { 3 };
        for (percentile, name) in percentiles.into_iter().take(shown) {
            #[expect(clippy::cast_precision_loss, reason = "the number of nanoseconds is small enough")]
            let microseconds = outcome.latencies.value_at_quantile(percentile) as f64 / 1e3;
            self.put((table, &format!("time {name}, {}", scenario.name)), "us", subject, microseconds);
        }
        let seconds = outcome.elapsed.as_secs_f64();
        let (rate, unit) = if megabytes > 0.0 { (megabytes / seconds, "MB/s") } else { (operations / seconds, "op/s") };
        self.put((table, &format!("throughput, {}", scenario.name)), unit, subject, rate);
    }

    /// Adds one value to the row of a table.
    pub(crate) fn put(&mut self, (table, title): (&str, &str), unit: &str, subject: &str, value: f64) {
        let table = entry(
            &mut self.tables,
            |known| known.title == table,
            || Table { title: table.to_owned(), rows: Vec::new() },
        );
        let row = entry(
            &mut table.rows,
            |known| known.title == title,
            || Row { title: title.to_owned(), unit: unit.to_owned(), columns: Vec::new() },
        );
        let column = entry(
            &mut row.columns,
            |known| known.subject == subject,
            || Column { subject: subject.to_owned(), rounds: Vec::new() },
        );
        // Digits after the fourth are noise, and people read the file too.
        column.rounds.push(format!("{value:.3e}").parse().unwrap_or(value));
    }

    /// Returns a row; `None` if it was not measured.
    pub(crate) fn row(&self, table: &str, title: &str) -> Option<&Row> {
        let table = self.tables.iter().find(|known| known.title == table)?;
        table.rows.iter().find(|row| row.title == title)
    }

    /// Reads a file that [`Report::write`] has written.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a report of this benchmark", file.display()))
    }

    /// Writes the report as JSON.
    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        // One line per row; pretty-printed JSON would have thousands of lines.
        let text =
            serde_json::to_string(self)?.replace("{\"title\"", "\n{\"title\"").replace("{\"name\"", "\n{\"name\"");
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
    }
}

fn entry<T>(all: &mut Vec<T>, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> &mut T {
    let at = all.iter().position(is).unwrap_or_else(|| {
        all.push(make());
        all.len() - 1
    });
    &mut all[at]
}

impl Row {
    /// Returns the median of a subject's rounds; `None` if it was not measured.
    pub(crate) fn median(&self, subject: &str) -> Option<f64> {
        let column = self.columns.iter().find(|column| column.subject == subject)?;
        (!column.rounds.is_empty()).then(|| median(&column.rounds))
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the median absolute deviation in per cent of the median: half of the values are closer to the median.
pub(crate) fn spread(values: &[f64]) -> f64 {
    let middle = median(values);
    let distances: Vec<_> = values.iter().map(|value| (value - middle).abs()).collect();
    if middle > 0.0 { median(&distances) / middle * 100.0 } else { 0.0 }
}

impl Machine {
    fn this(rounds: usize, milliseconds: u64) -> Self {
        let text = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let value = |file: &str, key: &str, sign: char| {
            let text = text(file);
            let line = text.lines().find(|line| line.starts_with(key)).and_then(|line| line.split_once(sign));
            line.map(|(_, value)| value.trim().trim_matches('"').to_owned()).unwrap_or_default()
        };
        let memory = value("/proc/meminfo", "MemTotal", ':');
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            revision: output_of(Command::new("git").args(["describe", "--always", "--dirty"])),
            processor: value("/proc/cpuinfo", "model name", ':'),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_kib / 1024,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: value("/etc/os-release", "PRETTY_NAME", '='),
            rounds,
            milliseconds,
        }
    }
}

/// Returns the version that a program prints to standard output or standard error: the first word that looks like a
/// version; empty if there is none.
pub(crate) fn version(command: &mut Command) -> String {
    let output = output_of(command);
    let mut words = output.split(|sign: char| sign.is_whitespace() || sign == '/');
    let is_version = |word: &&str| {
        let number = word.trim_start_matches('v');
        number.contains('.') && number.starts_with(|sign: char| sign.is_ascii_digit())
    };
    words.find(is_version).unwrap_or_default().to_owned()
}

fn output_of(command: &mut Command) -> String {
    let Ok(output) = command.output() else { return String::new() };
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
}
