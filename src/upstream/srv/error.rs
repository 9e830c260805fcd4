//! Why a name in DNS gives no seeds.

use std::error::Error as StdError;
use std::fmt;

use hickory_resolver::net::NetError;

use crate::identity::printable;

/// A name that gives no seeds.
///
/// `Display` is fit for a client: it names records and no file of this host. [`Self::remedy`] is for the operator.
#[derive(Debug)]
pub struct SrvError {
    pub(super) name: String,
    pub(super) failure: SrvFailure,
}

/// What is wrong with the answer, or why there is none.
#[derive(Debug)]
pub enum SrvFailure {
    /// This host says nothing usable about its name servers.
    NoResolver {
        /// From reading `/etc/resolv.conf`.
        cause: NetError,
    },
    /// A question was not answered, or by an error.
    NoAnswer {
        /// `SRV` or `TXT`.
        record: &'static str,
        /// `None`: the time was up.
        cause: Option<NetError>,
    },
    /// There is no SRV record.
    NoService,
    /// The SRV record is the one that means: there is no such service here.
    NotOffered,
    /// An SRV record leads out of the domain, which whoever can forge an answer would do.
    OtherDomain {
        /// Where it leads.
        host: String,
        /// Where it has to stay.
        domain: String,
    },
    /// An SRV record names what is no host, or port 0.
    UnusableTarget {
        /// Host and port.
        target: String,
    },
    /// More SRV records than any cluster has.
    TooManyServices {
        /// So many.
        count: usize,
        /// So many are taken.
        maximum: usize,
    },
    /// More than one TXT record; which of them counts, nobody could say.
    SeveralTexts {
        /// So many.
        count: usize,
    },
    /// The TXT record has an option that DNS has no say in.
    ForeignOption {
        /// Its name.
        option: String,
    },
    /// The TXT record has an option twice, without a value, or with an impossible one.
    MalformedOption {
        /// Its name, or all that there is.
        option: String,
    },
    /// `loadBalanced=true` beside `replicaSet`, or with several SRV records.
    LoadBalancedSet,
}

/// Where the SRV records of `name` are.
pub(super) fn service(name: &str) -> String {
    format!("_mongodb._tcp.{name}")
}

impl SrvError {
    /// What is wrong.
    pub fn failure(&self) -> &SrvFailure {
        &self.failure
    }

    /// What to do about it, for the operator of the upstream of that name.
    pub fn remedy(&self, upstream: &str) -> String {
        let key = |name: &str| format!("upstream.{upstream}.{name}");
        let (name, service) = (&self.name, service(&self.name));
        match &self.failure {
            SrvFailure::NoResolver { .. } => {
                format!("name a name server in /etc/resolv.conf, or write the members down ({})", key("members"))
            }
            SrvFailure::NoAnswer { cause: None, .. } => format!(
                "check that the name servers in /etc/resolv.conf answer (dig SRV {service}), or raise {}",
                key("connect_timeout")
            ),
            SrvFailure::NoAnswer { record, cause: Some(_) } => {
                let owner = if *record == "TXT" { name } else { &service };
                format!("check the name servers in /etc/resolv.conf, and what they say: dig {record} {owner}")
            }
            SrvFailure::NoService => format!(
                "check {}: it is what stands behind mongodb+srv:// in a connection string, without a port; dig SRV {service} shows its records",
                key("srv")
            ),
            SrvFailure::NotOffered => format!("check {}, and the records: dig SRV {service}", key("srv")),
            SrvFailure::OtherDomain { domain, .. } => format!(
                "let the SRV records at {service} name hosts within {domain}, as drivers want it too, or write the members down ({})",
                key("members")
            ),
            SrvFailure::UnusableTarget { .. } | SrvFailure::TooManyServices { .. } => {
                format!("correct the SRV records: dig SRV {service}")
            }
            SrvFailure::SeveralTexts { .. } => format!("leave one TXT record at {name}: dig TXT {name}"),
            SrvFailure::ForeignOption { .. } | SrvFailure::MalformedOption { .. } => format!(
                "correct the TXT record at {name}; it may have authSource, replicaSet and loadBalanced, as in \"replicaSet=rs0\""
            ),
            SrvFailure::LoadBalancedSet => {
                format!(
                    "take loadBalanced=true out of the TXT record at {name}, or leave one SRV record and no replicaSet"
                )
            }
        }
    }
}

impl fmt::Display for SrvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, service) = (&self.name, service(&self.name));
        match &self.failure {
            SrvFailure::NoResolver { .. } => {
                write!(f, "the SRV records at {service} cannot be looked up: this host names no name server")
            }
            SrvFailure::NoAnswer { record, cause } => {
                let owner = if *record == "TXT" { name } else { &service };
                match cause {
                    Some(_) => write!(f, "the {record} records at {owner} cannot be looked up"),
                    None => write!(f, "the {record} records at {owner} were not there in time"),
                }
            }
            SrvFailure::NoService => write!(f, "there is no SRV record at {service}"),
            SrvFailure::NotOffered => write!(f, "the SRV record at {service} says that there is no such service"),
            SrvFailure::OtherDomain { host, domain } => {
                write!(f, "an SRV record at {service} names {}, which is not within {domain}", printable(host))
            }
            SrvFailure::UnusableTarget { target } => {
                write!(f, "an SRV record at {service} names {}, which is no host and port", printable(target))
            }
            SrvFailure::TooManyServices { count, maximum } => {
                write!(f, "there are {count} SRV records at {service}, and no more than {maximum} are taken")
            }
            SrvFailure::SeveralTexts { count } => {
                write!(f, "there are {count} TXT records at {name}, and only one may be")
            }
            SrvFailure::ForeignOption { option } => {
                write!(f, "the TXT record at {name} has {}, which may not stand there", printable(option))
            }
            SrvFailure::MalformedOption { option } => {
                write!(f, "the TXT record at {name} has {} in a form that means nothing", printable(option))
            }
            SrvFailure::LoadBalancedSet => {
                write!(
                    f,
                    "the TXT record at {name} says loadBalanced=true, which goes with one SRV record and no replicaSet"
                )
            }
        }
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
