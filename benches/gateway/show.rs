//! Formats a report as Markdown tables that are also readable as plain text, and writes them into the documentation.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;

use super::report::{Report, Table, median, spread};
use super::{goals, picture};

const BEGIN: &str = "<!-- figures: written by the benchmark -->";
const END: &str = "<!-- end of figures -->";

/// Returns the whole report as Markdown.
pub(crate) fn markdown(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{}, {} cores, {} MiB; Linux {}; {}. Measured {} at revision {}: {} rounds of {} ms each.\n",
        machine.processor,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        machine.system,
        machine.date,
        machine.revision,
        machine.rounds,
        machine.milliseconds
    );
    if !report.subjects.is_empty() {
        let mut lines = vec![["subject", "version", "cipher suite"].map(str::to_owned).to_vec()];
        lines.extend(
            report
                .subjects
                .iter()
                .map(|facts| vec![facts.name.clone(), facts.version.replace('|', " "), facts.suite.clone()]),
        );
        push_table(&mut text, "Subjects", &lines);
    }
    let goals = goals::table(report);
    if goals.len() > 1 {
        push_table(&mut text, "Targets", &goals);
    }
    for table in &report.tables {
        push_table(&mut text, &table.title, &lines_of(table));
    }
    text
}

/// Returns the lines of a table: rows of the same kind follow each other, in the order in which they were measured.
fn lines_of(table: &Table) -> Vec<Vec<String>> {
    let mut subjects: Vec<&str> = Vec::new();
    let mut kinds: Vec<&str> = Vec::new();
    for row in &table.rows {
        kinds.push(kind_of(&row.title));
        subjects.extend(row.columns.iter().map(|column| column.subject.as_str()));
    }
    let (subjects, kinds) = (unique(subjects), unique(kinds));
    let head = ["figure", "unit"].into_iter().chain(subjects.iter().copied()).map(str::to_owned).collect();
    let mut lines = vec![head];
    for kind in kinds {
        for row in table.rows.iter().filter(|row| kind_of(&row.title) == kind) {
            let cell = |subject: &&str| {
                let column = row.columns.iter().find(|column| column.subject == *subject);
                column.map_or_else(|| "–".to_owned(), |column| number(&column.rounds))
            };
            lines.push([row.title.clone(), row.unit.clone()].into_iter().chain(subjects.iter().map(cell)).collect());
        }
    }
    lines
}

fn kind_of(title: &str) -> &str {
    title.split(',').next().unwrap_or_default()
}

fn unique(all: Vec<&str>) -> Vec<&str> {
    let mut seen = Vec::new();
    for one in all {
        if !seen.contains(&one) {
            seen.push(one);
        }
    }
    seen
}

fn number(rounds: &[f64]) -> String {
    let middle = median(rounds);
    let digits = match middle {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    let deviation = if rounds.len() > 1 { format!(" ±{:.0}%", spread(rounds)) } else { String::new() };
    format!("{middle:.digits$}{deviation}")
}

/// Appends a table, padded so that it is readable as plain text.
fn push_table(text: &mut String, title: &str, lines: &[Vec<String>]) {
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> =
        (0..lines.first().map_or(0, Vec::len)).map(|column| width(column).unwrap_or(3).max(3)).collect();
    // Writing to a string does not fail.
    let _ = writeln!(text, "\n### {title}\n");
    for (number, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width - cell.chars().count());
            let _ = if column == 0 { write!(text, "| {cell}{padding} ") } else { write!(text, "| {padding}{cell} ") };
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let _ = if column == 0 {
                    write!(text, "| {} ", "-".repeat(*width))
                } else {
                    write!(text, "| {}: ", "-".repeat(width - 1))
                };
            }
            text.push_str("|\n");
        }
    }
}

/// Writes a report into the documentation: tables to `performance.md`, all values to `performance.json`, and a picture
/// to `performance.svg`.
pub(crate) fn publish(report: &Report) -> anyhow::Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    report.write(&docs.join("performance.json"))?;
    fs::write(docs.join("performance.svg"), picture::draw(report))?;
    let file = docs.join("performance.md");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let (before, rest) =
        text.split_once(BEGIN).context("performance.md has no line `<!-- figures: written by the benchmark -->`")?;
    let (_, after) = rest.split_once(END).context("performance.md has no line `<!-- end of figures -->`")?;
    fs::write(&file, format!("{before}{BEGIN}\n\n{}\n{END}{after}", markdown(report)))?;
    Ok(())
}
