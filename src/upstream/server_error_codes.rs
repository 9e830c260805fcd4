//! MongoDB error codes that the gateway reacts to in replies to its own commands.

pub(super) const BAD_VALUE: i32 = 2;
/// The user does not exist.
pub(super) const USER_NOT_FOUND: i32 = 11;
pub(super) const UNAUTHORIZED: i32 = 13;
pub(super) const PROTOCOL_ERROR: i32 = 17;
/// The credentials are not accepted.
pub(super) const AUTHENTICATION_FAILED: i32 = 18;
/// The server does not know the command.
pub(super) const COMMAND_NOT_FOUND: i32 = 59;
pub(super) const MECHANISM_UNAVAILABLE: i32 = 334;
/// The hello came to the port for load balancers, without `loadBalanced: true`.
pub(super) const LOAD_BALANCER_SUPPORT_MISMATCH: i32 = 354;
