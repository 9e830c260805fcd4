//! Lookups with a name server inside the test, over UDP and TCP, with hand-made answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use hickory_resolver::TokioResolver;
use tokio::time::Instant;

use super::lookup::{look_up, set_times};
use super::*;

const SRV: u16 = 33;
const TXT: u16 = 16;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;
const TRUNCATED: u8 = 0x02;

/// Enough time for a lookup within this process.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The answer to a question.
#[derive(Clone)]
enum Reply {
    /// Records, each with the name of the question.
    Records(Vec<Vec<u8>>),
    /// No records, and this response code.
    Code(u8),
    /// These bytes after the ID of the question.
    Raw(Vec<u8>),
    /// Over UDP a truncated answer; over TCP all records.
    Long(Vec<Vec<u8>>),
    /// The question and half of a record.
    CutOff(Vec<u8>),
    /// No answer.
    Silence,
}

/// Answers questions for SRV and TXT records.
struct NameServer {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
    services: Reply,
    texts: Reply,
}

impl NameServer {
    async fn new(services: Reply, texts: Reply) -> Self {
        loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = tcp.local_addr().unwrap();
            match UdpSocket::bind(address).await {
                Ok(udp) => return Self { udp, tcp, address, services, texts },
                // The UDP port is in use.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Answers for as long as `client` runs.
    async fn during<T>(&self, client: impl Future<Output = T>) -> T {
        tokio::select! {
            result = client => result,
            result = self.serve_udp() => panic!("{result:?}"),
            result = self.serve_tcp() => panic!("{result:?}"),
        }
    }

    async fn serve_udp(&self) -> io::Result<()> {
        let mut question = [0; 1500];
        loop {
            let (length, client) = self.udp.recv_from(&mut question).await?;
            if let Some(answer) = self.answer(&question[..length], true) {
                self.udp.send_to(&answer, client).await?;
            }
        }
    }

    async fn serve_tcp(&self) -> io::Result<()> {
        loop {
            let (mut stream, _) = self.tcp.accept().await?;
            let mut question = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut question).await?;
            if let Some(answer) = self.answer(&question, false) {
                stream.write_u16(answer.len().try_into().unwrap()).await?;
                stream.write_all(&answer).await?;
            }
        }
    }

    fn answer(&self, question: &[u8], is_udp: bool) -> Option<Vec<u8>> {
        // The name begins after the 12 bytes of the header; two bytes of record type follow it.
        let name_end = 13 + question[12..].iter().position(|byte| *byte == 0).unwrap();
        let asked = u16::from_be_bytes([question[name_end], question[name_end + 1]]);
        let head = |flags: u8, code: u8, answers: u16| {
            let mut head = question[..2].to_vec();
            head.extend([0x80 | flags | 0x01, 0x80 | code, 0, 1]);
            head.extend(answers.to_be_bytes());
            head.extend([0; 4]);
            head.extend(&question[12..name_end + 4]);
            head
        };
        let whole = |records: &[Vec<u8>]| {
            let mut answer = head(0, 0, records.len().try_into().unwrap());
            answer.extend(records.concat());
            answer
        };
        Some(match if asked == SRV { &self.services } else { &self.texts } {
            Reply::Long(_) if is_udp => head(TRUNCATED, 0, 0),
            Reply::Records(records) | Reply::Long(records) => whole(records),
            Reply::Code(code) => head(0, *code, 0),
            Reply::Raw(bytes) => [&question[..2], bytes].concat(),
            Reply::CutOff(record) => {
                let mut answer = whole(std::slice::from_ref(record));
                answer.truncate(answer.len() - record.len() / 2);
                answer
            }
            Reply::Silence => return None,
        })
    }

    fn resolver(&self, deadline: Instant) -> TokioResolver {
        let mut server = NameServerConfig::udp_and_tcp(self.address.ip());
        let at_port = |mut connection: ConnectionConfig| {
            connection.port = self.address.port();
            connection
        };
        server.connections = server.connections.into_iter().map(at_port).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        set_times(builder.options_mut(), deadline);
        builder.build().unwrap()
    }

    async fn look_up(&self, name: &str, time: Duration) -> Result<SrvSeeds, SrvFailure> {
        let deadline = Instant::now() + time;
        self.during(look_up(&self.resolver(deadline), name, deadline)).await
    }
}

/// A record with the name of the question, which is 12 bytes into the message.
fn record(kind: u16, ttl_seconds: u32, data: &[u8]) -> Vec<u8> {
    let mut record = vec![0xC0, 12];
    record.extend(kind.to_be_bytes());
    record.extend([0, 1]);
    record.extend(ttl_seconds.to_be_bytes());
    record.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    record.extend(data);
    record
}

fn service(host: &str, port: u16, ttl_seconds: u32) -> Vec<u8> {
    let mut data = vec![0, 0, 0, 5];
    data.extend(port.to_be_bytes());
    for label in host.split('.') {
        data.push(label.len().try_into().unwrap());
        data.extend(label.as_bytes());
    }
    data.push(0);
    record(SRV, ttl_seconds, &data)
}

fn text(strings: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    for string in strings {
        data.push(string.len().try_into().unwrap());
        data.extend(string.as_bytes());
    }
    record(TXT, 60, &data)
}

fn three_services() -> Vec<Vec<u8>> {
    (0..3).map(|index| service(&format!("Mongo-{index}.example.com"), 27017 + index, 300)).collect()
}

fn is_three(seeds: &SrvSeeds) -> bool {
    let members: Vec<String> = seeds.members.iter().map(ToString::to_string).collect();
    members == ["mongo-0.example.com:27017", "mongo-1.example.com:27018", "mongo-2.example.com:27019"]
}

/// Debug form of the failure.
async fn check_rejected(services: Reply, texts: Reply, expected: &str) {
    let server = NameServer::new(services, texts).await;
    let failure = server.look_up("cluster.example.com", TIMEOUT).await.unwrap_err();
    let found = format!("{failure:?}");
    assert!(found.starts_with(expected), "{found}, not {expected}");
}

#[tokio::test]
async fn seeds_and_replica_set_name_come_from_dns() {
    // A text of several strings.
    let texts = Reply::Records(vec![text(&["authSource=admin&repl", "icaSet=rs0"])]);
    let server = NameServer::new(Reply::Records(three_services()), texts).await;
    let seeds = server.look_up("cluster.example.com", TIMEOUT).await.unwrap();
    assert!(is_three(&seeds), "{seeds:?}");
    assert_eq!(seeds.replica_set.as_deref(), Some("rs0"));
    assert!(!seeds.load_balanced);
    assert_eq!(seeds.valid_for, Duration::from_mins(5));
}

#[tokio::test]
async fn without_a_text_there_is_no_replica_set_name() {
    for texts in [Reply::Records(Vec::new()), Reply::Code(NO_SUCH_NAME)] {
        let server = NameServer::new(Reply::Records(three_services()), texts).await;
        let seeds = server.look_up("cluster.example.com", TIMEOUT).await.unwrap();
        assert!(is_three(&seeds) && seeds.replica_set.is_none(), "{seeds:?}");
    }
}

#[tokio::test]
async fn a_truncated_answer_is_requested_over_tcp() {
    let server = NameServer::new(Reply::Long(three_services()), Reply::Records(Vec::new())).await;
    assert!(is_three(&server.look_up("cluster.example.com", TIMEOUT).await.unwrap()));
}

#[tokio::test]
async fn without_services_there_are_no_seeds() {
    let nothing = || Reply::Records(Vec::new());
    check_rejected(nothing(), nothing(), "NoService").await;
    check_rejected(Reply::Code(NO_SUCH_NAME), Reply::Code(NO_SUCH_NAME), "NoService").await;
    // Records of another type do not count.
    check_rejected(Reply::Records(vec![text(&["x"])]), nothing(), "NoService").await;
}

#[tokio::test]
async fn a_failing_name_server_is_an_error() {
    let services = || Reply::Records(three_services());
    let nothing = || Reply::Records(Vec::new());
    check_rejected(Reply::Code(SERVER_FAILURE), nothing(), "NoAnswer { record: \"SRV\", cause: Some").await;
    // The contents of the TXT record are not known.
    check_rejected(services(), Reply::Code(SERVER_FAILURE), "NoAnswer { record: \"TXT\", cause: Some").await;
}

#[tokio::test]
async fn hostile_answers_give_no_seeds() {
    let nothing = || Reply::Records(Vec::new());
    let mut services = three_services();
    services.push(service("mongo-3.evil.org", 27017, 300));
    check_rejected(Reply::Records(services), nothing(), "OtherDomain { host: \"mongo-3.evil.org\"").await;
    let texts = Reply::Records(vec![text(&["replicaSet=rs0"]), text(&["replicaSet=rs1"])]);
    check_rejected(Reply::Records(three_services()), texts, "SeveralTexts { count: 2 }").await;
    let texts = Reply::Records(vec![text(&["tls=false"])]);
    check_rejected(Reply::Records(three_services()), texts, "ForeignOption { option: \"tls\" }").await;
    let texts = Reply::Records(vec![text(&["replicaSet=\u{1b}[2J", "&x=1"])]);
    check_rejected(Reply::Records(three_services()), texts, "ForeignOption { option: \"x\" }").await;
    // A dot within a label must not split the label.
    let mut dotted = service("mongoX0.example.com", 27017, 300);
    let dot = dotted.iter().position(|byte| *byte == b'X').unwrap();
    dotted[dot] = b'.';
    check_rejected(Reply::Records(vec![dotted]), nothing(), "UnusableTarget").await;
    let many = (0..300).map(|index| service(&format!("m{index}.example.com"), 27017, 300)).collect();
    check_rejected(Reply::Long(many), nothing(), "TooManyServices { count: 300, maximum: 256 }").await;
}

#[tokio::test]
async fn malformed_answers_are_an_error() {
    let garbage =
        [Vec::new(), vec![0xFF; 3], vec![0xFF; 600], vec![0; 40], [vec![0x81, 0x80], vec![0xC0; 500]].concat()];
    for services in
        garbage.into_iter().map(Reply::Raw).chain([Reply::CutOff(service("a.example.com", 1, 1)), Reply::Silence])
    {
        let server = NameServer::new(services, Reply::Records(Vec::new())).await;
        let failure = server.look_up("cluster.example.com", Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(failure, SrvFailure::NoAnswer { record: "SRV", .. }), "{failure:?}");
    }
}

/// Not with a paused clock: the sockets of the resolver are real.
#[tokio::test]
async fn a_silent_name_server_takes_no_longer_than_the_deadline() {
    let server = NameServer::new(Reply::Records(three_services()), Reply::Silence).await;
    let started = Instant::now();
    let failure = server.look_up("cluster.example.com", Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(failure, SrvFailure::NoAnswer { record: "TXT", .. }), "{failure:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_name_that_is_too_long_for_dns_is_an_error() {
    let name = vec!["a".repeat(60); 4].join(".");
    let server = NameServer::new(Reply::Silence, Reply::Silence).await;
    let failure = server.look_up(&name, Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(failure, SrvFailure::NoAnswer { record: "SRV", cause: Some(_) }), "{failure:?}");
}

#[test]
fn sentences_name_records_and_remedies_name_keys() {
    let check = |failure: SrvFailure, sentence: &str, remedy: &str| {
        let error = SrvError { name: "cluster.example.com".to_owned(), failure };
        assert_eq!(error.to_string(), sentence);
        assert!(error.remedy("orders").contains(remedy), "{}", error.remedy("orders"));
    };
    check(
        SrvFailure::NoService,
        "there is no SRV record at _mongodb._tcp.cluster.example.com",
        "check upstream.orders.srv: it is the name after mongodb+srv://",
    );
    check(
        SrvFailure::NoAnswer { record: "TXT", cause: None },
        "the TXT records at cluster.example.com were not returned in time",
        "raise upstream.orders.connect_timeout",
    );
    check(
        SrvFailure::OtherDomain { host: "evil\u{1b}.org".to_owned(), domain: "example.com".to_owned() },
        "an SRV record at _mongodb._tcp.cluster.example.com names evil\\u{1b}.org, which is not within example.com",
        "upstream.orders.members",
    );
    check(
        SrvFailure::ForeignOption { option: "ssl".to_owned() },
        "the TXT record at cluster.example.com contains the option ssl, which is not allowed there",
        "it may contain authSource, replicaSet and loadBalanced",
    );
}
