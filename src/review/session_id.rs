//! The id that a session has in mongod, for an operator who compares an application's log with mongod's log.

use crate::identity::Principal;
use crate::policy::{SESSION_ID_BYTES, SessionOwner};

/// The caller that a session belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionCaller<'a> {
    /// A caller with this principal.
    Principal(&'a str),
    /// A caller without a principal, on this listener.
    Listener(&'a str),
}

/// The text is not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a session id; give 32 hexadecimal digits, with or without hyphens")]
pub struct NotASessionId(String);

/// The id in mongod of the session that `caller` calls `id`, both as the text of a UUID.
pub fn session_id_in_mongod(caller: SessionCaller<'_>, id: &str) -> Result<String, NotASessionId> {
    let digits = id.replace('-', "");
    let parsed = (digits.len() == 2 * SESSION_ID_BYTES && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
        .then(|| u128::from_str_radix(&digits, 16).ok())
        .flatten();
    let parsed = parsed.ok_or_else(|| NotASessionId(id.to_owned()))?;
    let owner = match caller {
        SessionCaller::Principal(principal) => SessionOwner::principal(Principal::configured(principal).as_str()),
        SessionCaller::Listener(listener) => SessionOwner::listener(listener),
    };
    let digits = format!("{:032x}", u128::from_be_bytes(owner.id_in_mongod(&parsed.to_be_bytes())));
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| digits.get(part).unwrap_or_default());
    Ok(parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_is_read_as_applications_log_it_and_printed_as_mongod_logs_it() {
        let id = "07070707-0707-0707-0707-070707070707";
        let principal = SessionCaller::Principal("cart");
        let there = Ok("0d9dbd97-4e8b-e2ae-b3ef-4a43a24b78db".to_owned());
        assert_eq!(session_id_in_mongod(principal, id), there);
        assert_eq!(session_id_in_mongod(principal, &id.replace('-', "")), there);
        assert_eq!(session_id_in_mongod(SessionCaller::Principal("spiffe://a.b/c"), id), {
            session_id_in_mongod(SessionCaller::Principal("a.b/c"), id)
        });
        assert_ne!(session_id_in_mongod(SessionCaller::Listener("cart"), id), there);
        for bad in ["", "+7070707070707070707070707070707", &id[1..], "x7070707-0707-0707-0707-070707070707"] {
            assert!(session_id_in_mongod(principal, bad).is_err(), "{bad}");
        }
    }
}
