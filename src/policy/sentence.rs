//! The error message that a client reads when the policy denies its command.

use std::fmt;

use crate::command::Unclear;

use super::compiled::Policy;
use super::judgement::{ErrorCode, Grounds};

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
    /// The name of the command or stage that is unknown, from [`unknown_name`](crate::command::unknown_name).
    pub name: Option<&'a str>,
    /// The code of the error: [`View::code_of`](super::View::code_of), or [`ErrorCode::UNAUTHORIZED`].
    pub code: ErrorCode,
}

/// The remedy for a command or stage that a server has and the gateway's tables lack.
const KNOWN: &str = "if the server has it, name it in the gateway's [policy] known_commands";

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.or(self.command).unwrap_or("(unknown)");
        // mongod's own text. Drivers search for it.
        match self.code {
            ErrorCode::COMMAND_NOT_FOUND => return write!(f, "mongate: no such command: '{name}'; {KNOWN}"),
            ErrorCode::UNKNOWN_STAGE => {
                return write!(f, "mongate: Unrecognized pipeline stage name: '{name}'; {KNOWN}");
            }
            ErrorCode::CURSOR_NOT_FOUND => {
                return f.write_str(
                    "mongate: cursor not found: it has ended, or it was not opened by this client on this gateway",
                );
            }
            _ => {}
        }
        let database = self.database.unwrap_or("(unknown)");
        let of_name = self.name.filter(|_| self.unclear == Some(Unclear::UnknownCommand));
        let command = self.command.or(of_name).unwrap_or("(unknown)");
        if let (ErrorCode::TYPE_MISMATCH | ErrorCode::INVALID_NAMESPACE, Some(unclear)) = (self.code, self.unclear) {
            return write!(f, "mongate: cannot execute command {command} on {database}: {unclear}");
        }
        write!(f, "mongate: not authorized on {database} to execute command {command}: ")?;
        match (self.grounds, self.unclear) {
            (Grounds::Rule(_), _) => write!(f, "denied by rule \"{}\"", self.policy.label(self.grounds)),
            (Grounds::JavaScript, _) => f.write_str("the command runs JavaScript, and deny_javascript is set"),
            (Grounds::Cursor, _) => f.write_str("the cursor does not belong to this client"),
            (Grounds::Unclear, Some(unclear)) => {
                f.write_str("the policy cannot judge this command: ")?;
                match (unclear, self.name) {
                    (Unclear::UnknownCommand, Some(name)) => write!(f, "the command \"{name}\" is unknown"),
                    (Unclear::UnknownStage, Some(name)) => write!(f, "the stage \"{name}\" is unknown"),
                    (Unclear::InternalStage, Some(name)) => {
                        write!(f, "the stage \"{name}\" is reserved for MongoDB servers")
                    }
                    _ => write!(f, "{unclear}"),
                }
            }
            (Grounds::Unclear, None) => f.write_str("the policy cannot judge this command"),
            (Grounds::NoAllowRule | Grounds::NoRule | Grounds::Handshake, _) => f.write_str("no allow rule matches"),
        }
    }
}
