//! What a listener demands of clients that authenticate with tokens.

use std::sync::Arc;

use crate::config::{Config, ListenerAuthentication, ListenerConfig, TokenIssuerConfig};
use crate::identity::token::ValidateToken;
use crate::identity::{Identified, Principal, PrincipalSource};
use crate::relay::{TokenDemand, TokenFilter};
use crate::wire::oidc::IdentityProvider;

/// How the clients of a listener authenticate with tokens.
#[derive(Debug)]
pub struct TokenRules {
    /// Whether a client without a token may only begin a connection.
    pub(super) is_required: bool,
    /// Whether a client with a password needs an upstream connection that the gateway has not authenticated.
    separates_passwords: bool,
    /// Where people can log in. `None` refuses them.
    identity_provider: Option<Arc<IdentityProvider>>,
    validator: Arc<dyn ValidateToken>,
    /// The principals of certificates that may speak for others: gateways in front of this one.
    forwarders: Vec<Principal>,
}

impl TokenRules {
    /// The rules of a listener with this configuration; `None` if its clients do not authenticate with tokens.
    pub fn new(config: &Config, listener: &ListenerConfig, validator: Arc<dyn ValidateToken>) -> Option<Self> {
        let is_required = match listener.authentication {
            ListenerAuthentication::None => return None,
            ListenerAuthentication::Token => true,
            ListenerAuthentication::TokenOptional => false,
        };
        let identity_provider = TokenIssuerConfig::for_people(&config.token_issuers).and_then(|issuer| {
            let TokenIssuerConfig { issuer, client_id, request_scopes, .. } = issuer.clone();
            Some(Arc::new(IdentityProvider { issuer: issuer?, client_id, request_scopes }))
        });
        let authenticates = config.upstreams.get(&listener.upstream).is_some_and(|it| it.authentication.is_some());
        let forwarders = config.identities.iter().filter(|identity| identity.may_forward);
        Some(Self {
            is_required,
            separates_passwords: authenticates && !is_required,
            identity_provider,
            validator,
            forwarders: forwarders.map(|identity| Principal::configured(&identity.principal)).collect(),
        })
    }

    /// The filter for a client that its connection identifies as `identity`.
    pub(super) fn filter(&self, identity: Option<&Identified>) -> Box<TokenFilter> {
        // An address says little about a client, and a certificate says who its connection is.
        let certified =
            identity.filter(|it| matches!(it.source, PrincipalSource::Certificate | PrincipalSource::Proxy));
        let certificate = certified.map(|it| it.principal.clone()).filter(|it| !self.forwarders.contains(it));
        let demand = TokenDemand {
            is_required: self.is_required,
            separates_passwords: self.separates_passwords,
            identity_provider: self.identity_provider.clone(),
            certificate,
        };
        Box::new(TokenFilter::new(demand, Arc::clone(&self.validator)))
    }
}
