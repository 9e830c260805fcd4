//! A fingerprint of files, to find out whether they have changed.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;

use super::pem::{LISTS_MEBIBYTES_MAX, read_file};

/// A hash of the contents of files. It can be compared, and keeps none of the bytes: the files may hold private keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Reads the files. A file that is unreadable or too large counts by its error.
    ///
    /// Blocks until the file system answers.
    pub fn of(files: &[PathBuf]) -> Self {
        let mut hasher = DefaultHasher::new();
        for file in files {
            match read_file(file, LISTS_MEBIBYTES_MAX) {
                Ok(bytes) => bytes.hash(&mut hasher),
                Err(problem) => problem.to_string().hash(&mut hasher),
            }
        }
        Self(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_change_of_a_file_changes_the_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let files = [folder.path().join("tls.crt"), folder.path().join("tls.key")];
        let mut seen = Vec::new();
        let mut check = || {
            let fingerprint = Fingerprint::of(&files);
            assert_eq!(fingerprint, Fingerprint::of(&files));
            assert!(!seen.contains(&fingerprint), "change {} was not noticed", seen.len());
            seen.push(fingerprint);
        };
        check();
        for [certificate, key] in [["a", "bc"], ["ab", "c"], ["ab", "d"], ["", "d"]] {
            fs::write(&files[0], certificate).unwrap();
            fs::write(&files[1], key).unwrap();
            check();
        }
        // A file of revocation lists may be this large, with a change in its last list only.
        for last in ["a", "b"] {
            fs::write(&files[0], "x".repeat(2 * 1024 * 1024) + last).unwrap();
            check();
        }
        fs::remove_file(&files[1]).unwrap();
        check();
        fs::create_dir(&files[1]).unwrap();
        check();
    }
}
