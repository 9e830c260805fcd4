//! How the policy follows the configuration file, under live traffic.
//!
//! Only `[policy]` is taken from a file that has changed; all other changes wait for a restart, and the log says so. All or
//! nothing: a file that cannot be used as a whole leaves the last good policy in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::certs::Reload;
use crate::config::Config;
use crate::connection::PolicyInForce;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::file_watch::{FileWatch, Hints};
use crate::lifecycle::reload_status::ReloadRecord;
use crate::policy::{Policy, PolicyProblem};
use crate::telemetry::metrics::ReloadMetrics;
use crate::tls::Fingerprint;

/// Network and overlay file systems tell of no change, or not of each.
const LOOK_INTERVAL: Duration = Duration::from_mins(1);

/// A file counts when it is the same after this time: half a file may be a valid policy, without its last rules.
const SETTLED: Duration = Duration::from_millis(300);

/// One that has lost rules counts when it is the same after so much longer: it may be a file that is written slowly, with
/// the rules at its end.
const LOSS_SETTLED: Duration = Duration::from_secs(3);

/// Compiles the policy of a configuration, and logs what is doubtful about its keys.
pub(super) fn compile(config: &Config) -> Result<Option<Policy>, Vec<PolicyProblem>> {
    let Some(rules) = &config.policy else { return Ok(None) };
    let policy = Policy::compile(rules)?;
    for warning in config.warnings() {
        tracing::warn!(key = warning.key, "policy: {}", warning.sentence);
    }
    Ok(Some(policy))
}

/// Follows one configuration file.
pub(super) struct PolicyFollower {
    file: PathBuf,
    /// As it is in use; of it, only the policy changes.
    config: Config,
    in_force: Arc<PolicyInForce>,
    record: Arc<ReloadRecord>,
    metrics: ReloadMetrics,
    asked: Reload,
    hints: Hints,
    known: Option<Fingerprint>,
    needs_restart: bool,
}

impl PolicyFollower {
    pub(super) fn new(file: &Path, config: &Config, in_force: &Arc<PolicyInForce>) -> Self {
        Self {
            file: std::path::absolute(file).unwrap_or_else(|_| file.to_owned()),
            config: config.clone(),
            in_force: Arc::clone(in_force),
            record: Arc::default(),
            metrics: ReloadMetrics::new(),
            asked: Reload::default(),
            hints: Hints::new(),
            known: None,
            needs_restart: false,
        }
    }

    /// What is known about reloading.
    pub(super) fn record(&self) -> Arc<ReloadRecord> {
        Arc::clone(&self.record)
    }

    /// The means to ask for a look at the file.
    pub(super) fn reload(&self) -> Reload {
        self.asked.clone()
    }

    /// Follows the file until the drain begins.
    pub(super) async fn run(mut self, drain: DrainWatch) {
        tokio::select! {
            () = self.follow() => {}
            () = drain.draining() => {}
        }
    }

    /// The first look catches what has changed since the start.
    async fn follow(&mut self) {
        let mut asked = false;
        loop {
            let _watch = self.look(asked).await;
            asked = tokio::select! {
                // Who asks wants an answer, also when something has changed in the same moment.
                biased;
                () = self.asked.asked() => true,
                () = self.hints.next() => false,
                () = sleep(LOOK_INTERVAL) => false,
            };
        }
    }

    /// Reads the file once it stands still. The watch is to be held until the next look.
    async fn look(&mut self, asked: bool) -> Option<FileWatch> {
        let (watch, mut fingerprint) = self.fingerprint().await?;
        if self.known == Some(fingerprint) && !asked {
            return watch;
        }
        let read = loop {
            sleep(SETTLED).await;
            let file = self.file.clone();
            let read = spawn_blocking(move || Config::load(Some(&file)).map(|loaded| loaded.config)).await.ok()?;
            if !asked && read.as_ref().is_ok_and(|config| rules(config) < rules(&self.config)) {
                sleep(LOSS_SETTLED).await;
            }
            // What was read counts only if the file is what it was before.
            let (_, again) = self.fingerprint().await?;
            if again == fingerprint {
                break read;
            }
            fingerprint = again;
        };
        let is_first = self.known.replace(fingerprint).is_none();
        match read {
            Ok(config) => self.take(config, asked, is_first),
            Err(error) => self.fail(&error.to_string()),
        }
        watch
    }

    /// Watches the way to the file and reads it.
    async fn fingerprint(&self) -> Option<(Option<FileWatch>, Fingerprint)> {
        let (hints, file) = (self.hints.clone(), self.file.clone());
        let read = spawn_blocking(move || {
            // Before the file is read: what changes meanwhile is a new hint.
            let watch = hints.watch(std::slice::from_ref(&file)).ok();
            (watch, Fingerprint::of(&[file]))
        });
        read.await.ok()
    }

    fn take(&mut self, config: Config, asked: bool, is_first: bool) {
        let others = Config { policy: self.config.policy.clone(), ..config.clone() };
        let is_told = std::mem::replace(&mut self.needs_restart, others != self.config);
        if self.needs_restart && !is_told {
            tracing::warn!(
                file = %self.file.display(),
                remedy = "restart the gateway for them; a changed [policy] is in force without",
                "the configuration file has changes outside of [policy]"
            );
        }
        if config.policy == self.config.policy {
            self.record.well();
            if asked && !is_first {
                tracing::info!(file = %self.file.display(), "the policy is unchanged");
            }
            return;
        }
        match compile(&config) {
            Ok(compiled) => {
                self.config.policy = config.policy;
                self.in_force.replace(compiled);
                self.record.renewed();
                self.metrics.count_ok();
                tell(&self.in_force);
            }
            Err(problems) => self.fail(&sentences(&problems)),
        }
    }

    fn fail(&self, sentence: &str) {
        self.record.failed(sentence);
        self.metrics.count_failed();
        tracing::error!(
            file = %self.file.display(),
            error = sentence,
            remedy = "correct the file (`mongate check --offline` shows the same); the last good policy stays in force",
            "the changed configuration file cannot be used"
        );
    }
}

fn rules(config: &Config) -> usize {
    config.policy.as_ref().map_or(0, |policy| policy.rules.len())
}

/// All problems in one text, a line each.
pub(super) fn sentences(problems: &[PolicyProblem]) -> String {
    let line = |problem: &PolicyProblem| format!("{} {}", problem.key, problem.sentence);
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Says which policy is in force now, and, when that is known, what is doubtful about its rules: comparing ten thousand with each
/// other takes seconds, and clients are not to wait for it.
pub(super) fn tell(in_force: &PolicyInForce) {
    if let Some(loaded) = in_force.current() {
        let policy = &loaded.policy;
        let (rules, enforced) = (policy.rule_names().len(), policy.enforces());
        tracing::info!(rules, enforced, fingerprint = policy.fingerprint(), "policy in force");
        spawn_blocking(move || {
            for PolicyProblem { key, sentence } in loaded.policy.warnings() {
                tracing::warn!(key, "policy: {sentence}");
            }
        });
    } else {
        tracing::info!("no policy in force: every command passes");
    }
}
