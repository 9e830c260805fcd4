//! The limit of open file descriptors (`RLIMIT_NOFILE`): files and sockets together.

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
    fn the_soft_limit_is_raised_to_the_hard_limit() {
        let hard = getrlimit(Resource::Nofile).maximum;
        assert_eq!(raise_limit(), hard);
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }
}
