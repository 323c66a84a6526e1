//! Bodies of answers: made once for everyone who shares a look, and bounded in number while clients are slow to read them.

use std::io::Write as _;
use std::sync::{Arc, Mutex, Weak};

use axum::body::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refresh::{FORMS, lock};

/// Reports of different looks that are held at a time, for clients that are slow: of 10,000 rules each has 3 MB.
const MAX_REPORTS: usize = 8;

/// What is made of a look, if it is the same for everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The page.
    Page,
    /// `/report.json`
    Report,
    /// Text format 0.0.4 of all collectors.
    Prometheus,
    /// OpenMetrics of all collectors.
    OpenMetrics,
}

impl Form {
    /// Its number among [`FORMS`].
    pub fn number(self, gzip: bool) -> usize {
        let number = 2 * self as usize + usize::from(gzip);
        debug_assert!(number < FORMS);
        number
    }
}

/// Makes a body of text.
///
/// # Errors
/// None in practice: writing into memory does not fail.
pub fn encode(text: String, gzip: bool) -> Result<Vec<u8>, String> {
    if !gzip {
        return Ok(text.into_bytes());
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).map_err(|error| error.to_string())
}

/// The reports that are held.
#[derive(Debug)]
pub struct Reports {
    places: Arc<Semaphore>,
    newest: Mutex<Weak<Held>>,
}

impl Default for Reports {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_REPORTS)), newest: Mutex::default() }
    }
}

/// A report, until the last client has read it.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    _place: Option<OwnedSemaphorePermit>,
}

struct Shared(Arc<Held>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Reports {
    /// The newest, where no further one may be held.
    pub fn instead(&self) -> Option<Bytes> {
        let full = self.places.available_permits() == 0;
        let newest = full.then(|| lock(&self.newest).upgrade()).flatten()?;
        Some(Bytes::from_owner(Shared(newest)))
    }

    /// Holds one until the last client has read it.
    pub fn hold(&self, bytes: Vec<u8>) -> Bytes {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        let held = Arc::new(Held { bytes, _place: place });
        *lock(&self.newest) = Arc::downgrade(&held);
        Bytes::from_owner(Shared(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_eight_reports_are_held_the_newest_is_shared() {
        let reports = Reports::default();
        let mut held: Vec<Bytes> = (0..8u8).map(|number| reports.hold(vec![number])).collect();
        assert_eq!(reports.instead().as_deref(), Some(&[7][..]));
        let shared = reports.instead();
        held.clear();
        assert!(reports.instead().is_none(), "there is room again, though one is still being read");
        drop(shared);
        assert_eq!(reports.places.available_permits(), 8);
    }
}
