//! Reads revocation lists from the file that `crl_file` names.

use std::path::Path;

use super::material_error::MaterialError;
use super::pem::MaterialFile;
use super::revocation::RevocationList;

/// Reads `crl_file` of the table `section`, as `upstream.orders.tls`. Without a file there are no lists.
pub fn read_revocation_lists(section: &str, crl_file: Option<&Path>) -> Result<Vec<RevocationList>, MaterialError> {
    let Some(file) = crl_file else { return Ok(Vec::new()) };
    let file = MaterialFile::new(section, "crl_file", file);
    file.revocation_lists(|der| RevocationList::from_der(der, file.location()))
}
