//! Who may do what: the rules of `[policy]`, compiled, and specialised for one caller.
//!
//! Pure: takes facts and meanings, returns judgements; counts nothing and logs nothing. What is not understood is never
//! guessed at: whoever reads a command says that it is [`Unclear`](crate::command::Unclear), and the policy says what
//! follows.

mod analysis;
mod caller;
mod commands;
mod compiled;
mod doubts;
mod fingerprint;
mod index;
mod judgement;
mod pattern;
mod problem;
mod rule;
mod rule_set;
mod sentence;
mod shadows;
mod view;

#[cfg(test)]
mod tests;

pub use caller::CallerFacts;
pub use compiled::Policy;
pub use judgement::{Effect, ErrorCode, Grounds, Judgement, Note};
pub use problem::PolicyProblem;
pub use rule::RuleId;
pub use sentence::Sentence;
pub use view::View;
