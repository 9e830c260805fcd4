//! Draws the most important figures of a report as bars in an SVG picture.

use std::fmt::Write;

use super::report::{Report, Row};
use super::{IDLE, MONGODB, PROXIES};

/// The shown figures: title, table, row.
const PANELS: [(&str, &str, &str); 6] = [
    ("CPU time per round trip, 64 connections", PROXIES, "CPU, round trip, 64"),
    ("CPU time per MB, inserts of 1 MiB", PROXIES, "CPU, insert, 1 MiB"),
    ("CPU time per MB, replies of 16 MiB", PROXIES, "CPU, find, 16 MiB reply"),
    ("CPU time per new connection", PROXIES, "CPU, new connection, 8 at a time"),
    ("Memory per idle connection, 5,000 connections", IDLE, "memory, 5,000 idle, fresh"),
    ("Time to the first reply of a new connection, mongod", MONGODB, "time p50, new connection, 8 at a time"),
];

const COLUMNS: usize = 2;
const PANEL_WIDTH: usize = 460;
const BAR_HEIGHT: usize = 18;
const BAR_STEP: usize = 24;
const NAME_WIDTH: usize = 100;
const BAR_WIDTH: f64 = 260.0;
const HEAD: usize = 44;

/// Returns the picture as SVG.
pub(crate) fn draw(report: &Report) -> String {
    let rows: Vec<(&str, &Row)> =
        PANELS.iter().filter_map(|(title, table, row)| Some((*title, report.row(table, row)?))).collect();
    let bars = rows.iter().map(|(_, row)| row.columns.len()).max().unwrap_or_default();
    let panel_height = HEAD + bars * BAR_STEP + 16;
    let (width, height) = (COLUMNS * PANEL_WIDTH, rows.len().div_ceil(COLUMNS) * panel_height);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (number, (title, row)) in rows.iter().enumerate() {
        let at = (number % COLUMNS * PANEL_WIDTH, number / COLUMNS * panel_height);
        panel(&mut svg, title, row, at);
    }
    svg + "</svg>\n"
}

fn panel(svg: &mut String, title: &str, row: &Row, (left, top): (usize, usize)) {
    let medians: Vec<(&str, f64)> =
        row.columns.iter().filter_map(|column| Some((column.subject.as_str(), row.median(&column.subject)?))).collect();
    let most = medians.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    // Writing to a string does not fail.
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" font-weight=\"bold\" fill=\"#222222\">{title}, {}</text>",
        left + 12,
        top + 26,
        row.unit.replace("us", "µs")
    );
    for (number, (subject, value)) in medians.iter().enumerate() {
        let y = top + HEAD + number * BAR_STEP;
        let (base, bar) = (left + NAME_WIDTH, (value / most * BAR_WIDTH).max(1.0));
        let colour = match *subject {
            "mongate" => "#13aa52",
            "plain copy" | "direct TLS" | "direct plain" => "#c4c9cf",
            _ => "#7a93ac",
        };
        let digits = usize::from(*value < 100.0);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#222222\">{subject}</text>\
             <rect x=\"{base}\" y=\"{y}\" width=\"{bar:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\" fill=\"#222222\">{value:.digits$}</text>",
            base - 8,
            y + 14,
            f64::from(u32::try_from(base).unwrap_or_default()) + bar + 6.0,
            y + 14
        );
    }
}
