//! MongoDB error codes that the gateway reacts to in replies to its own commands.

pub(super) const HOST_UNREACHABLE: i32 = 6;
pub(super) const HOST_NOT_FOUND: i32 = 7;
pub(super) const BAD_VALUE: i32 = 2;
/// The user does not exist.
pub(super) const USER_NOT_FOUND: i32 = 11;
pub(super) const UNAUTHORIZED: i32 = 13;
pub(super) const PROTOCOL_ERROR: i32 = 17;
/// The credentials are not accepted.
pub(super) const AUTHENTICATION_FAILED: i32 = 18;
/// The server does not know the command.
pub(super) const COMMAND_NOT_FOUND: i32 = 59;
pub(super) const NETWORK_TIMEOUT: i32 = 89;
pub(super) const SHUTDOWN_IN_PROGRESS: i32 = 91;
pub(super) const SSL_HANDSHAKE_FAILED: i32 = 141;
pub(super) const MECHANISM_UNAVAILABLE: i32 = 334;
/// The hello came to the port for load balancers, without `loadBalanced: true`.
pub(super) const LOAD_BALANCER_SUPPORT_MISMATCH: i32 = 354;
pub(super) const INTERRUPTED_AT_SHUTDOWN: i32 = 11_600;
/// `requireApiVersion` is set, and the command has no `apiVersion`. The code has no name.
pub(super) const API_VERSION_REQUIRED: i32 = 498_870;

/// Whether an error in reply to a `ping` says that the server, or a proxy before it, does not serve this connection.
///
/// Any other error is an answer of mongod, which has accepted the gateway's certificate. What it says about the `ping`
/// need not hold for the commands of clients. mongod asks for no user before it answers a `ping`.
pub(super) fn is_not_served(code: i32) -> bool {
    matches!(
        code,
        HOST_UNREACHABLE
            | HOST_NOT_FOUND
            | UNAUTHORIZED
            | AUTHENTICATION_FAILED
            | NETWORK_TIMEOUT
            | SHUTDOWN_IN_PROGRESS
            | SSL_HANDSHAKE_FAILED
            | INTERRUPTED_AT_SHUTDOWN
            // An error without a code is not one of mongod's.
            | 0
    )
}
