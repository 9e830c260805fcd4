//! The recorder of the whole process, and its text form for Prometheus.

use metrics::gauge;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::families::{
    BUILD, COMMAND_DURATION, COMMAND_SECONDS, FAMILIES, FamilyKind, HANDSHAKE_SECONDS, UPSTREAM_HANDSHAKE_DURATION,
};

/// What was recorded, readable.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Only one recorder can be installed in a process.
    #[error("another metrics recorder is already installed")]
    Taken,
    /// The buckets above were not accepted.
    #[error("cannot set up the metrics recorder")]
    Setup(#[from] BuildError),
}

impl Metrics {
    /// Installs the recorder for the whole process; handles made before that record nothing.
    pub fn install() -> Result<Self, InstallError> {
        let recorder = prometheus()?.build_recorder();
        let installed = Self { handle: recorder.handle() };
        metrics::set_global_recorder(recorder).map_err(|_| InstallError::Taken)?;
        describe();
        Ok(installed)
    }

    /// The metrics of a recorder that nobody has installed, for tests of whoever shows them.
    #[cfg(test)]
    pub(crate) fn of_no_recorder() -> Self {
        let recorder = prometheus().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, describe);
        Self { handle: recorder.handle() }
    }

    /// All series in Prometheus's text form, version 0.0.4.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds recorded durations into their buckets.
    ///
    /// Until then each keeps 16 bytes; call it every few seconds, or memory grows with the traffic between scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

pub(super) fn prometheus() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(COMMAND_DURATION.to_owned()), &COMMAND_SECONDS)?
        .set_buckets_for_metric(Matcher::Full(UPSTREAM_HANDSHAKE_DURATION.to_owned()), &HANDSHAKE_SECONDS)
}

pub(super) fn describe() {
    for family in FAMILIES {
        match family.kind {
            FamilyKind::Counter => metrics::describe_counter!(family.name, family.unit, family.help),
            FamilyKind::Gauge => metrics::describe_gauge!(family.name, family.unit, family.help),
            FamilyKind::Histogram => metrics::describe_histogram!(family.name, family.unit, family.help),
        }
    }
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}
