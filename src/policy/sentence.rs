//! The error message that a client reads when the policy denies its command.

use std::fmt;

use crate::command::Unclear;

use super::compiled::Policy;
use super::judgement::Grounds;

/// The error message for a denied command: `mongate: not authorized on shop to execute command find: ...`.
///
/// It keeps the words of mongod's own error, because tools search for `not authorized`. It names the database, the
/// command and the rule, and no values.
pub struct Sentence<'a> {
    /// The policy that denied the command.
    pub policy: &'a Policy,
    /// Why.
    pub grounds: Grounds,
    /// `$db`, if it could be read.
    pub database: Option<&'a str>,
    /// The command's name in the table of commands; `None` for an unknown command.
    pub command: Option<&'static str>,
    /// What could not be understood, if that is the reason.
    pub unclear: Option<Unclear>,
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.database.unwrap_or("(unknown)");
        let command = self.command.unwrap_or("(unknown)");
        write!(f, "mongate: not authorized on {database} to execute command {command}: ")?;
        match (self.grounds, self.unclear) {
            (Grounds::Rule(_), _) => write!(f, "denied by rule \"{}\"", self.policy.label(self.grounds)),
            (Grounds::JavaScript, _) => f.write_str("the command runs JavaScript, and deny_javascript is set"),
            (Grounds::Cursor, _) => f.write_str("the cursor does not belong to this client"),
            (Grounds::Unclear, Some(unclear)) => write!(f, "the policy cannot judge this command: {unclear}"),
            (Grounds::Unclear, None) => f.write_str("the policy cannot judge this command"),
            (Grounds::NoAllowRule | Grounds::NoRule | Grounds::Handshake, _) => f.write_str("no allow rule matches"),
        }
    }
}
