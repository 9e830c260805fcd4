//! The tasks that keep the keys of all issuers current.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::bundle_follower::BundleFollower;
use super::issuer_keys::IssuerKeys;
use super::key_report::KeyReport;
use super::load::{Loaded, load};
use super::messages::TOKEN_KEY_WATCH_FAILED;
use super::rules::{TokenIssuerProblem, token_issuers};
use super::validator::TokenValidator;
use crate::config::{KeySource, TokenIssuerConfig};
use crate::lifecycle::back_off::BackOff;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::file_watch::{FileWatch, Hints};
use crate::lifecycle::tasks::Tasks;
use crate::telemetry::log_throttle::LogDecision;

/// How often an address is asked, unless its server wants it more often: issuers publish a new key long before they
/// sign with it. Up to a quarter less, so that gateways that start together do not ask together.
const URL_INTERVAL: Duration = Duration::from_mins(5);

/// How often a server can make the gateway ask at most.
const URL_INTERVAL_MIN: Duration = Duration::from_secs(10);

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
            let (report, drain) = (KeyReport::new(Arc::clone(keys)), drain.clone());
            let follow: Pin<Box<dyn Future<Output = ()> + Send>> = match keys.source() {
                KeySource::File(_) => Box::pin(Follower::new(report, FILE_INTERVAL).run()),
                KeySource::Url { .. } => Box::pin(Follower::new(report, URL_INTERVAL).run()),
                KeySource::WorkloadApi { socket, trust_domain } => {
                    Box::pin(BundleFollower::new(report, socket, trust_domain).run())
                }
            };
            tasks.spawn("token keys", async move {
                tokio::select! {
                    () = follow => {}
                    () = drain.draining() => {}
                }
            });
        }
    }
}

/// Keeps the keys of one issuer current: those in a file, or at an address.
struct Follower {
    report: KeyReport,
    hints: Hints,
    /// Keeps the watch of a file.
    watch: Option<FileWatch>,
    interval: Duration,
}

impl Follower {
    fn new(report: KeyReport, interval: Duration) -> Self {
        Self { report, hints: Hints::new(), watch: None, interval }
    }

    async fn run(mut self) {
        let mut retries = BackOff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            let pause = match self.attempt().await {
                Attempt::Loaded { max_age } => {
                    retries.reset();
                    regular_pause(self.interval, max_age)
                }
                Attempt::Failed => retries.next_pause(),
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.report.keys().requested() => {}
                () = self.hints.next() => {}
            }
        }
    }

    /// Loads the keys.
    async fn attempt(&mut self) -> Attempt {
        let keys = Arc::clone(self.report.keys());
        if let KeySource::File(file) = keys.source() {
            // Before the file is read, so that a change during the read is reported.
            self.watch_file(file.clone()).await;
        }
        match load(keys.source()).await {
            Ok(Loaded { keys, max_age }) => {
                self.report.loaded(keys);
                Attempt::Loaded { max_age }
            }
            Err(error) => {
                self.report.failed(&error);
                Attempt::Failed
            }
        }
    }

    async fn watch_file(&mut self, file: PathBuf) {
        let hints = self.hints.clone();
        match spawn_blocking(move || hints.watch(&[file])).await {
            Ok(Ok(watch)) => self.watch = Some(watch),
            Ok(Err(error)) => {
                self.watch = None;
                if let LogDecision::Log { suppressed } = self.report.note(TOKEN_KEY_WATCH_FAILED) {
                    let remedy = "raise fs.inotify.max_user_instances, and let mongate read the directory";
                    let issuer = self.report.keys().label();
                    tracing::warn!(issuer, %error, remedy, suppressed, "{TOKEN_KEY_WATCH_FAILED}");
                }
            }
            Err(_) => {}
        }
    }
}

/// How an attempt to load the keys has ended.
enum Attempt {
    /// With keys, which their server wants to be used for this time.
    Loaded { max_age: Option<Duration> },
    /// Without keys.
    Failed,
}

/// How long keys are used before the source is asked again: `interval`, or less if the server wants that.
fn regular_pause(interval: Duration, max_age: Option<Duration>) -> Duration {
    let wanted = max_age.map_or(interval, |max_age| max_age.clamp(URL_INTERVAL_MIN, interval));
    BackOff::new(wanted, wanted).next_pause().max(URL_INTERVAL_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_can_shorten_the_interval_within_limits() {
        let seconds = Duration::from_secs;
        for (max_age, longest) in [
            (None, 300),
            (Some(0), 10),
            (Some(5), 10),
            (Some(10), 10),
            (Some(60), 60),
            (Some(299), 299),
            (Some(3600), 300),
            (Some(u64::MAX), 300),
        ] {
            for _ in 0..20 {
                let pause = regular_pause(URL_INTERVAL, max_age.map(seconds));
                let shortest = (seconds(longest) * 3 / 4).max(URL_INTERVAL_MIN);
                assert!((shortest..=seconds(longest)).contains(&pause), "{max_age:?}: {pause:?}");
            }
        }
    }
}
