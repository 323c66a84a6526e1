//! Reads files given by the user (flags, configuration, probe results) with bounded time and memory.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Contents of a regular file of at most `limit` bytes.
///
/// # Errors
/// The file's name and the reason.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let failed = |why: String| format!("cannot read {}: {why}", path.display());
    let file = open(path, 0).map_err(|error| failed(error.to_string()))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(failed("not a regular file".into()));
    }
    content(file, limit).map_err(failed)
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    // Opening a FIFO without a writer would block.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | flags).open(path)
}

fn content(file: File, limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > limit {
        return Err(format!("larger than {limit} bytes"));
    }
    Ok(bytes)
}

/// Contents of a file that affects verdicts, which only root or the caller may have written: a regular file (no
/// symlink) owned by one of them and not writable by others. `None`: it does not exist.
///
/// # Errors
/// Why it is not trusted or not readable, and what to do; without the file's name.
pub(crate) fn read_trusted(path: &Path, limit: u64) -> Result<Option<String>, String> {
    let file = match open(path, libc::O_NOFOLLOW) {
        Ok(file) => file,
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::ENOENT) => Ok(None),
                Some(libc::ELOOP) => Err("it is a symbolic link: name the file that it leads to".into()),
                _ => Err(format!("it cannot be opened: {error}")),
            };
        }
    };
    // Metadata of the open file: the name may refer to another one by now.
    let metadata = file.metadata().map_err(|error| format!("it cannot be examined: {error}"))?;
    distrust(&metadata, rustix::process::geteuid().as_raw())?;
    let bytes = content(file, limit).map_err(|why| format!("it cannot be read: {why}"))?;
    String::from_utf8(bytes).map(Some).map_err(|_| "it is not UTF-8".into())
}

fn distrust(file: &Metadata, caller: u32) -> Result<(), String> {
    let (owner, mode) = (file.uid(), file.mode() & 0o7777);
    if !file.is_file() {
        return Err("it is not a regular file".into());
    }
    if owner != 0 && owner != caller {
        return Err(format!("it belongs to uid {owner}: only files of root and of the caller (uid {caller}) count"));
    }
    // An ACL that lets others write is visible in the group bits.
    if mode & 0o022 != 0 {
        return Err(format!("others than its owner may write it (mode {mode:04o}): chmod go-w"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn only_a_file_that_nobody_else_can_have_written_is_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert_eq!(read_trusted(&path, 9), Ok(None));
        fs::write(&path, "text").unwrap();
        let with_mode = |mode| {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            read_trusted(&path, 9)
        };
        for mode in [0o600, 0o644, 0o755, 0o444] {
            assert_eq!(with_mode(mode), Ok(Some("text".into())), "{mode:o}");
        }
        for mode in [0o664, 0o646, 0o666, 0o620, 0o602] {
            let why = with_mode(mode).unwrap_err();
            assert!(why.contains(&format!("(mode 0{mode:o})")), "{why}");
        }
        with_mode(0o644).unwrap();
        assert!(read_trusted(&path, 3).unwrap_err().contains("larger than 3 bytes"));
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(read_trusted(&link, 9).unwrap_err().contains("symbolic link"));
        assert!(read_trusted(directory.path(), 9).unwrap_err().contains("not a regular file"));
        assert!(read_trusted(Path::new("/dev/null"), 9).unwrap_err().contains("not a regular file"));
        assert!(read_trusted(&path.join("below"), 9).unwrap_err().contains("opened"));
        fs::write(&path, [0xff]).unwrap();
        assert!(read_trusted(&path, 9).unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn a_file_counts_for_its_owner_and_of_root_for_everyone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "text").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let mine = fs::metadata(&path).unwrap();
        let owner = mine.uid();
        assert_eq!(distrust(&mine, owner), Ok(()));
        let other = distrust(&mine, owner + 1);
        match owner {
            0 => assert_eq!(other, Ok(())),
            _ => assert!(other.unwrap_err().contains(&format!("uid {owner}"))),
        }
        assert_eq!(distrust(&fs::metadata("/proc/self/stat").unwrap(), owner), Ok(()));
    }
}
