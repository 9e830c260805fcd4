//! The keys of JWT-SVIDs from the SPIFFE Workload API: a local agent provides those of its trust domain and of the ones
//! that it federates with, and sends new ones before they sign tokens.
//!
//! Does not retry, and keeps no keys: the caller decides what to do when the agent is lost.
//!
//! Spec: SPIFFE Workload API § 4.4, § 6 (JWT-SVID Profile).

use std::path::Path;
use std::time::Duration;

use spiffe::{JwtBundle, JwtBundleSet, TrustDomain};

use super::workload_call::{Messages, WorkloadCall};
use super::workload_error::{WorkloadError, WorkloadProblem};

/// A call to an agent, which sends all keys now and each time that they change. Dropping it ends the call.
pub struct JwtBundleUpdates(WorkloadCall<JwtBundleSet>);

/// The keys that an agent sent, by trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtBundles(JwtBundleSet);

impl JwtBundleUpdates {
    /// Asks the agent that listens on `socket` for keys, and waits at most `limit` for the first answer. Cancel safe.
    pub async fn ask(socket: &Path, limit: Duration) -> Result<Self, WorkloadError> {
        let call = WorkloadCall::begin(socket, limit, async |client| {
            Ok(Box::pin(client.stream_jwt_bundles().await?) as Messages<JwtBundleSet>)
        });
        call.await.map(Self).map_err(about_keys)
    }

    /// Waits for the next keys, which replace all previous ones. The first are available at once.
    ///
    /// After an error that [is about content](WorkloadError::is_about_content) the agent may send others; after any
    /// other error the call has ended. Cancel safe.
    pub async fn next(&mut self) -> Result<JwtBundles, WorkloadError> {
        self.0.next().await.map(JwtBundles).map_err(about_keys)
    }
}

impl JwtBundles {
    /// The keys of a trust domain as a JSON Web Key Set; `None` if the agent sent none.
    pub fn key_set(&self, trust_domain: &str) -> Option<Vec<u8>> {
        let bundle: &JwtBundle = self.0.get_ref(&TrustDomain::new(trust_domain).ok()?)?;
        let keys: Vec<&[u8]> = bundle.jwt_authorities().map(|authority| authority.jwk_json()).collect();
        let whole = || [&b"{\"keys\":["[..], &keys.join(&b','), b"]}"].concat();
        (!keys.is_empty()).then(whole)
    }
}

/// Names what this call is for.
fn about_keys(WorkloadError { socket, problem }: WorkloadError) -> WorkloadError {
    let problem = match problem {
        WorkloadProblem::Denied { message } => WorkloadProblem::KeysDenied { message },
        WorkloadProblem::Malformed { message } => WorkloadProblem::MalformedKeys { message },
        other => other,
    };
    WorkloadError { socket, problem }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::net::UnixListener;

    use super::*;

    fn bundles(sent: &[(&str, Value)]) -> JwtBundles {
        let bundle = |(domain, keys): &(&str, Value)| {
            JwtBundle::from_jwt_authorities(TrustDomain::new(domain).unwrap(), keys.to_string().as_bytes()).unwrap()
        };
        JwtBundles(sent.iter().map(bundle).collect())
    }

    #[test]
    fn keys_are_those_of_one_trust_domain() {
        let key = |kid: &str| json!({ "kty": "EC", "kid": kid, "crv": "P-256", "x": "AA", "y": "AA" });
        let home = json!({ "keys": [key("h1"), key("h2")] });
        let sent = bundles(&[
            ("home.test", home),
            ("other.test", json!({ "keys": [key("o1")] })),
            ("empty.test", json!({ "keys": [] })),
        ]);
        let found = |domain: &str| {
            let document: Value = serde_json::from_slice(&sent.key_set(domain)?).unwrap();
            let mut kids: Vec<String> =
                document["keys"].as_array()?.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect();
            kids.sort();
            Some(kids.join(" "))
        };
        for (domain, expected) in [
            ("home.test", Some("h1 h2")),
            ("other.test", Some("o1")),
            ("empty.test", None),
            ("absent.test", None),
            ("NOT a domain", None),
        ] {
            assert_eq!(found(domain).as_deref(), expected, "{domain}");
        }
    }

    #[tokio::test]
    async fn each_failure_to_ask_an_agent_has_its_own_message() {
        let directory = tempfile::tempdir().unwrap();
        let ask = async |name: &str| {
            let socket = directory.path().join(name);
            let error = JwtBundleUpdates::ask(&socket, Duration::from_millis(200)).await.err().unwrap();
            assert!(!error.is_about_content() && !error.remedy().is_empty());
            error.to_string()
        };
        assert!(ask("absent.sock").await.ends_with("cannot be reached: the socket does not exist"));
        let _listener = UnixListener::bind(directory.path().join("silent.sock")).unwrap();
        assert!(ask("silent.sock").await.ends_with("did not answer within 200ms"));
    }
}
