//! Holds the shape of the house: who may import whom, what the pure modules may not touch, and how imports are written.
//!
//! The table stands in ARCHITECTURE.md; this test reads it from there, so that the page cannot drift from the code.

#![expect(clippy::unwrap_used, reason = "helpers of a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules that take bytes and facts and return decisions. They run no task, write no log, count nothing, open nothing.
const FORBIDDEN_IN_PURE_MODULES: [&str; 6] =
    ["tokio::", "tracing::", "metrics::", "std::fs", "std::net::Tcp", "std::thread::spawn"];

/// `config` reads one file, through figment, and `std::net` addresses are plain values.
const PURE_MODULES: [&str; 6] = ["command", "policy", "identity", "topology", "wire", "config"];

struct SourceFile {
    path: PathBuf,
    /// The top-level module that the file belongs to: `wire`, `gateway`, `main`, ...
    module: String,
    text: String,
}

impl SourceFile {
    /// The text up to the unit tests, which may do as they like.
    fn code(&self) -> &str {
        self.text.split("#[cfg(test)]").next().unwrap_or_default()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source_files() -> Vec<SourceFile> {
    let source = root().join("src");
    let (mut folders, mut files) = (vec![source.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            if stem == "tests" || stem.starts_with("test_") {
                // Compiled for unit tests only.
            } else if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let inside = path.strip_prefix(&source).unwrap();
                let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
                let module = first.trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).unwrap();
                files.push(SourceFile { path, module, text });
            }
        }
    }
    assert!(files.len() > 20, "found the source tree");
    files
}

/// The table of ARCHITECTURE.md: module -> modules that it may import.
fn import_table() -> BTreeMap<String, BTreeSet<String>> {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = page.lines().skip_while(|line| !line.starts_with("| Layer | Module | May import |")).skip(2);
    let names = |cell: &str| -> BTreeSet<String> {
        cell.split(',').map(|name| name.trim().trim_matches('`').to_owned()).filter(|name| !name.is_empty()).collect()
    };
    let mut table = BTreeMap::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        for module in names(cells[1]) {
            table.insert(module, names(cells[2]));
        }
    }
    assert!(table.len() > 10, "found the import table");
    table
}

/// Top-level modules that `code` names after `crate::` or, in the binary, after `mongate::`.
fn imported(code: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for prefix in ["crate::", "mongate::"] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = &code[at + prefix.len()..];
            let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            modules.insert(name);
        }
    }
    modules
}

#[test]
fn imports_follow_the_table_of_the_architecture_page() {
    let table = import_table();
    let mut wrong = Vec::new();
    for file in source_files().iter().filter(|file| file.module != "lib") {
        let Some(allowed) = table.get(&file.module) else {
            wrong.push(format!("{}: module `{}` is not in the table", file.path.display(), file.module));
            continue;
        };
        for module in imported(file.code()) {
            if module != file.module && !allowed.contains(&module) {
                wrong.push(format!("{}: `{}` may not import `{module}`", file.path.display(), file.module));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_names_only_modules_that_exist_and_has_no_cycle() {
    let table = import_table();
    let exist: BTreeSet<String> = source_files().into_iter().map(|file| file.module).collect();
    for (module, allowed) in &table {
        assert!(exist.contains(module), "`{module}` is in the table and not in src/");
        assert!(allowed.iter().all(|other| exist.contains(other)), "`{module}` may import what does not exist");
    }
    // Takes away, again and again, what imports nothing that is left; a cycle is what can never be taken away.
    let mut left = table;
    loop {
        let free: Vec<String> = left
            .iter()
            .filter(|(_, allowed)| allowed.iter().all(|m| !left.contains_key(m)))
            .map(|(m, _)| m.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        left.retain(|module, _| !free.contains(module));
    }
    assert!(left.is_empty(), "these import each other: {:?}", left.keys());
}

#[test]
fn pure_modules_touch_nothing_outside() {
    for file in source_files().iter().filter(|file| PURE_MODULES.contains(&file.module.as_str())) {
        for forbidden in FORBIDDEN_IN_PURE_MODULES {
            assert!(!file.code().contains(forbidden), "{}: uses {forbidden}", file.path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is_for_and_names_its_imports_one_by_one() {
    for file in source_files() {
        let path = file.path.display();
        assert!(file.text.starts_with("//!"), "{path}: does not start with what it is for");
        assert!(
            !file.text.contains("use crate::{"),
            "{path}: one `use crate::module` a line, so that edges can be read"
        );
        let is_top = file.path.parent().is_some_and(|folder| folder.ends_with("src"));
        assert!(
            !(is_top && file.text.contains("use super::") && !file.text.contains("mod tests")),
            "{path}: `super` from a top file"
        );
    }
}

#[test]
fn pem_files_are_read_in_one_place() {
    for file in source_files().iter().filter(|file| !file.path.ends_with("tls/pem.rs")) {
        assert!(!file.code().contains("rustls_pemfile::"), "{}: uses rustls_pemfile", file.path.display());
    }
}
