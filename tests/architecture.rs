//! Holds the structure of the source: which modules may import which, that files do not import each other in circles,
//! what the pure modules may not touch, how imports are written, and that log messages are constants.
//!
//! The import table is in ARCHITECTURE.md. This test reads it from there, so that the page and the code stay the same.

#![expect(clippy::unwrap_used, reason = "helpers of a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

#[path = "architecture/circles.rs"]
mod circles;
#[path = "architecture/log_messages.rs"]
mod log_messages;
#[path = "architecture/references.rs"]
mod references;
#[path = "architecture/source_tree.rs"]
mod source_tree;

use circles::{Graph, circles};
use log_messages::{Message, log_messages};
use references::References;
use source_tree::{SourceFile, SourceTree};

/// Modules that take bytes and facts and return decisions. They run no task, write no log, count nothing, open nothing.
/// `config` reads one file, through figment, and addresses of `std::net` are plain values.
const PURE_MODULES: [&str; 6] = ["command", "policy", "identity", "topology", "wire", "config"];

/// What a pure module may not refer to: these paths and everything below them.
const IMPURE: [&str; 8] = [
    "tokio",
    "tracing",
    "metrics",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::thread::spawn",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source() -> SourceTree {
    let tree = SourceTree::read(&root().join("src"));
    assert!(tree.files.len() > 100, "the source tree was found");
    tree
}

/// The module directly below the crate root that a file belongs to: `wire`, `gateway`, `main`; `None` for `lib.rs`.
fn top_module(file: &SourceFile) -> Option<&str> {
    file.module.first().map(String::as_str)
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
    assert!(table.len() > 10, "the import table was found");
    table
}

/// File -> files that it refers to.
fn file_graph(tree: &SourceTree) -> Graph {
    let edges = |file: &SourceFile| {
        let targets = References::of(file, tree).own.into_iter().filter_map(|path| tree.file_of(&path));
        targets.map(|target| target.path.clone()).filter(|target| *target != file.path).collect()
    };
    tree.files.iter().map(|file| (file.path.clone(), edges(file))).collect()
}

/// What breaks the import table, a sentence for each edge.
fn forbidden_imports(tree: &SourceTree, table: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in &tree.files {
        let Some(module) = top_module(file) else { continue };
        let Some(allowed) = table.get(module) else {
            wrong.push(format!("{}: module `{module}` is not in the table", file.path));
            continue;
        };
        let own = References::of(file, tree).own;
        let imported: BTreeSet<&String> = own.iter().filter_map(|path| path.first()).collect();
        for other in imported.into_iter().filter(|other| *other != module && !allowed.contains(*other)) {
            wrong.push(format!("{}: `{module}` may not import `{other}`", file.path));
        }
    }
    wrong
}

/// What the pure modules refer to although they may not.
fn impure_references(tree: &SourceTree) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in tree.files.iter().filter(|file| top_module(file).is_some_and(|module| PURE_MODULES.contains(&module))) {
        for path in References::of(file, tree).foreign {
            let path = path.join("::");
            let is_impure = |root: &&str| path == **root || path.starts_with(&format!("{root}::"));
            if IMPURE.iter().any(is_impure) {
                wrong.push(format!("{}: refers to {path}", file.path));
            }
        }
    }
    wrong
}

#[test]
fn imports_follow_the_table_of_the_architecture_page() {
    let wrong = forbidden_imports(&source(), &import_table());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let found = circles(&file_graph(&source()));
    let found: Vec<String> = found.into_iter().map(|edges| edges.join("\n  ")).collect();
    assert!(found.is_empty(), "move the shared type to a file of its own:\n  {}", found.join("\n\n  "));
}

#[test]
fn the_table_names_only_modules_that_exist_and_has_no_circle() {
    let table = import_table();
    let tree = source();
    let exist: BTreeSet<&str> = tree.files.iter().filter_map(top_module).collect();
    for (module, allowed) in &table {
        assert!(exist.contains(module.as_str()), "`{module}` is in the table and not in src/");
        assert!(
            allowed.iter().all(|other| exist.contains(other.as_str())),
            "`{module}` may import what does not exist"
        );
    }
    assert_eq!(circles(&table), Vec::<Vec<String>>::new());
}

#[test]
fn pure_modules_touch_nothing_outside() {
    let wrong = impure_references(&source());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_is_part_of_the_crate_and_says_what_it_is_for() {
    let tree = source();
    for file in &tree.files {
        let path = &file.path;
        assert!(file.text.starts_with("//!"), "{path}: does not start with what it is for");
        assert!(
            !file.text.contains("use crate::{"),
            "{path}: one `use crate::module` a line, so that edges can be read"
        );
    }
    let known: BTreeSet<&str> = tree.files.iter().map(|file| file.path.as_str()).collect();
    let source = root().join("src");
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&source).unwrap().to_string_lossy().into_owned();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let below_tests = name.contains("/tests/");
            assert!(
                below_tests || known.contains(name.as_str()) || tree.test_files.contains(&name),
                "src/{name}: no `mod` declaration leads to it"
            );
        }
    }
}

#[test]
fn pem_files_are_read_in_one_place() {
    let tree = source();
    for file in tree.files.iter().filter(|file| file.path != "tls/pem.rs") {
        let foreign = References::of(file, &tree).foreign;
        let uses = foreign.iter().any(|path| path.first().is_some_and(|name| name == "rustls_pemfile"));
        assert!(!uses, "src/{}: uses rustls_pemfile", file.path);
    }
}

#[test]
fn log_messages_are_constants_that_the_reference_lists() {
    let tree = source();
    let page = fs::read_to_string(root().join("docs/log-lines.md")).unwrap();
    let messages = log_messages(&tree);
    assert!(messages.len() > 30, "the log lines were found");
    let wrong: Vec<String> = messages
        .into_iter()
        .filter_map(|(file, message)| match message {
            Message::Constant(text) if page.contains(&format!("`{text}`")) => None,
            Message::Constant(text) => Some(format!("src/{file}: `{text}` is not in docs/log-lines.md")),
            Message::Other(written) => Some(format!("src/{file}: \"{written}\" is not the name of a constant")),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A crate of two modules, `a` with two files and `b`, and what the rules find in it.
#[track_caller]
fn check(files: &[(&str, &str)], forbidden: &[&str], in_circles: &[&[&str]]) {
    let with_root = [&[("lib.rs", "mod a; mod b;")], files].concat();
    let tree = SourceTree::of(&with_root);
    let table = BTreeMap::from([("a".to_owned(), BTreeSet::new()), ("b".to_owned(), BTreeSet::from(["a".to_owned()]))]);
    assert_eq!(forbidden_imports(&tree, &table), forbidden);
    assert_eq!(circles(&file_graph(&tree)), in_circles);
}

#[test]
fn the_rules_see_every_way_to_refer_to_another_module() {
    let forbidden = ["a.rs: `a` may not import `b`"];
    let references = [
        "use crate::b::T;",
        "use crate::b;",
        "pub use crate::b::T;",
        "pub(crate) use crate::{b::T as U};",
        "pub(in crate) use crate::b::*;",
        "fn f(_: crate::b::T) {}",
        "fn f() { use super::b::T; }",
        "fn f() { let _ = crate::b::T; }",
        "fn f() { println!(\"{}\", crate::b::C); }",
        "mod inner { fn f() { super::super::b::f() } }",
        "use super as root; fn f() { root::b::f() }",
        "#[cfg(test)] mod tests { } use crate::b::T;",
        "#[cfg(test)] impl X { } impl Y { fn f() { crate::b::f() } }",
        "#[cfg(not(test))] use crate::b::T;",
        "impl crate::b::Trait for X { }",
    ];
    for text in references {
        check(&[("a.rs", text), ("b.rs", "")], &forbidden, &[]);
    }
    let unit_tests = [
        "#[cfg(test)] mod tests { use crate::b::T; }",
        "#[cfg(test)] use crate::b::T;",
        "struct X; impl X { #[cfg(test)] fn f() { crate::b::f() } }",
        "/// [`crate::b::T`]\nstruct X;",
        "fn f() { let b = 1; g(b) }",
        "pub(in crate::a) struct X;",
    ];
    for text in unit_tests {
        check(&[("a.rs", text), ("b.rs", "")], &[], &[]);
    }
}

#[test]
fn the_rules_see_circles_between_files_also_through_re_exports() {
    let circle: &[&[&str]] = &[&["a.rs -> a/child.rs", "a/child.rs -> a.rs"]];
    let through = |root: &str, child: &str, found: &[&[&str]]| {
        check(&[("a.rs", root), ("a/child.rs", child), ("b.rs", "")], &[], found);
    };
    through("mod child; pub use child::T;", "use super::Limits;", circle);
    through("mod child; fn f() { child::g() }", "fn g() { crate::a::f() }", circle);
    through("mod child; use self::child::T;", "pub(super) struct T(super::U);", circle);
    // A declaration alone needs nothing of the child.
    through("mod child;", "use super::Limits;", &[]);
    through("mod child; pub use child::T;", "#[cfg(test)] mod tests { use super::super::Limits; }", &[]);
}
