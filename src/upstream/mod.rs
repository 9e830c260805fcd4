//! Connections to MongoDB servers: each one is mutual TLS and proven.
//!
//! Makes connections, keeps spare ones, and explains why a connection could not be made. Does not retry, does not
//! decide which client uses a connection, and writes no log lines: the result of each attempt is returned once, with
//! its explanation.

mod authentication;
mod client_endpoints;
mod client_identity;
mod connect_error;
mod connector;
mod diagnosis;
mod dial;
mod endpoint_tls;
mod explain;
mod failure;
mod health;
mod hello_stream;
mod introduction;
mod members;
mod mongo_user;
mod name_lookup;
mod own_commands;
mod parked_connection;
mod peak_demand;
mod probe;
mod proven_connection;
mod server_error_codes;
mod server_offer;
mod spare_connections;
mod srv;
mod stream;
#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;

pub use authentication::{AuthenticationResult, Users};
pub use client_endpoints::ClientEndpoints;
pub use client_identity::{CertificateGeneration, ClientIdentity};
pub use connect_error::{ConnectError, REASONS};
pub use connector::Connector;
pub use failure::{ConnectFailure, Phase, ServerCertificateRejection};
pub use health::{HealthSnapshot, UpstreamHealth};
pub use hello_stream::HelloStream;
pub use introduction::IntroductionError;
pub use members::{host_port, initial_tracker, member_name};
pub use mongo_user::MongoUser;
pub use own_commands::OwnCommandError;
pub use parked_connection::ParkedConnection;
pub use probe::{Probe, ServerFacts, ServerRole, identify, probe};
pub use proven_connection::{ConnectionFacts, HelloReplayError, ProvenConnection};
pub use server_offer::{UnsupportedOffer, unsupported_offer};
pub use spare_connections::{SpareConnections, Swept, TakenSpare};
pub use srv::{SrvError, SrvFailure, SrvSeeds, seeds};
pub use stream::{HandshakeFacts, UpstreamStream};
