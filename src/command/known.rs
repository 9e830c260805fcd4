//! Names of commands and stages that the operator declares as known, because a server has them and the tables do not.

use std::collections::BTreeMap;

use super::table::Class;

/// Commands and stages that are missing in the tables, with the class of each. Each one reaches the whole server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownNames(BTreeMap<Box<str>, Class>);

impl KnownNames {
    /// Adds a command, or a stage if the name begins with `$`.
    pub fn insert(&mut self, name: &str, class: Class) {
        self.0.insert(name.into(), class);
    }

    pub(super) fn class_of(&self, name: &str) -> Option<Class> {
        self.0.get(name).copied()
    }
}

/// Accepts a name that can be shown in logs and errors: 1 to 64 of `A-Z a-z 0-9 _ $ . -`. It comes from a client.
pub fn plain_name(name: &str) -> Option<&str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.' | b'-');
    ((1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain)).then_some(name)
}

/// Longer than any command of MongoDB.
const NAME_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_only_if_it_is_plain() {
        for name in ["foo", "$foo", "_a.b-c", &"x".repeat(64)] {
            assert_eq!(plain_name(name), Some(name));
        }
        for name in ["", "a b", "a\n", "\u{1b}[31m", "\u{e9}", "a\"b", "a\0", &"x".repeat(65)] {
            assert_eq!(plain_name(name), None, "{name:?}");
        }
    }
}
