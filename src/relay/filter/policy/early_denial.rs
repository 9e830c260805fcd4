//! Long commands that are denied from their beginning, so that their bodies are not held.

use super::{PolicyFilter, denied, is_plain};
use crate::command;
use crate::policy::{ErrorCode, Sentence};
use crate::relay::filter::findings::Subject;
use crate::relay::filter::verdict::Verdict;
use crate::relay::filter::view::RequestView;
use crate::wire::header::OpCode;

impl PolicyFilter {
    /// The denial of a long command of which only the beginning has arrived, if no body could make the policy allow
    /// it. It takes no part of the hold budget then. The legacy `OP_QUERY` may name its command in an inner document,
    /// and is held.
    pub(super) fn certain_denial(&mut self, request: &RequestView<'_>) -> Option<Verdict> {
        let effective = self.effective.as_ref().filter(|effective| effective.denies_unclear())?;
        let name = request.facts.command().filter(|_| request.header.op_code == OpCode::MSG)?;
        let command = match command::named(name, effective.view.read_options()) {
            Ok(command) => command,
            Err(unclear) => {
                let shown = std::str::from_utf8(name).ok().and_then(command::plain_name).map(str::to_owned);
                return Some(self.deny_unknown(unclear, shown.as_deref(), request.facts));
            }
        };
        let collection = request.facts.first_value().and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        let judgement = effective.view.certain_denial(command, collection)?;
        let database = request.facts.database().map(|name| name.to_text()).filter(|name| is_plain(name));
        let verdict = denied(&Sentence {
            policy: &effective.policy,
            grounds: judgement.grounds,
            database: database.as_deref(),
            command: Some(command.name),
            unclear: None,
            name: None,
            code: ErrorCode::UNAUTHORIZED,
        });
        let namespace = database.as_deref().unwrap_or_default();
        self.add_finding(&judgement, Subject { command: Some(command.name), namespace, unclear: None });
        Some(verdict)
    }
}
