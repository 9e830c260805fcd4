//! Replies that the gateway makes itself, in place of mongod.

use std::io;

use bson::{RawDocumentBuf, rawdoc};

use crate::relay::filter::view::RequestView;
use crate::wire::error_reply;
use crate::wire::error_reply::CommandError;
use crate::wire::header::Header;

/// The mechanism of a client that authenticates with a certificate. The gateway has done that with its own.
const CERTIFICATE_MECHANISM: &str = "MONGODB-X509";

const UNREADABLE_HELLO: &str =
    "mongate: this hello is longer than 64 KiB or cannot be parsed; the gateway does not forward it";
const UNKNOWN_COMMAND: &str =
    "mongate: the command of this message cannot be recognised; the gateway does not forward it";
const LOAD_BALANCED_ONLY: &str = "mongate: this listener is for loadBalanced=true; add it to the URI";
const GATEWAY_AUTHENTICATES: &str = "mongate: the gateway authenticates; remove the credentials from the URI";
const NO_GETNONCE: &str =
    "mongate: no such command: 'getnonce': the gateway authenticates; remove the credentials from the URI";
const COMPRESSED: &str = "mongate: OP_COMPRESSED is not supported: compression was not negotiated in hello; remove \
                          `compressors` from the connection string";

/// A reply that the gateway makes itself.
pub(in crate::relay) enum LocalReply {
    /// The policy denies the command.
    Denied(CommandError),
    /// The command failed for another reason.
    Failed(CommandError),
    /// There is no upstream connection for the command. The labels say what a driver may do then.
    Refused(CommandError, Vec<&'static str>),
    /// The gateway has done what the command asks for, or nothing has to be done.
    Done(RawDocumentBuf),
}

impl LocalReply {
    /// The reply to `request` as a message, header included.
    pub(in crate::relay) fn to_message(&self, request: &Header) -> Vec<u8> {
        match self {
            Self::Denied(error) | Self::Failed(error) => error.reply_to(request),
            Self::Refused(error, labels) => error.labelled_reply_to(request, labels),
            Self::Done(document) => error_reply::reply(request, document),
        }
    }

    /// The reply to `authenticate`, `saslStart`, `saslContinue`, `getnonce` or `logout` where the gateway
    /// authenticates. All of the request has arrived.
    pub(in crate::relay) fn to_authentication(request: &RequestView<'_>) -> Self {
        match request.facts.command() {
            Some(b"logout") => Self::Done(rawdoc! { "ok": 1.0 }),
            // mongod has not needed it since 4.0.
            Some(b"getnonce") => failed(59, "CommandNotFound", NO_GETNONCE),
            Some(b"authenticate") => certificate_accepted(request).unwrap_or_else(Self::gateway_authenticates),
            _ => Self::gateway_authenticates(),
        }
    }

    /// The client cannot authenticate itself.
    pub(in crate::relay) fn gateway_authenticates() -> Self {
        failed(18, "AuthenticationFailed", GATEWAY_AUTHENTICATES)
    }

    /// The hello cannot be rewritten.
    pub(in crate::relay) fn unreadable_hello() -> Self {
        failed(17, "ProtocolError", UNREADABLE_HELLO)
    }

    /// The request could be a hello or an authentication.
    pub(in crate::relay) fn unknown_command() -> Self {
        failed(17, "ProtocolError", UNKNOWN_COMMAND)
    }

    /// The client does not expect a load balancer, and the listener is one.
    pub(in crate::relay) fn load_balanced_only() -> Self {
        failed(20, "IllegalOperation", LOAD_BALANCED_ONLY)
    }

    /// The system has no memory to hold the request for the policy.
    pub(in crate::relay) fn no_memory(error: &io::Error) -> Self {
        Self::Denied(CommandError {
            code: 146,
            code_name: "ExceededMemoryLimit",
            message: format!("mongate: there is not enough memory to hold this command for the policy: {error}"),
        })
    }

    /// The request is compressed, and no hello has allowed that.
    pub(in crate::relay) fn compressed() -> Self {
        failed(17, "ProtocolError", COMPRESSED)
    }
}

fn failed(code: i32, code_name: &'static str, message: &str) -> LocalReply {
    LocalReply::Failed(CommandError { code, code_name, message: message.to_owned() })
}

/// Reports success to a client that authenticates with a certificate: to mongod the client is the user that the gateway
/// has authenticated.
fn certificate_accepted(request: &RequestView<'_>) -> Option<LocalReply> {
    let command = request.command()?;
    if command.get_str("mechanism").ok()? != CERTIFICATE_MECHANISM {
        return None;
    }
    let user = command.get_str("user").unwrap_or_default();
    Some(LocalReply::Done(rawdoc! { "dbname": "$external", "user": user, "ok": 1.0 }))
}
