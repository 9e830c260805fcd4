//! Reads the token that an operator names with `--token-file`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Longer than any token that is accepted, so that the check can say that it is too long.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The text of the file; "-" reads standard input. The error names the file.
pub(super) fn read(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().take(FILE_BYTES_MAX).read_to_string(&mut text)
    } else {
        File::open(file).and_then(|opened| opened.take(FILE_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| format!("cannot read the token in {}: {error}", file.display()))?;
    Ok(text)
}
