//! What the gateway answers a client in mongod's stead, where the handshake is its own affair.

use bson::{RawDocumentBuf, rawdoc};

use crate::relay::filter::view::RequestView;
use crate::wire::error_reply;
use crate::wire::error_reply::CommandError;
use crate::wire::header::Header;

/// How a client proves with a certificate who it is: the gateway has done that, with its own.
const CERTIFICATE_MECHANISM: &str = "MONGODB-X509";

/// An answer of the gateway's own.
pub(in crate::relay) enum OwnAnswer {
    /// The command is done, or need not be done.
    Done(RawDocumentBuf),
    /// It is not.
    Failed(CommandError),
}

impl OwnAnswer {
    /// As a message to the client.
    pub(in crate::relay) fn reply_to(&self, request: &Header) -> Vec<u8> {
        match self {
            Self::Done(document) => error_reply::reply(request, document),
            Self::Failed(error) => error.reply_to(request),
        }
    }

    /// What went wrong, if anything.
    pub(in crate::relay) fn error(&self) -> Option<&CommandError> {
        match self {
            Self::Done(_) => None,
            Self::Failed(error) => Some(error),
        }
    }
}

/// The answer to `authenticate`, `saslStart`, `saslContinue`, `getnonce` or `logout`, of which all of `message` is here.
pub(in crate::relay) fn to_authentication(seen: &RequestView<'_>) -> OwnAnswer {
    match seen.facts.command() {
        Some(b"logout") => OwnAnswer::Done(rawdoc! { "ok": 1.0 }),
        // mongod has had no use for it since 4.0.
        Some(b"getnonce") => OwnAnswer::Failed(CommandError {
            code: 59,
            code_name: "CommandNotFound",
            message: format!("no such command: 'getnonce' ({CREDENTIALS})"),
        }),
        Some(b"authenticate") => to_authenticate(seen).unwrap_or_else(no_credentials),
        _ => no_credentials(),
    }
}

/// A client that would show a certificate is taken for who the gateway says it is.
fn to_authenticate(seen: &RequestView<'_>) -> Option<OwnAnswer> {
    let command = seen.command()?;
    if command.get_str("mechanism").ok()? != CERTIFICATE_MECHANISM {
        return None;
    }
    let user = command.get_str("user").unwrap_or_default();
    Some(OwnAnswer::Done(rawdoc! { "dbname": "$external", "user": user, "ok": 1.0 }))
}

/// What an operator has to do about a client that would authenticate.
const CREDENTIALS: &str = "mongate: the gateway authenticates; remove the credentials from the URI";

/// The client would authenticate by itself.
pub(in crate::relay) fn no_credentials() -> OwnAnswer {
    OwnAnswer::Failed(CommandError { code: 18, code_name: "AuthenticationFailed", message: CREDENTIALS.to_owned() })
}

/// A hello that cannot be changed as it would have to be.
pub(in crate::relay) fn unreadable_hello() -> OwnAnswer {
    protocol_error("mongate: this hello is longer than 64 KiB or cannot be read, and does not go to mongod as it is")
}

/// Nobody knows which command it is.
pub(in crate::relay) fn undetermined() -> OwnAnswer {
    protocol_error("mongate: it cannot be told which command this is, and so it does not go to mongod")
}

/// The client does not know that it talks to what it has to take for a load balancer.
pub(in crate::relay) fn load_balanced_only() -> OwnAnswer {
    OwnAnswer::Failed(CommandError {
        code: 20,
        code_name: "IllegalOperation",
        message: "mongate: this listener is for loadBalanced=true; add it to the URI".to_owned(),
    })
}

fn protocol_error(message: &str) -> OwnAnswer {
    OwnAnswer::Failed(CommandError { code: 17, code_name: "ProtocolError", message: message.to_owned() })
}
