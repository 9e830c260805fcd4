//! The keys of a configuration with their values, to name the keys in which two readings differ.

use std::collections::BTreeMap;

use figment::value::Dict;
use figment::value::Value;

use super::error::joined;

/// The keys that the file and the environment set, with their values. Keys with default values are not included.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KeyValues(BTreeMap<String, Value>);

impl KeyValues {
    pub(super) fn of(values: &Dict) -> Self {
        let mut keys = BTreeMap::new();
        collect("", values, &mut keys);
        Self(keys)
    }

    /// The paths of the keys that are set here or in `other` and differ, sorted. A list is one key.
    pub fn changed(&self, other: &Self) -> Vec<String> {
        let differs = |key: &&String| self.0.get(*key) != other.0.get(*key);
        let mut keys: Vec<String> = self.0.keys().chain(other.0.keys()).filter(differs).cloned().collect();
        keys.sort();
        keys.dedup();
        keys
    }
}

fn collect(table: &str, values: &Dict, keys: &mut BTreeMap<String, Value>) {
    for (key, value) in values {
        let path = joined(table, key);
        match value {
            Value::Dict(_, inner) => collect(&path, inner, keys),
            value => drop(keys.insert(path, value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use figment::Figment;
    use figment::providers::Format;
    use figment::providers::Toml;

    use super::*;

    fn values(text: &str) -> KeyValues {
        KeyValues::of(&Figment::from(Toml::string(text)).extract::<Dict>().unwrap())
    }

    #[test]
    fn keys_that_differ_are_named_once_and_sorted() {
        let before = values("workers = 2\n[log]\nlevel = 'info'\n[upstream.a]\nmembers = ['m:1', 'n:1']\n");
        let after = values("workers = 2\n[log]\nlevel = 'debug'\n[upstream.a]\nmembers = ['m:1']\n[upstream.b]\nx = 1");
        assert_eq!(before.changed(&after), ["log.level", "upstream.a.members", "upstream.b.x"]);
        assert_eq!(after.changed(&before), before.changed(&after));
        assert!(before.changed(&values("workers=2\nlog.level='info'\nupstream.a.members=['m:1','n:1']")).is_empty());
    }
}
