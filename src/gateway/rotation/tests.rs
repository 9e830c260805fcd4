//! Real files, and times that are made up: nothing here waits.

use std::time::UNIX_EPOCH;

use super::rotating::Outcome;
use super::*;
use crate::config::EndpointConfig;
use crate::connection::Upstream;
use crate::gateway::open_upstream;
use crate::tls::test_pki::{CertificateAuthority, Folder, IssuedCertificate, files_of, upstream_of};

struct Scene {
    folder: Folder,
    authority: CertificateAuthority,
    upstream: Arc<Upstream>,
    set: Rotating,
    start: Instant,
    clock: SystemTime,
}

impl Scene {
    /// An upstream with certificate and key in files of their own.
    fn new() -> Self {
        let (folder, authority) = (Folder::new(), CertificateAuthority::new("ca"));
        let mut section = folder.upstream(1, &authority.issue("first", &[]), &authority.pem);
        let scene = |section: &EndpointConfig| {
            let upstream = Arc::new(open_upstream(&upstream_of(section)).unwrap());
            let source = Source::of_upstream(&upstream, 0).unwrap();
            (upstream, Rotating::new(source, Arc::default()))
        };
        let first = authority.issue("first", &[]);
        folder.write("client.pem", &first.certificate_pem);
        files_of(&mut section).private_key_file = folder.write("client.key", &first.key_pem);
        let (upstream, set) = scene(&section);
        Self { folder, authority, upstream, set, start: Instant::now(), clock: SystemTime::now() }
    }

    fn issue(&self, name: &str) -> IssuedCertificate {
        self.authority.issue(name, &[])
    }

    fn write(&self, certificate: &IssuedCertificate, key: &IssuedCertificate) {
        self.folder.write("client.pem", &certificate.certificate_pem);
        self.folder.write("client.key", &key.key_pem);
    }

    fn look_as(&mut self, after: u64, asked: bool) -> Outcome {
        let reading = self.set.reader().read();
        self.set.judge(reading, self.start + Duration::from_millis(after), self.clock, asked)
    }

    /// Looks so many milliseconds after the start.
    fn look(&mut self, after: u64) -> Outcome {
        self.look_as(after, false)
    }

    #[track_caller]
    fn check_next_look(&self, after: Option<u64>) {
        let expected = after.map(|after| self.start + Duration::from_millis(after));
        assert_eq!(self.set.look_again(), expected);
    }

    #[track_caller]
    fn check_in_use(&self, name: &str) {
        let tls = self.upstream.credentials()[0].identity.tls().unwrap();
        assert_eq!(tls.credentials.certificate.subject.as_str(), format!("CN={name},O=Acme"));
    }
}

#[track_caller]
fn sentence(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed(failure) => failure.sentence,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_in_use_already_is_no_news() {
    let mut scene = Scene::new();
    assert_eq!(scene.look(0), Outcome::Unchanged);
    assert_eq!(scene.look(1), Outcome::Unchanged);
    let file = scene.folder.path().join("client.pem");
    let same = format!("# written anew\n{}", std::fs::read_to_string(&file).unwrap());
    scene.folder.write("client.pem", same);
    assert_eq!(scene.look(2), Outcome::Unchanged);
    scene.check_next_look(None);
}

#[tokio::test]
async fn a_pair_that_is_half_written_is_waited_for() {
    let mut scene = Scene::new();
    let second = scene.issue("second");
    scene.folder.write("client.pem", &second.certificate_pem);
    assert_eq!(scene.look(0), Outcome::Waiting);
    scene.check_next_look(Some(100));
    assert_eq!(scene.look(100), Outcome::Waiting);
    scene.check_next_look(Some(300));
    scene.check_in_use("first");
    scene.folder.write("client.key", &second.key_pem);
    let Outcome::Renewed(changed) = scene.look(250) else { panic!("it is whole") };
    assert!(changed.starts_with("certificate CN=first,O=Acme, serial "), "{changed}");
    assert!(changed.contains(" -> CN=second,O=Acme, serial ") && !changed.contains("authorities"), "{changed}");
    scene.check_in_use("second");
    scene.check_next_look(None);
    assert_eq!(scene.look(300), Outcome::Unchanged);
}

#[tokio::test]
async fn what_stays_broken_is_told_once_until_it_changes_or_heals() {
    let mut scene = Scene::new();
    let first = scene.folder.path().join("client.pem");
    let whole = std::fs::read_to_string(&first).unwrap();
    let second = scene.issue("second");
    scene.folder.write("client.pem", &second.certificate_pem);
    for after in [0, 100, 300, 700, 1_500, 3_100] {
        assert_eq!(scene.look(after), Outcome::Waiting, "{after}");
    }
    scene.check_next_look(Some(5_000));
    assert!(sentence(scene.look(5_000)).contains("the private key does not belong to the certificate"));
    scene.check_next_look(None);
    assert_eq!(scene.look(65_000), Outcome::StillFailed);

    scene.folder.write("client.pem", "garbage");
    assert_eq!(scene.look(70_000), Outcome::Waiting);
    assert!(sentence(scene.look(75_000)).contains("the file contains no certificate"));
    std::fs::remove_file(&first).unwrap();
    assert!(sentence(scene.look_as(80_000, true)).contains("the file does not exist"));
    assert_eq!(scene.look_as(81_000, true), Outcome::StillFailed);
    scene.check_in_use("first");

    scene.folder.write("client.pem", whole);
    assert_eq!(scene.look(90_000), Outcome::Healed);
    assert_eq!(scene.look(91_000), Outcome::Unchanged);
}

#[tokio::test]
async fn one_bad_file_keeps_all_others_out() {
    let mut scene = Scene::new();
    let second = scene.issue("second");
    scene.write(&second, &second);
    scene.folder.write("ca.pem", "garbage");
    assert!(sentence(scene.look_as(0, true)).contains("ca_file"));
    scene.check_in_use("first");
    let authorities = format!("{}{}", scene.authority.pem, CertificateAuthority::new("next").pem);
    scene.folder.write("ca.pem", authorities);
    let Outcome::Renewed(changed) = scene.look(1) else { panic!("it is whole") };
    assert!(changed.ends_with("; authorities 1 -> 2"), "{changed}");
    scene.check_in_use("second");
}

#[tokio::test]
async fn a_certificate_that_is_not_good_now_replaces_none_that_is() {
    let mut scene = Scene::new();
    let (past, future) = (UNIX_EPOCH + Duration::from_hours(24), scene.clock + Duration::from_hours(1));
    let expired = scene.authority.issue_with("expired", &[], |params| {
        (params.not_before, params.not_after) = (UNIX_EPOCH.into(), past.into());
    });
    let early = scene.authority.issue_with("early", &[], |params| params.not_before = future.into());
    scene.write(&expired, &expired);
    let text = sentence(scene.look_as(0, true));
    assert!(
        text.starts_with("the new certificate expired on 1970-01-02 00:00:00 UTC (CN=expired,O=Acme, serial "),
        "{text}"
    );
    scene.write(&early, &early);
    assert!(sentence(scene.look_as(1, true)).starts_with("the new certificate is not valid before "));
    scene.check_in_use("first");

    // The same files, later.
    scene.clock = future + Duration::from_secs(1);
    assert!(matches!(scene.look(60_000), Outcome::Renewed(_)));
    scene.check_in_use("early");
}
