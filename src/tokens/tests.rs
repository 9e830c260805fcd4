//! Keys that are loaded, replaced, lost and asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{advance, sleep};

use super::issuer_keys::IssuerKeys;
use super::{TokenKeys, TokenValidator, load};
use crate::config::{JwksUrl, KeySource, TokenIssuerConfig};
use crate::identity::token::test_keys::{TokenKey, key_set, kubernetes_claims};
use crate::identity::token::{KeySet, TokenResult, ValidateToken, Validation};
use crate::lifecycle::drain::Drain;
use crate::lifecycle::tasks::Tasks;

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "mongodb://orders";

fn section(keys: KeySource) -> TokenIssuerConfig {
    TokenIssuerConfig {
        issuer: Some(ISSUER.to_owned()),
        audiences: vec![AUDIENCE.to_owned()],
        keys,
        trust_domain: Some("cluster.local".to_owned()),
        principal: None,
        required_claims: Vec::new(),
        client_id: None,
        request_scopes: Vec::new(),
        clock_skew: Duration::ZERO,
        expiry_grace: Duration::ZERO,
    }
}

fn token(key: &TokenKey) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    key.token(&kubernetes_claims(ISSUER, AUDIENCE, ("shop", "orders"), now - 5, 600))
}

/// The principal, or the label of the problem; with `pending ` in front if newer keys were asked for.
async fn validate(validator: &TokenValidator, token: &str) -> String {
    let shown = |result: TokenResult| match result {
        Ok(token) => token.principal.to_string(),
        Err(problem) => problem.label().to_owned(),
    };
    match validator.validate(token, SystemTime::now()) {
        Validation::Ended(result) => shown(result),
        Validation::Pending(pending) => format!("pending {}", shown(pending.await)),
    }
}

const ORDERS: &str = "cluster.local/ns/shop/sa/orders";

/// An issuer on the loopback interface, without TLS.
struct HttpIssuer {
    url: JwksUrl,
    response: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    /// The last request.
    request: Arc<Mutex<String>>,
    _tasks: Tasks,
}

impl HttpIssuer {
    async fn start(response: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (response, request) = (Arc::new(Mutex::new(response)), Arc::<Mutex<String>>::default());
        let (asked, tasks) = (Arc::<AtomicUsize>::default(), Tasks::new());
        let (answer, seen, count) = (Arc::clone(&response), Arc::clone(&request), Arc::clone(&asked));
        tasks.spawn("issuer", async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut read = vec![0; 4096];
                let length = stream.read(&mut read).await.unwrap();
                *seen.lock().unwrap() = String::from_utf8_lossy(&read[..length]).into_owned();
                count.fetch_add(1, Ordering::SeqCst);
                let response = answer.lock().unwrap().clone();
                let _ = stream.write_all(response.as_bytes()).await;
            }
        });
        let server = format!("127.0.0.1:{port}").parse().unwrap();
        let url = JwksUrl {
            is_https: false,
            server,
            path: "/jwks?a=b".to_owned(),
            text: format!("http://127.0.0.1:{port}/jwks?a=b"),
        };
        Self { url, response, asked, request, _tasks: tasks }
    }

    fn source(&self, bearer_token_file: Option<PathBuf>) -> KeySource {
        KeySource::Url { url: self.url.clone(), ca_file: None, bearer_token_file }
    }

    fn serve(&self, keys: &Value) {
        *self.response.lock().unwrap() = ok(keys);
    }
}

fn ok(keys: &Value) -> String {
    let body = keys.to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Waits until the keys of the only issuer fulfil a condition.
async fn wait_until(keys: &TokenKeys, holds: impl Fn(&IssuerKeys) -> bool) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds(&keys.issuers()[0]) {
        assert!(tokio::time::Instant::now() < limit, "{:?}", keys.issuers()[0]);
        sleep(Duration::from_millis(5)).await;
    }
}

fn started(source: KeySource) -> (TokenKeys, Tasks, Drain) {
    let keys = TokenKeys::new(&[section(source)]).unwrap().unwrap();
    let (tasks, drain) = (Tasks::new(), Drain::new());
    keys.start(&tasks, &drain.watch());
    (keys, tasks, drain)
}

#[tokio::test]
async fn a_file_is_followed_and_the_last_keys_stay_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jwks.json");
    let (first, second) = (TokenKey::ec("k1"), TokenKey::ec("k2"));
    let (keys, _tasks, _drain) = started(KeySource::File(file.clone()));
    wait_until(&keys, |keys| keys.problem().is_some()).await;
    assert!(keys.issuers()[0].problem().unwrap().contains("jwks.json"));
    assert!(keys.issuers()[0].current().is_none());
    fs::write(&file, key_set([&first]).to_string()).unwrap();
    wait_until(&keys, |keys| keys.current().is_some()).await;
    assert_eq!(validate(keys.validator(), &token(&first)).await, ORDERS);
    replace(&file, "{}");
    wait_until(&keys, |keys| keys.problem().is_some()).await;
    assert_eq!(validate(keys.validator(), &token(&first)).await, ORDERS);
    replace(&file, &key_set([&second]).to_string());
    wait_until(&keys, |keys| keys.current().is_some_and(|keys| keys.has("k2"))).await;
    assert_eq!(validate(keys.validator(), &token(&second)).await, ORDERS);
    assert!(keys.issuers()[0].problem().is_none());
}

fn replace(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, file).unwrap();
}

#[tokio::test]
async fn an_unknown_key_is_looked_for_once() {
    let (first, second, forged) = (TokenKey::ec("k1"), TokenKey::ec("k2"), TokenKey::ec("forged"));
    let issuer = HttpIssuer::start(ok(&key_set([&first]))).await;
    let (keys, _tasks, _drain) = started(issuer.source(None));
    wait_until(&keys, |keys| keys.current().is_some()).await;
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 1);
    issuer.serve(&key_set([&first, &second]));
    assert_eq!(validate(keys.validator(), &token(&second)).await, format!("pending {ORDERS}"));
    assert_eq!(validate(keys.validator(), &token(&second)).await, ORDERS);
    for _ in 0..100 {
        assert_eq!(validate(keys.validator(), &token(&forged)).await, "unknown_key");
    }
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 2);
    assert!(issuer.request.lock().unwrap().starts_with("GET /jwks?a=b HTTP/1.1\r\n"));
}

#[tokio::test(start_paused = true)]
async fn tokens_with_unknown_keys_share_a_request_and_do_not_repeat_it() {
    let keys = IssuerKeys::new(ISSUER.to_owned(), KeySource::File("/nowhere".into()));
    assert_eq!(keys.request(), Some(0));
    // Not ended: others wait for the same one.
    assert_eq!(keys.request(), Some(0));
    keys.fail("x".to_owned());
    keys.attempted(0).await;
    assert_eq!(keys.request(), None);
    advance(Duration::from_secs(9)).await;
    assert_eq!(keys.request(), None);
    advance(Duration::from_secs(1)).await;
    assert_eq!(keys.request(), Some(1));
    // One request, however many asked.
    keys.requested().await;
    assert!(tokio::time::timeout(Duration::from_mins(1), keys.requested()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_two_seconds_for_an_issuer_that_does_not_answer() {
    let keys = TokenKeys::new(&[section(KeySource::File("/nowhere".into()))]).unwrap().unwrap();
    let before = tokio::time::Instant::now();
    assert_eq!(validate(keys.validator(), &token(&TokenKey::ec("k1"))).await, "pending no_keys");
    assert_eq!(before.elapsed(), Duration::from_secs(2));
}

#[tokio::test]
async fn the_token_for_the_issuer_is_read_at_each_request() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let issuer = HttpIssuer::start(ok(&key_set([&TokenKey::ec("k1")]))).await;
    let source = issuer.source(Some(file.clone()));
    let failed = load(&source).await.unwrap_err();
    assert!(failed.to_string().contains("cannot read bearer_token_file"), "{failed}");
    for bearer in ["one", "two"] {
        fs::write(&file, format!("{bearer}\n")).unwrap();
        load(&source).await.unwrap();
        let request = issuer.request.lock().unwrap().to_ascii_lowercase();
        assert!(request.contains(&format!("\r\nauthorization: bearer {bearer}\r\n")), "{request}");
    }
    for odd in ["", "\n", "two lines\nof text", &"x".repeat(20_000)] {
        fs::write(&file, odd).unwrap();
        assert!(load(&source).await.is_err());
    }
}

#[tokio::test]
async fn what_is_no_key_set_is_told_with_a_remedy() {
    for (response, error, remedy) in [
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "403 Forbidden", "bearer_token_file"),
        ("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", "302 Found", "redirects are not followed"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "no array \"keys\"", "JSON Web Key Set"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{}", "cannot be read", "jwks_url"),
        ("SSH-2.0-OpenSSH\r\n", "cannot be read", "jwks_url"),
        ("", "cannot be read", "jwks_url"),
    ] {
        let issuer = HttpIssuer::start(response.to_owned()).await;
        let failed = load(&issuer.source(None)).await.unwrap_err();
        assert!(failed.to_string().contains(error), "{response}: {failed}");
        assert!(failed.remedy().contains(remedy), "{response}: {}", failed.remedy());
    }
    let cached = ok(&key_set([&TokenKey::ec("k1")]))
        .replace("content-length", "cache-control: max-age=60\r\nage: 20\r\ncontent-length");
    let issuer = HttpIssuer::start(cached).await;
    assert_eq!(load(&issuer.source(None)).await.unwrap().max_age, Some(Duration::from_secs(40)));
    let long = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", " ".repeat(2 << 20));
    let issuer = HttpIssuer::start(long).await;
    assert!(load(&issuer.source(None)).await.unwrap_err().to_string().contains("length limit"));
}

#[test]
fn problems_of_templates_name_their_key() {
    let mut wrong = section(KeySource::File("/nowhere".into()));
    wrong.principal = Some("{sub}".to_owned());
    wrong.required_claims = vec![("a..b".to_owned(), vec!["x".to_owned()])];
    let problems = TokenKeys::new(&[section(KeySource::File("/nowhere".into())), wrong]).unwrap_err();
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["token_issuer[2].principal", "token_issuer[2].required_claims"]);
}

#[test]
fn keys_are_described_for_people() {
    let set = KeySet::from_json(key_set([&TokenKey::rsa("a"), &TokenKey::ec("b")]).to_string().as_bytes()).unwrap();
    assert_eq!(set.descriptions(), ["a (RSA 2048 bits)", "b (EC P-256)"]);
}
