//! Log lines on standard error, as text or as JSON.
//!
//! One record is one line, whatever text a client sends. Control characters are escaped in both formats. In the text
//! format, a value that could be mistaken for another field is quoted.

use std::fmt;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing::Dispatch;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, fmt as lines, reload};

use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::telemetry::log_writer::LogWriter;

/// Another log subscriber is already installed in this process.
#[derive(Debug, thiserror::Error)]
#[error("another log subscriber is already installed in this process")]
pub struct AlreadyInstalled;

/// Sends the log lines of the whole process to standard error, panics included.
///
/// Lines are coloured on a terminal unless `NO_COLOR` is set. Logging never blocks: a thread of its own writes the
/// lines.
/// Call [`LogWriter::flush`] at the end of the process.
pub fn install(config: LogConfig) -> Result<(LogWriter, LevelSwitch), AlreadyInstalled> {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = if std::io::stderr().is_terminal() && !no_color { Colours::On } else { Colours::Off };
    let (queue, writer) = LogWriter::start(std::io::stderr());
    let (dispatch, level) = dispatch(config, colours, queue);
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| AlreadyInstalled)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok((writer, level))
}

/// Changes the level of the log while the process runs.
///
/// The level is kept at each place that logs: a line that is not written costs one load and one comparison.
#[derive(Debug)]
pub struct LevelSwitch {
    filter: reload::Handle<LevelFilter, Registry>,
    configured: LogLevel,
}

impl LevelSwitch {
    /// `log.level` of the configuration.
    pub fn configured(&self) -> LogLevel {
        self.configured
    }

    /// Uses `level` from now on.
    pub fn set(&self, level: LogLevel) {
        // Fails only if the subscriber has been dropped; the one of the process never is.
        let _ = self.filter.reload(filter(level));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colours {
    On,
    Off,
}

fn dispatch<W>(config: LogConfig, colours: Colours, writer: W) -> (Dispatch, LevelSwitch)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (level, switch) = reload::Layer::new(filter(config.level));
    let registry = tracing_subscriber::registry().with(level);
    let layer = lines::layer()
        .with_ansi(colours == Colours::On)
        // If standard error is closed, reporting that error there would panic.
        .log_internal_errors(false)
        .with_writer(writer);
    let dispatch = match config.format {
        LogFormat::Text => Dispatch::new(registry.with(layer.fmt_fields(TextFields))),
        LogFormat::Json => Dispatch::new(registry.with(layer.json().flatten_event(true).with_span_list(false))),
    };
    (dispatch, LevelSwitch { filter: switch, configured: config.level })
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// A panic message may contain a value. The longer the message, the more likely it does.
const PANIC_CHARS_MAX: usize = 200;

/// The log message of a panic.
const PANIC: &str = "panic";

fn log_panic(info: &PanicHookInfo<'_>) {
    let text: String = info.payload_as_str().unwrap_or("no message").chars().take(PANIC_CHARS_MAX).collect();
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    tracing::error!(panic = text, location, thread, "{PANIC}");
}

/// Formats fields as `name=value` and the message without a name. Escapes whatever would break a line or a terminal.
struct TextFields;

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = TextVisitor { writer, separator: "", result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct TextVisitor<'w> {
    writer: Writer<'w>,
    separator: &'static str,
    result: fmt::Result,
}

impl TextVisitor<'_> {
    fn write(&mut self, field: &Field, value: &str) {
        if self.result.is_ok() {
            self.result = self.try_write(field.name(), value);
        }
    }

    fn try_write(&mut self, name: &str, value: &str) -> fmt::Result {
        self.writer.write_str(self.separator)?;
        self.separator = " ";
        if name == "message" {
            return write_escaped(&mut self.writer, value, Quotes::Kept);
        }
        write!(self.writer, "{name}=")?;
        if is_plain(value) {
            return self.writer.write_str(value);
        }
        self.writer.write_char('"')?;
        write_escaped(&mut self.writer, value, Quotes::Escaped)?;
        self.writer.write_char('"')
    }
}

impl Visit for TextVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, &format!("{value:?}"));
    }
}

/// Whether `value` needs no quotes after `=`.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.chars().all(|c| !matches!(c, ' ' | '"' | '\\' | '=') && !is_escaped(c))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Kept,
    Escaped,
}

fn write_escaped(writer: &mut Writer<'_>, text: &str, quotes: Quotes) -> fmt::Result {
    for c in text.chars() {
        if is_escaped(c) || (quotes == Quotes::Escaped && matches!(c, '"' | '\\')) {
            write!(writer, "{}", c.escape_default())?;
        } else {
            writer.write_char(c)?;
        }
    }
    Ok(())
}

/// Whether a character is escaped: control characters, line separators, spaces other than U+0020, and invisible
/// characters that change the direction of text or hide in it.
fn is_escaped(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: LogLevel, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let (dispatch, _) = dispatch(LogConfig { format, level }, Colours::Off, move || writer.clone());
        tracing::dispatcher::with_default(&dispatch, log);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// One line without its timestamp.
    fn text(log: impl FnOnce()) -> String {
        let line = logged(LogFormat::Text, LogLevel::Info, log);
        line.split_once(' ').unwrap().1.to_owned()
    }

    const HOSTILE: &str = "shell\n2026-01-01T00:00:00Z ERROR mongate: forged\r\u{1b}[2J\u{85}\u{2028}\u{202e}\0";

    #[test]
    fn a_line_is_time_level_target_message_and_fields() {
        let line = text(|| {
            tracing::info!(
                target: "mongate::connection",
                listener = "orders",
                bytes = 12_u64,
                failed = false,
                application = "my \"own\" app",
                empty = "",
                error = %io::Error::other("a=b"),
                "connection closed"
            );
        });
        assert_eq!(
            line.trim_start(),
            "INFO mongate::connection: connection closed listener=orders bytes=12 failed=false \
             application=\"my \\\"own\\\" app\" empty=\"\" error=\"a=b\"\n"
        );
    }

    #[test]
    fn hostile_text_stays_in_its_line_and_in_its_quotes() {
        let escaped =
            concat!(r"shell\n2026-01-01T00:00:00Z ERROR mongate: forged", r"\r\u{1b}[2J\u{85}\u{2028}\u{202e}\u{0}");
        let as_field = text(|| tracing::info!(application = HOSTILE, "opened"));
        assert!(as_field.ends_with(&format!("opened application=\"{escaped}\"\n")), "{as_field}");

        let as_display = text(|| tracing::info!(application = %HOSTILE, "opened"));
        assert!(as_display.ends_with(&format!("opened application=\"{escaped}\"\n")), "{as_display}");

        let as_message = text(|| tracing::info!("opened by {HOSTILE}"));
        assert!(as_message.ends_with(&format!("opened by {escaped}\n")), "{as_message}");

        let as_debug = text(|| tracing::info!(application = ?HOSTILE, "opened"));
        let in_span =
            text(|| tracing::info_span!("connection", application = HOSTILE).in_scope(|| tracing::info!("opened")));
        for line in [as_debug, in_span] {
            assert!(!line.trim_end_matches('\n').contains(|c: char| c.is_control() || c == '\u{2028}'), "{line}");
        }
    }

    #[test]
    fn a_json_record_is_one_flat_object_on_one_line() {
        let lines = logged(LogFormat::Json, LogLevel::Info, || {
            tracing::info!(listener = "orders", bytes = 12_u64, application = HOSTILE, "opened");
            tracing::warn!("second");
        });
        let records: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0]["level"], "INFO");
        assert_eq!(records[0]["message"], "opened");
        assert_eq!(records[0]["listener"], "orders");
        assert_eq!(records[0]["bytes"], 12);
        assert_eq!(records[0]["application"], HOSTILE);
        assert!(records[0]["timestamp"].is_string() && records[0]["target"].is_string());
    }

    #[test]
    fn the_level_decides_what_is_written() {
        let cases = [
            (LogLevel::Error, "E"),
            (LogLevel::Warn, "EW"),
            (LogLevel::Info, "EWI"),
            (LogLevel::Debug, "EWID"),
            (LogLevel::Trace, "EWIDT"),
        ];
        for (level, expected) in cases {
            let lines = logged(LogFormat::Text, level, || {
                tracing::error!("E");
                tracing::warn!("W");
                tracing::info!("I");
                tracing::debug!("D");
                tracing::trace!("T");
            });
            let written: String = lines.lines().filter_map(|line| line.chars().last()).collect();
            assert_eq!(written, expected);
        }
    }

    #[test]
    fn the_level_changes_while_the_process_runs() {
        let lines = Lines::default();
        let writer = lines.clone();
        let config = LogConfig { format: LogFormat::Text, level: LogLevel::Warn };
        let (dispatch, switch) = dispatch(config, Colours::Off, move || writer.clone());
        tracing::dispatcher::with_default(&dispatch, || {
            for level in [LogLevel::Debug, LogLevel::Error, LogLevel::Info] {
                switch.set(level);
                tracing::debug!("debug");
                tracing::info!("info");
            }
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let written: Vec<_> = text.lines().filter_map(|line| line.rsplit(' ').next()).collect();
        assert_eq!(written, ["debug", "info", "info"]);
    }
}
