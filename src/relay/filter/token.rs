//! The filter before all others where clients authenticate with tokens: it answers authentications, and lets a client
//! do nothing before that which mongod would not let it do either.
//!
//! Tokens never pass it. A hello loses its token, and no request whose command is not known passes, because it could be
//! an authentication.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bson::RawDocumentBuf;

use crate::identity::token::{PendingValidation, TokenResult, ValidToken, ValidateToken, Validation};
use crate::relay::end::EndReason;
use crate::relay::filter::local_reply::LocalReply;
use crate::relay::filter::verdict::{Hold, Verdict};
use crate::relay::filter::view::RequestView;
use crate::relay::limits::HELD_BYTES_MAX;
use crate::relay::token_session::{SessionAnswer, SessionCommand, SessionStep, TokenDemand, TokenSession};
use crate::wire::header::OpCode;
use crate::wire::oidc;

/// The token filter of one connection.
pub struct TokenFilter {
    session: TokenSession,
    validator: Arc<dyn ValidateToken>,
    progress: Progress,
    /// The field for the reply to the current hello.
    speculated: Option<Box<RawDocumentBuf>>,
    /// Validations since [`TokenFilter::take_validations`].
    validations: u32,
}

/// What the connection waits for before it reads on.
enum Progress {
    /// Nothing.
    None,
    /// The validation of the token in the current request.
    Validating(PendingValidation),
    /// The current request has to be decided with this result.
    Validated(Box<TokenResult>),
    /// The owner of the connection has to learn of the token.
    NewToken,
    /// The owner of the connection has to provide an upstream connection on which the client can authenticate itself.
    Separating,
    /// The owner of the connection has done that, so that the next request can be read.
    Resumed,
}

/// What the token filter decides about a request.
pub(in crate::relay) enum TokenVerdict {
    /// The other filters decide.
    Pass {
        /// The request is a hello that loses its authentication.
        without_authentication: bool,
    },
    /// The token filter has decided.
    Settled(Verdict),
}

const PASS: TokenVerdict = TokenVerdict::Pass { without_authentication: false };

impl TokenFilter {
    /// A filter for a client that has sent nothing yet.
    pub fn new(demand: TokenDemand, validator: Arc<dyn ValidateToken>) -> Self {
        Self {
            session: TokenSession::new(demand),
            validator,
            progress: Progress::None,
            speculated: None,
            validations: 0,
        }
    }

    /// The token in use, which may have expired; `None` before a client has shown one, and after `logout`.
    pub fn token(&self) -> Option<&ValidToken> {
        self.session.token()
    }

    /// Decides about a request of which nothing has gone upstream. It is asked again about the same request where it
    /// needs more of it, or where a validation has to end first.
    pub(in crate::relay) fn inspect(&mut self, request: &RequestView<'_>) -> TokenVerdict {
        match std::mem::replace(&mut self.progress, Progress::None) {
            Progress::Validated(result) => return self.settle(request, *result),
            progress @ (Progress::Validating(_) | Progress::Separating) => {
                self.progress = progress;
                return TokenVerdict::Settled(Verdict::NeedMore(Hold::InInput));
            }
            progress => self.progress = progress,
        }
        if !matches!(request.header.op_code, OpCode::MSG | OpCode::QUERY) {
            let close = || Verdict::close(EndReason::Undetermined("a message of a type that no driver sends"));
            return if self.session.is_strict() { TokenVerdict::Settled(close()) } else { PASS };
        }
        if needs_more(request) {
            return TokenVerdict::Settled(Verdict::NeedMore(Hold::InInput));
        }
        if !request.facts.is_named() {
            // It could be an authentication.
            return TokenVerdict::Settled(LocalReply::unknown_command().into());
        }
        self.speculated = None;
        let name = request.facts.command().and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default();
        let more_to_come = request.facts.more_to_come();
        let command = SessionCommand { name, body: body_of(request), more_to_come };
        let now = SystemTime::now();
        match self.session.step(&command, now) {
            SessionStep::Pass => PASS,
            SessionStep::Separate => {
                self.progress = Progress::Separating;
                TokenVerdict::Settled(Verdict::NeedMore(Hold::InInput))
            }
            SessionStep::PassHello => TokenVerdict::Pass { without_authentication: true },
            // A stream of replies would be that of a client whose principal was unknown when it began.
            SessionStep::Speculate(_) if request.facts.exhaust_allowed() || request.facts.waits() => {
                TokenVerdict::Pass { without_authentication: true }
            }
            SessionStep::Answer(answer) => TokenVerdict::Settled(local_reply(answer).into()),
            // The client expects no reply, so that this counts as a denied command and nothing else.
            SessionStep::Drop => TokenVerdict::Settled(LocalReply::Denied(oidc::unauthenticated("")).into()),
            SessionStep::Speculate(token) | SessionStep::Validate(token) => {
                self.validations += 1;
                match self.validator.validate(token, now) {
                    Validation::Ended(result) => self.settle(request, result),
                    Validation::Pending(pending) => {
                        self.progress = Progress::Validating(pending);
                        TokenVerdict::Settled(Verdict::NeedMore(Hold::InInput))
                    }
                }
            }
        }
    }

    /// Whether a stream whose message boundaries are lost may go on.
    pub(in crate::relay) fn allows_unframed(&self) -> bool {
        !self.session.is_strict()
    }

    /// Whether nothing is read from the client, because a validation has not ended, or because the owner of the
    /// connection has not handled what the client has shown.
    pub(in crate::relay) fn is_waiting(&self) -> bool {
        matches!(self.progress, Progress::Validating(_) | Progress::NewToken | Progress::Separating)
    }

    /// Whether the owner of the connection has to handle a token, or a client that authenticates itself.
    pub(in crate::relay) fn needs_owner(&self) -> bool {
        matches!(self.progress, Progress::NewToken | Progress::Separating)
    }

    /// Whether the client needs an upstream connection on which it can authenticate itself.
    pub(in crate::relay) fn is_separating(&self) -> bool {
        matches!(self.progress, Progress::Separating)
    }

    /// The owner of the connection has handled it.
    pub(in crate::relay) fn resume(&mut self) {
        self.progress = Progress::Resumed;
    }

    /// Whether the connection has just stopped waiting: what is at the front of the next input has to be read at once.
    pub(in crate::relay) fn poll_resumed(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.progress {
            Progress::Validating(pending) => {
                let Poll::Ready(result) = pending.as_mut().poll(cx) else { return false };
                self.progress = Progress::Validated(Box::new(result));
                true
            }
            Progress::Resumed => {
                self.progress = Progress::None;
                true
            }
            Progress::None | Progress::Validated(_) | Progress::NewToken | Progress::Separating => false,
        }
    }

    /// Whether the client has to show a token before it can do anything.
    pub(in crate::relay) fn awaits_token(&self) -> bool {
        self.session.is_closed() && self.session.token().is_none()
    }

    /// The number of validations since the last call, which take time.
    pub(in crate::relay) fn take_validations(&mut self) -> u32 {
        std::mem::take(&mut self.validations)
    }

    /// Takes the field for the reply to the request that has just gone upstream.
    pub(in crate::relay) fn take_speculated(&mut self) -> Option<Box<RawDocumentBuf>> {
        self.speculated.take()
    }

    /// Decides about a request whose token has been validated.
    fn settle(&mut self, request: &RequestView<'_>, result: TokenResult) -> TokenVerdict {
        if let Ok(token) = &result {
            self.validator.count_valid(token, self.session.admits(token).err().as_ref());
        }
        let (verdict, is_accepted) = if request.is_hello() {
            self.speculated = self.session.speculated(result).map(Box::new);
            (TokenVerdict::Pass { without_authentication: true }, self.speculated.is_some())
        } else {
            let answer = self.session.validated(result);
            let is_accepted = matches!(answer, SessionAnswer::Done(_));
            (TokenVerdict::Settled(local_reply(answer).into()), is_accepted)
        };
        if is_accepted {
            self.progress = Progress::NewToken;
        }
        verdict
    }
}

/// Whether more of a request has to arrive: its name, or all of it where its contents matter.
fn needs_more(request: &RequestView<'_>) -> bool {
    let is_open = !request.is_whole() && !request.scan.is_malformed();
    let may_get_a_name = !request.facts.is_named() && request.message.len() <= HELD_BYTES_MAX;
    is_open && (may_get_a_name || (reads_body_of(request) && request.length() <= HELD_BYTES_MAX))
}

/// Whether the contents of a request matter.
fn reads_body_of(request: &RequestView<'_>) -> bool {
    request.is_hello() || matches!(request.facts.command(), Some(b"saslStart" | b"saslContinue"))
}

/// The command of a request that has arrived whole; `None` where it could be read in two ways.
fn body_of<'a>(request: &RequestView<'a>) -> Option<&'a bson::RawDocument> {
    let has_sequence = request.facts.has_odd_sequence() || request.facts.sequences().next().is_some();
    let is_clear = reads_body_of(request) && request.is_whole() && !request.scan.is_malformed() && !has_sequence;
    if is_clear { request.command() } else { None }
}

fn local_reply(answer: SessionAnswer) -> LocalReply {
    match answer {
        SessionAnswer::Done(document) => LocalReply::Done(document),
        SessionAnswer::Failed(error) => LocalReply::Failed(error),
    }
}
