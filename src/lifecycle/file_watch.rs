//! Tells that files may have changed, by watching the directories on the way to them.
//!
//! A file is not watched itself: renewed certificates are new files under the old name, or the same name behind a symbolic
//! link that was turned (Kubernetes: `tls.crt -> ..data/tls.crt`, `..data -> ..2026_11_23`). So for each file every
//! directory is watched that holds the file or a link on the way to it, and the directory above, which tells when that one
//! is removed or made again.
//!
//! A hint is no news: whoever gets one reads the files and compares. There is no queue: any number of events between two
//! looks are one hint. Reads no file, and says nothing of what changed.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

/// Several files are written one after another; so long without an event, and they are taken to be done.
const QUIET: Duration = Duration::from_millis(75);

/// A hint is not held back for longer, however busy the directory is.
const HELD_BACK_MAX: Duration = Duration::from_secs(1);

/// As the system's own limit of symbolic links in one path.
const LINKS_MAX: usize = 40;

/// Where hints arrive; clones are the same place.
#[derive(Clone, Default)]
pub struct Hints {
    event: Arc<Notify>,
}

/// Watches for as long as it is held.
pub struct FileWatch {
    _watcher: RecommendedWatcher,
}

/// Why changes of a file would go unnoticed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The system gives no watch at all.
    #[error("directories cannot be watched")]
    Unavailable(#[source] notify::Error),
    /// One directory cannot be watched; none is.
    #[error("{} cannot be watched", directory.display())]
    Directory {
        /// Which.
        directory: PathBuf,
        /// From the system.
        source: notify::Error,
    },
}

impl Hints {
    /// A place without a hint.
    pub fn new() -> Self {
        Self::default()
    }

    /// Resolves when something may have changed since the last time, once nothing more has happened for a moment, and a
    /// second later at most. Cancel safe before the first event; after it, the hint may be lost with the future.
    pub async fn next(&self) {
        self.event.notified().await;
        let latest = Instant::now() + HELD_BACK_MAX;
        let quiet = async { while timeout(QUIET, self.event.notified()).await.is_ok() {} };
        let _ = timeout_at(latest, quiet).await;
    }

    /// Watches the ways to `files` (absolute paths) as they are now. Blocks for as long as a file system takes to answer.
    ///
    /// A way changes when a link on it is turned, and with it what has to be watched: watch anew after each hint, and do
    /// that before reading the files, so that no change falls in between.
    pub fn watch(&self, files: &[PathBuf]) -> Result<FileWatch, WatchError> {
        let ways: Arc<Ways> = Arc::new(Ways::to(files));
        let handler = {
            let (event, ways) = (Arc::clone(&self.event), Arc::clone(&ways));
            move |happened: notify::Result<Event>| {
                if happened.map_or(true, |happened| ways.concerns(&happened)) {
                    event.notify_one();
                }
            }
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(WatchError::Unavailable)?;
        for directory in &ways.directories {
            match watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                // It went in this moment: the directory above tells of it.
                Err(error) if is_gone(&error) => self.event.notify_one(),
                Err(source) => return Err(WatchError::Directory { directory: directory.clone(), source }),
            }
        }
        for directory in ways.directories.iter().filter_map(|directory| directory.parent()) {
            // Better with it, but one that may not be read must not cost the others.
            let _ = watcher.watch(directory, RecursiveMode::NonRecursive);
        }
        Ok(FileWatch { _watcher: watcher })
    }
}

fn is_gone(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(cause) => matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        _ => false,
    }
}

/// The ways to some files.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ways {
    /// Everything that is passed: directories, links, and the files themselves, without a link in any path.
    passed: BTreeSet<PathBuf>,
    /// Those directories in which something may be replaced: a file, a link, or what is missing.
    directories: BTreeSet<PathBuf>,
}

impl Ways {
    fn to(files: &[PathBuf]) -> Self {
        let mut ways = Self::default();
        for file in files {
            ways.go(file);
        }
        ways
    }

    /// Goes the way of the system, and ends early where something is missing or cannot be looked at.
    fn go(&mut self, file: &Path) {
        let mut here = PathBuf::from("/");
        let mut ahead: VecDeque<Step> = steps(file).collect();
        let mut links = 0;
        while let Some(step) = ahead.pop_front() {
            let name = match step {
                Step::Root => {
                    here = PathBuf::from("/");
                    continue;
                }
                Step::Up => {
                    here.pop();
                    continue;
                }
                Step::Into(name) => name,
            };
            let next = here.join(name);
            self.passed.insert(next.clone());
            match fs::read_link(&next) {
                Ok(target) if links < LINKS_MAX => {
                    links += 1;
                    self.directories.insert(here.clone());
                    for step in steps(&target).collect::<Vec<_>>().into_iter().rev() {
                        ahead.push_front(step);
                    }
                }
                _ if !ahead.is_empty() && next.is_dir() => here = next,
                _ => {
                    self.directories.insert(here);
                    return;
                }
            }
        }
    }

    /// Reading is no change, our own least of all. What has no path, such as an overrun of the system's queue, may be
    /// anything.
    fn concerns(&self, event: &Event) -> bool {
        let is_change = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Access(_) => false,
            _ => true,
        };
        let is_ours = |path: &PathBuf| self.passed.contains(path) || self.directories.contains(path);
        is_change && (event.paths.is_empty() || event.paths.iter().any(is_ours))
    }
}

enum Step {
    Root,
    Up,
    Into(OsString),
}

fn steps(path: &Path) -> impl Iterator<Item = Step> {
    path.components().filter_map(|component| match component {
        Component::RootDir => Some(Step::Root),
        Component::ParentDir => Some(Step::Up),
        Component::Normal(name) => Some(Step::Into(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use notify::event::{DataChange, ModifyKind};
    use tempfile::TempDir;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn directory() -> (TempDir, PathBuf) {
        let made = tempfile::tempdir().unwrap();
        let path = made.path().canonicalize().unwrap();
        (made, path)
    }

    /// As Kubernetes lays a secret out; the second version is there, not yet in use.
    fn lay_out_secret(root: &Path) {
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir_all(root.join(version)).unwrap();
            fs::write(root.join(version).join("tls.crt"), text).unwrap();
        }
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/tls.crt", root.join("tls.crt")).unwrap();
    }

    fn turn_secret(root: &Path) {
        symlink("..2", root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    }

    #[test]
    fn the_way_to_a_file_leads_through_links_and_ends_at_what_is_missing() {
        let (_made, root) = directory();
        lay_out_secret(&root);
        let ways = |file: &Path| {
            let ways = Ways::to(&[file.to_owned()]);
            let inside = |paths: BTreeSet<PathBuf>| -> Vec<String> {
                let below = paths.into_iter().filter_map(|path| path.strip_prefix(&root).ok().map(Path::to_owned));
                below.map(|path| path.display().to_string()).collect()
            };
            (inside(ways.passed), inside(ways.directories))
        };
        let (passed, directories) = ways(&root.join("tls.crt"));
        assert_eq!(passed, ["", "..1", "..1/tls.crt", "..data", "tls.crt"]);
        assert_eq!(directories, ["", "..1"]);

        let (passed, directories) = ways(&root.join("..1/../..2/./tls.crt"));
        assert_eq!(passed, ["", "..1", "..2", "..2/tls.crt"]);
        assert_eq!(directories, ["..2"]);

        let (passed, directories) = ways(&root.join("absent/deeper/tls.crt"));
        assert_eq!(passed, ["", "absent"]);
        assert_eq!(directories, [""]);

        symlink("loop", root.join("loop")).unwrap();
        assert_eq!(ways(&root.join("loop/tls.crt")).1, [""]);
    }

    #[test]
    fn reading_is_no_hint_and_neither_is_a_neighbour() {
        let ways = Ways { passed: ["/s/tls.crt".into()].into(), directories: ["/s".into()].into() };
        let modified = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        for (kind, path, expected) in [
            (modified, Some("/s/tls.crt"), true),
            (modified, Some("/s/other"), false),
            (modified, Some("/s"), true),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), Some("/s/tls.crt"), true),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), Some("/s/tls.crt"), false),
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), Some("/s/tls.crt"), false),
            (EventKind::Other, None, true),
        ] {
            let event = Event { kind, paths: path.map(PathBuf::from).into_iter().collect(), ..Event::default() };
            assert_eq!(ways.concerns(&event), expected, "{event:?}");
        }
    }

    async fn check_hint(what: &str, prepare: impl Fn(&Path), change: impl Fn(&Path)) {
        let (_made, root) = directory();
        let root = root.join("certs");
        fs::create_dir(&root).unwrap();
        prepare(&root);
        let hints = Hints::new();
        let _watch = hints.watch(&[root.join("tls.crt")]).unwrap();
        change(&root);
        timeout(PATIENCE, hints.next()).await.unwrap_or_else(|_| panic!("no hint of {what}"));
    }

    #[tokio::test]
    async fn every_way_of_renewing_a_file_is_a_hint() {
        let write = |root: &Path| fs::write(root.join("tls.crt"), "one").unwrap();
        check_hint("writing in place", write, |root| fs::write(root.join("tls.crt"), "two").unwrap()).await;
        let rename = |root: &Path| {
            fs::write(root.join("new"), "two").unwrap();
            fs::rename(root.join("new"), root.join("tls.crt")).unwrap();
        };
        check_hint("a rename", write, rename).await;
        check_hint("a deletion", write, |root| fs::remove_file(root.join("tls.crt")).unwrap()).await;
        check_hint("a creation", |_| {}, write).await;
        check_hint("a turned link", lay_out_secret, turn_secret).await;
        check_hint("its directory's end", write, |root| fs::remove_dir_all(root).unwrap()).await;
        check_hint(
            "its directory's beginning",
            |root| fs::remove_dir(root).unwrap(),
            |root| fs::create_dir(root).unwrap(),
        )
        .await;
    }

    #[tokio::test]
    async fn a_directory_that_is_made_again_is_watched_again() {
        let (_made, root) = directory();
        let (folder, hints) = (root.join("certs"), Hints::new());
        let file = folder.join("tls.crt");
        let mut watches = Vec::new();
        for _ in 0..3 {
            let changes: [&dyn Fn() -> io::Result<()>; 3] =
                [&|| fs::create_dir(&folder), &|| fs::write(&file, "one"), &|| fs::remove_dir_all(&folder)];
            for change in changes {
                watches = vec![hints.watch(std::slice::from_ref(&file)).unwrap()];
                change().unwrap();
                timeout(PATIENCE, hints.next()).await.unwrap();
            }
        }
        drop(watches);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_directory_cannot_hold_a_hint_back() {
        let hints = Hints::new();
        let busy = async {
            loop {
                hints.event.notify_one();
                tokio::time::sleep(QUIET / 2).await;
            }
        };
        let begun = Instant::now();
        tokio::select! {
            () = hints.next() => {}
            () = busy => {}
        }
        assert!(begun.elapsed() <= HELD_BACK_MAX + QUIET, "{:?}", begun.elapsed());
    }
}
