//! What a conversation is told differently from what mongod says, and what the gateway says in mongod's place.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bson::{RawDocument, RawDocumentBuf, rawdoc};

use crate::relay::Limits;
use crate::topology::{MemberMap, Names, Unreadable, rewrite};
use crate::wire::error_reply::CommandError;
use crate::wire::header::{Header, OpCode};
use crate::wire::hello;
use crate::wire::request::RequestFacts;
use crate::wire::sasl;

/// How a conversation through the gateway differs from one with mongod itself.
#[derive(Default)]
pub struct Terms {
    /// What clients read in the place of members' names.
    pub naming: Naming,
    /// Who authenticates.
    pub authentication: Authentication,
    /// When it ends although both sides would go on.
    pub limits: Limits,
}

/// What clients read in the place of members' names, in replies to `hello`.
#[derive(Default)]
pub enum Naming {
    /// What mongod says.
    #[default]
    Kept,
    /// The gateway's addresses for the members.
    Members {
        /// Who has which, at every moment.
        names: Arc<ArcSwap<MemberMap>>,
        /// The one that the client came to, as `host:port`.
        here: Arc<str>,
    },
    /// Nothing but what tells this member from others.
    LoadBalanced {
        /// An `ObjectId`.
        service_id: [u8; 12],
    },
}

/// Who authenticates to mongod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Authentication {
    /// Clients do, or nobody.
    #[default]
    Clients,
    /// The gateway has, before the connection was given to the client.
    Gateway,
}

/// What is done with a request beside judging it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handling {
    /// It goes upstream as it comes.
    Stream,
    /// It is held until it is whole, and then [treated](Terms::treat).
    Hold,
}

/// What a request that was held comes to.
pub(super) enum Treated {
    /// It goes upstream as it is.
    Passed,
    /// This goes upstream in its place.
    Changed(Vec<u8>),
    /// It does not go upstream: the gateway answers with this document.
    Answered(RawDocumentBuf),
    /// It does not go upstream: the gateway answers with this error.
    Refused(CommandError),
}

impl Terms {
    /// What is done with a request whose command is known.
    pub(super) fn handling(&self, header: &Header, facts: &RequestFacts) -> Handling {
        match facts.command() {
            Some(command) if hello::is_hello(command) => Handling::Hold,
            Some(command) if self.authenticates() && is_authentication(command) => Handling::Hold,
            // It is looked at, and goes on as it came.
            Some(command) if sasl::begins(command) => Handling::Hold,
            // What stands inside decides, and is not known yet.
            Some(_) if is_wrapped(header, facts) && self.is_any() => Handling::Hold,
            _ => Handling::Stream,
        }
    }

    /// Whether what cannot be understood must not go upstream, as it could be an authentication.
    pub(super) fn authenticates(&self) -> bool {
        self.authentication == Authentication::Gateway
    }

    /// Whether replies to what was held have to be looked at: those to a wrapped command are not told apart by its name.
    pub(super) fn answers_as_hello(&self, header: &Header, facts: &RequestFacts) -> bool {
        self.naming.changes_replies() && is_wrapped(header, facts)
    }

    /// Whether anything is different at all.
    fn is_any(&self) -> bool {
        self.authenticates() || self.naming.changes_replies()
    }

    /// Whether a request that is too long to be held must not go upstream.
    pub(super) fn has_to_hold(&self) -> bool {
        self.is_any()
    }

    /// Whether it begins an authentication that is the client's and mongod's affair.
    pub(super) fn is_between_them(&self, facts: &RequestFacts) -> bool {
        !self.authenticates() && facts.command().is_some_and(sasl::begins)
    }

    /// What a complete request that was held comes to; `is_first` says that no hello went before it.
    pub(super) fn treat(&self, message: &[u8], is_first: bool) -> Treated {
        let fields = match (&self.naming, self.authentication) {
            (Naming::LoadBalanced { .. }, Authentication::Gateway) => BALANCED_AND_AUTHENTICATED,
            (Naming::LoadBalanced { .. }, Authentication::Clients) => &[hello::COMPRESSION, LOAD_BALANCED],
            (_, Authentication::Gateway) => &BALANCED_AND_AUTHENTICATED[1..],
            (_, Authentication::Clients) => &[hello::COMPRESSION],
        };
        if self.is_any() {
            let Some(command) = hello::command_of(message) else { return Treated::Refused(unreadable()) };
            let name = command.iter().next().and_then(Result::ok).map(|(name, _)| name.as_str());
            let name = name.unwrap_or_default().as_bytes();
            if self.authenticates() && is_authentication(name) {
                return authenticate(name, command);
            }
            let is_balanced = matches!(self.naming, Naming::LoadBalanced { .. });
            if is_balanced && is_first && hello::is_hello(name) && !matches!(command.get_bool(LOAD_BALANCED), Ok(true))
            {
                return Treated::Refused(not_balanced());
            }
        }
        match hello::without(fields, message) {
            Some(changed) => Treated::Changed(changed),
            // What cannot be changed must have nothing that is to go.
            None if self.is_any() && has_any(fields, message) => Treated::Refused(unreadable()),
            None => Treated::Passed,
        }
    }
}

/// The first is the client's word to a load balancer; the others begin an authentication, or claim to be mongod.
const BALANCED_AND_AUTHENTICATED: &[&str] =
    &[LOAD_BALANCED, hello::COMPRESSION, "speculativeAuthenticate", "saslSupportedMechs", "internalClient", "hostInfo"];

const LOAD_BALANCED: &str = "loadBalanced";

/// Commands by which a connection gets another user, or loses the one that it has.
fn is_authentication(command: &[u8]) -> bool {
    matches!(command, b"authenticate" | b"saslStart" | b"saslContinue" | b"getnonce" | b"logout")
}

/// Whether the command stands in the wrapper that old drivers put around it.
fn is_wrapped(header: &Header, facts: &RequestFacts) -> bool {
    header.op_code == OpCode::QUERY && matches!(facts.command(), Some(b"$query" | b"query"))
}

fn has_any(fields: &[&str], message: &[u8]) -> bool {
    let has = |command: &RawDocument| fields.iter().any(|field| !matches!(command.get(field), Ok(None)));
    hello::command_of(message).is_none_or(has)
}

/// What a client hears that wants to authenticate where the gateway has.
fn authenticate(name: &[u8], command: &RawDocument) -> Treated {
    let is_x509 = command.get_str("mechanism").is_ok_and(|mechanism| mechanism == "MONGODB-X509");
    match name {
        b"authenticate" if is_x509 => {
            let user = command.get_str("user").unwrap_or_default();
            Treated::Answered(rawdoc! { "dbname": "$external", "user": user, "ok": 1.0 })
        }
        b"logout" => Treated::Answered(rawdoc! { "ok": 1.0 }),
        _ => Treated::Refused(CommandError {
            code: 18,
            code_name: "AuthenticationFailed",
            message: "mongate: the gateway authenticates; remove the credentials from the URI".to_owned(),
        }),
    }
}

fn not_balanced() -> CommandError {
    CommandError {
        code: 20,
        code_name: "IllegalOperation",
        message:
            "mongate: this address is that of a load balancer (topology = \"load_balanced\"); add loadBalanced=true to \
                  the URI, and remove replicaSet"
                .to_owned(),
    }
}

/// `MongoDB`'s own code for it.
pub(super) fn unreadable() -> CommandError {
    CommandError { code: 22, code_name: "InvalidBSON", message: "mongate: this command cannot be read".to_owned() }
}

/// What a client hears whose hello, or whose authentication, is longer than any that there is.
pub(super) fn too_long() -> CommandError {
    CommandError {
        code: 10334,
        code_name: "BSONObjectTooLarge",
        message: "mongate: this command is too long".to_owned(),
    }
}

impl Naming {
    /// Whether replies to `hello` have to be seen whole.
    pub(super) fn changes_replies(&self) -> bool {
        !matches!(self, Self::Kept)
    }

    /// A complete reply to `hello` as the client is to read it; `None` as it stands.
    pub(super) fn apply(&self, reply: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
        match self {
            Self::Kept => Ok(None),
            Self::Members { names, here } => rewrite(reply, &Names::Members { map: &names.load(), here }),
            Self::LoadBalanced { service_id } => rewrite(reply, &Names::LoadBalanced { service_id: *service_id }),
        }
    }
}
