//! Readiness: a list of named conditions. The process is ready for traffic while all of them hold.
//!
//! The state of a condition is not stored here. Each report asks the owner of each condition for it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::drain::{DrainWatch, Stage};

/// The conditions of the process. Clones share the same conditions.
#[derive(Clone)]
pub struct Readiness {
    drain: DrainWatch,
    conditions: Arc<Mutex<Vec<Condition>>>,
}

struct Condition {
    name: String,
    state: Box<dyn Fn() -> ConditionState + Send + Sync>,
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
    /// Whether every condition holds.
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

    /// Adds a condition. `state` is called for every report: it must not block, and must not request a report.
    pub fn add(&self, name: &str, state: impl Fn() -> ConditionState + Send + Sync + 'static) {
        let condition = Condition { name: name.to_owned(), state: Box::new(state) };
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).push(condition);
    }

    /// The current state of all conditions.
    pub fn report(&self) -> ReadinessReport {
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
        let mut reports = vec![ConditionReport::new("serving", serving)];
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        reports.extend(conditions.iter().map(|condition| ConditionReport::new(&condition.name, (condition.state)())));
        ReadinessReport { ready: reports.iter().all(|report| report.ok), conditions: reports }
    }
}

impl ConditionReport {
    fn new(name: &str, state: ConditionState) -> Self {
        let (ok, warning, detail) = match state {
            ConditionState::Holds(detail) => (true, false, detail),
            ConditionState::Warns(detail) => (true, true, detail),
            ConditionState::Fails(detail) => (false, false, detail),
        };
        Self { name: name.to_owned(), ok, warning, detail }
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
        readiness.add("upstream orders", move || asked.lock().unwrap().clone());
        readiness.add("upstream stock", || ConditionState::Fails("connection refused".to_owned()));
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
    fn a_condition_with_a_warning_holds() {
        let readiness = Readiness::new(Drain::new().watch());
        readiness.add("upstream orders", || ConditionState::Warns("an old certificate is in use".to_owned()));
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
    fn a_report_is_printed_as_one_line_per_condition() {
        let readiness = Readiness::new(Drain::new().watch());
        let forged = "certificate of CN=\nok     forged\u{1b}[2J is not trusted";
        readiness.add("upstream orders", || ConditionState::Fails(forged.to_owned()));
        readiness.add("upstream stock", || ConditionState::Holds(String::new()));
        assert_eq!(
            readiness.report().to_string(),
            "not ready\nok     serving\n\
             FAILED upstream orders: certificate of CN= ok     forged [2J is not trusted\n\
             ok     upstream stock"
        );
    }
}
