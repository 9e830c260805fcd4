//! Denials that are certain before the body of a command has arrived, so that no memory has to hold the body.

use smallvec::SmallVec;

use crate::command::table::Command;
use crate::command::{CertainReach, certain_reach};
use crate::config::Action;

use super::commands::CommandFacts;
use super::judgement::{Effect, Grounds, Judgement, Note};
use super::rule::To;
use super::view::View;

impl View {
    /// The denial of a command, if [`View::judge`] denies every body that it can have. `collection` is the value of its
    /// first element if that is a string and known.
    ///
    /// The reason may be another one than that of the whole body, which may name a resource that a rule denies first.
    /// Compares the entries of all rules that apply to the caller: meant for long commands only.
    pub fn certain_denial(&self, command: &'static Command, collection: Option<&str>) -> Option<Judgement> {
        let rule_set = &*self.rule_set;
        if !rule_set.flags.enforces {
            return None;
        }
        let certain = certain_reach(command)?;
        let asked = Question { command, certain, collection: collection.filter(|_| certain.is_first_value) };
        let entries = |action| {
            let of_action = move |(_, rule, _): &(_, &super::rule::Rule, _)| rule.action == action && !rule.dry_run;
            rule_set.entries().filter(of_action)
        };
        let grounds = match entries(Action::Deny).find(|(_, _, to)| asked.surely_matches(to, Action::Deny)) {
            Some((rule, ..)) => Grounds::Rule(rule),
            None if !rule_set.flags.needs_allow => return None,
            None if entries(Action::Allow).any(|(_, _, to)| asked.may_be_allowed_by(to)) => return None,
            None => Grounds::NoAllowRule,
        };
        let mut notes = SmallVec::new();
        for (rule, _, to) in rule_set.entries().filter(|(_, rule, _)| rule.action == Action::Audit) {
            let note = (Note::Audit, Grounds::Rule(rule));
            if asked.surely_matches(to, Action::Audit) && notes.last() != Some(&note) {
                notes.push(note);
            }
        }
        Some(Judgement { effect: Effect::Deny, grounds, reach: None, notes })
    }
}

/// What is known of the command.
struct Question<'a> {
    command: &'static Command,
    certain: CertainReach,
    collection: Option<&'a str>,
}

impl Question<'_> {
    /// Everything that an entry may compare besides resources, for each form of the command.
    fn forms(&self) -> impl Iterator<Item = CommandFacts> {
        let command = self.command;
        self.certain.classes.iter().flat_map(move |class| {
            [false, true].map(|javascript| CommandFacts {
                command,
                class: *class,
                javascript,
                explained: false,
                essential: false,
            })
        })
    }

    /// Whether an `allow` entry may cover the certain reach of some form.
    fn may_be_allowed_by(&self, to: &To) -> bool {
        // A resource that is more than the collection is covered only by entries that match every collection.
        let may_cover = self.collection.is_none_or(|collection| to.collections.match_fact(Some(collection)));
        !to.never_matches() && may_cover && self.forms().any(|facts| to.applies_to(&facts, Action::Allow))
    }

    /// Whether a `deny` or `audit` entry matches the certain reach of every form.
    fn surely_matches(&self, to: &To, action: Action) -> bool {
        let any_collection = to.collections.any.is_none() && to.collections.not.is_empty();
        let has_collection = |collection| to.collections.match_fact(Some(collection));
        let matches_resource = to.databases.any.is_none()
            && to.databases.not.is_empty()
            && (any_collection || self.collection.is_some_and(has_collection));
        !to.never_matches() && matches_resource && self.forms().all(|facts| to.applies_to(&facts, action))
    }
}
