//! The files of `src/` as the compiler sees them: found through `mod` declarations, parsed, without what only tests
//! compile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::{Attribute, Item, ItemMod};

/// The path of a module below the crate root: `["relay", "filter"]`. The crate root is empty.
pub(crate) type ModulePath = Vec<String>;

/// One file of non-test code.
pub(crate) struct SourceFile {
    /// Relative to `src/`, with forward slashes.
    pub(crate) path: String,
    pub(crate) module: ModulePath,
    pub(crate) syntax: syn::File,
    pub(crate) text: String,
}

/// All non-test files of a crate.
pub(crate) struct SourceTree {
    pub(crate) files: Vec<SourceFile>,
    /// Files that only tests compile, relative to the source folder.
    pub(crate) test_files: BTreeSet<String>,
    by_module: BTreeMap<ModulePath, usize>,
}

impl SourceTree {
    /// Reads the library (`lib.rs`) and the binary (`main.rs`) below `source`.
    ///
    /// Panics when a file cannot be read or parsed: then the rules cannot be checked.
    pub(crate) fn read(source: &Path) -> Self {
        let files = Vec::new();
        let mut tree = Self { files, test_files: BTreeSet::new(), by_module: BTreeMap::new() };
        let mut open = |path: &Path| fs::read_to_string(source.join(path)).ok();
        tree.add_root("lib.rs", Vec::new(), &mut open);
        tree.add_root("main.rs", vec!["main".to_owned()], &mut open);
        tree
    }

    /// Takes files from memory instead: `(path, text)`, as the unit tests of the rules have them.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self { files: Vec::new(), test_files: BTreeSet::new(), by_module: BTreeMap::new() };
        let mut open = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        };
        tree.add_root("lib.rs", Vec::new(), &mut open);
        tree
    }

    /// The file that holds the longest module prefix of `path`, which starts at the crate root.
    pub(crate) fn file_of(&self, path: &[String]) -> Option<&SourceFile> {
        (1..=path.len()).rev().find_map(|length| self.by_module.get(&path[..length])).map(|index| &self.files[*index])
    }

    /// Whether `path` names a module, with a file of its own or inline.
    pub(crate) fn is_module(&self, path: &[String]) -> bool {
        self.by_module.contains_key(path)
    }

    fn add_root(&mut self, file: &str, module: ModulePath, open: &mut impl FnMut(&Path) -> Option<String>) {
        if let Some(text) = open(Path::new(file)) {
            self.add(Found { path: PathBuf::from(file), text }, &Child { module, folder: PathBuf::new() }, open);
        }
    }

    /// Adds the file of a module and, through its `mod` declarations, all files below it.
    fn add(&mut self, found: Found, module: &Child, open: &mut impl FnMut(&Path) -> Option<String>) {
        let Found { path, text } = found;
        let Child { module, folder } = module;
        let name = path.to_string_lossy().replace('\\', "/");
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{name}: not Rust: {error}"));
        let index = self.files.len();
        self.by_module.insert(module.clone(), index);
        let children = self.children(&syntax.items, module, folder, index);
        self.files.push(SourceFile { path: name, module: module.clone(), syntax, text });
        for (child, is_test) in children {
            let places = [child.folder.with_extension("rs"), child.folder.join("mod.rs")];
            let found = places.into_iter().find_map(|path| open(&path).map(|text| Found { path, text }));
            let Some(found) = found else { panic!("{}: no file for this module", child.module.join("::")) };
            if is_test {
                self.test_files.insert(found.path.to_string_lossy().into_owned());
            } else {
                self.add(found, &child, open);
            }
        }
    }

    /// The modules that `items` declare in other files, and whether only tests compile them. Inline modules belong to
    /// the file that they are in, which has this `index`.
    fn children(&mut self, items: &[Item], module: &[String], folder: &Path, index: usize) -> Vec<(Child, bool)> {
        let mut children = Vec::new();
        for item in items {
            let Item::Mod(ItemMod { attrs, ident, content, .. }) = item else { continue };
            let name = ident.to_string();
            let child = [module, std::slice::from_ref(&name)].concat();
            match content {
                None => {
                    children.push((Child { module: child, folder: folder.join(&name) }, is_test_only(attrs)));
                }
                Some(_) if is_test_only(attrs) => {}
                Some((_, items)) => {
                    self.by_module.insert(child.clone(), index);
                    children.extend(self.children(items, &child, &folder.join(&name), index));
                }
            }
        }
        children
    }
}

/// A module whose code is in a file of its own.
struct Child {
    module: ModulePath,
    /// Where its children are. Without extension: `relay/filter` for `relay/filter.rs` and `relay/filter/mod.rs`.
    folder: PathBuf,
}

/// A file and what is in it.
struct Found {
    path: PathBuf,
    text: String,
}

/// Whether an item with these attributes is compiled for unit tests only: `#[cfg(test)]`, also among other conditions.
pub(crate) fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| {
                let condition = list.tokens.to_string();
                let has = |word| condition.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word);
                has("test") && !has("not") && !has("any")
            })
    })
}
