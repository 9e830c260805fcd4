//! Readiness: a list of named conditions of the process, of its upstreams and of its listeners.
//!
//! The process is ready for traffic while its own conditions hold and at least one listener can serve: a listener whose
//! conditions hold, and those of its upstream.
//!
//! The state of a condition is not stored here. Each report asks the owner of each condition for it.

use std::fmt;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::drain::{DrainWatch, Stage};

/// Limit of [`ReadinessReport::summary`]. systemd drops messages of more than 4 KiB.
const SUMMARY_BYTES_MAX: usize = 1024;

/// The conditions of the process. Clones share the same conditions.
#[derive(Clone)]
pub struct Readiness {
    drain: DrainWatch,
    conditions: Arc<Mutex<Vec<Condition>>>,
}

struct Condition {
    name: String,
    subject: Subject,
    state: Box<dyn Fn() -> ConditionState + Send + Sync>,
}

/// What a condition is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The process as a whole.
    Process,
    /// The memory of the process, which is part of reports only if there is something to say about it.
    Memory,
    /// The upstream of this name.
    Upstream(String),
    /// A listener.
    Listener {
        /// Its name.
        name: String,
        /// The name of its upstream.
        upstream: String,
        /// Whether it has certificates.
        has_tls: bool,
    },
}

/// What a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportScope<'a> {
    /// Everything.
    All,
    /// The listener of this name and its upstream.
    Listener(&'a str),
    /// The upstream of this name.
    Upstream(&'a str),
}

/// The state of a condition, with a sentence for the operator: what works, or what is wrong and what to do. The
/// sentence may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConditionState {
    /// The condition holds.
    Holds(String),
    /// The condition holds, but needs the operator's attention.
    Warns(String),
    /// The condition does not hold.
    Fails(String),
}

/// The state of all conditions; as text for people, as JSON for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessReport {
    /// Whether traffic can be served: for a report about everything, by at least one listener.
    pub ready: bool,
    /// In the order in which they were added; `serving` first.
    pub conditions: Vec<ConditionReport>,
}

/// One condition of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionReport {
    /// For example `upstream orders`.
    pub name: String,
    /// Whether the condition holds.
    pub ok: bool,
    /// Whether the condition holds but needs attention. Reports of older gateways do not have this field.
    #[serde(default)]
    pub warning: bool,
    /// The sentence of the condition's state.
    pub detail: String,
}

impl Readiness {
    /// Starts with one condition, `serving`, which holds until the drain begins.
    pub fn new(drain: DrainWatch) -> Self {
        Self { drain, conditions: Arc::default() }
    }

    /// Adds a condition. `state` is called for every report: it must not block, and must not request a report. The
    /// conditions of the memory and of a listener without TLS are part of reports only if they have a sentence.
    pub fn add(&self, name: &str, subject: Subject, state: impl Fn() -> ConditionState + Send + Sync + 'static) {
        let condition = Condition { name: name.to_owned(), subject, state: Box::new(state) };
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).push(condition);
    }

    /// The current state of all conditions.
    pub fn report(&self) -> ReadinessReport {
        self.report_of(ReportScope::All).unwrap_or(ReadinessReport { ready: false, conditions: Vec::new() })
    }

    /// The current state of all conditions, those that have nothing to say included.
    pub fn full_report(&self) -> ReadinessReport {
        let found = self.states();
        let ready = is_ready(&found);
        ReadinessReport { ready, conditions: found.into_iter().map(|(_, report)| report).collect() }
    }

    /// The current state of the conditions in `scope`. `None` if there is no such listener or upstream.
    pub fn report_of(&self, scope: ReportScope<'_>) -> Option<ReadinessReport> {
        let mut found = self.states();
        let ready = match scope {
            ReportScope::All => is_ready(&found),
            ReportScope::Listener(listener) => {
                let is_named =
                    |subject: &Subject| matches!(subject, Subject::Listener { name, .. } if name == listener);
                let upstream = found.iter().find_map(|(subject, _)| match subject {
                    Subject::Listener { name, upstream, .. } if name == listener => Some(upstream.clone()),
                    _ => None,
                })?;
                found.retain(|(subject, _)| {
                    subject.is_process() || *subject == Subject::Upstream(upstream.clone()) || is_named(subject)
                });
                found.iter().all(|(_, report)| report.ok)
            }
            ReportScope::Upstream(upstream) => {
                let subject = Subject::Upstream(upstream.to_owned());
                found.iter().find(|(found, _)| *found == subject)?;
                found.retain(|(found, _)| found.is_process() || *found == subject);
                found.iter().all(|(_, report)| report.ok)
            }
        };
        // Memory and a plaintext listener have nothing to say as long as they work.
        let is_shown = |subject: &Subject, report: &ConditionReport| {
            !matches!(subject, Subject::Memory | Subject::Listener { has_tls: false, .. }) || !report.is_silent()
        };
        let conditions =
            found.into_iter().filter(|(subject, report)| is_shown(subject, report)).map(|(_, report)| report).collect();
        Some(ReadinessReport { ready, conditions })
    }

    /// All conditions with their subjects; `serving` first.
    fn states(&self) -> Vec<(Subject, ConditionReport)> {
        let serving = match self.drain.stage() {
            Stage::Serving => ConditionState::Holds(String::new()),
            Stage::Leaving => ConditionState::Fails(
                "shutting down: connections are still accepted; the drain begins after shutdown.delay, or when all \
                 clients have left"
                    .to_owned(),
            ),
            Stage::Draining => ConditionState::Fails(
                "draining: commands in flight finish, new connections are not accepted".to_owned(),
            ),
            Stage::Stopped => ConditionState::Fails("stopped".to_owned()),
        };
        let mut found = vec![(Subject::Process, ConditionReport::new("serving", serving))];
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        let report = |condition: &Condition| {
            (condition.subject.clone(), ConditionReport::new(&condition.name, (condition.state)()))
        };
        found.extend(conditions.iter().map(report));
        found
    }
}

/// Whether the process is ready: see the module.
fn is_ready(found: &[(Subject, ConditionReport)]) -> bool {
    let holds = |subject: &Subject| found.iter().filter(|(found, _)| found == subject).all(|(_, report)| report.ok);
    let listeners: Vec<_> = found
        .iter()
        .filter(|(subject, _)| matches!(subject, Subject::Listener { .. }))
        .map(|(subject, _)| subject)
        .collect();
    let serves = |listener: &&Subject| match listener {
        Subject::Listener { upstream, .. } => holds(listener) && holds(&Subject::Upstream(upstream.clone())),
        _ => false,
    };
    // Without listeners, everything has to hold.
    let can_serve =
        if listeners.is_empty() { found.iter().all(|(_, report)| report.ok) } else { listeners.iter().any(serves) };
    holds(&Subject::Process) && holds(&Subject::Memory) && can_serve
}

impl Subject {
    /// Whether it concerns all listeners and upstreams.
    fn is_process(&self) -> bool {
        matches!(self, Self::Process | Self::Memory)
    }
}

impl ConditionReport {
    /// Whether there is nothing to say.
    fn is_silent(&self) -> bool {
        self.ok && !self.warning && self.detail.is_empty()
    }

    fn new(name: &str, state: ConditionState) -> Self {
        let (ok, warning, detail) = match state {
            ConditionState::Holds(detail) => (true, false, detail),
            ConditionState::Warns(detail) => (true, true, detail),
            ConditionState::Fails(detail) => (false, false, detail),
        };
        Self { name: name.to_owned(), ok, warning, detail }
    }
}

impl ReadinessReport {
    /// The same on one line, without control characters and conditions that have nothing to say; failures come first,
    /// then warnings. At most `SUMMARY_BYTES_MAX` bytes.
    pub fn summary(&self) -> String {
        let mut line = String::from(if self.ready { "ready" } else { "not ready" });
        let rank = |condition: &ConditionReport| (condition.ok, !condition.warning);
        let mut conditions: Vec<_> = self.conditions.iter().filter(|condition| !condition.is_silent()).collect();
        conditions.sort_by_key(|condition| rank(condition));
        for condition in conditions {
            let mark = match condition {
                ConditionReport { ok: false, .. } => "FAILED ",
                ConditionReport { warning: true, .. } => "WARN ",
                _ => "",
            };
            let separator = if condition.detail.is_empty() { "" } else { ": " };
            let _ = write!(line, "; {mark}{}{separator}{}", condition.name, condition.detail);
        }
        line.truncate(line.floor_char_boundary(SUMMARY_BYTES_MAX));
        line.replace(char::is_control, " ")
    }
}

impl fmt::Display for ReadinessReport {
    /// One line for the result and one for each condition. Control characters are replaced with spaces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.ready { "ready" } else { "not ready" })?;
        for condition in &self.conditions {
            let mark = match condition {
                ConditionReport { ok: false, .. } => "FAILED",
                ConditionReport { warning: true, .. } => "WARN  ",
                _ => "ok    ",
            };
            let separator = if condition.detail.is_empty() { "" } else { ": " };
            let line = format!("{mark} {}{separator}{}", condition.name, condition.detail);
            write!(f, "\n{}", line.replace(char::is_control, " "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::drain::Drain;

    fn check(readiness: &Readiness, ready: bool, conditions: &[(&str, bool, bool, &str)]) {
        let report = readiness.report();
        let found: Vec<_> =
            report.conditions.iter().map(|c| (c.name.as_str(), c.ok, c.warning, c.detail.as_str())).collect();
        assert_eq!((report.ready, found.as_slice()), (ready, conditions));
    }

    #[test]
    fn every_condition_must_hold() {
        let readiness = Readiness::new(Drain::new().watch());
        check(&readiness, true, &[("serving", true, false, "")]);

        let orders = Arc::new(Mutex::new(ConditionState::Holds("mongod 6.0.5, standalone".to_owned())));
        let asked = Arc::clone(&orders);
        let upstream = |name: &str| Subject::Upstream(name.to_owned());
        readiness.add("upstream orders", upstream("orders"), move || asked.lock().unwrap().clone());
        let refused = || ConditionState::Fails("connection refused".to_owned());
        readiness.add("upstream stock", upstream("stock"), refused);
        check(
            &readiness,
            false,
            &[
                ("serving", true, false, ""),
                ("upstream orders", true, false, "mongod 6.0.5, standalone"),
                ("upstream stock", false, false, "connection refused"),
            ],
        );

        *orders.lock().unwrap() = ConditionState::Fails("gone".to_owned());
        assert_eq!(readiness.clone().report().conditions[1].detail, "gone");
    }

    #[test]
    fn one_listener_that_can_serve_is_enough() {
        let readiness = Readiness::new(Drain::new().watch());
        let fails = Arc::new(Mutex::new(Vec::<&str>::new()));
        let state = |name: &'static str| {
            let fails = Arc::clone(&fails);
            move || {
                let is_broken = fails.lock().unwrap().contains(&name);
                if is_broken {
                    ConditionState::Fails("broken".to_owned())
                } else {
                    ConditionState::Holds(String::new())
                }
            }
        };
        for name in ["orders", "stock"] {
            readiness.add(&format!("upstream {name}"), Subject::Upstream(name.to_owned()), state(name));
        }
        let listener = |name: &str, upstream: &str| Subject::Listener {
            name: name.to_owned(),
            upstream: upstream.to_owned(),
            has_tls: false,
        };
        readiness.add("listener a", listener("a", "orders"), state("a"));
        readiness.add("listener b", listener("b", "stock"), state("b"));
        let ready = |failing: &[&'static str]| {
            *fails.lock().unwrap() = failing.to_vec();
            let of = |scope| readiness.report_of(scope).map(|report| report.ready);
            let scopes = [ReportScope::Listener("a"), ReportScope::Listener("b"), ReportScope::Upstream("stock")];
            (of(ReportScope::All).unwrap(), scopes.map(|scope| of(scope).unwrap()))
        };
        assert_eq!(ready(&[]), (true, [true, true, true]));
        assert_eq!(ready(&["orders"]), (true, [false, true, true]));
        assert_eq!(ready(&["a"]), (true, [false, true, true]));
        assert_eq!(ready(&["orders", "b"]), (false, [false, false, true]));
        assert_eq!(ready(&["orders", "stock"]), (false, [false, false, false]));
        assert_eq!(readiness.report_of(ReportScope::Listener("orders")), None);
        assert_eq!(readiness.report_of(ReportScope::Upstream("a")), None);
        let names = |scope| {
            let report = readiness.report_of(scope).unwrap();
            report.conditions.into_iter().map(|condition| condition.name).collect::<Vec<_>>()
        };
        assert_eq!(names(ReportScope::Listener("a")), ["serving", "upstream orders"]);
        assert_eq!(names(ReportScope::All), ["serving", "upstream orders", "upstream stock"]);
    }

    #[test]
    fn memory_is_reported_only_when_there_is_something_to_say() {
        let readiness = Readiness::new(Drain::new().watch());
        let memory = Arc::new(Mutex::new(ConditionState::Holds(String::new())));
        let asked = Arc::clone(&memory);
        readiness.add("memory", Subject::Memory, move || asked.lock().unwrap().clone());
        readiness
            .add("upstream orders", Subject::Upstream("orders".to_owned()), || ConditionState::Holds(String::new()));
        check(&readiness, true, &[("serving", true, false, ""), ("upstream orders", true, false, "")]);
        *memory.lock().unwrap() = ConditionState::Fails("nearly used up".to_owned());
        let conditions = [
            ("serving", true, false, ""),
            ("memory", false, false, "nearly used up"),
            ("upstream orders", true, false, ""),
        ];
        check(&readiness, false, &conditions);
        assert!(!readiness.report_of(ReportScope::Upstream("orders")).unwrap().ready);
    }

    #[test]
    fn a_condition_with_a_warning_holds() {
        let readiness = Readiness::new(Drain::new().watch());
        readiness.add("upstream orders", Subject::Process, || {
            ConditionState::Warns("an old certificate is in use".to_owned())
        });
        check(
            &readiness,
            true,
            &[("serving", true, false, ""), ("upstream orders", true, true, "an old certificate is in use")],
        );
        let text = readiness.report().to_string();
        assert_eq!(text, "ready\nok     serving\nWARN   upstream orders: an old certificate is in use");
    }

    #[test]
    fn the_report_of_an_older_gateway_can_be_parsed() {
        let older = r#"{"ready": true, "conditions": [{"name": "serving", "ok": true, "detail": ""}]}"#;
        let report: ReadinessReport = serde_json::from_str(older).unwrap();
        assert_eq!(report, Readiness::new(Drain::new().watch()).report());
    }

    #[test]
    fn a_drain_ends_readiness() {
        let drain = Drain::new();
        let readiness = Readiness::new(drain.watch());
        drain.begin();
        let sentence = "draining: commands in flight finish, new connections are not accepted";
        check(&readiness, false, &[("serving", false, false, sentence)]);
    }

    #[test]
    fn a_summary_is_one_line_with_failures_first() {
        let readiness = Readiness::new(Drain::new().watch());
        assert_eq!(readiness.report().summary(), "ready");
        let states = [
            ("policy", ConditionState::Holds("1 rule\nin force".to_owned())),
            ("upstream stock", ConditionState::Warns("no primary".to_owned())),
            ("upstream orders", ConditionState::Fails("down".to_owned())),
            ("upstream silent", ConditionState::Holds(String::new())),
        ];
        for (name, state) in states {
            readiness.add(name, Subject::Process, move || state.clone());
        }
        let expected =
            "not ready; FAILED upstream orders: down; WARN upstream stock: no primary; policy: 1 rule in force";
        assert_eq!(readiness.report().summary(), expected);
        readiness.add("long", Subject::Process, || ConditionState::Fails("é".repeat(SUMMARY_BYTES_MAX)));
        let summary = readiness.report().summary();
        assert!((SUMMARY_BYTES_MAX - 1..=SUMMARY_BYTES_MAX).contains(&summary.len()), "{}", summary.len());
    }

    #[test]
    fn a_report_is_printed_as_one_line_per_condition() {
        let readiness = Readiness::new(Drain::new().watch());
        let forged = "certificate of CN=\nok     forged\u{1b}[2J is not trusted";
        readiness.add("upstream orders", Subject::Process, || ConditionState::Fails(forged.to_owned()));
        readiness.add("upstream stock", Subject::Process, || ConditionState::Holds(String::new()));
        assert_eq!(
            readiness.report().to_string(),
            "not ready\nok     serving\n\
             FAILED upstream orders: certificate of CN= ok     forged [2J is not trusted\n\
             ok     upstream stock"
        );
    }
}
