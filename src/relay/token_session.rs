//! The authentication of one client by tokens: what becomes of each of its commands.
//!
//! Pure: the time is an argument, and the caller validates tokens and sends the replies. For each request, call
//! [`TokenSession::step`]. Where it returns a token, validate it and pass the result to [`TokenSession::validated`] or
//! [`TokenSession::speculated`] before the next request.
//!
//! A connection belongs to the first principal that it was authenticated as, also after `logout`. The upstream
//! connection, its sessions and its cursors are those of this principal.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bson::{RawDocument, RawDocumentBuf};

use crate::command::plain_name;
use crate::command::table;
use crate::command::table::Class;
use crate::identity::Principal;
use crate::identity::token::{TokenProblem, TokenResult, ValidToken};
use crate::wire::error_reply::CommandError;
use crate::wire::hello;
use crate::wire::oidc::{self, IdentityProvider, OidcError, SaslStart, Speculation};
use crate::wire::sasl;

/// What a listener demands of its clients.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenDemand {
    /// `authentication = "token"`: a client without a token may only begin a connection. With `token-optional` it is
    /// who it would be without tokens, and may authenticate to mongod in another way.
    pub is_required: bool,
    /// The gateway authenticates to mongod for clients without a password. A client with one needs an upstream
    /// connection on which that has not happened.
    pub separates_passwords: bool,
    /// Where people can log in. `None` refuses them.
    pub identity_provider: Option<Arc<IdentityProvider>>,
    /// The principal of the client's certificate, which its token has to be for. `None` accepts tokens of all
    /// principals.
    pub certificate: Option<Principal>,
}

/// One command of the client.
#[derive(Debug, Clone, Copy)]
pub struct SessionCommand<'a> {
    /// The name, as the client wrote it.
    pub name: &'a str,
    /// The command; needed only for hello, `saslStart` and `saslContinue`. `None` if it cannot be parsed, or if it is
    /// longer than such a message may be.
    pub body: Option<&'a RawDocument>,
    /// The client expects no reply.
    pub more_to_come: bool,
}

/// What becomes of a command. Its `Debug` does not show tokens.
#[derive(Clone, PartialEq, Eq)]
pub enum SessionStep<'a> {
    /// It goes on as without tokens.
    Pass,
    /// A hello goes on without `speculativeAuthenticate` and `saslSupportedMechs`.
    PassHello,
    /// A hello goes on like that, and its reply gets what [`TokenSession::speculated`] returns for this token.
    Speculate(&'a str),
    /// The client authenticates to mongod itself. It needs another upstream connection, and then the same command has
    /// to be decided again.
    Separate,
    /// The token has to be validated, and the reply is what [`TokenSession::validated`] returns.
    Validate(&'a str),
    /// The gateway answers it.
    Answer(SessionAnswer),
    /// It is dropped without a reply, because the client expects none. The caller counts it.
    Drop,
}

impl fmt::Debug for SessionStep<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("Pass"),
            Self::PassHello => f.write_str("PassHello"),
            Self::Separate => f.write_str("Separate"),
            Self::Speculate(_) => f.write_str("Speculate"),
            Self::Validate(_) => f.write_str("Validate"),
            Self::Answer(answer) => f.debug_tuple("Answer").field(answer).finish(),
            Self::Drop => f.write_str("Drop"),
        }
    }
}

/// A reply that the gateway makes itself.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionAnswer {
    /// Success, as a reply document.
    Done(RawDocumentBuf),
    /// An error.
    Failed(CommandError),
}

impl Eq for SessionAnswer {}

/// The state of one client's authentication.
#[derive(Debug)]
pub struct TokenSession {
    demand: TokenDemand,
    /// Whether a principal request was answered, so that a `saslContinue` may follow.
    awaits_continue: bool,
    /// The token in use; `None` before the authentication and after `logout`.
    token: Option<ValidToken>,
    /// The first principal of the connection.
    owner: Option<Principal>,
    /// Whether the client has got an upstream connection on which it can authenticate itself.
    is_separate: bool,
}

impl TokenSession {
    /// A client that has sent nothing yet.
    pub fn new(demand: TokenDemand) -> Self {
        Self { demand, awaits_continue: false, token: None, owner: None, is_separate: false }
    }

    /// The token in use, valid or expired.
    pub fn token(&self) -> Option<&ValidToken> {
        self.token.as_ref()
    }

    /// The principal of the connection, also after `logout`.
    pub fn owner(&self) -> Option<&Principal> {
        self.owner.as_ref()
    }

    /// Decides about a command at the time `now`.
    pub fn step<'a>(&mut self, command: &SessionCommand<'a>, now: SystemTime) -> SessionStep<'a> {
        let step = match command.name {
            name if hello::is_hello(name.as_bytes()) => return self.hello(command),
            "saslStart" => self.sasl_start(command),
            "saslContinue" => self.sasl_continue(command),
            "authenticate" | "getnonce" if self.is_closed() => failed(oidc::other_mechanism()),
            "authenticate" if self.is_separate => failed(oidc::no_certificate()),
            "logout" if self.is_closed() => self.log_out(),
            _ => self.other(command.name, command.more_to_come, now),
        };
        match step {
            // The client would take this reply for the one to its next request.
            SessionStep::Answer(_) | SessionStep::Validate(_) if command.more_to_come => SessionStep::Drop,
            step => step,
        }
    }

    /// Takes the result of a validation, and returns the reply to `saslStart` or `saslContinue`.
    ///
    /// After a failure the client is who it was before.
    pub fn validated(&mut self, result: TokenResult) -> SessionAnswer {
        match self.authenticate(result) {
            Ok(()) => SessionAnswer::Done(oidc::accepted()),
            Err(problem) => SessionAnswer::Failed(oidc::failed(&problem.to_string())),
        }
    }

    /// Takes the result of a validation, and returns the field `speculativeAuthenticate` for the reply to hello.
    /// Without it the driver sends the token in a `saslStart`, whose reply says what is wrong.
    pub fn speculated(&mut self, result: TokenResult) -> Option<RawDocumentBuf> {
        self.authenticate(result).is_ok().then(oidc::accepted_in_hello)
    }

    /// Whether this connection may have a valid token: the principal must be that of its certificate, and the one that
    /// it had before.
    pub fn admits(&self, token: &ValidToken) -> Result<(), TokenProblem> {
        if let Some(certificate) = self.demand.certificate.as_ref().filter(|it| **it != token.principal) {
            return Err(TokenProblem::OtherCertificate { principal: certificate.to_string() });
        }
        if let Some(owner) = self.owner.as_ref().filter(|owner| **owner != token.principal) {
            return Err(TokenProblem::OtherPrincipal { first: owner.to_string() });
        }
        Ok(())
    }

    fn authenticate(&mut self, result: TokenResult) -> Result<(), TokenProblem> {
        self.awaits_continue = false;
        let token = result?;
        self.admits(&token)?;
        self.owner.get_or_insert_with(|| token.principal.clone());
        self.token = Some(token);
        Ok(())
    }

    /// Whether the client has to be authenticated by a token. After one token it has to, even where none is required:
    /// otherwise it would have another identity after `logout`.
    pub(in crate::relay) fn is_closed(&self) -> bool {
        self.demand.is_required || self.owner.is_some()
    }

    /// Whether all that the client sends has to be understood: it may have no user but the one of its token, or of its
    /// password.
    pub(in crate::relay) fn is_strict(&self) -> bool {
        self.is_closed() || self.is_separate
    }

    /// A hello needs no token, ever: monitors of drivers do not authenticate.
    fn hello<'a>(&mut self, command: &SessionCommand<'a>) -> SessionStep<'a> {
        match command.body.map(oidc::speculation) {
            Some(Speculation::Token(token)) => SessionStep::Speculate(token),
            Some(Speculation::Absent | Speculation::OtherMechanism) if !self.is_closed() => {
                match self.open_step(command) {
                    SessionStep::Pass if self.is_separate && command.body.is_none_or(sasl::relies_on_certificate) => {
                        SessionStep::PassHello
                    }
                    step => step,
                }
            }
            _ => SessionStep::PassHello,
        }
    }

    fn sasl_start<'a>(&mut self, command: &SessionCommand<'a>) -> SessionStep<'a> {
        self.awaits_continue = false;
        match command.body.ok_or(OidcError::Malformed).and_then(oidc::start) {
            Ok(SaslStart::Token(token)) => SessionStep::Validate(token),
            Ok(SaslStart::PrincipalRequest) => match &self.demand.identity_provider {
                Some(provider) => {
                    self.awaits_continue = true;
                    SessionStep::Answer(SessionAnswer::Done(oidc::log_in_at(provider)))
                }
                None => failed(oidc::failed("people cannot log in here: only applications with a token are accepted")),
            },
            Ok(SaslStart::OtherMechanism) if self.is_closed() => failed(oidc::other_mechanism()),
            Ok(SaslStart::OtherMechanism) => match self.open_step(command) {
                SessionStep::Pass if self.is_separate && !command.body.is_some_and(sasl::brings_own_credential) => {
                    failed(oidc::no_certificate())
                }
                step => step,
            },
            Err(error) => failed(oidc::failed(&error.to_string())),
        }
    }

    /// A command of a client that may authenticate to mongod.
    fn open_step<'a>(&mut self, command: &SessionCommand<'a>) -> SessionStep<'a> {
        let must_separate = self.demand.separates_passwords
            && !self.is_separate
            && command.body.is_some_and(sasl::brings_own_credential);
        if must_separate {
            self.is_separate = true;
            return SessionStep::Separate;
        }
        SessionStep::Pass
    }

    fn sasl_continue<'a>(&mut self, command: &SessionCommand<'a>) -> SessionStep<'a> {
        if !std::mem::take(&mut self.awaits_continue) {
            // A conversation of another mechanism, with mongod.
            return if self.is_closed() { failed_with(OidcError::NoConversation) } else { SessionStep::Pass };
        }
        match command.body.ok_or(OidcError::Malformed).and_then(oidc::continuation) {
            Ok(token) => SessionStep::Validate(token),
            Err(error) => failed_with(error),
        }
    }

    fn log_out<'a>(&mut self) -> SessionStep<'a> {
        (self.token, self.awaits_continue) = (None, false);
        SessionStep::Answer(SessionAnswer::Done(bson::rawdoc! { "ok": 1.0 }))
    }

    fn other<'a>(&self, name: &str, more_to_come: bool, now: SystemTime) -> SessionStep<'a> {
        let shown = plain_name(name).unwrap_or("of this message");
        let Some(token) = &self.token else {
            let passes = !self.is_closed() || needs_no_authentication(name);
            return if passes { SessionStep::Pass } else { failed(oidc::unauthenticated(shown)) };
        };
        if now < token.valid_until || needs_no_authentication(name) {
            return SessionStep::Pass;
        }
        let in_grace = now < token.valid_until + token.expiry_grace;
        if in_grace && (more_to_come || ends_what_was_begun(name)) {
            return SessionStep::Pass;
        }
        failed(oidc::expired(shown))
    }
}

/// The commands of the handshake, which mongod answers before an authentication too.
fn needs_no_authentication(name: &str) -> bool {
    table::find(name.as_bytes()).is_some_and(|command| command.class == Class::Handshake)
}

/// Commands that end what was begun before the token expired. Not all drivers authenticate again and repeat them.
fn ends_what_was_begun(name: &str) -> bool {
    matches!(name, "getMore" | "killCursors" | "commitTransaction" | "abortTransaction" | "endSessions")
}

fn failed<'a>(error: CommandError) -> SessionStep<'a> {
    SessionStep::Answer(SessionAnswer::Failed(error))
}

fn failed_with<'a>(error: OidcError) -> SessionStep<'a> {
    failed(oidc::failed(&error.to_string()))
}

#[cfg(test)]
mod tests;
