//! The checked `[[token_issuer]]` tables, and what a listener demands of its clients.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::values::HostPort;

/// One `[[token_issuer]]`: whose tokens are accepted, and who their bearers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIssuerConfig {
    /// `issuer`: the claim `iss` of its tokens. Required, except for JWT-SVIDs, whose issuer is `trust_domain`.
    pub issuer: Option<String>,
    /// `audiences`: a token must be for one of them. Required, not empty.
    pub audiences: Vec<String>,
    /// `jwks_url`, `jwks_file` or `spiffe_socket`: where its keys are. Required.
    pub keys: KeySource,
    /// `trust_domain`: the trust domain of the principals. Default: the top-level `trust_domain`.
    pub trust_domain: Option<String>,
    /// `principal`: how a principal is made from claims; the form is checked by `identity`. Default: the SPIFFE ID in
    /// `sub`, or that of a Kubernetes service account.
    pub principal: Option<String>,
    /// `required_claims`: paths of claims, and the values of which each must have one. Default: none.
    pub required_claims: Vec<(String, Vec<String>)>,
    /// `client_id`: the application at the issuer that people log in to. Default: none.
    pub client_id: Option<String>,
    /// `request_scopes`: what a driver asks the issuer for when a person logs in. Default: none.
    pub request_scopes: Vec<String>,
    /// `clock_skew`: how much the clocks of issuer and gateway may differ. 0 to 5 min; default: 30 s.
    pub clock_skew: Duration,
    /// `expiry_grace`: how long cursors and transactions may be ended after a token has expired. 0 to 1 h; default:
    /// 5 min.
    pub expiry_grace: Duration,
}

/// Where the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// `jwks_file`: a file, which is followed.
    File(PathBuf),
    /// `jwks_url`: an address, which is asked again and again.
    Url {
        /// `jwks_url`.
        url: JwksUrl,
        /// `ca_file`: the CA certificates of the server. Default: those of the system.
        ca_file: Option<PathBuf>,
        /// `bearer_token_file`: a token that is sent to the server, read at each request. Default: none.
        bearer_token_file: Option<PathBuf>,
    },
    /// `spiffe_socket`: the SPIFFE Workload API, which sends the keys of JWT-SVIDs whenever they change.
    WorkloadApi {
        /// Path of the agent's unix domain socket.
        socket: PathBuf,
        /// The trust domain whose keys are used: the effective one of the table.
        trust_domain: String,
    },
}

/// An address with the scheme `https`, or `http` on the loopback interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksUrl {
    /// Whether the scheme is `https`.
    pub is_https: bool,
    /// The server. An IPv6 address is without brackets.
    pub server: HostPort,
    /// The path and the query; begins with a slash.
    pub path: String,
    /// The whole address, as configured.
    pub text: String,
}

/// `authentication`: whether clients show who they are by tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListenerAuthentication {
    /// `none`: a client's token is not read.
    #[default]
    None,
    /// `token`: a client can do nothing before it has shown a token.
    Token,
    /// `token-optional`: a client with a token is who the token says.
    TokenOptional,
}

impl ListenerAuthentication {
    /// The value in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token => "token",
            Self::TokenOptional => "token-optional",
        }
    }
}

impl TokenIssuerConfig {
    /// Where people log in: the first issuer with a `client_id`, or else the first one with a name. `None` if all
    /// tokens are JWT-SVIDs, which people do not have.
    pub fn for_people(issuers: &[Self]) -> Option<&Self> {
        let named = || issuers.iter().filter(|issuer| issuer.issuer.is_some());
        named().find(|issuer| issuer.client_id.is_some()).or_else(|| named().next())
    }

    /// The name in metrics and messages: `issuer`, or `spiffe://` and the trust domain.
    pub fn label(&self) -> String {
        self.issuer.clone().unwrap_or_else(|| format!("spiffe://{}", self.trust_domain.as_deref().unwrap_or_default()))
    }
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Url { url, .. } => url.fmt(f),
            Self::WorkloadApi { socket, .. } => write!(f, "unix:{}", socket.display()),
        }
    }
}
