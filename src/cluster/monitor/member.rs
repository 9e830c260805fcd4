//! Follows the state of one member, which the member reports in a stream of hello replies.

use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;
use tokio::sync::mpsc;
use tokio::time::sleep;

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

/// Reports the state of `member`. Returns only when the receiver of `reports` is gone.
pub(super) async fn run(member: MemberName, pool: Arc<MemberPool>, reports: mpsc::Sender<HelloReport>) {
    let mut subject_check = SubjectCheck::default();
    loop {
        let failure = tokio::select! {
            failure = follow(&member, &pool, &reports, &mut subject_check) => failure,
            // A connection with the previous certificates proves nothing about the new ones.
            () = pool.health().certificates_renewed.notified() => continue,
        };
        let Some(error) = failure else { return };
        pool.attempts.record_failure(&error);
        let hello = Err(error.to_string());
        if reports.send(HelloReport { member: member.clone(), hello }).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(RETRY_INTERVAL) => {}
            () = pool.health().certificates_renewed.notified() => {}
        }
    }
}

/// Reports each hello of the member, and returns the error that ended the stream; `None` when the receiver is gone.
async fn follow(
    member: &MemberName,
    pool: &MemberPool,
    reports: &mpsc::Sender<HelloReport>,
    subject_check: &mut SubjectCheck,
) -> Option<ConnectError> {
    let (mut stream, mut hello) = match HelloStream::open(&pool.connector).await {
        Ok(opened) => opened,
        Err(error) => return Some(error),
    };
    pool.record_success(stream.connection());
    subject_check.check(pool, stream.connection());
    loop {
        let facts = ServerFacts::of_hello(&hello);
        pool.health().status.record_ok(Some((stream.connection().address, facts)));
        reports.send(HelloReport { member: member.clone(), hello: Ok(hello) }).await.ok()?;
        hello = match stream.next(&pool.connector).await {
            Ok(hello) => hello,
            Err(error) => return Some(error),
        };
    }
}
