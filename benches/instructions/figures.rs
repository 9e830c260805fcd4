//! The figures that are kept in the repository, and how new ones compare.

use std::fmt;
use std::fmt::Write;
use std::fs;

use anyhow::Context;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/figures.txt");
/// In per cent.
const CHANGE_MAX: u64 = 5;
/// Hundredths of a call that come and go: one in ten operations.
const CALLS_SLACK: u64 = 10;
const RECORD: &str = "cargo bench --bench instructions -- --record";

/// One case, for one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) instructions: u64,
    /// In hundredths.
    pub(crate) allocations: u64,
    /// In hundredths.
    pub(crate) copies: u64,
    /// Not recorded: other machines have others.
    pub(crate) elsewhere: u64,
}

/// The file.
pub(crate) struct Recorded {
    /// Another processor's compiler makes other instructions.
    is_of_this_kind: bool,
    figures: Vec<Figure>,
}

/// What came of a comparison.
pub(crate) struct Report {
    pub(crate) failed: bool,
    text: String,
}

/// Writes the file anew.
pub(crate) fn record(figures: &[Figure]) -> anyhow::Result<()> {
    let mut text = format!(
        "# What one operation takes: instructions of Rust's functions, and hundredths of calls that allocate and that copy.\n\
         # Written by: {RECORD}\nprocessor {}\n",
        std::env::consts::ARCH
    );
    for figure in figures {
        writeln!(text, "{} | {} {} {}", figure.name, figure.instructions, figure.allocations, figure.copies)?;
    }
    fs::write(FILE, text).with_context(|| format!("cannot write {FILE}"))
}

impl Recorded {
    /// Reads the file.
    pub(crate) fn read() -> anyhow::Result<Self> {
        let text = fs::read_to_string(FILE).with_context(|| format!("cannot read {FILE}; {RECORD} makes it"))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut this = Self { is_of_this_kind: false, figures: Vec::new() };
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            if let Some(processor) = line.strip_prefix("processor ") {
                this.is_of_this_kind = processor == std::env::consts::ARCH;
                continue;
            }
            let (name, numbers) = line.split_once(" | ").with_context(|| format!("{FILE}: no figure: {line}"))?;
            let numbers = numbers.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>();
            let Ok([instructions, allocations, copies]) = numbers.as_deref() else {
                anyhow::bail!("{FILE}: not three numbers: {line}")
            };
            let (instructions, allocations, copies) = (*instructions, *allocations, *copies);
            this.figures.push(Figure { name: name.to_owned(), instructions, allocations, copies, elsewhere: 0 });
        }
        Ok(this)
    }

    /// Fails what has grown, and what is not recorded; asks to record what has shrunk.
    pub(crate) fn compare(&self, counted: &[Figure]) -> Report {
        let mut report = Report { failed: false, text: String::new() };
        if !self.is_of_this_kind {
            report.say(&format!("the figures of {FILE} are of another kind of processor; nothing is compared"));
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
                _ if !self.is_of_this_kind => "",
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
            report.say(&format!("more than {CHANGE_MAX} % above what is recorded. Where that has to be: {RECORD}"));
        } else if can_record {
            report.say(&format!("warning: something has become cheaper; keep that: {RECORD}"));
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
