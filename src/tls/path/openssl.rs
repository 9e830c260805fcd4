//! Asks `openssl verify` about the chains that the tests of this module judge.

use std::process::{Command, Stdio};

use crate::tls::test_pki::{Folder, pem};

/// Whether `openssl verify` with these arguments accepts a chain; `None` if there is no openssl.
///
/// `at` is in seconds since 1970.
pub(super) fn accepts(leaf: &[u8], sent: &[&[u8]], trusted: &[&[u8]], at: u64, arguments: &[&str]) -> Option<bool> {
    let folder = Folder::new();
    let bundle = |ders: &[&[u8]]| ders.iter().map(|der| pem("CERTIFICATE", der)).collect::<String>();
    let (trusted, leaf) = (folder.write("trusted.pem", bundle(trusted)), folder.write("leaf.pem", bundle(&[leaf])));
    let mut command = Command::new("openssl");
    command.args(["verify", "-no-CApath", "-no-CAstore", "-attime", &at.to_string()]).args(arguments);
    command.arg("-CAfile").arg(trusted);
    if !sent.is_empty() {
        command.arg("-untrusted").arg(folder.write("sent.pem", bundle(sent)));
    }
    let verified = command.arg(leaf).stdout(Stdio::null()).stderr(Stdio::null()).status();
    // Without openssl only the gateway's own judgement is tested.
    if let Err(missing) = &verified {
        assert!(std::env::var_os("MONGATE_TEST_REQUIRE").is_none(), "openssl is required: {missing}");
    }
    Some(verified.ok()?.success())
}
