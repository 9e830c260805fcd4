//! The tools behind `mongate policy`: they explain decisions, compare them with expected ones, and import policies from
//! Istio.
//!
//! They use the same [`Policy`](crate::policy::Policy) and the same reader of commands as the gateway. They open no
//! files and no connections.

mod body;
mod cases;
mod explain;
mod istio;
mod question;
mod session_id;
mod text;
mod trace;
mod tree;

pub use body::BodyError;
pub use cases::{CaseOutcome, Cases, CasesError, TestOutcome};
pub use explain::{CallerReport, CommandReport, Decision, ExplainError, Explanation, PolicyReview, ReachReport};
pub use istio::{ImportError, Imported, import};
pub use question::{AssumedCaller, Body, QuestionError, RequestedCommand};
pub use session_id::{NotASessionId, SessionCaller, session_id_in_mongod};
pub use trace::{ResourceTrace, RuleKey, RuleTrace};
