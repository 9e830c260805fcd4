//! The memory limit of the container: `memory.max` of cgroup v2. cgroup v1 is not read.

use std::fs;
use std::path::{Component, Path};

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

/// The smallest limit on the path that `own_cgroups` names, below `mount`.
///
/// A container often sees only its own part of the tree, mounted as the root, while `own_cgroups` has the path on the
/// host. That path does not exist in the container then, and the limit is that of the root.
fn smallest_limit(mount: &Path, own_cgroups: &str) -> Option<u64> {
    let path = own_cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut directory = mount.to_owned();
    let mut smallest = limit_of(&directory);
    for component in Path::new(path).components() {
        // A cgroup outside of the namespace of this process is written with `..`, and is not visible here.
        let Component::Normal(name) = component else { continue };
        directory.push(name);
        smallest = smallest.into_iter().chain(limit_of(&directory)).min();
    }
    smallest
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
    fn there_is_no_limit_without_cgroup_v2() {
        check(&[("", "5\n")], "4:memory:/x\n", None);
        check(&[("", "5\n")], "", None);
        check(&[], "0::/\n", None);
        check(&[("", "much\n")], "0::/\n", None);
    }
}
