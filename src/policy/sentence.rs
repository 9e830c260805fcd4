//! What a client reads whose command was denied.

use std::fmt;

use crate::command::Unclear;

use super::compiled::Policy;
use super::judgement::Grounds;

/// What a refused client reads, and after what: `not authorized on shop to execute command find (mongate policy: ...)`.
pub struct Sentence<'a> {
    /// The policy that refused.
    pub policy: &'a Policy,
    /// Why.
    pub grounds: Grounds,
    /// `$db` where it could be read.
    pub database: Option<&'a str>,
    /// The command's name in the table; `None` where it has none.
    pub command: Option<&'static str>,
    /// What was not understood, where that is why.
    pub unclear: Option<Unclear>,
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.database.unwrap_or("(unknown)");
        let command = self.command.unwrap_or("(unknown)");
        write!(f, "not authorized on {database} to execute command {command} (mongate policy: ")?;
        match (self.grounds, self.unclear) {
            (Grounds::Rule(_), _) => write!(f, "rule \"{}\"", self.policy.label(self.grounds))?,
            (Grounds::JavaScript, _) => f.write_str("it runs JavaScript, and deny_javascript is set")?,
            (Grounds::Cursor, _) => f.write_str("the cursor was not given to this client")?,
            (Grounds::Unclear, Some(unclear)) => write!(f, "cannot be judged, {unclear}")?,
            (Grounds::Unclear, None) => f.write_str("cannot be judged")?,
            (Grounds::NoAllowRule | Grounds::NoRule | Grounds::Handshake, _) => f.write_str("no allow rule matches")?,
        }
        f.write_str(")")
    }
}
