//! Response bodies: encoded once for all clients that share a reading, and limited in number while clients are slow.

use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::serve::refresh::FORMS;
use crate::serve::sync::lock;

/// Maximum age of a body that is served in place of a fresh one.
const MAX_AGE: Duration = Duration::from_secs(10);
/// Number of bodies of one form held for slow clients; a report of 10,000 rules has 3 MB.
const MAX_HELD: usize = 8;

/// Bodies that are the same for all clients of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The HTML page.
    Page,
    /// `/report.json`
    Report,
    /// Text format 0.0.4, all collectors.
    Prometheus,
    /// OpenMetrics, all collectors.
    OpenMetrics,
}

impl Form {
    /// Index into arrays of [`FORMS`] items.
    pub(crate) fn number(self, gzip: bool) -> usize {
        let number = 2 * self as usize + usize::from(gzip);
        debug_assert!(number < FORMS);
        number
    }

    /// Whether its size grows with the number of rules.
    pub(crate) fn is_large(self) -> bool {
        matches!(self, Self::Page | Self::Report)
    }
}

/// Encodes a body.
///
/// # Errors
/// None in practice: writing to memory does not fail.
pub(crate) fn encode(text: String, gzip: bool) -> Result<Vec<u8>, String> {
    if !gzip {
        return Ok(text.into_bytes());
    }
    self::gzip(text.as_bytes()).map_err(|error| error.to_string())
}

/// Compresses to gzip (RFC 1952). The compressor takes 300 KiB, so one is kept for reuse.
fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    /// Magic, deflate, no flags, no time, fastest, unknown system.
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];
    static IDLE: Mutex<Option<DeflateEncoder<Vec<u8>>>> = Mutex::new(None);
    let idle = lock(&IDLE).take();
    let mut encoder = idle.unwrap_or_else(|| DeflateEncoder::new(Vec::new(), Compression::fast()));
    encoder.get_mut().extend(HEADER);
    encoder.write_all(bytes)?;
    let mut member = encoder.reset(Vec::new())?;
    *lock(&IDLE) = Some(encoder);
    let mut checksum = Crc::new();
    checksum.update(bytes);
    member.extend(checksum.sum().to_le_bytes());
    member.extend(checksum.amount().to_le_bytes());
    Ok(member)
}

/// The bodies of one form that are held.
#[derive(Debug)]
pub(crate) struct HeldBodies {
    places: Arc<Semaphore>,
    newest: Mutex<Weak<Held>>,
}

impl Default for HeldBodies {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_HELD)), newest: Mutex::default() }
    }
}

/// A body, held until the last client has read it.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    made: Instant,
    _place: OwnedSemaphorePermit,
}

/// What a request for a large body gets.
#[derive(Debug)]
pub(crate) enum Room {
    /// A slot for a new body.
    Place(OwnedSemaphorePermit),
    /// The newest body held.
    Newest(Bytes),
    /// Nothing: clients read too slowly.
    Full,
}

struct Shared(Arc<Held>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl HeldBodies {
    /// A slot for a new body, or the newest one.
    pub(crate) fn room(&self, now: Instant) -> Room {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Room::Place(place);
        }
        let newest = lock(&self.newest).upgrade();
        match newest.filter(|held| now.saturating_duration_since(held.made) <= MAX_AGE) {
            Some(held) => Room::Newest(Bytes::from_owner(Shared(held))),
            None => Room::Full,
        }
    }

    /// Holds a body until the last client has read it.
    pub(crate) fn hold(&self, bytes: Vec<u8>, place: OwnedSemaphorePermit, now: Instant) -> Bytes {
        let held = Arc::new(Held { bytes, made: now, _place: place });
        *lock(&self.newest) = Arc::downgrade(&held);
        Bytes::from_owner(Shared(held))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn one_compressor_serves_one_after_the_other() {
        for text in ["", "a", &"natwatch_exposure 1\n".repeat(10_000), "b"] {
            let member = encode(text.to_owned(), true).unwrap();
            let mut plain = String::new();
            GzDecoder::new(member.as_slice()).read_to_string(&mut plain).unwrap();
            assert!(plain == text, "{} bytes", text.len());
        }
        assert_eq!(encode("plain".to_owned(), false), Ok(b"plain".to_vec()));
    }

    #[test]
    fn while_eight_reports_are_held_the_newest_is_shared_until_it_is_old() {
        let (reports, start) = (HeldBodies::default(), Instant::now());
        let hold = |number: u8| match reports.room(start) {
            Room::Place(place) => reports.hold(vec![number], place, start),
            other => panic!("{other:?}"),
        };
        let mut held: Vec<Bytes> = (0..8).map(hold).collect();
        let newest = |after: u64| match reports.room(start + Duration::from_secs(after)) {
            Room::Newest(bytes) => bytes.first().copied(),
            Room::Full => None,
            Room::Place(_) => panic!("there is no place"),
        };
        assert_eq!((newest(0), newest(10), newest(11)), (Some(7), Some(7), None));
        let Room::Newest(shared) = reports.room(start) else { panic!("not shared") };
        held.clear();
        assert!(matches!(reports.room(start), Room::Place(_)), "there is room again, though one is still being read");
        drop(shared);
        assert_eq!(reports.places.available_permits(), 8);
    }
}
