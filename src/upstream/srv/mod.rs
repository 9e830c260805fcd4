//! Seeds from DNS: what the SRV and TXT records of one name say about a replica set or a sharded cluster.
//!
//! Asks the name servers of this host afresh each time, so that a changed `/etc/resolv.conf` counts. Names are taken as
//! they are, without the search domains of the host: a seed has to lie in the domain of the name, which no other name
//! would. The addresses of the seeds are not looked up here.
//!
//! Spec: `source/initial-dns-seedlist-discovery`, and for `valid_for` `source/polling-srv-records-for-mongos-discovery`.

mod error;
mod records;
#[cfg(test)]
mod tests;

use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::time::Instant;

use crate::config::HostPort;

pub use error::{SrvError, SrvFailure};

use records::{SrvAnswer, SrvTarget};

/// What DNS says about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrvSeeds {
    /// In the order of the answer, each once, in lower case; never empty.
    pub members: Vec<HostPort>,
    /// `replicaSet` of the TXT record.
    pub replica_set: Option<String>,
    /// `loadBalanced` of the TXT record; then there is one member and no `replica_set`.
    pub load_balanced: bool,
    /// When to look again, where members may change without a word of their own: 1 min to 1 day.
    pub valid_for: Duration,
}

/// Looks up the seeds behind `name`, as `cluster.example.com`, by `deadline`.
///
/// Cancel safe.
pub async fn seeds(name: &str, deadline: Instant) -> Result<SrvSeeds, SrvError> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let looked_up = match resolver(deadline) {
        Ok(resolver) => look_up(&resolver, &name, deadline).await,
        Err(cause) => Err(SrvFailure::NoResolver { cause }),
    };
    looked_up.map_err(|failure| SrvError { name, failure })
}

/// Asks the name servers of this host, and tries each again while there is time.
fn resolver(deadline: Instant) -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    set_times(builder.options_mut(), deadline);
    builder.build()
}

/// A datagram that is lost must not cost all the time that there is.
fn set_times(options: &mut ResolverOpts, deadline: Instant) {
    const TRIES: u32 = 3;
    const SHORTEST: Duration = Duration::from_millis(50);
    let left = deadline.saturating_duration_since(Instant::now());
    options.timeout = options.timeout.min(left / TRIES).max(SHORTEST);
    options.attempts = options.attempts.max(TRIES as usize - 1);
    options.use_hosts_file = ResolveHosts::Never;
}

async fn look_up(resolver: &TokioResolver, name: &str, deadline: Instant) -> Result<SrvSeeds, SrvFailure> {
    // The dot at the end keeps search domains away.
    let services = resolver.lookup(format!("{}.", error::service(name)), RecordType::SRV);
    let texts = resolver.lookup(format!("{name}."), RecordType::TXT);
    let (services, texts) =
        tokio::join!(tokio::time::timeout_at(deadline, services), tokio::time::timeout_at(deadline, texts),);
    let services = match services {
        Ok(Ok(found)) => found.answers().iter().filter_map(target).collect(),
        Ok(Err(cause)) if cause.is_no_records_found() => Vec::new(),
        Ok(Err(cause)) => return Err(SrvFailure::NoAnswer { record: "SRV", cause: Some(cause) }),
        Err(_elapsed) => return Err(SrvFailure::NoAnswer { record: "SRV", cause: None }),
    };
    let texts = match texts {
        Ok(Ok(found)) => found.answers().iter().filter_map(text).collect(),
        Ok(Err(cause)) if cause.is_no_records_found() => Vec::new(),
        Ok(Err(cause)) => return Err(SrvFailure::NoAnswer { record: "TXT", cause: Some(cause) }),
        Err(_elapsed) => return Err(SrvFailure::NoAnswer { record: "TXT", cause: None }),
    };
    records::check(name, &SrvAnswer { services, texts })
}

fn target(record: &Record) -> Option<SrvTarget> {
    let RData::SRV(service) = &record.data else { return None };
    // A dot or a space inside of a label comes escaped, and then is no host.
    Some(SrvTarget { host: service.target.to_ascii(), port: service.port, ttl_seconds: record.ttl })
}

/// The strings of one record are one text.
fn text(record: &Record) -> Option<Vec<u8>> {
    let RData::TXT(text) = &record.data else { return None };
    Some(text.txt_data.concat())
}
