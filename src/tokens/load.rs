//! Loads the keys of an issuer once, from a file, an address, or a SPIFFE agent.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::fetch::{FetchError, fetch};
use crate::config::KeySource;
use crate::identity::token::{KEY_SET_BYTES_MAX, KeySet, KeySetError};
use crate::tls::{JwtBundleUpdates, WorkloadError, WorkloadProblem};

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyLoadError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    File {
        /// As configured.
        file: PathBuf,
        /// From the system.
        source: io::Error,
    },
    /// The address has no document.
    #[error("cannot fetch {url}: {error}")]
    Fetch {
        /// As configured.
        url: String,
        /// What went wrong.
        error: Box<FetchError>,
    },
    /// The SPIFFE agent has no keys.
    #[error(transparent)]
    Agent(#[from] WorkloadError),
    /// There is a document, but it is no usable key set.
    #[error("{source_name}: {error}")]
    Unusable {
        /// The file or the address.
        source_name: String,
        /// What is wrong with it.
        error: KeySetError,
    },
}

impl KeyLoadError {
    /// What the operator can do.
    pub fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::File { .. } => "correct jwks_file, and let mongate read the file".into(),
            Self::Fetch { error, .. } => error.remedy().into(),
            Self::Agent(error) => error.remedy().into(),
            Self::Unusable { .. } => {
                "put the JSON Web Key Set of the issuer there, as `kubectl get --raw /openid/v1/jwks` prints it".into()
            }
        }
    }
}

/// Keys that were loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Never empty.
    pub keys: KeySet,
    /// How long the server of an address wants them to be used (`Cache-Control: max-age`); `None` if it does not say.
    pub max_age: Option<Duration>,
}

/// The longest wait for an agent, which runs on this machine.
pub(super) const AGENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Loads the keys. Takes at most 10 s from an address or an agent; a file is read on another thread. Cancel safe.
pub async fn load(source: &KeySource) -> Result<Loaded, KeyLoadError> {
    let mut max_age = None;
    let document = match source {
        KeySource::File(file) => {
            let path = file.clone();
            let read = spawn_blocking(move || read(&path)).await.unwrap_or_else(|error| Err(io::Error::other(error)));
            read.map_err(|source| KeyLoadError::File { file: file.clone(), source })?
        }
        KeySource::Url { url, ca_file, bearer_token_file } => {
            let fetched = fetch(url, ca_file.as_deref(), bearer_token_file.as_deref()).await;
            let fetched =
                fetched.map_err(|error| KeyLoadError::Fetch { url: url.to_string(), error: Box::new(error) })?;
            max_age = fetched.max_age;
            fetched.document.into()
        }
        KeySource::WorkloadApi { socket, trust_domain } => {
            let bundles = JwtBundleUpdates::ask(socket, AGENT_TIMEOUT).await?.next().await?;
            bundles.key_set(trust_domain).ok_or_else(|| no_keys(socket, trust_domain))?
        }
    };
    Ok(Loaded { keys: read_keys(source, &document)?, max_age })
}

/// The agent knows no keys of this trust domain.
pub(super) fn no_keys(socket: &Path, trust_domain: &str) -> KeyLoadError {
    let problem = WorkloadProblem::NoKeys { trust_domain: trust_domain.to_owned() };
    WorkloadError { socket: socket.to_owned(), problem }.into()
}

/// The keys of a document that came from `source`.
pub(super) fn read_keys(source: &KeySource, document: &[u8]) -> Result<KeySet, KeyLoadError> {
    KeySet::from_json(document).map_err(|error| KeyLoadError::Unusable { source_name: source.to_string(), error })
}

/// One byte more than is accepted, so that a longer file is an error.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    // A pipe would never end.
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut document = Vec::new();
    fs::File::open(file)?.take(KEY_SET_BYTES_MAX as u64 + 1).read_to_end(&mut document)?;
    Ok(document)
}
