//! Reading a file that somebody names: whatever stands there, it neither hangs nor fills the memory.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The content of a regular file of at most `limit` bytes.
///
/// # Errors
/// Names the file and says why.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    // A pipe without a writer would be waited for.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(format!("cannot read {}: not a regular file", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if bytes.len() as u64 > limit {
        return Err(format!("cannot read {}: larger than {limit} bytes", path.display()));
    }
    Ok(bytes)
}

/// The same as text.
///
/// # Errors
/// The same, and that it is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String, String> {
    String::from_utf8(read(path, limit)?).map_err(|_| format!("cannot read {}: not UTF-8", path.display()))
}
