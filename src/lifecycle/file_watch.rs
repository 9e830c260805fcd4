//! Hints that files may have changed, from watches on the directories along their paths.
//!
//! The files themselves are not watched. A renewed certificate is a new file under the old name, or a changed symbolic
//! link on the path (Kubernetes: `tls.crt -> ..data/tls.crt`, `..data -> ..2026_11_23`). For each file, every directory
//! is watched that contains the file or a symbolic link on the path to it. The parent of each such directory is watched
//! too, because it reports when the directory is removed or created again.
//!
//! A hint does not say what changed: its receiver reads the files and compares them. There is no queue: all events
//! between two waits make one hint. This module reads no file.

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

/// Certificate, key and CA are written one after another. After this time without an event, all of them are assumed to
/// be written.
const QUIET: Duration = Duration::from_millis(75);

/// The longest delay of a hint while events keep coming.
const HELD_BACK_MAX: Duration = Duration::from_secs(1);

/// Symbolic links that are followed on one path, as in Linux.
const LINKS_MAX: usize = 40;

/// Receives hints. Clones share the same state.
#[derive(Clone, Default)]
pub struct Hints {
    event: Arc<Notify>,
}

/// Keeps the watches until it is dropped.
pub struct FileWatch {
    _watcher: RecommendedWatcher,
}

/// Why changes of a file would not be noticed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The system provides no file watching.
    #[error("cannot watch directories for changes")]
    Unavailable(#[source] notify::Error),
    /// One directory cannot be watched; the watches of the others are dropped.
    #[error("cannot watch {} for changes", directory.display())]
    Directory {
        /// The directory that cannot be watched.
        directory: PathBuf,
        /// From the system.
        source: notify::Error,
    },
}

impl Hints {
    /// Starts without a hint.
    pub fn new() -> Self {
        Self::default()
    }

    /// Resolves when a file may have changed since the previous call: 75 ms after the last event, and at most one
    /// second after the first. Cancel safe before the first event. After it, cancellation may lose the hint.
    pub async fn next(&self) {
        self.event.notified().await;
        let latest = Instant::now() + HELD_BACK_MAX;
        let quiet = async { while timeout(QUIET, self.event.notified()).await.is_ok() {} };
        let _ = timeout_at(latest, quiet).await;
    }

    /// Watches the current paths to `files`, which must be absolute. Blocks on file system calls.
    ///
    /// When a symbolic link on a path changes, other directories have to be watched. Call this again after each hint,
    /// before reading the files, so that no change in between is missed.
    pub fn watch(&self, files: &[PathBuf]) -> Result<FileWatch, WatchError> {
        let paths: Arc<WatchedPaths> = Arc::new(WatchedPaths::to(files));
        let handler = {
            let (notify, paths) = (Arc::clone(&self.event), Arc::clone(&paths));
            move |event: notify::Result<Event>| {
                if event.map_or(true, |event| paths.may_change(&event)) {
                    notify.notify_one();
                }
            }
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(WatchError::Unavailable)?;
        for directory in &paths.directories {
            match watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                // The directory was removed after its path was resolved, which is a change.
                Err(error) if is_gone(&error) => self.event.notify_one(),
                Err(source) => return Err(WatchError::Directory { directory: directory.clone(), source }),
            }
        }
        for directory in paths.directories.iter().filter_map(|directory| directory.parent()) {
            // Optional: a parent without read permission must not prevent the other watches.
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

/// The resolved paths of some files.
#[derive(Debug, Default, PartialEq, Eq)]
struct WatchedPaths {
    /// Every directory, symbolic link and file along the paths, each as a path without symbolic links in front of it.
    visited: BTreeSet<PathBuf>,
    /// The directories that contain a file, a symbolic link or a missing entry: their entries can be replaced.
    directories: BTreeSet<PathBuf>,
}

impl WatchedPaths {
    fn to(files: &[PathBuf]) -> Self {
        let mut paths = Self::default();
        for file in files {
            paths.resolve(file);
        }
        paths
    }

    /// Resolves the path as the kernel does, up to the first entry that is missing or cannot be read.
    fn resolve(&mut self, file: &Path) {
        let mut here = PathBuf::from("/");
        let mut remaining: VecDeque<Step> = steps(file).collect();
        let mut links = 0;
        while let Some(step) = remaining.pop_front() {
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
            self.visited.insert(next.clone());
            match fs::read_link(&next) {
                Ok(target) if links < LINKS_MAX => {
                    links += 1;
                    self.directories.insert(here.clone());
                    for step in steps(&target).collect::<Vec<_>>().into_iter().rev() {
                        remaining.push_front(step);
                    }
                }
                _ if !remaining.is_empty() && next.is_dir() => here = next,
                _ => {
                    self.directories.insert(here);
                    return;
                }
            }
        }
    }

    /// Whether the event can be a change of one of the files. Read access is no change. An event without a path, such
    /// as an overflow of the kernel's queue, can be any change.
    fn may_change(&self, event: &Event) -> bool {
        let is_change = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Access(_) => false,
            _ => true,
        };
        let is_watched = |path: &PathBuf| self.visited.contains(path) || self.directories.contains(path);
        is_change && (event.paths.is_empty() || event.paths.iter().any(is_watched))
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

    /// Creates the layout of a Kubernetes secret volume. The second version exists but is not in use.
    fn create_secret(root: &Path) {
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir_all(root.join(version)).unwrap();
            fs::write(root.join(version).join("tls.crt"), text).unwrap();
        }
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/tls.crt", root.join("tls.crt")).unwrap();
    }

    fn switch_secret(root: &Path) {
        symlink("..2", root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    }

    #[test]
    fn a_path_is_resolved_through_links_up_to_a_missing_entry() {
        let (_made, root) = directory();
        create_secret(&root);
        let resolve = |file: &Path| {
            let paths = WatchedPaths::to(&[file.to_owned()]);
            let inside = |paths: BTreeSet<PathBuf>| -> Vec<String> {
                let below = paths.into_iter().filter_map(|path| path.strip_prefix(&root).ok().map(Path::to_owned));
                below.map(|path| path.display().to_string()).collect()
            };
            (inside(paths.visited), inside(paths.directories))
        };
        let (visited, directories) = resolve(&root.join("tls.crt"));
        assert_eq!(visited, ["", "..1", "..1/tls.crt", "..data", "tls.crt"]);
        assert_eq!(directories, ["", "..1"]);

        let (visited, directories) = resolve(&root.join("..1/../..2/./tls.crt"));
        assert_eq!(visited, ["", "..1", "..2", "..2/tls.crt"]);
        assert_eq!(directories, ["..2"]);

        let (visited, directories) = resolve(&root.join("absent/deeper/tls.crt"));
        assert_eq!(visited, ["", "absent"]);
        assert_eq!(directories, [""]);

        symlink("loop", root.join("loop")).unwrap();
        assert_eq!(resolve(&root.join("loop/tls.crt")).1, [""]);
    }

    #[test]
    fn read_access_and_other_files_in_the_directory_are_no_hint() {
        let paths = WatchedPaths { visited: ["/s/tls.crt".into()].into(), directories: ["/s".into()].into() };
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
            assert_eq!(paths.may_change(&event), expected, "{event:?}");
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
        timeout(PATIENCE, hints.next()).await.unwrap_or_else(|_| panic!("no hint after {what}"));
    }

    #[tokio::test]
    async fn every_kind_of_file_change_gives_a_hint() {
        let write = |root: &Path| fs::write(root.join("tls.crt"), "one").unwrap();
        check_hint("writing in place", write, |root| fs::write(root.join("tls.crt"), "two").unwrap()).await;
        let rename = |root: &Path| {
            fs::write(root.join("new"), "two").unwrap();
            fs::rename(root.join("new"), root.join("tls.crt")).unwrap();
        };
        check_hint("a rename", write, rename).await;
        check_hint("a deletion", write, |root| fs::remove_file(root.join("tls.crt")).unwrap()).await;
        check_hint("a creation", |_| {}, write).await;
        check_hint("a changed link", create_secret, switch_secret).await;
        check_hint("removing the directory", write, |root| fs::remove_dir_all(root).unwrap()).await;
        check_hint(
            "creating the directory",
            |root| fs::remove_dir(root).unwrap(),
            |root| fs::create_dir(root).unwrap(),
        )
        .await;
    }

    #[tokio::test]
    async fn a_directory_that_is_created_again_is_watched_again() {
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
    async fn a_hint_comes_in_time_while_events_keep_coming() {
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
