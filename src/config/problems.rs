//! Collects the problems of one reading of the configuration.

use std::cell::RefCell;
use std::path::Path;

use figment::Figment;
use figment::Source;
use figment::value::Dict;
use figment::value::Value;

use super::error::ConfigProblem;
use super::error::Origin;

/// Collects the problems of one configuration, and determines the origin of values.
pub(super) struct ProblemCollector<'a> {
    figment: &'a Figment,
    pub(super) file: &'a Path,
    problems: RefCell<Vec<ConfigProblem>>,
}

impl<'a> ProblemCollector<'a> {
    /// Starts with the problems of the environment.
    pub(super) fn new(figment: &'a Figment, file: &'a Path, problems: Vec<ConfigProblem>) -> Self {
        Self { figment, file, problems: RefCell::new(problems) }
    }

    /// The problems, sorted by key.
    pub(super) fn into_problems(self) -> Vec<ConfigProblem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        problems
    }

    pub(super) fn note(&self, key: String, value: Option<String>, origin: Origin, sentence: String) {
        self.problems.borrow_mut().push(ConfigProblem { key, value, origin, sentence });
    }

    pub(super) fn origin(&self, value: &Value) -> Origin {
        match self.figment.get_metadata(value.tag()).and_then(|metadata| metadata.source.as_ref()) {
            Some(Source::Custom(variable)) => Origin::Variable(variable.clone()),
            _ => Origin::File(self.file.to_owned()),
        }
    }

    /// The origin of a table is the file if any of its keys is in the file, or else one of the variables. `None` if it
    /// is empty.
    pub(super) fn origin_of_table(&self, table: &Dict) -> Option<Origin> {
        let origins = table.values().filter_map(|value| match value {
            Value::Dict(_, inner) => self.origin_of_table(inner),
            value => Some(self.origin(value)),
        });
        origins.reduce(|first, next| if matches!(first, Origin::File(_)) { first } else { next })
    }
}
