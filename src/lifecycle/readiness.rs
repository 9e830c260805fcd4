//! Whether the process should be sent traffic: named conditions, all of which must hold.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::drain::{DrainWatch, Stage};

/// The conditions of the process; clones are the same conditions.
#[derive(Clone)]
pub struct Readiness {
    drain: DrainWatch,
    conditions: Arc<Mutex<Vec<ConditionReport>>>,
}

/// One condition, in the hands of whoever knows about it. Stays part of the report when dropped.
pub struct Condition {
    conditions: Arc<Mutex<Vec<ConditionReport>>>,
    index: usize,
}

/// What holds and what does not; for people as text, for machines as JSON.
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
    /// Such as `upstream orders`.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// A sentence for the operator: what is wrong and what to do, or what is well. May be empty.
    pub detail: String,
}

impl Readiness {
    /// With one condition, `serving`, which holds until the drain begins.
    pub fn new(drain: DrainWatch) -> Self {
        Self { drain, conditions: Arc::default() }
    }

    /// Adds a condition that does not hold until it is said to.
    pub fn add(&self, name: &str) -> Condition {
        let mut conditions = locked(&self.conditions);
        conditions.push(ConditionReport { name: name.to_owned(), ok: false, detail: "not checked yet".to_owned() });
        Condition { conditions: Arc::clone(&self.conditions), index: conditions.len() - 1 }
    }

    /// All conditions as of now.
    pub fn report(&self) -> ReadinessReport {
        let (ok, detail) = match self.drain.stage() {
            Stage::Serving => (true, ""),
            Stage::Draining => (false, "draining: commands in flight finish, new connections are not taken"),
            Stage::Stopped => (false, "stopped"),
        };
        let serving = ConditionReport { name: "serving".to_owned(), ok, detail: detail.to_owned() };
        let conditions: Vec<_> = std::iter::once(serving).chain(locked(&self.conditions).iter().cloned()).collect();
        ReadinessReport { ready: conditions.iter().all(|condition| condition.ok), conditions }
    }
}

impl Condition {
    /// Says that it holds.
    pub fn hold(&self, detail: &str) {
        self.set(true, detail);
    }

    /// Says that it does not hold, and why.
    pub fn fail(&self, detail: &str) {
        self.set(false, detail);
    }

    fn set(&self, ok: bool, detail: &str) {
        if let Some(condition) = locked(&self.conditions).get_mut(self.index) {
            condition.ok = ok;
            detail.clone_into(&mut condition.detail);
        }
    }
}

impl fmt::Display for ReadinessReport {
    /// One line for the verdict and one for each condition; no control character of a detail gets through.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.ready { "ready" } else { "not ready" })?;
        for condition in &self.conditions {
            let mark = if condition.ok { "ok    " } else { "FAILED" };
            let separator = if condition.detail.is_empty() { "" } else { ": " };
            let line = format!("{mark} {}{separator}{}", condition.name, condition.detail);
            write!(f, "\n{}", line.replace(char::is_control, " "))?;
        }
        Ok(())
    }
}

/// A list that is only ever replaced field by field is whole even after a panic.
fn locked(conditions: &Mutex<Vec<ConditionReport>>) -> MutexGuard<'_, Vec<ConditionReport>> {
    conditions.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::drain::Drain;

    fn check(readiness: &Readiness, ready: bool, conditions: &[(&str, bool, &str)]) {
        let report = readiness.report();
        let found: Vec<_> = report.conditions.iter().map(|c| (c.name.as_str(), c.ok, c.detail.as_str())).collect();
        assert_eq!((report.ready, found.as_slice()), (ready, conditions));
    }

    #[test]
    fn every_condition_must_hold() {
        let readiness = Readiness::new(Drain::new().watch());
        check(&readiness, true, &[("serving", true, "")]);

        let orders = readiness.add("upstream orders");
        let stock = readiness.add("upstream stock");
        orders.hold("mongod 6.0.5, standalone");
        check(
            &readiness,
            false,
            &[
                ("serving", true, ""),
                ("upstream orders", true, "mongod 6.0.5, standalone"),
                ("upstream stock", false, "not checked yet"),
            ],
        );

        stock.hold("");
        assert!(readiness.report().ready);
        orders.fail("connection refused");
        assert!(!readiness.clone().report().ready);
    }

    #[test]
    fn a_drain_ends_readiness() {
        let drain = Drain::new();
        let readiness = Readiness::new(drain.watch());
        drain.begin();
        check(
            &readiness,
            false,
            &[("serving", false, "draining: commands in flight finish, new connections are not taken")],
        );
    }

    #[test]
    fn a_report_reads_as_one_line_per_condition() {
        let readiness = Readiness::new(Drain::new().watch());
        readiness.add("upstream orders").fail("certificate of CN=\nok     forged\u{1b}[2J is not trusted");
        readiness.add("upstream stock").hold("");
        assert_eq!(
            readiness.report().to_string(),
            "not ready\nok     serving\n\
             FAILED upstream orders: certificate of CN= ok     forged [2J is not trusted\n\
             ok     upstream stock"
        );
    }
}
