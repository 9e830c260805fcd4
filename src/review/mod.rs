//! A policy looked at from outside, behind `mongate policy`: why it decides as it does, whether it decides as expected,
//! and what it would be if it came from a mesh.
//!
//! Asks the same [`Policy`](crate::policy::Policy) as the gateway, and the same reader of what a body means; has no
//! opinion of its own. Opens nothing and connects to nothing.

mod body;
mod cases;
mod explain;
mod istio;
mod question;
mod session_id;
mod trace;
mod tree;

pub use body::BodyError;
pub use cases::{CaseOutcome, Cases, CasesError, Outcome};
pub use explain::{CallerReport, CommandReport, Decision, ExplainError, Explanation, ReachReport, Reviewed};
pub use istio::{ImportError, Imported, import};
pub use question::{Body, Caller, QuestionError, Wanted};
pub use session_id::{NotASessionId, SessionCaller, session_id_in_mongod};
pub use trace::{Part, PlaceTrace, RuleTrace};
