//! Authorization: the rules of `[policy]`, compiled, and specialised for one caller.
//!
//! Pure: takes facts about a caller and the meaning of a command, and returns a judgement. It counts nothing and logs
//! nothing. A command that cannot be understood is [`Unclear`](crate::command::Unclear); the policy never guesses what
//! it means.

mod analysis;
mod caller;
mod certain;
mod commands;
mod compiled;
mod expiry;
mod fingerprint;
mod index;
mod judgement;
mod pattern;
mod pitfalls;
mod problem;
mod rule;
mod rule_set;
mod sentence;
mod session_id;
mod shadows;
mod tables;
mod view;
mod visibility;
mod witnesses;

#[cfg(test)]
mod tests;

pub use caller::CallerFacts;
pub use compiled::Policy;
pub use expiry::RuleExpiry;
pub use judgement::{Effect, ErrorCode, Grounds, Judgement, Note};
pub use problem::PolicyProblem;
pub use rule::RuleId;
pub use sentence::Sentence;
pub use session_id::{SESSION_ID_BYTES, SessionOwner};
pub use view::View;
