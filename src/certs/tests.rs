//! Reloads with real files and simulated times: these tests do not wait.

use std::time::UNIX_EPOCH;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::set_source::SetSource;
use super::watched_set::{ReloadOutcome, WatchedSet};
use crate::cluster::Upstream;
use crate::config::EndpointConfig;
use crate::telemetry::metrics::UpstreamMetrics;
use crate::tls::test_pki::{CertificateAuthority, Folder, IssuedCertificate, files_of, upstream_of};
use crate::upstream::REASONS;

struct Scene {
    folder: Folder,
    authority: CertificateAuthority,
    upstream: Arc<Upstream>,
    set: WatchedSet,
    start: Instant,
    clock: SystemTime,
}

impl Scene {
    /// An upstream with certificate and key in files of their own.
    fn new() -> Self {
        let (folder, authority) = (Folder::new(), CertificateAuthority::new("ca"));
        let mut section = folder.upstream(1, &authority.issue("first", &[]), &authority.pem);
        let scene = |section: &EndpointConfig| {
            let upstream =
                Arc::new(Upstream::new(&upstream_of(section), UpstreamMetrics::new("orders", &REASONS)).unwrap());
            let source = SetSource::of_credential(&upstream, 0).unwrap();
            (upstream, WatchedSet::new(source, Arc::default()))
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

    fn read_as(&mut self, after: u64, requested: bool) -> ReloadOutcome {
        let read = self.set.reader().read();
        self.set.apply(read, self.start + Duration::from_millis(after), self.clock, requested)
    }

    /// Reads the files this many milliseconds after the start.
    fn read(&mut self, after: u64) -> ReloadOutcome {
        self.read_as(after, false)
    }

    #[track_caller]
    fn check_next_read(&self, after: Option<u64>) {
        let expected = after.map(|after| self.start + Duration::from_millis(after));
        assert_eq!(self.set.next_read(), expected);
    }

    #[track_caller]
    fn check_in_use(&self, name: &str) {
        let tls = self.upstream.credentials()[0].identity.tls().unwrap();
        assert_eq!(tls.credentials.certificate.subject.as_str(), format!("CN={name},O=Acme"));
    }
}

#[track_caller]
fn sentence(outcome: ReloadOutcome) -> String {
    match outcome {
        ReloadOutcome::Failed(failure) => failure.sentence,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn files_that_contain_the_set_in_use_change_nothing() {
    let mut scene = Scene::new();
    assert_eq!(scene.read(0), ReloadOutcome::Unchanged);
    assert_eq!(scene.read(1), ReloadOutcome::Unchanged);
    let file = scene.folder.path().join("client.pem");
    let same = format!("# written anew\n{}", std::fs::read_to_string(&file).unwrap());
    scene.folder.write("client.pem", same);
    assert_eq!(scene.read(2), ReloadOutcome::Unchanged);
    scene.check_next_read(None);
}

#[tokio::test]
async fn an_incomplete_pair_is_read_again_until_it_is_complete() {
    let mut scene = Scene::new();
    let second = scene.issue("second");
    scene.folder.write("client.pem", &second.certificate_pem);
    assert_eq!(scene.read(0), ReloadOutcome::Waiting);
    scene.check_next_read(Some(100));
    assert_eq!(scene.read(100), ReloadOutcome::Waiting);
    scene.check_next_read(Some(300));
    scene.check_in_use("first");
    scene.folder.write("client.key", &second.key_pem);
    let ReloadOutcome::Reloaded(changed) = scene.read(250) else { panic!("it is complete") };
    assert!(changed.starts_with("certificate CN=first,O=Acme, serial "), "{changed}");
    assert!(changed.contains(" -> CN=second,O=Acme, serial ") && !changed.contains("CA certificates"), "{changed}");
    scene.check_in_use("second");
    scene.check_next_read(None);
    assert_eq!(scene.read(300), ReloadOutcome::Unchanged);
}

#[tokio::test]
async fn a_lasting_failure_is_reported_once_until_the_files_change() {
    let mut scene = Scene::new();
    let first = scene.folder.path().join("client.pem");
    let whole = std::fs::read_to_string(&first).unwrap();
    let second = scene.issue("second");
    scene.folder.write("client.pem", &second.certificate_pem);
    for after in [0, 100, 300, 700, 1_500, 3_100] {
        assert_eq!(scene.read(after), ReloadOutcome::Waiting, "{after}");
    }
    scene.check_next_read(Some(5_000));
    assert!(sentence(scene.read(5_000)).contains("the private key does not belong to the certificate"));
    scene.check_next_read(None);
    assert_eq!(scene.read(65_000), ReloadOutcome::StillFailed);

    scene.folder.write("client.pem", "garbage");
    assert_eq!(scene.read(70_000), ReloadOutcome::Waiting);
    assert!(sentence(scene.read(75_000)).contains("the file contains no certificate"));
    std::fs::remove_file(&first).unwrap();
    assert!(sentence(scene.read_as(80_000, true)).contains("the file does not exist"));
    assert_eq!(scene.read_as(81_000, true), ReloadOutcome::StillFailed);
    scene.check_in_use("first");

    scene.folder.write("client.pem", whole);
    assert_eq!(scene.read(90_000), ReloadOutcome::Recovered);
    assert_eq!(scene.read(91_000), ReloadOutcome::Unchanged);
}

#[tokio::test]
async fn one_bad_file_prevents_the_reload_of_all_files() {
    let mut scene = Scene::new();
    let second = scene.issue("second");
    scene.write(&second, &second);
    scene.folder.write("ca.pem", "garbage");
    assert!(sentence(scene.read_as(0, true)).contains("ca_file"));
    scene.check_in_use("first");
    let authorities = format!("{}{}", scene.authority.pem, CertificateAuthority::new("next").pem);
    scene.folder.write("ca.pem", authorities);
    let ReloadOutcome::Reloaded(changed) = scene.read(1) else { panic!("it is complete") };
    assert!(changed.ends_with("; CA certificates 1 -> 2"), "{changed}");
    scene.check_in_use("second");
}

#[tokio::test]
async fn a_new_intermediate_in_ca_file_is_put_into_use() {
    let mut scene = Scene::new();
    let root = &scene.authority;
    let (one, other) = (root.intermediate("One"), root.intermediate("Other"));
    let texts = [&one, &other].map(|middle| format!("{}{}", root.pem, middle.pem));
    for (time, text, expected) in
        [(0, &texts[0], "0 -> 1"), (1, &texts[1], "1 -> 1"), (2, &scene.authority.pem.clone(), "1 -> 0")]
    {
        scene.folder.write("ca.pem", text);
        let ReloadOutcome::Reloaded(changed) = scene.read(time) else { panic!("{expected}") };
        assert_eq!(changed, format!("intermediate CA certificates {expected}"));
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_now_does_not_replace_a_valid_one() {
    let mut scene = Scene::new();
    let (past, future) = (UNIX_EPOCH + Duration::from_hours(24), scene.clock + Duration::from_hours(1));
    let expired = scene.authority.issue_with("expired", &[], |params| {
        (params.not_before, params.not_after) = (UNIX_EPOCH.into(), past.into());
    });
    let early = scene.authority.issue_with("early", &[], |params| params.not_before = future.into());
    scene.write(&expired, &expired);
    let text = sentence(scene.read_as(0, true));
    assert!(
        text.starts_with("the new certificate expired on 1970-01-02 00:00:00 UTC (CN=expired,O=Acme, serial "),
        "{text}"
    );
    scene.write(&early, &early);
    assert!(sentence(scene.read_as(1, true)).starts_with("the new certificate is not valid before "));
    scene.check_in_use("first");

    // The same files, at a later time.
    scene.clock = future + Duration::from_secs(1);
    assert!(matches!(scene.read(60_000), ReloadOutcome::Reloaded(_)));
    scene.check_in_use("early");
}
