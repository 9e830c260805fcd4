//! Listens to one member: what it is, told by itself each time that it changes.

use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::cluster::MemberPool;
use crate::cluster::health_check::Membership;
use crate::topology::MemberName;
use crate::upstream::{ConnectError, HelloStream, ServerFacts};

/// How soon a member that failed is asked again; as drivers have it (`minHeartbeatFrequencyMS`).
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What one member said, or that it says nothing.
pub(super) struct Told {
    pub(super) member: MemberName,
    pub(super) what: Result<RawDocumentBuf, String>,
}

/// Listens to the member of `line`, for ever; ends when nobody hears it.
pub(super) async fn listen(member: MemberName, line: Arc<MemberPool>, told: mpsc::Sender<Told>) {
    let mut membership = Membership::default();
    loop {
        let lost = tokio::select! {
            lost = follow(&member, &line, &told, &mut membership) => lost,
            // The old certificates prove nothing any more.
            () = line.news.renewed.notified() => continue,
        };
        let Some(error) = lost else { return };
        line.note_failure(&error);
        let what = Err(error.to_string());
        if told.send(Told { member: member.clone(), what }).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(RETRY_INTERVAL) => {}
            () = line.news.renewed.notified() => {}
        }
    }
}

/// Passes on what the member says until it says nothing more, and why; `None` when nobody hears it.
async fn follow(
    member: &MemberName,
    line: &MemberPool,
    told: &mpsc::Sender<Told>,
    membership: &mut Membership,
) -> Option<ConnectError> {
    let (mut stream, mut hello) = match HelloStream::open(&line.connector).await {
        Ok(opened) => opened,
        Err(error) => return Some(error),
    };
    line.note_success(stream.connection());
    membership.mind(line, stream.connection());
    loop {
        let facts = ServerFacts::of_hello(&hello);
        line.news.health.record_ok(Some((stream.connection().address, facts)));
        let what = Ok(hello);
        told.send(Told { member: member.clone(), what }).await.ok()?;
        hello = match stream.next(&line.connector).await {
            Ok(hello) => hello,
            Err(error) => return Some(error),
        };
    }
}
