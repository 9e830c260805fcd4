//! The middle of the story: a conversation that goes on while its upstream connection is exchanged beneath it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::Route;
use super::destination::MemberSelector;
use super::line::{MemberPool, NoReplacement};
use super::welcome::Revalidation;
use crate::listener::ClientStream;
use crate::relay::{Dismissal, EndReason, Relay, RelayEnd, Turn, UpstreamSide};
use crate::telemetry::metrics::Recycling;
use crate::upstream::{MongoUser, ProvenConnection};

/// A connection that is being made to take another one's place. Boxed, since few connections ever need one.
type Making<'a> = Pin<Box<dyn Future<Output = Result<ProvenConnection, NoReplacement>> + Send + 'a>>;

/// Resolves when new connections are put on another member. Boxed, since few connections have it.
type Outlived<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Where a conversation goes.
pub(super) struct RelaySession<'a> {
    /// What it shares with others of its listener.
    pub(super) route: &'a Route,
    /// Makes its connections to mongod.
    pub(super) line: Arc<MemberPool>,
    /// That of mongod, also after the connection was exchanged.
    pub(super) address: SocketAddr,
    /// The user that the gateway has authenticated it as, where it has; always the same.
    pub(super) user: Option<Arc<MongoUser>>,
}

/// Carries the conversation to its end.
pub(super) async fn carry(
    relay: &mut Relay<ClientStream, TcpStream>,
    mut first_bytes: Vec<u8>,
    course: &mut RelaySession<'_>,
    mut welcome: Revalidation,
) -> RelayEnd {
    let (route, line) = (course.route, &*course.line);
    let renewal = line.renewal.watch();
    let mut making = None;
    let mut next_address = course.address;
    let has_certificate = relay.client().certificates().is_some();
    let mut outlived = outlived(route, line);
    loop {
        let turn = tokio::select! {
            // The conversation comes first; a connection that was made can wait.
            biased;
            turn = relay.run(std::mem::take(&mut first_bytes), &route.drain, &renewal) => turn,
            made = made(&mut making) => {
                making = None;
                if let Some(address) = offer(relay, made, course.user.as_ref()) {
                    next_address = address;
                }
                continue;
            }
            () = welcome.revalidation_due(), if has_certificate => {
                if let Some(dismissal) = welcome.judge(relay.client(), &route.door) {
                    relay.dismiss(dismissal);
                }
                continue;
            }
            () = outlived_wait(&mut outlived) => {
                relay.dismiss(Dismissal::Elsewhere);
                outlived = None;
                continue;
            }
        };
        match turn {
            Turn::Renew => making = relay.introduction().map(<[u8]>::to_vec).map(|hello| make(line, hello)),
            Turn::Moved => {
                course.address = next_address;
                line.metrics.count_recycled(Recycling::Moved);
                tracing::debug!(
                    upstream = line.connector.upstream(),
                    address = %course.address,
                    "certificate renewed: the upstream connection was exchanged"
                );
            }
            Turn::Ended(end) => {
                if matches!(end.reason, EndReason::Recycled) {
                    line.metrics.count_recycled(Recycling::Closed);
                }
                return end;
            }
        }
    }
}

/// Gives a conversation the connection that was made for it, if there is one that it can go on with, and says where that
/// goes.
fn offer(
    relay: &mut Relay<ClientStream, TcpStream>,
    made: Result<ProvenConnection, NoReplacement>,
    user: Option<&Arc<MongoUser>>,
) -> Option<SocketAddr> {
    match made {
        // Cursors and sessions are the old user's: whoever has them has to know that he is another one now.
        Ok(made) if name_of(made.user.as_ref()) != name_of(user) => relay.give_up_moving(),
        Ok(made) => {
            let address = made.address;
            relay.offer(side(made));
            return Some(address);
        }
        Err(NoReplacement::NotNow) => relay.postpone(),
        Err(NoReplacement::Never) => relay.give_up_moving(),
    }
    None
}

fn name_of(user: Option<&Arc<MongoUser>>) -> Option<&str> {
    user.map(|user| user.name.as_str())
}

/// Only where a listener chooses among members.
fn outlived<'a>(route: &'a Route, line: &'a MemberPool) -> Option<Outlived<'a>> {
    let MemberSelector::LoadBalanced(preference) = &route.destination else { return None };
    Some(Box::pin(route.upstream.outlives(*preference, line)))
}

/// Cancel safe.
async fn outlived_wait(outlived: &mut Option<Outlived<'_>>) {
    match outlived {
        Some(outlived) => outlived.await,
        None => std::future::pending().await,
    }
}

/// What a relay needs of a link.
pub(super) fn side(link: ProvenConnection) -> UpstreamSide<TcpStream> {
    let ProvenConnection { socket, session, generation, .. } = link;
    UpstreamSide { socket, session, generation }
}

fn make(line: &MemberPool, hello: Vec<u8>) -> Making<'_> {
    Box::pin(async move { line.replacement(&hello).await })
}

/// Cancel safe: what is being made goes on being made.
async fn made(making: &mut Option<Making<'_>>) -> Result<ProvenConnection, NoReplacement> {
    match making {
        Some(making) => making.await,
        None => std::future::pending().await,
    }
}
