//! Files of certificates and keys, to be known again.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;

use super::pem::{LISTS_MEBIBYTES_MAX, read_file};

/// What the bytes of some files were, so that they can be known again without being kept: keys are among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Reads the files, each as far as the largest that is taken; one that cannot be read counts by the reason why not.
    ///
    /// Blocks for as long as the file system takes to answer.
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
    fn a_fingerprint_is_of_all_that_the_files_hold() {
        let folder = tempfile::tempdir().unwrap();
        let files = [folder.path().join("tls.crt"), folder.path().join("tls.key")];
        let mut seen = Vec::new();
        let mut look = || {
            let fingerprint = Fingerprint::of(&files);
            assert_eq!(fingerprint, Fingerprint::of(&files));
            assert!(!seen.contains(&fingerprint), "the {}th change went unnoticed", seen.len());
            seen.push(fingerprint);
        };
        look();
        for [certificate, key] in [["a", "bc"], ["ab", "c"], ["ab", "d"], ["", "d"]] {
            fs::write(&files[0], certificate).unwrap();
            fs::write(&files[1], key).unwrap();
            look();
        }
        // A file of revocation lists may be this large, and only its last list be new.
        for last in ["a", "b"] {
            fs::write(&files[0], "x".repeat(2 * 1024 * 1024) + last).unwrap();
            look();
        }
        fs::remove_file(&files[1]).unwrap();
        look();
        fs::create_dir(&files[1]).unwrap();
        look();
    }
}
