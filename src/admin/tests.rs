//! Tests over real sockets on port 0, with well-behaved and hostile clients.

use std::net::Ipv4Addr;

use hyper::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;
use crate::lifecycle::drain::Drain;
use crate::lifecycle::readiness::{ConditionState, Readiness, Subject};
use crate::telemetry::metrics::{Metrics, StateGauges};

/// Deadline of every wait: far longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// More than fits into the socket buffers of both ends.
const STATUS_BYTES: usize = 16 * 1024 * 1024;

struct Running {
    address: SocketAddr,
    drain: Drain,
    readiness: Readiness,
    serving: JoinHandle<()>,
}

impl Running {
    fn start(limits: AdminLimits) -> Self {
        let drain = Drain::new();
        let readiness = Readiness::new(drain.watch());
        let sources = Sources {
            metrics: Metrics::not_installed(),
            gauges: Arc::new(StateGauges::default),
            readiness: readiness.clone(),
            status: Arc::new(|| serde_json::json!({"connections": 3, "padding": "x".repeat(STATUS_BYTES)})),
        };
        let mut server = bind(&AdminConfig { address: (Ipv4Addr::LOCALHOST, 0).into() }, sources).unwrap();
        server.limits = limits;
        let address = server.address();
        #[expect(clippy::disallowed_methods, reason = "the test waits for the end of this task")]
        let serving = tokio::spawn(server.serve(drain.watch()));
        Self { address, drain, readiness, serving }
    }

    /// Sends `request` and reads until the server closes the connection.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may close before it has read the whole request.
        let _ = stream.write_all(request).await;
        read_to_end(&mut stream).await
    }

    async fn request(&self, method: &str, path: &str, headers: &str) -> (u16, String, String) {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        let answer = self.exchange(request.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    async fn is_alive(&self) {
        assert_eq!(self.request("GET", "/livez", "").await.2, "ok\n");
    }

    async fn stop(self) {
        self.drain.stop();
        tokio::time::timeout(PATIENCE, self.serving).await.unwrap().unwrap();
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the response is as good as an orderly end.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn every_path_responds_with_its_content_type() {
    let running = Running::start(LIMITS);
    let cases = [
        ("GET", "/", 200, "text/plain", "/readyz"),
        ("GET", "/livez", 200, "text/plain", "ok\n"),
        ("GET", "/livez?verbose", 200, "text/plain", "ok\n"),
        ("GET", "/readyz", 200, "text/plain", "ready\nok     serving\n"),
        ("GET", "/metrics", 200, "text/plain; version=0.0.4", "mongate_build_info"),
        ("GET", "/status", 200, "application/json", "\"connections\": 3"),
        ("GET", "/livez/", 404, "text/plain", "no such path"),
        ("POST", "/quit", 404, "text/plain", "no such path"),
        ("POST", "/status", 405, "text/plain", "use GET"),
        ("DELETE", "/", 405, "text/plain", "use GET"),
    ];
    for (method, path, status, content_type, part) in cases {
        let (found, head, body) = running.request(method, path, "").await;
        assert_eq!(found, status, "{method} {path}");
        assert!(head.contains(&format!("content-type: {content_type}")), "{method} {path}: {head}");
        assert!(body.contains(part), "{method} {path}: {body}");
        assert_eq!(head.contains("allow: get, head"), status == 405, "{method} {path}: {head}");
    }
    running.stop().await;
}

#[tokio::test]
async fn head_returns_the_length_without_a_body() {
    let running = Running::start(LIMITS);
    let (status, head, body) = running.request("HEAD", "/livez", "").await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("content-length: 3"), "{head}");
    running.stop().await;
}

#[tokio::test]
async fn readyz_reports_problems_as_text_and_as_json() {
    let running = Running::start(LIMITS);
    running.readiness.add("upstream orders", Subject::Process, || {
        ConditionState::Fails("mongod rejected the gateway's client certificate".to_owned())
    });

    let (status, _, body) = running.request("GET", "/readyz", "").await;
    assert_eq!(status, 503);
    assert_eq!(
        body,
        "not ready\nok     serving\nFAILED upstream orders: mongod rejected the gateway's client certificate\n"
    );

    let (status, head, body) = running.request("GET", "/readyz", "Accept: application/json\r\n").await;
    assert_eq!(status, 503);
    assert!(head.contains("content-type: application/json"));
    let report: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(report["ready"], false);
    assert_eq!(report["conditions"][1]["name"], "upstream orders");
    assert_eq!(report["conditions"][1]["detail"], "mongod rejected the gateway's client certificate");
    running.stop().await;
}

#[tokio::test]
async fn the_port_stays_open_during_the_drain_and_closes_at_the_stop() {
    let running = Running::start(LIMITS);
    running.drain.begin();
    assert_eq!(running.request("GET", "/readyz", "").await.0, 503);
    running.is_alive().await;

    let mut idle = TcpStream::connect(running.address).await.unwrap();
    let address = running.address;
    running.stop().await;
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn one_connection_carries_several_requests() {
    let running = Running::start(LIMITS);
    let two = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(running.exchange(two).await.matches("200 OK").count(), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_its_request_head_too_slowly_is_disconnected() {
    let running = Running::start(AdminLimits { head_timeout: Duration::from_millis(300), ..LIMITS });
    for head in ["", "G", "GET /livez HTTP/1.1\r\nHost: x\r\n"] {
        let answer = running.exchange(head.as_bytes()).await;
        assert!(!answer.contains("200"), "{head:?}: {answer}");
    }
    // The timeout also applies between two requests.
    let answer = running.exchange(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.contains("200 OK"));
    running.stop().await;
}

#[tokio::test]
async fn a_connection_is_closed_at_its_maximum_age() {
    let limits = AdminLimits { age_max: Duration::from_millis(300), ..LIMITS };
    let running = Running::start(limits);
    assert_eq!(running.exchange(b"").await, "");
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_response_is_disconnected() {
    let short = Duration::from_millis(300);
    let running = Running::start(AdminLimits { connections_max: 1, age_max: short, grace: short, ..LIMITS });
    let mut stuck = TcpStream::connect(running.address).await.unwrap();
    stuck.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // There is room for one connection: this one waits until the first is gone.
    running.is_alive().await;
    assert!(read_to_end(&mut stuck).await.len() < STATUS_BYTES);
    running.stop().await;
}

#[tokio::test]
async fn slow_readers_do_not_delay_a_probe() {
    let limits = AdminLimits { connections_max: 2, ..LIMITS };
    let running = Running::start(limits);
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut reader = TcpStream::connect(running.address).await.unwrap();
        reader.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        slow.push(reader);
    }
    let asked = Instant::now();
    running.is_alive().await;
    // Less than the age at which a connection would be closed anyway.
    assert!(asked.elapsed() < limits.age_max / 2);
    running.stop().await;
}

#[tokio::test]
async fn garbage_and_huge_heads_and_bodies_do_not_affect_other_clients() {
    let running = Running::start(LIMITS);
    let huge_header = [b"GET /livez HTTP/1.1\r\nA: ".to_vec(), vec![b'a'; 1024 * 1024]].concat();
    let many_headers = [b"GET /livez HTTP/1.1\r\n".to_vec(), b"A: b\r\n".repeat(1000)].concat();
    let huge_path = [b"GET /".to_vec(), vec![b'a'; 200_000]].concat();
    // A MongoDB message, a TLS ClientHello, and noise.
    let mongo = [&[58u8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xdd, 7, 0, 0][..], &[0; 42]].concat();
    let tls = [&[0x16, 3, 1, 2, 0, 1][..], &[7; 512]].concat();
    let noise: Vec<u8> = (0..20_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    for hostile in [huge_header, many_headers, huge_path, mongo, tls, noise] {
        let answer = running.exchange(&hostile).await;
        assert!(!answer.contains("200 OK"), "{answer}");
        running.is_alive().await;
    }

    let promised = b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000000\r\n\r\nonly this";
    assert!(running.exchange(promised).await.contains("ok\n"));
    let upload = [b"POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n".to_vec(), vec![0; 3_000_000]];
    running.exchange(&upload.concat()).await;
    running.is_alive().await;
    running.stop().await;
}

#[tokio::test]
async fn a_hundred_concurrent_clients_are_all_answered() {
    let running = Running::start(LIMITS);
    let mut streams = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        // At once: at the limit of connections, one that is silent for a while makes room.
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        streams.push(stream);
    }
    for stream in &mut streams {
        assert!(read_to_end(stream).await.ends_with("ok\n"));
    }
    running.stop().await;
}

#[tokio::test]
async fn idle_clients_block_others_only_until_their_timeout() {
    let running =
        Running::start(AdminLimits { connections_max: 2, head_timeout: Duration::from_millis(300), ..LIMITS });
    let mut idle = Vec::new();
    for _ in 0..10 {
        idle.push(TcpStream::connect(running.address).await.unwrap());
    }
    running.is_alive().await;
    running.stop().await;
}

#[tokio::test]
async fn the_error_about_an_address_in_use_names_it_and_the_key() {
    let running = Running::start(LIMITS);
    let sources = Sources {
        metrics: Metrics::not_installed(),
        gauges: Arc::new(StateGauges::default),
        readiness: running.readiness.clone(),
        status: Arc::new(|| serde_json::Value::Null),
    };
    let error = bind(&AdminConfig { address: running.address }, sources).err().unwrap();
    assert!(matches!(error, AdminBindError::InUse { .. }));
    let sentence = error.to_string();
    assert!(sentence.contains(&running.address.to_string()) && sentence.contains("admin.address"), "{sentence}");
    running.stop().await;
}

#[tokio::test]
async fn healthcheck_returns_the_report_of_a_gateway_that_is_ready_or_not() {
    let running = Running::start(LIMITS);
    let report = healthcheck(running.address, PATIENCE).await.unwrap();
    assert_eq!(report, running.readiness.report());
    assert!(report.ready);

    running
        .readiness
        .add("upstream orders", Subject::Process, || ConditionState::Fails("connection refused".to_owned()));
    let report = healthcheck(running.address, PATIENCE).await.unwrap();
    assert_eq!(report, running.readiness.report());
    assert!(!report.ready);

    let address = running.address;
    running.stop().await;
    let error = healthcheck(address, PATIENCE).await.unwrap_err();
    assert!(matches!(error, HealthError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn healthcheck_does_not_trust_the_server() {
    /// Sends `answer` to one client and closes; never answers if `answer` is empty.
    async fn other_server(answer: Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Tasks::new().spawn("other server", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            if answer.is_empty() {
                // Reads until the client gives up.
                read_to_end(&mut stream).await;
            }
            let _ = stream.write_all(&answer).await;
        });
        address
    }
    let short = Duration::from_millis(100);

    let silent = other_server(Vec::new()).await;
    let error = healthcheck(silent, short).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("{silent} did not respond within 100ms")), "{error}");

    let other_page = other_server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec()).await;
    let error = healthcheck(other_page, PATIENCE).await.unwrap_err();
    assert!(matches!(error, HealthError::NotMongate { status: StatusCode::OK, .. }), "{error}");

    let endless = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'['; 2 * 1024 * 1024]].concat();
    let noise = b"\x16\x03\x01 no HTTP at all\r\n\r\n".to_vec();
    for answer in [endless, noise] {
        let error = healthcheck(other_server(answer).await, PATIENCE).await.unwrap_err();
        assert!(matches!(error, HealthError::NotHttp { .. }), "{error}");
    }
}
