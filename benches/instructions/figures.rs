//! The figures that are recorded in the repository, and the comparison with new ones.

use std::fmt;
use std::fmt::Write;
use std::fs;

use anyhow::Context;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/figures.txt");
/// Largest accepted increase, in per cent.
const CHANGE_MAX: u64 = 5;
/// Accepted variation of calls, in hundredths of a call per operation: one call in ten operations.
const CALLS_SLACK: u64 = 10;
const RECORD: &str = "cargo bench --bench instructions -- --record";

/// Costs of one operation of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) instructions: u64,
    /// In hundredths of a call.
    pub(crate) allocations: u64,
    /// In hundredths of a call.
    pub(crate) copies: u64,
    /// Instructions outside Rust functions. Not recorded, because they differ between machines.
    pub(crate) elsewhere: u64,
}

/// Contents of `figures.txt`.
pub(crate) struct Recorded {
    /// Whether the figures are from this processor architecture. Only those can be compared.
    is_same_architecture: bool,
    figures: Vec<Figure>,
}

/// Result of a comparison.
pub(crate) struct Report {
    /// Whether a figure has grown too much or is not recorded.
    pub(crate) failed: bool,
    text: String,
}

/// Writes `figures.txt`.
pub(crate) fn record(figures: &[Figure]) -> anyhow::Result<()> {
    let mut text = format!(
        "# Cost of one operation: instructions of Rust functions, and hundredths of calls that allocate and that \
         copy.\n\
         # Written by: {RECORD}\nprocessor {}\n",
        std::env::consts::ARCH
    );
    for figure in figures {
        writeln!(text, "{} | {} {} {}", figure.name, figure.instructions, figure.allocations, figure.copies)?;
    }
    fs::write(FILE, text).with_context(|| format!("cannot write {FILE}"))
}

impl Recorded {
    /// Reads `figures.txt`.
    pub(crate) fn read() -> anyhow::Result<Self> {
        let text = fs::read_to_string(FILE).with_context(|| format!("cannot read {FILE}; create it with: {RECORD}"))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut this = Self { is_same_architecture: false, figures: Vec::new() };
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            if let Some(processor) = line.strip_prefix("processor ") {
                this.is_same_architecture = processor == std::env::consts::ARCH;
                continue;
            }
            let (name, numbers) = line.split_once(" | ").with_context(|| format!("{FILE}: not a figure: {line}"))?;
            let numbers = numbers.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>();
            let Ok([instructions, allocations, copies]) = numbers.as_deref() else {
                anyhow::bail!("{FILE}: not three numbers: {line}")
            };
            let (instructions, allocations, copies) = (*instructions, *allocations, *copies);
            this.figures.push(Figure { name: name.to_owned(), instructions, allocations, copies, elsewhere: 0 });
        }
        Ok(this)
    }

    /// Compares new figures with the recorded ones. Fails if a figure has grown by more than [`CHANGE_MAX`] or is not
    /// recorded, and asks to record figures that have shrunk by more than that.
    pub(crate) fn compare(&self, counted: &[Figure]) -> Report {
        let mut report = Report { failed: false, text: String::new() };
        if !self.is_same_architecture {
            report.say(&format!("the figures in {FILE} are from another processor architecture; nothing is compared"));
        }
        let heading = format!(
            "{:<46} {:>12} {:>12} {:>8} {:>8} {:>12}",
            "", "instructions", "recorded", "allocs", "copies", "elsewhere"
        );
        report.say(&heading);
        let mut can_record = false;
        for now in counted {
            let before = self.figures.iter().find(|figure| figure.name == now.name);
            let recorded = before.map_or_else(|| "-".to_owned(), |before| before.instructions.to_string());
            let calls = |hundredths: u64| format!("{}.{:02}", hundredths / 100, hundredths % 100);
            let change = match before {
                _ if !self.is_same_architecture => "",
                None => "  NOT RECORDED",
                Some(before) if now.has_grown_since(before) => "  GROWN",
                Some(before) if before.has_grown_since(now) => "  less",
                Some(_) => "",
            };
            report.failed |= change == "  GROWN" || change == "  NOT RECORDED";
            can_record |= change == "  less";
            report.say(&format!(
                "{:<46} {:>12} {recorded:>12} {:>8} {:>8} {:>12}{change}",
                now.name,
                now.instructions,
                calls(now.allocations),
                calls(now.copies),
                now.elsewhere
            ));
        }
        if report.failed {
            report.say(&format!("more than {CHANGE_MAX} % above the recorded figures; if that is needed: {RECORD}"));
        } else if can_record {
            report.say(&format!("warning: figures have become smaller; record them: {RECORD}"));
        }
        report
    }
}

impl Figure {
    fn has_grown_since(&self, before: &Self) -> bool {
        let grown = |now: u64, before: u64, slack: u64| now * 100 > before * (100 + CHANGE_MAX) + slack * 100;
        grown(self.instructions, before.instructions, 0)
            || grown(self.allocations, before.allocations, CALLS_SLACK)
            || grown(self.copies, before.copies, CALLS_SLACK)
    }
}

impl Report {
    fn say(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
