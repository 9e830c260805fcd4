//! The middle of the story: a conversation that goes on while its upstream connection is exchanged beneath it.

use std::net::SocketAddr;
use std::pin::Pin;

use tokio::net::TcpStream;

use super::Route;
use super::route::NoReplacement;
use super::welcome::Welcome;
use crate::listener::ClientStream;
use crate::relay::{EndReason, Relay, RelayEnd, Turn, UpstreamSide};
use crate::telemetry::metrics::Recycling;
use crate::upstream::Link;

/// A connection that is being made to take another one's place. Boxed, since few connections ever need one.
type Making<'a> = Pin<Box<dyn Future<Output = Result<Link, NoReplacement>> + Send + 'a>>;

/// Carries the conversation to its end; `address` is where it goes, also after it has changed.
pub(super) async fn carry(
    relay: &mut Relay<ClientStream, TcpStream>,
    mut first_bytes: Vec<u8>,
    address: &mut SocketAddr,
    route: &Route,
    mut welcome: Welcome,
) -> RelayEnd {
    let upstream = &route.upstream;
    let renewal = upstream.renewal.watch();
    let mut making = None;
    let mut next_address = *address;
    let has_certificate = relay.client().certificates().is_some();
    loop {
        let turn = tokio::select! {
            // The conversation comes first; a connection that was made can wait.
            biased;
            turn = relay.run(std::mem::take(&mut first_bytes), &route.drain, &renewal) => turn,
            made = made(&mut making) => {
                making = None;
                match made {
                    Ok(link) => {
                        next_address = link.address;
                        relay.offer(side(link));
                    }
                    Err(NoReplacement::NotNow) => relay.postpone(),
                    Err(NoReplacement::Never) => relay.give_up_moving(),
                }
                continue;
            }
            () = welcome.doubt(), if has_certificate => {
                if let Some(dismissal) = welcome.judge(relay.client(), &route.door) {
                    relay.dismiss(dismissal);
                }
                continue;
            }
        };
        match turn {
            Turn::Renew => making = relay.introduction().map(<[u8]>::to_vec).map(|hello| make(route, hello)),
            Turn::Moved => {
                *address = next_address;
                upstream.metrics.count_recycled(Recycling::Moved);
                tracing::debug!(
                    upstream = upstream.connector.upstream(),
                    %address,
                    "certificate renewed: the upstream connection was exchanged"
                );
            }
            Turn::Ended(end) => {
                if matches!(end.reason, EndReason::Recycled) {
                    upstream.metrics.count_recycled(Recycling::Closed);
                }
                return end;
            }
        }
    }
}

/// What a relay needs of a link.
pub(super) fn side(link: Link) -> UpstreamSide<TcpStream> {
    let Link { socket, tls, generation, .. } = link;
    UpstreamSide { socket, tls, generation }
}

fn make(route: &Route, hello: Vec<u8>) -> Making<'_> {
    Box::pin(async move { route.upstream.replacement(&hello).await })
}

/// Cancel safe: what is being made goes on being made.
async fn made(making: &mut Option<Making<'_>>) -> Result<Link, NoReplacement> {
    match making {
        Some(making) => making.await,
        None => std::future::pending().await,
    }
}
