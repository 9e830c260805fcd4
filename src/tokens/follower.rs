//! The tasks that keep the keys of all issuers current.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::issuer_keys::IssuerKeys;
use super::load::load;
use super::messages::{TOKEN_KEY_LEFT_OUT, TOKEN_KEY_WATCH_FAILED, TOKEN_KEYS_FAILED, TOKEN_KEYS_LOADED};
use super::rules::{TokenIssuerProblem, token_issuers};
use super::validator::TokenValidator;
use crate::config::{KeySource, TokenIssuerConfig};
use crate::identity::token::KeySet;
use crate::lifecycle::back_off::BackOff;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::file_watch::{FileWatch, Hints};
use crate::lifecycle::tasks::Tasks;
use crate::telemetry::log_throttle::{LineBudget, LogDecision, LogSubject, LogThrottle};
use crate::telemetry::metrics::set_jwks_keys;

/// How often an address is asked: issuers publish a new key long before they sign with it. Up to a quarter less, so
/// that gateways that start together do not ask together.
const URL_INTERVAL: Duration = Duration::from_mins(5);

/// How often a file is read, although no change was reported: network file systems do not report all changes.
const FILE_INTERVAL: Duration = Duration::from_mins(1);

/// The pauses after attempts that failed.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_mins(1);

/// The keys of all issuers of the configuration.
#[derive(Debug)]
pub struct TokenKeys {
    issuers: Arc<[Arc<IssuerKeys>]>,
    validator: Arc<TokenValidator>,
}

impl TokenKeys {
    /// The issuers of the configuration, whose keys are loaded by [`TokenKeys::start`]. `None` if there is none.
    pub fn new(sections: &[TokenIssuerConfig]) -> Result<Option<Self>, Vec<TokenIssuerProblem>> {
        let rules = token_issuers(sections)?;
        if sections.is_empty() {
            return Ok(None);
        }
        let keys = |section: &TokenIssuerConfig| Arc::new(IssuerKeys::new(section.label(), section.keys.clone()));
        let issuers: Arc<[_]> = sections.iter().map(keys).collect();
        let validator = Arc::new(TokenValidator::new(rules, Arc::clone(&issuers)));
        Ok(Some(Self { issuers, validator }))
    }

    /// Validates tokens with these keys.
    pub fn validator(&self) -> &Arc<TokenValidator> {
        &self.validator
    }

    /// The keys of each issuer, in the order of the configuration.
    pub fn issuers(&self) -> &[Arc<IssuerKeys>] {
        &self.issuers
    }

    /// Starts one task for each issuer, which runs until the drain begins: connections after that bring no new token
    /// that would need new keys.
    pub fn start(&self, tasks: &Tasks, drain: &DrainWatch) {
        for keys in self.issuers.iter() {
            let (follower, drain) = (Follower::new(Arc::clone(keys)), drain.clone());
            tasks.spawn("token keys", async move {
                tokio::select! {
                    () = follower.run() => {}
                    () = drain.draining() => {}
                }
            });
        }
    }
}

/// Keeps the keys of one issuer current.
struct Follower {
    keys: Arc<IssuerKeys>,
    hints: Hints,
    /// Keeps the watch of a file.
    watch: Option<FileWatch>,
    repeats: LogThrottle,
    /// The keys that were logged last.
    logged: Vec<String>,
    has_failed: bool,
}

impl Follower {
    fn new(keys: Arc<IssuerKeys>) -> Self {
        let repeats = LogThrottle::new(LogSubject::Process);
        Self { keys, hints: Hints::new(), watch: None, repeats, logged: Vec::new(), has_failed: false }
    }

    async fn run(mut self) {
        let interval = match self.keys.source() {
            KeySource::File(_) => FILE_INTERVAL,
            KeySource::Url { .. } => URL_INTERVAL,
        };
        let mut regular = BackOff::new(interval, interval);
        let mut retries = BackOff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            let pause = if self.attempt().await {
                retries.reset();
                regular.next_pause()
            } else {
                retries.next_pause()
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.keys.requested() => {}
                () = self.hints.next() => {}
            }
        }
    }

    /// Loads the keys. Returns whether that succeeded.
    async fn attempt(&mut self) -> bool {
        if let KeySource::File(file) = self.keys.source() {
            // Before the file is read, so that a change during the read is reported.
            self.watch_file(file.clone()).await;
        }
        match load(self.keys.source()).await {
            Ok(keys) => {
                self.log_loaded(&keys);
                set_jwks_keys(self.keys.label(), keys.len());
                self.keys.replace(keys);
                true
            }
            Err(error) => {
                self.has_failed = true;
                self.keys.fail(format!("{error}; {}", error.remedy()));
                let decision = self.repeats.note(TOKEN_KEYS_FAILED, self.keys.label(), LineBudget::Failures);
                if let LogDecision::Log { suppressed } = decision {
                    let in_use = if self.keys.current().is_some() { "the last keys" } else { "none" };
                    let (issuer, remedy) = (self.keys.label(), error.remedy());
                    tracing::warn!(issuer, %error, remedy, in_use, suppressed, "{TOKEN_KEYS_FAILED}");
                }
                false
            }
        }
    }

    async fn watch_file(&mut self, file: PathBuf) {
        let hints = self.hints.clone();
        match spawn_blocking(move || hints.watch(&[file])).await {
            Ok(Ok(watch)) => self.watch = Some(watch),
            Ok(Err(error)) => {
                self.watch = None;
                let decision = self.repeats.note(TOKEN_KEY_WATCH_FAILED, self.keys.label(), LineBudget::Failures);
                if let LogDecision::Log { suppressed } = decision {
                    let remedy = "raise fs.inotify.max_user_instances, and let mongate read the directory";
                    tracing::warn!(issuer = self.keys.label(), %error, remedy, suppressed, "{TOKEN_KEY_WATCH_FAILED}");
                }
            }
            Err(_) => {}
        }
    }

    /// One line for keys that have changed, and one after a failure.
    fn log_loaded(&mut self, keys: &KeySet) {
        let mut now = keys.descriptions();
        now.extend(keys.left_out().iter().map(ToString::to_string));
        if !std::mem::take(&mut self.has_failed) && now == self.logged {
            return;
        }
        let issuer = self.keys.label();
        tracing::info!(issuer, keys = shown(&keys.descriptions()), "{TOKEN_KEYS_LOADED}");
        if !keys.left_out().is_empty() && now != self.logged {
            let reasons: Vec<String> = keys.left_out().iter().map(ToString::to_string).collect();
            tracing::info!(issuer, left_out = shown(&reasons), "{TOKEN_KEY_LEFT_OUT}");
        }
        self.logged = now;
    }
}

/// At most eight items.
fn shown(items: &[String]) -> String {
    let mut text = items.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    if items.len() > 8 {
        let _ = write!(text, " and {} more", items.len() - 8);
    }
    text
}
