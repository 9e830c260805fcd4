//! The messages of log lines: every event macro names a constant, and the constants have the text.

use std::collections::BTreeMap;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Expr, ExprLit, ImplItem, Item, ItemConst, Lit, Macro};

use super::references::attributes_of;
use super::source_tree::{SourceFile, SourceTree, is_test_only};

/// What an event macro of `tracing` writes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The text of the constant that the macro names, as `"{NAME}"`.
    Constant(String),
    /// Anything else, for which there is no text that stays the same.
    Other(String),
}

/// The messages of all log lines of the crate, each with its file.
pub(crate) fn log_messages(tree: &SourceTree) -> Vec<(String, Message)> {
    let reads: Vec<(&SourceFile, Reader)> = tree.files.iter().map(|file| (file, Reader::of(file))).collect();
    let mut messages = Vec::new();
    for (file, reader) in &reads {
        for written in &reader.events {
            let name = written.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            // A constant of the same file, or the one that is imported.
            let text = name.and_then(|name| {
                let elsewhere = reads.iter().filter(|(other, _)| other.module.first() == file.module.first());
                let all = std::iter::once(reader).chain(elsewhere.map(|(_, other)| other));
                all.into_iter().find_map(|reader| reader.constants.get(name))
            });
            let message = text.map_or_else(|| Message::Other(written.clone()), |text| Message::Constant(text.clone()));
            messages.push((file.path.clone(), message));
        }
    }
    messages
}

/// What one file has.
#[derive(Default)]
struct Reader {
    constants: BTreeMap<String, String>,
    /// The last literal of each event macro, which is its message.
    events: Vec<String>,
}

impl Reader {
    fn of(file: &SourceFile) -> Self {
        let mut reader = Self::default();
        reader.visit_file(&file.syntax);
        reader
    }

    /// Event macros in the arguments of other macros, as of `tokio::select!`.
    fn visit_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            let TokenTree::Group(group) = token else { continue };
            let is_event = at >= 2
                && matches!(&tokens[at - 1], TokenTree::Punct(mark) if mark.as_char() == '!')
                && matches!(&tokens[at - 2], TokenTree::Ident(name) if is_event_name(&name.to_string()));
            if is_event {
                self.events.push(last_literal(group.stream()));
            } else {
                self.visit_tokens(group.stream());
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test_only(attributes_of(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if !matches!(item, ImplItem::Fn(item) if is_test_only(&item.attrs)) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_const(&mut self, item: &'ast ItemConst) {
        if let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = &*item.expr {
            self.constants.insert(item.ident.to_string(), text.value());
        }
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        let is_event = call.path.segments.last().is_some_and(|last| is_event_name(&last.ident.to_string()));
        if is_event {
            self.events.push(last_literal(call.tokens.clone()));
        } else {
            self.visit_tokens(call.tokens.clone());
        }
    }
}

fn is_event_name(name: &str) -> bool {
    matches!(name, "error" | "warn" | "info" | "debug" | "trace")
}

/// The last string literal among the arguments of a macro, without its quotes.
fn last_literal(tokens: TokenStream) -> String {
    let literals = tokens.into_iter().filter_map(|token| match token {
        TokenTree::Literal(literal) => Some(literal.to_string()),
        _ => None,
    });
    literals.last().unwrap_or_default().trim_matches('"').to_owned()
}
