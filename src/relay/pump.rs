//! Moves bytes both ways: plaintext at the client's socket, TLS at upstream's.
//!
//! What arrives is read into the worker's shared buffers, understood there, and written out at once. A connection keeps
//! only what could not be written or not be understood yet; a side that does not take its bytes stops the other side
//! from being read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::relay::desk::ConnectionState;
use crate::relay::end::{EndReason, Side};
use crate::relay::guard::Unjudged;
use crate::relay::record::ConnectionStats;
use crate::relay::replies::{Replies, Settled};
use crate::relay::requests::{Halt, Requests};
use crate::relay::scratch::{PLAIN_BYTES, Scratch, with_records, with_scratch};
use crate::relay::sockets::{keep, kept_and_read};
use crate::telemetry::metrics::Direction;
use crate::tls::{Records, TlsSession};
use crate::wire::error_reply::CommandError;
use crate::wire::header::Header;

/// A client that does not take its answers is not read: what mongod sends is bounded otherwise, and is less than this; what
/// the gateway itself answers is not.
const UNSENT_BYTES_MAX: usize = 2 * PLAIN_BYTES;

/// Who ended the conversation, and why.
pub(super) type End = (Side, EndReason);

/// Which sockets were not ready to be read in this call of [`Pump::poll_end`]: each has this task's waker, and is not asked
/// again. Nothing is missed by that: the worker's only thread runs this task, so that sockets do not become ready meanwhile.
#[derive(Default)]
struct Quiet {
    client: bool,
    upstream: bool,
}

/// Both sides of one connection and everything between them.
#[expect(clippy::struct_excessive_bools, reason = "each side is done, told or flushed on its own")]
pub(super) struct Pump<C, U> {
    client: C,
    socket: U,
    session: TlsSession,
    requests: Requests,
    replies: Replies,
    pub(super) desk: ConnectionState,
    /// Read from the client, not let go yet.
    kept_requests: Vec<u8>,
    /// Read from upstream, not understood yet.
    kept_replies: Vec<u8>,
    /// Understood, but not taken by the client's socket yet.
    unsent: Vec<u8>,
    /// Sealed, but not taken by upstream's socket yet.
    unsent_records: Vec<u8>,
    /// What was written may still lie in the client's TLS session.
    unflushed: bool,
    client_done: bool,
    upstream_done: bool,
    /// The client's end has been passed on.
    upstream_told: bool,
    /// Why upstream takes nothing any more. What it has sent before that is still read, to its end.
    upstream_write_error: Option<io::Error>,
}

impl<C: AsyncRead + AsyncWrite + Unpin, U: AsyncRead + AsyncWrite + Unpin> Pump<C, U> {
    pub(super) fn new(client: C, socket: U, session: TlsSession, desk: ConnectionState) -> Self {
        Self {
            client,
            socket,
            session,
            requests: Requests::new(),
            replies: Replies::new(),
            desk,
            kept_requests: Vec::new(),
            kept_replies: Vec::new(),
            unsent: Vec::new(),
            unsent_records: Vec::new(),
            unflushed: false,
            client_done: false,
            upstream_done: false,
            upstream_told: false,
            upstream_write_error: None,
        }
    }

    /// Takes what has been read from the client already, before anything else.
    pub(super) fn begin(&mut self, first_bytes: &[u8], cx: &mut Context<'_>) -> Result<(), End> {
        self.desk.record.bytes(Direction::ToUpstream, first_bytes.len());
        self.take_requests(first_bytes, cx)
    }

    /// Moves what can be moved; ready when the conversation has ended.
    ///
    /// Cancel safe between calls. Each read and write counts against the task's budget, so a busy connection gives way.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut quiet = Quiet::default();
        loop {
            match self.turn(&mut quiet, cx) {
                Ok(true) => {}
                Ok(false) => break,
                Err(end) => return Poll::Ready(end),
            }
        }
        self.end_reached().map_or(Poll::Pending, Poll::Ready)
    }

    /// Whether nothing would be cut short by ending now: no command in flight, no message half passed on.
    ///
    /// A request of which nothing has gone upstream yet is no reason to wait: its client may never finish it.
    pub(super) fn is_idle(&self) -> bool {
        !self.requests.is_under_way()
            && self.replies.is_between()
            && self.client_has_all()
            // An unacknowledged write is only safe once it has left.
            && self.upstream_has_all()
            && self.desk.exchange.is_idle(ConnectionStats::is_monitor)
    }

    /// Whether another upstream connection could take this one's place without anybody noticing, now or after the command
    /// in flight: nothing of the client's lives in it, but for what can be told again.
    pub(super) fn can_move(&self) -> bool {
        let streaming = self.desk.exchange.is_streaming(ConnectionStats::is_monitor);
        self.requests.introduction().is_some() && (!streaming || self.requests.stream().is_some())
    }

    /// Whether this is the moment: all that was asked is answered, and nothing more has been read from either side.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.is_idle()
            && self.is_whole()
            && self.kept_replies.is_empty()
            && self.desk.exchange.is_settled()
            && !self.client_done
            && !self.upstream_done
            && self.upstream_write_error.is_none()
    }

    /// Whether the client is not in the middle of a message.
    pub(super) fn is_whole(&self) -> bool {
        self.requests.is_between() && self.kept_requests.is_empty()
    }

    /// By when what is held of the client's has to be here, or to have left.
    pub(super) fn hold_deadline(&self) -> Option<Instant> {
        self.requests.hold_deadline()
    }

    /// Who has let that time pass.
    pub(super) fn held_too_long(&self) -> End {
        if self.requests.is_leaving() {
            let error = io::Error::new(io::ErrorKind::TimedOut, "it took too long to take a long command");
            return (Side::Upstream, EndReason::Socket(error));
        }
        (Side::Client, EndReason::TooSlow)
    }

    /// Whether the client has cursors or transactions open.
    pub(super) fn holds_something(&self) -> bool {
        !self.replies.holds().is_empty()
    }

    /// The hello that introduces the client on another connection.
    pub(super) fn introduction(&self) -> Option<&[u8]> {
        self.requests.introduction()
    }

    /// The client stays on this upstream connection for good.
    pub(super) fn pin(&mut self) {
        self.requests.pin();
    }

    /// Goes on over another upstream connection, and says goodbye on the old one. Only at a boundary.
    ///
    /// A stream of replies begins anew there: the client gets the next one sooner than otherwise.
    pub(super) fn exchange_upstream(
        &mut self,
        socket: U,
        session: TlsSession,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        self.leave_upstream(cx);
        self.socket = socket;
        self.session = session;
        // What the old one did not take of a goodbye, and why.
        (self.unsent_records, self.upstream_write_error) = (Vec::new(), None);
        if self.desk.exchange.is_streaming(ConnectionStats::is_monitor)
            && let Some(hello) = self.requests.stream()
        {
            let header = hello.first_chunk().and_then(|head| Header::parse(*head).ok());
            self.desk.exchange.restart_stream(header.map_or(0, |header| header.request_id));
            let mut records = Records::default();
            self.session.seal(hello, &mut records).map_err(|error| (Side::Gateway, EndReason::Socket(error)))?;
            self.send(&mut records, cx);
        }
        Ok(())
    }

    /// Whether what the client said last is what the protocol allows.
    pub(super) fn client_is_understood(&self) -> bool {
        self.requests.is_understood()
    }

    /// What the client is still to read, and was not written.
    pub(super) fn take_final_reply(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unsent)
    }

    /// The client's socket.
    pub(super) fn client(&mut self) -> &mut C {
        &mut self.client
    }

    /// Says goodbye to upstream, as far as its socket takes it now; what it does not take is no loss.
    pub(super) fn leave_upstream(&mut self, cx: &mut Context<'_>) {
        self.send_close_notify(cx);
        let _ = Pin::new(&mut self.socket).poll_shutdown(cx);
    }

    /// Tells the client that nothing more comes.
    pub(super) fn leave_client(&mut self, cx: &mut Context<'_>) {
        let _ = Pin::new(&mut self.client).poll_shutdown(cx);
    }

    /// One attempt at everything; whether anything moved.
    fn turn(&mut self, quiet: &mut Quiet, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = self.flush_client(cx)?;
        moved |= self.flush_upstream(cx);
        moved |= self.let_held_go(cx)?;
        moved |= self.take_share(cx)?;
        moved |= self.read_client(&mut quiet.client, cx)?;
        moved |= self.read_upstream(&mut quiet.upstream, cx)?;
        moved |= self.tell_upstream(cx);
        Ok(moved)
    }

    fn end_reached(&mut self) -> Option<End> {
        if !self.client_has_all() {
            return None;
        }
        if self.upstream_done {
            let whole = self.replies.is_between() && self.kept_replies.is_empty();
            return Some(match self.upstream_write_error.take() {
                _ if self.client_done => (Side::Client, EndReason::Closed),
                Some(error) => (Side::Upstream, EndReason::Socket(error)),
                None if whole && self.desk.exchange.is_idle(ConnectionStats::is_monitor) => {
                    (Side::Upstream, EndReason::Closed)
                }
                None => (Side::Upstream, EndReason::Interrupted),
            });
        }
        if self.client_done && self.upstream_told && self.desk.exchange.len() == 0 {
            let whole = self.requests.is_between() && self.kept_requests.is_empty();
            return Some((Side::Client, if whole { EndReason::Closed } else { EndReason::Interrupted }));
        }
        None
    }

    fn read_client(&mut self, is_quiet: &mut bool, cx: &mut Context<'_>) -> Result<bool, End> {
        let is_full = self.desk.exchange.is_full() || self.unsent.len() > UNSENT_BYTES_MAX;
        let is_busy = self.requests.is_leaving() || self.requests.is_waiting();
        if *is_quiet || is_busy || self.client_done || !self.upstream_has_all() || is_full {
            return Ok(false);
        }
        with_scratch(|scratch| {
            let input = match kept_and_read(&self.kept_requests, &mut self.client, scratch.plain, cx) {
                Poll::Pending => {
                    *is_quiet = true;
                    return Ok(false);
                }
                // A TLS client that leaves without a goodbye, as many do: message boundaries tell whether it was in order.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => &[],
                Poll::Ready(Err(error)) => return Err((Side::Client, EndReason::Socket(error))),
                Poll::Ready(Ok(input)) => &*input,
            };
            let arrived = input.len().saturating_sub(self.kept_requests.len());
            if arrived == 0 {
                self.client_done = true;
                return Ok(true);
            }
            self.desk.record.bytes(Direction::ToUpstream, arrived);
            self.take_requests(input, cx)?;
            Ok(true)
        })
    }

    /// Seals the next piece of a long message that the policy lets pass, when the one before has left.
    fn let_held_go(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if !self.requests.is_leaving() || !self.upstream_has_all() {
            return Ok(false);
        }
        let is_last = with_records(|records| {
            let (session, mut sealed) = (&mut self.session, Ok(()));
            let is_last = self.requests.let_held_go(|piece| sealed = session.seal(piece, records));
            sealed.map_err(|error| (Side::Gateway, EndReason::Socket(error)))?;
            self.send(records, cx);
            Ok(is_last)
        })?;
        if is_last {
            let behind = std::mem::take(&mut self.kept_requests);
            self.take_requests(&behind, cx)?;
        }
        Ok(true)
    }

    /// Goes on with a long message that has waited for its share of what may be held. Whatever the client does: others wait
    /// for what it was given, so that its time begins.
    fn take_share(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if !self.requests.poll_granted(cx) {
            return Ok(false);
        }
        let begun = std::mem::take(&mut self.kept_requests);
        self.take_requests(&begun, cx)?;
        Ok(true)
    }

    /// Reads the requests in `input`, seals what may go, and sends it.
    fn take_requests(&mut self, input: &[u8], cx: &mut Context<'_>) -> Result<(), End> {
        let settled = with_records(|records| {
            let (session, mut sealed) = (&mut self.session, Ok(()));
            let settled = self.requests.read(
                input,
                &mut |bytes| {
                    if sealed.is_ok() {
                        sealed = session.seal(bytes, records);
                    }
                },
                &mut self.desk,
            );
            self.send(records, cx);
            sealed.map_err(|error| (Side::Gateway, EndReason::Socket(error)))?;
            Ok(settled)
        })?;
        match settled {
            Ok(settled) => {
                keep(&mut self.kept_requests, input.get(settled..).unwrap_or_default());
                self.say_what_is_due();
                Ok(())
            }
            Err(Halt::Compressed(header)) => {
                let refusal = CommandError {
                    code: 17,
                    code_name: "ProtocolError",
                    message: "mongate does not take OP_COMPRESSED: compression was not negotiated in hello; remove \
                              `compressors` from the connection string"
                        .to_owned(),
                };
                self.unsent.extend_from_slice(&refusal.reply_to(&header));
                Err((Side::Client, EndReason::Compressed))
            }
            Err(Halt::Undetermined(why)) => Err((Side::Client, EndReason::Undetermined(why))),
            Err(Halt::Unjudged(Unjudged(why))) => Err((Side::Client, EndReason::Unjudged(why))),
        }
    }

    /// Puts answers of the gateway's own behind what the client is still to get, where a message may begin.
    fn say_what_is_due(&mut self) {
        if self.desk.exchange.has_due() && self.replies.is_between() {
            self.unsent.extend_from_slice(&self.desk.exchange.take_due());
        }
    }

    fn read_upstream(&mut self, is_quiet: &mut bool, cx: &mut Context<'_>) -> Result<bool, End> {
        if *is_quiet || self.upstream_done || !self.client_has_all() {
            return Ok(false);
        }
        with_scratch(|Scratch { plain, sealed }| {
            let before = self.session.kept().len();
            let sealed = match kept_and_read(self.session.kept(), &mut self.socket, sealed, cx) {
                Poll::Pending => {
                    *is_quiet = true;
                    return Ok(false);
                }
                Poll::Ready(Err(error)) => return Err((Side::Upstream, EndReason::Socket(error))),
                Poll::Ready(Ok(sealed)) => sealed,
            };
            // mongod never says goodbye in TLS; whether the end is in order is judged by message boundaries.
            self.upstream_done = sealed.len() == before;
            let kept = self.kept_replies.len();
            plain[..kept].copy_from_slice(&self.kept_replies);
            let filled = self.unseal(sealed, plain, kept, cx)?;
            self.desk.record.bytes(Direction::ToClient, filled - kept);
            self.give_replies(&mut plain[..filled], cx)?;
            Ok(true)
        })
    }

    /// Decrypts `sealed` into `plain`, of which so many bytes are filled already, and returns how many are then.
    fn unseal(
        &mut self,
        sealed: &mut [u8],
        plain: &mut [u8],
        mut filled: usize,
        cx: &mut Context<'_>,
    ) -> Result<usize, End> {
        let mut answer = Records::default();
        let opened = self.session.open(
            sealed,
            |bytes| {
                plain[filled..][..bytes.len()].copy_from_slice(bytes);
                filled += bytes.len();
            },
            &mut answer,
        );
        self.send(&mut answer, cx);
        self.upstream_done |= opened.map_err(|error| (Side::Upstream, EndReason::Tls(error)))?;
        Ok(filled)
    }

    /// Reads the replies in `input` and writes them to the client.
    fn give_replies(&mut self, mut input: &mut [u8], cx: &mut Context<'_>) -> Result<(), End> {
        loop {
            let Settled { passed, instead, end } = self.replies.read(input, &mut self.desk);
            let (ready, mut rest) = input.split_at_mut(passed);
            self.give(ready, cx)?;
            if let Some(reason) = end {
                return Err((Side::Upstream, reason));
            }
            let renamed = instead.is_some();
            if let Some((message, length)) = instead {
                self.give(&message, cx)?;
                rest = &mut rest[length..];
            }
            // In the middle of a reply, all is read that there is.
            let is_due = self.desk.exchange.has_due() && self.replies.is_between();
            if !renamed && !is_due {
                keep(&mut self.kept_replies, rest);
                return Ok(());
            }
            self.say_what_is_due();
            input = rest;
        }
    }

    /// Writes to the client what its socket takes, behind what it has not taken yet.
    fn give(&mut self, ready: &[u8], cx: &mut Context<'_>) -> Result<(), End> {
        if self.unsent.is_empty() {
            let written = self.write_client(ready, cx)?;
            keep(&mut self.unsent, &ready[written..]);
        } else {
            self.unsent.extend_from_slice(ready);
        }
        Ok(())
    }

    fn flush_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.client_has_all() {
            return Ok(false);
        }
        let unsent = std::mem::take(&mut self.unsent);
        let written = self.write_client(&unsent, cx)?;
        if written < unsent.len() {
            self.unsent = unsent;
            self.unsent.drain(..written);
        }
        Ok(written > 0)
    }

    /// Whether all that is understood has left for the client.
    fn client_has_all(&self) -> bool {
        self.unsent.is_empty() && !self.unflushed
    }

    /// Writes what the client takes of `ready`, and flushes it: a TLS session may keep what its socket does not take.
    ///
    /// Flushing costs a plaintext socket nothing.
    fn write_client(&mut self, ready: &[u8], cx: &mut Context<'_>) -> Result<usize, End> {
        let failed = |error| (Side::Client, EndReason::Socket(error));
        let mut written = 0;
        while written < ready.len() {
            match Pin::new(&mut self.client).poll_write(cx, &ready[written..]) {
                Poll::Ready(Ok(0)) => return Err(failed(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => return Err(failed(error)),
                Poll::Pending => break,
            }
        }
        self.unflushed |= written > 0;
        if self.unflushed {
            match Pin::new(&mut self.client).poll_flush(cx) {
                Poll::Ready(flushed) => self.unflushed = flushed.map(|()| false).map_err(failed)?,
                Poll::Pending => {}
            }
        }
        Ok(written)
    }

    /// Whether all that is sealed has left.
    fn upstream_has_all(&self) -> bool {
        self.unsent_records.is_empty()
    }

    /// Writes what is sealed, behind what upstream has not taken yet, and keeps what it does not take.
    fn send(&mut self, records: &mut Records, cx: &mut Context<'_>) {
        let ready = records.as_slice();
        let written = if self.upstream_has_all() { self.write_upstream(ready, cx) } else { 0 };
        self.unsent_records.extend_from_slice(&ready[written..]);
        records.clear();
    }

    fn flush_upstream(&mut self, cx: &mut Context<'_>) -> bool {
        if self.upstream_has_all() {
            return false;
        }
        let unsent = std::mem::take(&mut self.unsent_records);
        let written = self.write_upstream(&unsent, cx);
        if written < unsent.len() {
            self.unsent_records = unsent;
            self.unsent_records.drain(..written);
        }
        written > 0
    }

    /// Writes what upstream takes of `ready`; nothing any more, once it has failed.
    fn write_upstream(&mut self, ready: &[u8], cx: &mut Context<'_>) -> usize {
        let mut written = 0;
        while written < ready.len() && self.upstream_write_error.is_none() {
            match Pin::new(&mut self.socket).poll_write(cx, &ready[written..]) {
                Poll::Ready(Ok(0)) => self.upstream_write_error = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => self.upstream_write_error = Some(error),
                Poll::Pending => break,
            }
        }
        written
    }

    /// Says goodbye behind what waits; once, however often it is asked.
    fn send_close_notify(&mut self, cx: &mut Context<'_>) {
        self.flush_upstream(cx);
        let mut goodbye = Records::default();
        self.session.close(&mut goodbye);
        self.send(&mut goodbye, cx);
    }

    /// Passes the client's end on: mongod stops working on what nobody waits for, as it does for a direct client.
    fn tell_upstream(&mut self, cx: &mut Context<'_>) -> bool {
        let is_busy = self.requests.is_leaving() || self.requests.is_waiting();
        if !self.client_done || self.upstream_told || is_busy {
            return false;
        }
        self.send_close_notify(cx);
        if !self.upstream_has_all() && self.upstream_write_error.is_none() {
            return false;
        }
        // A socket that is gone already shows on the next read.
        self.upstream_told = Pin::new(&mut self.socket).poll_shutdown(cx).is_ready();
        self.upstream_told
    }
}
