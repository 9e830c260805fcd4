//! The metrics recorder of the process, and its output for Prometheus.

use metrics::gauge;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::families::{
    BUILD, COMMAND_DURATION, COMMAND_SECONDS, FAMILIES, FamilyKind, HANDSHAKE_SECONDS, POOL_WAIT,
    UPSTREAM_HANDSHAKE_DURATION, WAIT_SECONDS,
};

/// Access to everything that was recorded.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

/// Why the metrics recorder could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A process can have only one recorder.
    #[error("another metrics recorder is already installed")]
    Taken,
    /// The exporter did not accept the histogram buckets.
    #[error("cannot set up the metrics recorder")]
    Setup(#[from] BuildError),
}

impl Metrics {
    /// Installs the recorder of the process. Handles that were looked up before record nothing.
    pub fn install() -> Result<Self, InstallError> {
        let recorder = prometheus()?.build_recorder();
        let installed = Self { handle: recorder.handle() };
        metrics::set_global_recorder(recorder).map_err(|_| InstallError::Taken)?;
        describe();
        Ok(installed)
    }

    /// The metrics of a recorder that is not installed, for tests of code that renders metrics.
    #[cfg(test)]
    pub(crate) fn not_installed() -> Self {
        let recorder = prometheus().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, describe);
        Self { handle: recorder.handle() }
    }

    /// Renders all series in the Prometheus text format, version 0.0.4.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Moves recorded durations into their buckets.
    ///
    /// Each recorded duration takes 16 bytes until then. Call this every few seconds, or memory use grows with the
    /// traffic between two scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

pub(super) fn prometheus() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(COMMAND_DURATION.to_owned()), &COMMAND_SECONDS)?
        .set_buckets_for_metric(Matcher::Full(UPSTREAM_HANDSHAKE_DURATION.to_owned()), &HANDSHAKE_SECONDS)?
        .set_buckets_for_metric(Matcher::Full(POOL_WAIT.to_owned()), &WAIT_SECONDS)
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
