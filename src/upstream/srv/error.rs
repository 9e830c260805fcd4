//! Why the DNS seed list of a name cannot be used.

use std::error::Error as StdError;
use std::fmt;

use hickory_resolver::net::NetError;

use crate::identity::printable;

/// A name without a usable DNS seed list.
///
/// `Display` may be sent to a client: it names records and no file. [`Self::remedy`] is for the operator.
#[derive(Debug)]
pub struct SrvError {
    pub(super) name: String,
    pub(super) failure: SrvFailure,
}

/// Why the DNS seed list cannot be used.
#[derive(Debug)]
pub enum SrvFailure {
    /// The DNS configuration of this host cannot be used.
    NoResolver {
        /// The error of reading `/etc/resolv.conf`.
        cause: NetError,
    },
    /// A question was not answered, or was answered with an error.
    NoAnswer {
        /// `SRV` or `TXT`.
        record: &'static str,
        /// The error; `None` if the deadline expired.
        cause: Option<NetError>,
    },
    /// There is no SRV record.
    NoService,
    /// The only SRV record says that the service is not available (RFC 2782).
    NotOffered,
    /// An SRV record names a host in another domain, as a forged answer would.
    OtherDomain {
        /// The host.
        host: String,
        /// The required domain.
        domain: String,
    },
    /// An SRV record names an invalid host or port 0.
    UnusableTarget {
        /// Host and port.
        target: String,
    },
    /// There are more SRV records than any cluster has.
    TooManyServices {
        /// The number of records.
        count: usize,
        /// The limit.
        maximum: usize,
    },
    /// There is more than one TXT record, and it is not defined which one counts.
    SeveralTexts {
        /// The number of records.
        count: usize,
    },
    /// The TXT record contains an option that DNS may not set.
    ForeignOption {
        /// Its name.
        option: String,
    },
    /// The TXT record contains an option twice, without a value, or with an invalid value.
    MalformedOption {
        /// Its name, or its text if it has no name.
        option: String,
    },
    /// `loadBalanced=true` together with `replicaSet` or several SRV records.
    LoadBalancedSet,
}

/// The texts about one error.
struct SrvExplanation {
    /// For the client and the operator.
    sentence: String,
    /// For the operator.
    remedy: String,
}

/// The name of the SRV records of `name`.
pub(super) fn service(name: &str) -> String {
    format!("_mongodb._tcp.{name}")
}

impl SrvError {
    /// Why the seed list cannot be used.
    pub fn failure(&self) -> &SrvFailure {
        &self.failure
    }

    /// What the operator of the upstream `upstream` can do about it.
    pub fn remedy(&self, upstream: &str) -> String {
        self.explain(upstream).remedy
    }

    /// The sentence does not depend on the upstream.
    fn explain(&self, upstream: &str) -> SrvExplanation {
        let key = |name: &str| format!("upstream.{upstream}.{name}");
        let (name, service) = (&self.name, service(&self.name));
        match &self.failure {
            SrvFailure::NoResolver { .. } => SrvExplanation {
                sentence: format!(
                    "the SRV records at {service} cannot be looked up: this host has no name server configured"
                ),
                remedy: format!("add a name server to /etc/resolv.conf, or list the members in {}", key("members")),
            },
            SrvFailure::NoAnswer { record, cause } => {
                let owner = if *record == "TXT" { name } else { &service };
                explain_no_answer(record, owner, cause.is_none(), &key("connect_timeout"))
            }
            SrvFailure::NoService => SrvExplanation {
                sentence: format!("there is no SRV record at {service}"),
                remedy: format!(
                    "check {}: it is the name after mongodb+srv:// in a connection string, without a port; dig SRV \
                     {service} shows its records",
                    key("srv")
                ),
            },
            SrvFailure::NotOffered => SrvExplanation {
                sentence: format!("the SRV record at {service} says that the service is not available"),
                remedy: format!("check {}, and the records: dig SRV {service}", key("srv")),
            },
            SrvFailure::OtherDomain { host, domain } => SrvExplanation {
                sentence: format!("an SRV record at {service} names {}, which is not within {domain}", printable(host)),
                remedy: format!(
                    "change the SRV records at {service} to hosts within {domain}, which drivers require too, or list \
                     the members in {}",
                    key("members")
                ),
            },
            SrvFailure::UnusableTarget { target } => SrvExplanation {
                sentence: format!(
                    "an SRV record at {service} names {}, which is not a valid host and port",
                    printable(target)
                ),
                remedy: format!("correct the SRV records: dig SRV {service}"),
            },
            SrvFailure::TooManyServices { count, maximum } => SrvExplanation {
                sentence: format!("there are {count} SRV records at {service}; the limit is {maximum}"),
                remedy: format!("correct the SRV records: dig SRV {service}"),
            },
            SrvFailure::SeveralTexts { count } => SrvExplanation {
                sentence: format!("there are {count} TXT records at {name}; only one is allowed"),
                remedy: format!("keep one TXT record at {name}: dig TXT {name}"),
            },
            SrvFailure::ForeignOption { option } => SrvExplanation {
                sentence: format!(
                    "the TXT record at {name} contains the option {}, which is not allowed there",
                    printable(option)
                ),
                remedy: text_remedy(name),
            },
            SrvFailure::MalformedOption { option } => SrvExplanation {
                sentence: format!("the TXT record at {name} contains {} in an invalid form", printable(option)),
                remedy: text_remedy(name),
            },
            SrvFailure::LoadBalancedSet => SrvExplanation {
                sentence: format!(
                    "the TXT record at {name} contains loadBalanced=true, which requires one SRV record and no \
                     replicaSet"
                ),
                remedy: format!(
                    "remove loadBalanced=true from the TXT record at {name}, or keep one SRV record and no replicaSet"
                ),
            },
        }
    }
}

fn explain_no_answer(record: &str, owner: &str, is_timeout: bool, connect_timeout: &str) -> SrvExplanation {
    if is_timeout {
        SrvExplanation {
            sentence: format!("the {record} records at {owner} were not returned in time"),
            remedy: format!(
                "check that the name servers in /etc/resolv.conf answer (dig {record} {owner}), or raise \
                 {connect_timeout}"
            ),
        }
    } else {
        SrvExplanation {
            sentence: format!("the {record} records at {owner} cannot be looked up"),
            remedy: format!("check the name servers in /etc/resolv.conf, and their answer: dig {record} {owner}"),
        }
    }
}

fn text_remedy(name: &str) -> String {
    format!(
        "correct the TXT record at {name}; it may contain authSource, replicaSet and loadBalanced, as in \
         \"replicaSet=rs0\""
    )
}

impl fmt::Display for SrvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.explain("").sentence)
    }
}

impl StdError for SrvError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.failure {
            SrvFailure::NoResolver { cause } | SrvFailure::NoAnswer { cause: Some(cause), .. } => Some(cause),
            _ => None,
        }
    }
}
