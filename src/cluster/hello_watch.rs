//! Publishes what a member says about itself, so that the gateway can answer the hello requests of clients.
//!
//! The monitors of a set publish the replies that they follow anyway. An upstream of one server has a task for it,
//! which is separate from the health check.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::RawDocument;
use tokio::time::sleep;

use super::member::Member;
use super::pool::MemberPool;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::feed::Feed;
use crate::topology::KnownHello;
use crate::upstream::{ConnectError, HelloStream};

/// How often a member replies while clients are answered from its replies.
///
/// Drivers compute the staleness of a secondary from `lastWrite` and from the time at which they receive it, so the age
/// of a reply is an error of that computation. One second is small next to the write that an idle primary makes every
/// ten seconds, and costs mongod one reply a second, however many clients there are. The time also limits for how long
/// clients are answered for a member that no longer answers: this, plus `connect_timeout`.
const SERVING_HEARTBEAT: Duration = Duration::from_secs(1);

/// Time until a server that failed is asked again: the `minHeartbeatFrequencyMS` of drivers.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What the hello replies of a member are used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UseOfHello {
    /// The gateway itself follows the members of a set. It learns of changes at once, and needs a heartbeat only to
    /// notice that a member does not answer.
    FollowsSet,
    /// Clients are answered from them too.
    AnswersClients,
}

impl UseOfHello {
    /// `stream` with replies as often as this use needs them.
    pub(super) fn paced(self, stream: HelloStream) -> HelloStream {
        match self {
            Self::FollowsSet => stream,
            Self::AnswersClients => stream.at_least_every(SERVING_HEARTBEAT),
        }
    }
}

/// The feed of a member while a task follows it. The member is lost when the task ends, whatever ends it.
pub(super) struct PublishedHello<'m> {
    feed: &'m Feed<KnownHello>,
}

impl<'m> PublishedHello<'m> {
    pub(super) fn new(member: &'m Member) -> Self {
        Self { feed: &member.hello }
    }

    /// The member has just replied with `hello`. `requires_api` is whether it requires an API version.
    pub(super) fn publish(&self, hello: &RawDocument, requires_api: bool) {
        let hello = KnownHello::new(hello.to_owned(), Instant::now());
        let hello = KnownHello { requires_api, ..hello };
        self.feed.publish(hello, KnownHello::differs_from);
    }

    /// The member does not answer.
    pub(super) fn lose(&self) {
        self.feed.lose();
    }
}

impl Drop for PublishedHello<'_> {
    fn drop(&mut self) {
        self.feed.lose();
    }
}

/// Publishes the hello replies of the one server of an upstream until the drain begins.
pub(super) async fn run(server: Arc<Member>, drain: DrainWatch) {
    let Some(pool) = server.pools.first() else { return };
    let feed = PublishedHello::new(&server);
    tokio::select! {
        biased;
        () = drain.draining() => {}
        () = watch(pool, &feed) => {}
    }
}

async fn watch(pool: &MemberPool, feed: &PublishedHello<'_>) {
    loop {
        if let Some(error) = follow(pool, feed).await {
            feed.lose();
            pool.attempts.record_failure(&error);
            sleep(RETRY_INTERVAL).await;
        }
    }
}

/// Publishes each hello of the server, and returns the error that ended the stream; `None` when new connections use
/// another certificate set than this one.
async fn follow(pool: &MemberPool, feed: &PublishedHello<'_>) -> Option<ConnectError> {
    let (stream, mut hello) = match HelloStream::open(&pool.connector).await {
        Ok(opened) => opened,
        Err(error) => return Some(error),
    };
    let mut stream = UseOfHello::AnswersClients.paced(stream);
    pool.record_success(stream.connection());
    pool.health().status.record_ok(None);
    loop {
        feed.publish(&hello, stream.connection().declares_api);
        if stream.connection().generation != pool.connector.identity().generation() {
            return None;
        }
        hello = match stream.next(&pool.connector).await {
            Ok(hello) => hello,
            Err(error) => return Some(error),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use bson::rawdoc;

    use super::*;
    use crate::cluster::Upstream;
    use crate::telemetry::metrics::UpstreamMetrics;
    use crate::tls::test_pki::upstream_of;
    use crate::upstream::REASONS;
    use crate::upstream::test_server::{Behaviour, TestUpstream};

    #[tokio::test]
    async fn a_server_is_known_while_it_answers_and_lost_as_soon_as_it_does_not() {
        let scene = TestUpstream { behaviour: Behaviour::Awaitable, ..TestUpstream::new() };
        let (endpoint, server) = scene.listen().await;
        let upstream = Upstream::new(&upstream_of(&endpoint), UpstreamMetrics::new("orders", &REASONS)).unwrap();
        let member = Arc::clone(&upstream.membership().members[0].member);
        let feed = PublishedHello::new(&member);
        let mut watching = pin!(watch(&member.pools[0], &feed));
        let mut changes = member.hello.changes();
        server
            .during(async {
                tokio::select! {
                    () = &mut watching => unreachable!("the watch does not end"),
                    () = changes.next() => {}
                }
            })
            .await;
        let known = member.hello.current().unwrap();
        assert!(known.document.get_bool("isWritablePrimary").unwrap());
        assert_eq!(known.topology_version.unwrap().counter, 6);
        drop(server);
        tokio::select! {
            () = &mut watching => unreachable!("the watch does not end"),
            () = changes.next() => {}
        }
        assert!(member.hello.current().is_none() && member.hello.losses() == 1);
    }

    #[tokio::test]
    async fn a_member_that_is_not_followed_any_longer_is_lost() {
        let (endpoint, _server) = TestUpstream::new().listen().await;
        let upstream = Upstream::new(&upstream_of(&endpoint), UpstreamMetrics::new("orders", &REASONS)).unwrap();
        let member = Arc::clone(&upstream.membership().members[0].member);
        let feed = PublishedHello::new(&member);
        feed.publish(&rawdoc! { "ok": 1.0 }, false);
        assert!(member.hello.current().is_some());
        drop(feed);
        assert!(member.hello.current().is_none());
    }
}
