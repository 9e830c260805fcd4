//! Looks up the SRV and TXT records of a name.
//!
//! Each lookup reads `/etc/resolv.conf` again, so that a change takes effect. The search domains of the host are not
//! used: a seed has to be within the domain of the name. The addresses of the seeds are not looked up here.
//!
//! Spec: `source/initial-dns-seedlist-discovery`, and for `valid_for`
//! `source/polling-srv-records-for-mongos-discovery`.

use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::time::Instant;

use super::error::{SrvError, SrvFailure, service};
use super::records::{self, SrvAnswer, SrvTarget};
use super::srv_seeds::SrvSeeds;

/// Looks up the seed list of `name`, as `cluster.example.com`, until `deadline`.
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

/// A resolver that asks the name servers of this host, and retries until `deadline`.
fn resolver(deadline: Instant) -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    set_times(builder.options_mut(), deadline);
    builder.build()
}

/// Sets timeouts so that a lost datagram does not use up all the time.
pub(super) fn set_times(options: &mut ResolverOpts, deadline: Instant) {
    const TRIES: u32 = 3;
    const SHORTEST: Duration = Duration::from_millis(50);
    let left = deadline.saturating_duration_since(Instant::now());
    options.timeout = options.timeout.min(left / TRIES).max(SHORTEST);
    options.attempts = options.attempts.max(TRIES as usize - 1);
    options.use_hosts_file = ResolveHosts::Never;
}

pub(super) async fn look_up(resolver: &TokioResolver, name: &str, deadline: Instant) -> Result<SrvSeeds, SrvFailure> {
    // The trailing dot prevents the use of search domains.
    let services = resolver.lookup(format!("{}.", service(name)), RecordType::SRV);
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
    records::validate(name, &SrvAnswer { services, texts })
}

fn target(record: &Record) -> Option<SrvTarget> {
    let RData::SRV(service) = &record.data else { return None };
    // A dot or a space within a label is escaped here, and is then rejected as a host name.
    Some(SrvTarget { host: service.target.to_ascii(), port: service.port, ttl_seconds: record.ttl })
}

/// The strings of one TXT record form one text.
fn text(record: &Record) -> Option<Vec<u8>> {
    let RData::TXT(text) = &record.data else { return None };
    Some(text.txt_data.concat())
}
