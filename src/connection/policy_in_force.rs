//! The policy in force, which changes when the configuration file is reloaded.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

use crate::policy::Policy;
use crate::relay::HoldBudget;

/// The policy in force; there is one for the whole gateway.
pub struct PolicyInForce {
    version: AtomicU64,
    current: ArcSwapOption<LoadedPolicy>,
    /// Held while the policy is replaced: the end of a rule must not bring back a policy that a reload has replaced.
    replacing: Mutex<()>,
    has_had_policy: AtomicBool,
    hold_budget: HoldBudget,
}

/// A policy, and when it was loaded.
#[derive(Debug)]
pub struct LoadedPolicy {
    /// The compiled policy.
    pub policy: Arc<Policy>,
    /// When it came into force.
    pub since: SystemTime,
}

impl PolicyInForce {
    /// Starts with `policy`. Messages that are held for it share `hold_budget`.
    pub fn new(policy: Option<Policy>, hold_budget: HoldBudget) -> Self {
        let this = Self {
            version: AtomicU64::default(),
            current: ArcSwapOption::default(),
            replacing: Mutex::default(),
            has_had_policy: AtomicBool::default(),
            hold_budget,
        };
        this.replace(policy);
        this
    }

    /// Puts `policy` in force. Open connections use it from their next message on.
    pub fn replace(&self, policy: Option<Policy>) {
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        self.store(policy);
    }

    /// Ends the rules that have expired at `now`, and brings back rules if the clock was set back. Open connections
    /// follow from their next message on. Returns the policy before and the new one; `None` if there is no change.
    pub fn expire_rules(&self, now: SystemTime) -> Option<[Arc<LoadedPolicy>; 2]> {
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current()?;
        self.store(Some(before.policy.recompiled(now)?));
        Some([before, self.current()?])
    }

    fn store(&self, policy: Option<Policy>) {
        let loaded = policy.map(|policy| LoadedPolicy { policy: Arc::new(policy), since: SystemTime::now() });
        if loaded.is_some() {
            self.has_had_policy.store(true, Ordering::Release);
        }
        self.current.store(loaded.map(Arc::new));
        // Comes second: a reader of the new version must find the new policy, or a newer one.
        self.version.fetch_add(1, Ordering::Release);
    }

    /// `None` without a policy: every command is allowed.
    pub fn current(&self) -> Option<Arc<LoadedPolicy>> {
        self.current.load_full()
    }

    /// Whether there is a policy or was one since the gateway started.
    pub(super) fn has_had_policy(&self) -> bool {
        self.has_had_policy.load(Ordering::Acquire)
    }

    /// Changes with each [`replace`](Self::replace).
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The budget for command bodies that are held until the policy has decided about them.
    pub fn hold_budget(&self) -> &HoldBudget {
        &self.hold_budget
    }
}
