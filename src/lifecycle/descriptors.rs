//! The limit of open file descriptors (`RLIMIT_NOFILE`): files and sockets together.

use std::os::fd::{AsFd, AsRawFd as _};

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open file descriptors to the hard limit. Returns the resulting soft limit; `None` means
/// unlimited.
///
/// The soft limit is often 1,024 because programs that use `select` cannot handle more. This program does not use it.
pub fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

/// Descriptors in addition to those of clients: listeners, administration, runtimes, spare connections, name lookups
/// and files.
const RESERVE: u64 = 256;

/// The last descriptors below the limit are left to the administration port: more than the probes and scrapers that
/// connect at the same moment. A small limit leaves an eighth.
const LAST_DESCRIPTORS: u64 = 8;

/// Whether `descriptor` is one of the last that the limit allows. Clients and connections to servers must close it, so
/// that the administration port can answer probes.
///
/// The system gives out the lowest free number. So all other descriptors are in use, and no other thread can take those
/// that are left for the administration port.
pub fn is_one_of_the_last(descriptor: &impl AsFd) -> bool {
    let number = u64::try_from(descriptor.as_fd().as_raw_fd()).unwrap_or_default();
    limit().is_some_and(|limit| number >= first_of_the_last(limit))
}

/// Whether a client, or a connection to a server, can have a descriptor now.
pub fn has_room() -> bool {
    eventfd(0, EventfdFlags::CLOEXEC).is_ok_and(|descriptor| !is_one_of_the_last(&descriptor))
}

fn first_of_the_last(limit: u64) -> u64 {
    limit - LAST_DESCRIPTORS.min(limit / 8)
}

/// The soft limit of open file descriptors; `None` means unlimited.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How many descriptors listeners with these connection limits need: two for each client, and a reserve.
pub fn needed(connections: &[usize]) -> u64 {
    let all = connections.iter().fold(0, |sum: u64, count| sum.saturating_add(*count as u64));
    all.saturating_mul(2).saturating_add(RESERVE)
}

/// The connection limits that `limit` descriptors allow, in the order of `connections`: the same ones if it allows all
/// of them, or else the same part of each, and at least 1. The reserve is then at most half of the descriptors.
pub fn allowed(connections: &[usize], limit: Option<u64>) -> Vec<usize> {
    let needed = needed(connections);
    let Some(limit) = limit.filter(|limit| *limit < needed) else { return connections.to_vec() };
    let (available, wanted) = (limit - RESERVE.min(limit / 2), needed - RESERVE);
    let part = |count: &usize| {
        let part = u128::from(available) * (*count as u128) / u128::from(wanted.max(1));
        usize::try_from(part).unwrap_or(usize::MAX).clamp(1, (*count).max(1))
    };
    connections.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_limits_are_lowered_to_what_the_descriptors_allow() {
        let check = |connections: &[usize], limit, expected: &[usize]| {
            assert_eq!(allowed(connections, limit), expected, "{connections:?} {limit:?}");
        };
        check(&[10_000], None, &[10_000]);
        check(&[10_000], Some(20_256), &[10_000]);
        check(&[10_000], Some(20_255), &[9_999]);
        check(&[10_000], Some(1024), &[384]);
        check(&[10_000], Some(100), &[25]);
        check(&[10], Some(100), &[10]);
        check(&[10_000, 30_000], Some(4096), &[480, 1440]);
        check(&[10_000, 1], Some(64), &[15, 1]);
        check(&[1_000_000, 1], Some(0), &[1, 1]);
        check(&[], Some(10), &[]);
    }

    #[test]
    fn the_last_descriptors_are_left_to_the_administration_port() {
        for (limit, expected) in [(0, 0), (7, 7), (40, 35), (64, 56), (1024, 1016)] {
            assert_eq!(first_of_the_last(limit), expected, "{limit}");
        }
        assert!(has_room());
        assert!(!is_one_of_the_last(&std::io::stderr()));
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_limit() {
        let hard = getrlimit(Resource::Nofile).maximum;
        assert_eq!(raise_limit(), hard);
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }
}
