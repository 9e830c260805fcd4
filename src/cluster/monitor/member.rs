//! Follows the state of one member, which the member reports in a stream of hello replies.

use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::cluster::hello_watch::{PublishedHello, UseOfHello};
use crate::cluster::member::Member;
use crate::cluster::pool::MemberPool;
use crate::cluster::subject_check::SubjectCheck;
use crate::topology::MemberName;
use crate::upstream::{ConnectError, HelloStream, ServerFacts};

/// Time until a member that failed is asked again: the `minHeartbeatFrequencyMS` of drivers.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What a monitor found out about its member.
pub(super) struct HelloReport {
    pub(super) member: MemberName,
    /// Its hello reply, or why there is none.
    pub(super) hello: Result<RawDocumentBuf, String>,
}

/// Reports the state of the member `name`, and publishes its hello replies. Returns only when the receiver of `reports`
/// is gone.
pub(super) async fn run(
    name: MemberName,
    member: Arc<Member>,
    use_of_hello: UseOfHello,
    reports: mpsc::Sender<HelloReport>,
) {
    let Some(pool) = member.pools.first() else { return };
    let feed = PublishedHello::new(&member);
    let mut monitor = Monitor { name, pool, feed, use_of_hello, reports, subject_check: SubjectCheck::default() };
    loop {
        let failure = tokio::select! {
            failure = monitor.follow() => failure,
            // A connection with the previous certificates proves nothing about the new ones.
            () = pool.health().certificates_renewed.notified() => continue,
        };
        let Some(error) = failure else { return };
        monitor.feed.lose();
        pool.attempts.record_failure(&error);
        if !monitor.report(Err(error.to_string())).await {
            return;
        }
        tokio::select! {
            () = sleep(RETRY_INTERVAL) => {}
            () = pool.health().certificates_renewed.notified() => {}
        }
    }
}

struct Monitor<'m> {
    name: MemberName,
    pool: &'m MemberPool,
    feed: PublishedHello<'m>,
    use_of_hello: UseOfHello,
    reports: mpsc::Sender<HelloReport>,
    subject_check: SubjectCheck,
}

impl Monitor<'_> {
    /// Reports each hello of the member, and returns the error that ended the stream; `None` when the receiver is gone.
    async fn follow(&mut self) -> Option<ConnectError> {
        let pool = self.pool;
        let (stream, mut hello) = match HelloStream::open(&pool.connector).await {
            Ok(opened) => opened,
            Err(error) => return Some(error),
        };
        let mut stream = self.use_of_hello.paced(stream);
        pool.record_success(stream.connection());
        self.subject_check.check(pool, stream.connection());
        loop {
            let facts = ServerFacts::of_hello(&hello);
            pool.health().status.record_ok(Some((stream.connection().address, facts)));
            self.feed.publish(&hello, stream.connection().declares_api);
            if !self.report(Ok(hello)).await {
                return None;
            }
            hello = match stream.next(&pool.connector).await {
                Ok(hello) => hello,
                Err(error) => return Some(error),
            };
        }
    }

    /// Returns whether the receiver still exists.
    async fn report(&self, hello: Result<RawDocumentBuf, String>) -> bool {
        self.reports.send(HelloReport { member: self.name.clone(), hello }).await.is_ok()
    }
}
