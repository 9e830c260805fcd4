//! Reloads the policy when the configuration file changes, while clients are connected.
//!
//! Only `[policy]` is used from a changed file. Other changes need a restart, and a log line names their keys. A file
//! that cannot be used as a whole leaves the previous policy in force.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::error::policy_problems;
use super::messages::{
    NO_POLICY_IN_FORCE, POLICY_IN_FORCE, POLICY_NO_LONGER_ENFORCED, POLICY_RELOAD_FAILED, POLICY_REMOVED,
    POLICY_UNCHANGED, POLICY_WARNING, RESTART_NO_LONGER_REQUIRED, RESTART_REQUIRED,
};
use crate::config::{Config, KeyValues, LoadedConfig};
use crate::connection::PolicyInForce;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::file_watch::FileWatch;
use crate::lifecycle::pending_restart::PendingRestart;
use crate::lifecycle::reload::{Reload, ReloadRequest, ReloadSchedule};
use crate::lifecycle::reload_status::ReloadStatus;
use crate::policy::{Policy, PolicyProblem};
use crate::telemetry::metrics::{ReloadMetrics, Reloaded};
use crate::tls::Fingerprint;

/// A file is used if it has not changed for this time: a file that is written halfway may be a valid policy without its
/// last rules.
const SETTLE_TIME: Duration = Duration::from_millis(300);

/// Additional time for a file with fewer rules than the policy in force: it may be written slowly, with the rules at
/// its end.
const FEWER_RULES_SETTLE_TIME: Duration = Duration::from_secs(3);

/// Compiles the policy of a configuration, and logs warnings about its keys.
pub(super) fn compile(config: &Config) -> Result<Option<Policy>, Vec<PolicyProblem>> {
    let Some(rules) = &config.policy else { return Ok(None) };
    let policy = Policy::compile(rules, SystemTime::now())?;
    for warning in config.warnings() {
        tracing::warn!(key = warning.key, warning = warning.sentence, "{POLICY_WARNING}");
    }
    Ok(Some(policy))
}

/// Reloads the policy from one configuration file.
pub(super) struct PolicyReloader {
    file: PathBuf,
    /// The configuration in use; only its policy changes.
    config: Config,
    /// The keys of the configuration in use.
    keys: KeyValues,
    in_force: Arc<PolicyInForce>,
    status: Arc<ReloadStatus>,
    metrics: ReloadMetrics,
    schedule: ReloadSchedule,
    /// Held until the next read.
    watch: Option<FileWatch>,
    /// The file as last read.
    known: Option<Fingerprint>,
    pending_restart: Arc<PendingRestart>,
}

impl PolicyReloader {
    pub(super) fn new(source: &LoadedConfig, in_force: &Arc<PolicyInForce>) -> Self {
        let LoadedConfig { config, keys, file } = source.clone();
        Self {
            file: std::path::absolute(&file).unwrap_or(file),
            config,
            keys,
            in_force: Arc::clone(in_force),
            status: Arc::default(),
            metrics: ReloadMetrics::new(Reloaded::Policy),
            schedule: ReloadSchedule::new(),
            watch: None,
            known: None,
            pending_restart: Arc::default(),
        }
    }

    /// The keys whose changes need a restart.
    pub(super) fn pending_restart(&self) -> Arc<PendingRestart> {
        Arc::clone(&self.pending_restart)
    }

    /// The results of reloads.
    pub(super) fn status(&self) -> Arc<ReloadStatus> {
        Arc::clone(&self.status)
    }

    /// Requests a reload.
    pub(super) fn request(&self) -> ReloadRequest {
        self.schedule.request()
    }

    /// Runs until the drain begins.
    pub(super) async fn run(mut self, drain: DrainWatch) {
        self.schedule.clone().follow(&mut self, drain).await;
    }

    /// Reads the file once it has settled; `None` if a thread for that failed. Returns the watch on the file.
    async fn read(&mut self, requested: bool) -> Option<FileWatch> {
        let (watch, mut fingerprint) = self.fingerprint().await?;
        if self.known == Some(fingerprint) && !requested {
            return watch;
        }
        let read = loop {
            sleep(SETTLE_TIME).await;
            let file = self.file.clone();
            let read = spawn_blocking(move || Config::load(Some(&file))).await.ok()?;
            let rules_in_use = rule_count(&self.config);
            if !requested && read.as_ref().is_ok_and(|loaded| rule_count(&loaded.config) < rules_in_use) {
                sleep(FEWER_RULES_SETTLE_TIME).await;
            }
            // The contents count only if the file is the same before and after reading.
            let (_, after) = self.fingerprint().await?;
            if after == fingerprint {
                break read;
            }
            fingerprint = after;
        };
        let is_first = self.known.replace(fingerprint).is_none();
        match read {
            Ok(loaded) => {
                self.note_pending_restart(&loaded);
                self.take(loaded.config, requested, is_first);
            }
            Err(error) => self.fail(&error.to_string()),
        }
        watch
    }

    /// Watches the file, then computes its fingerprint.
    async fn fingerprint(&self) -> Option<(Option<FileWatch>, Fingerprint)> {
        let (hints, file) = (self.schedule.hints().clone(), self.file.clone());
        let read = spawn_blocking(move || {
            // Before the file is read, so that a change during the read is reported.
            let watch = hints.watch(std::slice::from_ref(&file)).ok();
            (watch, Fingerprint::of(&[file]))
        });
        read.await.ok()
    }

    /// Names the keys outside of `[policy]` that the file changes. A file that only
    /// has other forms of the same values changes none.
    fn note_pending_restart(&self, loaded: &LoadedConfig) {
        let others = Config { policy: self.config.policy.clone(), ..loaded.config.clone() };
        let mut keys = if others == self.config { Vec::new() } else { self.keys.changed(&loaded.keys) };
        keys.retain(|key| !key.starts_with("policy."));
        let (file, shown) = (self.file.display(), shown(&keys));
        match (keys.is_empty(), self.pending_restart.replace(keys)) {
            (_, false) => {}
            (true, true) => tracing::info!(%file, "{RESTART_NO_LONGER_REQUIRED}"),
            (false, true) => tracing::warn!(
                %file,
                keys = shown,
                remedy = "restart the gateway to use them; changes of [policy] are in force without a restart",
                "{RESTART_REQUIRED}"
            ),
        }
    }

    fn take(&mut self, config: Config, requested: bool, is_first: bool) {
        if config.policy == self.config.policy {
            self.status.record_unchanged();
            if requested && !is_first {
                tracing::info!(file = %self.file.display(), "{POLICY_UNCHANGED}");
            }
            return;
        }
        match compile(&config) {
            Ok(compiled) => {
                self.warn_of_removal(compiled.as_ref());
                self.config.policy = config.policy;
                self.in_force.replace(compiled);
                self.status.record_success();
                self.metrics.count_ok();
                log_policy(&self.in_force);
            }
            Err(problems) => self.fail(&policy_problems(&problems)),
        }
    }

    /// Logs that the new policy denies nothing, while the previous one can deny commands: perhaps by mistake.
    fn warn_of_removal(&self, new: Option<&Policy>) {
        if !self.in_force.current().is_some_and(|loaded| loaded.policy.enforces()) {
            return;
        }
        let (file, remedy) = (self.file.display(), "add the rules again if this is not intended");
        match new {
            Some(policy) if policy.enforces() => {}
            Some(_) => tracing::warn!(%file, remedy, "{POLICY_NO_LONGER_ENFORCED}"),
            None => tracing::warn!(%file, remedy, "{POLICY_REMOVED}"),
        }
    }

    fn fail(&self, sentence: &str) {
        self.status.record_failure(sentence);
        self.metrics.count_failed();
        tracing::error!(
            file = %self.file.display(),
            error = sentence,
            remedy = "correct the file; `mongate check --offline` reports the same errors",
            "{POLICY_RELOAD_FAILED}"
        );
    }
}

impl Reload for PolicyReloader {
    async fn reload(&mut self, requested: bool) -> Option<Instant> {
        self.watch = None;
        self.watch = self.read(requested).await;
        None
    }
}

/// The first keys of many.
fn shown(keys: &[String]) -> String {
    const SHOWN_MAX: usize = 20;
    let first = keys.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match keys.len().checked_sub(SHOWN_MAX) {
        None | Some(0) => first,
        Some(more) => format!("{first} and {more} more"),
    }
}

fn rule_count(config: &Config) -> usize {
    config.policy.as_ref().map_or(0, |policy| policy.rules.len())
}

/// Logs which policy is in force.
pub(super) fn log_facts(policy: &Policy) {
    let (rules, enforced) = (policy.rule_names().len(), policy.enforces());
    let expired = Some(policy.expired_rules()).filter(|expired| *expired > 0);
    tracing::info!(rules, expired, enforced, fingerprint = policy.fingerprint(), "{POLICY_IN_FORCE}");
}

/// Logs which policy is in force, and later the warnings about its rules: it takes seconds to compare ten thousand
/// rules with each other, and clients must not wait for that.
pub(super) fn log_policy(in_force: &PolicyInForce) {
    let Some(loaded) = in_force.current() else {
        tracing::info!("{NO_POLICY_IN_FORCE}");
        return;
    };
    log_facts(&loaded.policy);
    spawn_blocking(move || {
        for PolicyProblem { key, sentence } in loaded.policy.warnings() {
            tracing::warn!(key, warning = sentence, "{POLICY_WARNING}");
        }
    });
}
