//! What a file refers to: `use` declarations with re-exports, paths in code and types, and paths inside macro calls.
//!
//! Paths are resolved by name, as far as that takes no type inference: `crate`, `self`, `super`, child modules, and
//! names that the file imports. Code that only tests compile is left out.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{ImplItem, Item, ItemMod, ItemUse, Macro, Path, Stmt, UseTree, VisRestricted};

use super::source_tree::{ModulePath, SourceFile, SourceTree, is_test_only};

/// Everything that a file refers to, as absolute paths.
#[derive(Default)]
pub(crate) struct References {
    /// Below the crate root: `["relay", "limits", "Limits"]`.
    pub(crate) own: BTreeSet<ModulePath>,
    /// In other crates: `["std", "fs", "read"]`.
    pub(crate) foreign: BTreeSet<ModulePath>,
}

impl References {
    /// Reads the references of `file`.
    pub(crate) fn of(file: &SourceFile, tree: &SourceTree) -> Self {
        let mut collector = Collector { module: file.module.clone(), paths: Vec::new(), uses: Vec::new() };
        collector.visit_file(&file.syntax);
        let Collector { paths, uses, .. } = collector;
        // A name that is imported stands for its path, also where the import is written below its use.
        let mut imported: BTreeMap<(ModulePath, String), Target> = BTreeMap::new();
        for _ in 0..2 {
            for Use { module, path, name } in &uses {
                if let Some(target) = resolve(path, module, tree, &imported) {
                    imported.insert((module.clone(), name.clone()), target);
                }
            }
        }
        let mut references = Self::default();
        let uses = uses.iter().map(|Use { module, path, .. }| (module, path));
        let paths = paths.iter().filter(|(_, path)| path.len() > 1).map(|(module, path)| (module, path));
        for (module, path) in uses.chain(paths) {
            match resolve(path, module, tree, &imported) {
                Some(Target::Own(path)) => references.own.insert(path),
                Some(Target::Foreign(path)) => references.foreign.insert(path),
                None => false,
            };
        }
        references
    }
}

/// What a path leads to.
#[derive(Clone)]
enum Target {
    Own(ModulePath),
    Foreign(ModulePath),
}

struct Use {
    /// The module that it stands in.
    module: ModulePath,
    path: Vec<String>,
    /// What it is called there; `*` for a glob.
    name: String,
}

struct Collector {
    /// The module that is being read: the file's own, or an inline one in it.
    module: ModulePath,
    paths: Vec<(ModulePath, Vec<String>)>,
    uses: Vec<Use>,
}

impl Collector {
    fn collect_uses(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: String| [before, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.collect_uses(&path.tree, &with(path.ident.to_string())),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.collect_uses(item, before)),
            UseTree::Name(name) if name.ident == "self" => {
                let called = before.last().cloned().unwrap_or_default();
                self.uses.push(Use { module: self.module.clone(), path: before.to_vec(), name: called });
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.uses.push(Use { module: self.module.clone(), path: with(name.clone()), name });
            }
            UseTree::Rename(rename) => {
                let path = with(rename.ident.to_string());
                self.uses.push(Use { module: self.module.clone(), path, name: rename.rename.to_string() });
            }
            UseTree::Glob(_) => {
                self.uses.push(Use { module: self.module.clone(), path: before.to_vec(), name: "*".to_owned() });
            }
        }
    }

    /// Paths in the arguments of a macro, which are tokens and not syntax.
    fn collect_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) if colons == 2 => path.push(name.to_string()),
                TokenTree::Ident(name) => self.end_of_path(&mut path, Some(name.to_string())),
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    self.end_of_path(&mut path, None);
                    self.collect_tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => self.end_of_path(&mut path, None),
            }
            colons = 0;
        }
        self.end_of_path(&mut path, None);
    }

    fn end_of_path(&mut self, path: &mut Vec<String>, next: Option<String>) {
        let ended = std::mem::replace(path, next.into_iter().collect());
        self.paths.push((self.module.clone(), ended));
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test_only(attributes_of(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes = match item {
            ImplItem::Fn(item) => &item.attrs[..],
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            _ => &[],
        };
        if !is_test_only(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        let is_test = matches!(statement, Stmt::Local(local) if is_test_only(&local.attrs));
        if !is_test {
            visit::visit_stmt(self, statement);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if let Some((_, items)) = &item.content {
            self.module.push(item.ident.to_string());
            for item in items {
                self.visit_item(item);
            }
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.collect_uses(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast Path) {
        if path.leading_colon.is_none() {
            let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.paths.push((self.module.clone(), names));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.visit_path(&call.path);
        self.collect_tokens(call.tokens.clone());
    }

    /// `pub(in path)` names a module that is around the item anyway: it needs nothing from there.
    fn visit_vis_restricted(&mut self, _: &'ast VisRestricted) {}
}

pub(crate) fn attributes_of(item: &Item) -> &[syn::Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Where `path`, written in `module`, leads; `None` for a local name.
fn resolve(
    path: &[String],
    module: &[String],
    tree: &SourceTree,
    imported: &BTreeMap<(ModulePath, String), Target>,
) -> Option<Target> {
    let (first, rest) = path.split_first()?;
    // The binary knows the library by its name.
    let own = |path: ModulePath| Some(Target::Own(path));
    match first.as_str() {
        "crate" | "mongate" => own(rest.to_vec()),
        "self" => own([module, rest].concat()),
        "super" => {
            let ups = path.iter().take_while(|name| *name == "super").count();
            own([&module[..module.len().saturating_sub(ups)], &path[ups..]].concat())
        }
        "Self" => None,
        _ if tree.is_module(&[module, std::slice::from_ref(first)].concat()) => own([module, path].concat()),
        _ => match imported.get(&(module.to_vec(), first.clone())) {
            Some(Target::Own(to)) => own([&to[..], rest].concat()),
            Some(Target::Foreign(to)) => Some(Target::Foreign([&to[..], rest].concat())),
            None => Some(Target::Foreign(path.to_vec())),
        },
    }
}
