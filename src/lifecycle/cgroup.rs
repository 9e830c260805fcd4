//! The memory limit of the container and how much of it is used: `memory.max`, `memory.current` and `memory.stat` of
//! cgroup v2. cgroup v1 is not read.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Where cgroup v2 is mounted, in a container and on a host.
const MOUNT: &str = "/sys/fs/cgroup";

/// The cgroups of this process.
const OWN_CGROUPS: &str = "/proc/self/cgroup";

/// The memory limit of this process in bytes: the smallest `memory.max` of its cgroup and of all cgroups above it.
/// `None` where no cgroup v2 has a limit.
///
/// Source: the kernel's `Documentation/admin-guide/cgroup-v2.rst`.
pub fn memory_limit() -> Option<u64> {
    smallest_limit(Path::new(MOUNT), &fs::read_to_string(OWN_CGROUPS).ok()?)
}

/// How much of a memory limit is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes that the kernel cannot take back: without file pages that were not used recently.
    pub used: u64,
    /// The limit in bytes; never 0.
    pub limit: u64,
}

impl MemoryUse {
    /// The used part of the limit in percent, rounded down. May exceed 100 for a moment.
    pub fn percent(self) -> u64 {
        self.used.saturating_mul(100) / self.limit
    }
}

/// The memory use of the innermost cgroup of this process that has a limit. `None` where no cgroup v2 has a limit.
///
/// Cgroups further out do not count: other programs fill them, and a gateway that refuses its clients does not help
/// them. Reads a few small files, which takes some ten microseconds.
pub fn memory_use() -> Option<MemoryUse> {
    innermost(Path::new(MOUNT), &fs::read_to_string(OWN_CGROUPS).ok()?)
}

fn innermost(mount: &Path, own_cgroups: &str) -> Option<MemoryUse> {
    path_of(mount, own_cgroups)?.iter().rev().find_map(|directory| use_of(directory))
}

/// The use of one cgroup that has a limit.
fn use_of(directory: &Path) -> Option<MemoryUse> {
    let limit = limit_of(directory).filter(|limit| *limit > 0)?;
    let current: u64 = fs::read_to_string(directory.join("memory.current")).ok()?.trim().parse().ok()?;
    let stat = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
    let inactive_file = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse().ok());
    Some(MemoryUse { used: current.saturating_sub(inactive_file.unwrap_or(0)), limit })
}

/// The smallest limit on the path that `own_cgroups` names, below `mount`.
///
/// A container often sees only its own part of the tree, mounted as the root, while `own_cgroups` has the path on the
/// host. That path does not exist in the container then, and the limit is that of the root.
fn smallest_limit(mount: &Path, own_cgroups: &str) -> Option<u64> {
    path_of(mount, own_cgroups)?.iter().filter_map(|directory| limit_of(directory)).min()
}

/// The directories on the path that `own_cgroups` names, from `mount` down.
fn path_of(mount: &Path, own_cgroups: &str) -> Option<Vec<PathBuf>> {
    let path = own_cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut directories = vec![mount.to_owned()];
    for component in Path::new(path).components() {
        // A cgroup outside of the namespace of this process is written with `..`, and is not visible here.
        let Component::Normal(name) = component else { continue };
        directories.push(directories.last()?.join(name));
    }
    Some(directories)
}

/// The limit of one cgroup; `None` where it is `max`, or where the cgroup has no such file, as the root of a host.
fn limit_of(directory: &Path) -> Option<u64> {
    fs::read_to_string(directory.join("memory.max")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(limits: &[(&str, &str)], own_cgroups: &str, expected: Option<u64>) {
        let mount = tempfile::tempdir().unwrap();
        for (directory, limit) in limits {
            let directory = mount.path().join(directory);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("memory.max"), limit).unwrap();
        }
        assert_eq!(smallest_limit(mount.path(), own_cgroups), expected, "{limits:?} {own_cgroups:?}");
    }

    #[test]
    fn the_smallest_limit_on_the_path_counts() {
        let tree =
            [("", "max\n"), ("pods", "900\n"), ("pods/one", "700\n"), ("pods/one/app", "max\n"), ("other", "5\n")];
        check(&tree, "0::/pods/one/app\n", Some(700));
        check(&tree, "1:cpu:/other\n0::/pods/one\n", Some(700));
        check(&tree, "0::/pods\n", Some(900));
        check(&tree, "0::/\n", None);
    }

    #[test]
    fn a_container_reads_the_limit_of_its_own_root() {
        let tree = [("", "134217728\n")];
        check(&tree, "0::/\n", Some(134_217_728));
        check(&tree, "0::/kubepods.slice/pod1.slice/cri-1.scope\n", Some(134_217_728));
        check(&tree, "0::/../other\n", Some(134_217_728));
    }

    #[test]
    fn the_innermost_cgroup_with_a_limit_counts() {
        let mount = tempfile::tempdir().unwrap();
        let cgroup = |path: &str, limit: &str, current: &str, stat: &str| {
            let directory = mount.path().join(path);
            fs::create_dir_all(&directory).unwrap();
            for (file, content) in [("memory.max", limit), ("memory.current", current), ("memory.stat", stat)] {
                fs::write(directory.join(file), content).unwrap();
            }
        };
        let found =
            || innermost(mount.path(), "0::/pod/app\n").map(|memory| (memory.used, memory.limit, memory.percent()));
        cgroup("", "max\n", "5000\n", "");
        cgroup("pod", "1000\n", "900\n", "anon 800\ninactive_file 100\nactive_file 50\n");
        cgroup("pod/app", "500\n", "300\n", "inactive_file 0\n");
        assert_eq!(found(), Some((300, 500, 60)));
        cgroup("pod/app", "500\n", "450\n", "inactive_file 10\n");
        assert_eq!(found(), Some((440, 500, 88)));
        cgroup("pod/app", "max\n", "450\n", "");
        assert_eq!(found(), Some((800, 1000, 80)));
        assert_eq!(innermost(mount.path(), "4:memory:/x\n"), None);
    }

    #[test]
    fn there_is_no_limit_without_cgroup_v2() {
        check(&[("", "5\n")], "4:memory:/x\n", None);
        check(&[("", "5\n")], "", None);
        check(&[], "0::/\n", None);
        check(&[("", "much\n")], "0::/\n", None);
    }
}
