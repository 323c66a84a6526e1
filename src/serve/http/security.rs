//! TLS and basic authentication as configured in `--web.config.file`, reloaded when it changes.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use rustls::ServerConfig;

use super::connections::Peer;
use super::tls::{self, NamedPem};
use super::turns::Turns;
use crate::kernel::bounded;
use crate::serve::http::web_config::{self, Pem, WebConfig};
use crate::serve::sync::lock;

/// Interval of checks for changes.
const READ_EVERY: Duration = Duration::from_secs(2);
/// Size limit of a file, bytes; certificate chains have a few kilobytes.
const MAX_FILE: u64 = 1 << 20;
/// Size limit of the configuration, bytes; parsing deeply nested YAML is slow.
const MAX_CONFIG: u64 = 64 << 10;
/// Number of verified passwords that are remembered: one per scraper.
const REMEMBERED: usize = 128;
/// How long a password waits for its verification.
const PATIENCE: Duration = Duration::from_secs(10);
/// A bcrypt hash without its cost, which matches no password.
const NOBODY: &str = "2hIzV8iJgSCeiRyM7dLCQOVUSpyoSiERmVn.V9B7wRhJ3RUw3LmUu";

/// The configuration in force.
#[derive(Debug)]
pub(crate) struct Security {
    path: PathBuf,
    web: Mutex<Arc<WebConfig>>,
    tls: Option<Mutex<Arc<ServerConfig>>>,
    /// Contents of the files as read last, valid or not.
    last: Mutex<Vec<Vec<u8>>>,
    /// Whether the files' contents are in force.
    current: AtomicBool,
    /// Hash and password of users verified before.
    verified: Mutex<HashSet<(String, String)>>,
    turns: Arc<Turns>,
}

/// Why a request is not authorized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No password, or a wrong one.
    Wrong,
    /// Too many passwords are waiting for verification.
    Busy,
}

/// A configuration with its files.
struct Loaded {
    web: WebConfig,
    tls: Option<Arc<ServerConfig>>,
}

impl Security {
    /// Reads the configuration and the files that it names.
    ///
    /// # Errors
    /// What is wrong in which file.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let (files, gathered) = gather(path);
        let loaded = gathered?.build()?;
        Ok(Self {
            path: path.to_owned(),
            web: Mutex::new(Arc::new(loaded.web)),
            tls: loaded.tls.map(Mutex::new),
            last: Mutex::new(files),
            current: AtomicBool::new(true),
            verified: Mutex::default(),
            turns: Arc::default(),
        })
    }

    /// TLS configuration; `None`: plain HTTP.
    pub(crate) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.as_ref().map(|tls| Arc::clone(&lock(tls)))
    }

    /// Whether the files' contents are in force; `false`: an older configuration is.
    pub(crate) fn is_current(&self) -> bool {
        self.current.load(Ordering::Relaxed)
    }

    /// Checks the files periodically.
    pub(crate) async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(READ_EVERY).await;
            let mine = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || mine.reload(false)).await.is_err() {
                tracing::error!(file = %self.path.display(), "the web configuration could not be looked at");
            }
        }
    }

    /// Reloads if something has changed, or if `asked`. An invalid configuration leaves the old one in force.
    pub(crate) fn reload(&self, asked: bool) {
        let (files, gathered) = gather(&self.path);
        let changed = std::mem::replace(&mut *lock(&self.last), files.clone()) != files;
        if !changed && !asked {
            return;
        }
        let file = self.path.display();
        let loaded = gathered.and_then(Gathered::build).and_then(|loaded| match (&self.tls, &loaded.tls) {
            (Some(_), None) | (None, Some(_)) => {
                Err(format!("{file}: TLS cannot be switched on or off without a restart"))
            }
            // A file that is being written may be read truncated.
            _ if loaded.web.users.is_empty() && !self.web().users.is_empty() => {
                Err(format!("{file}: there are no users any more; that takes a restart"))
            }
            _ => Ok(loaded),
        });
        match loaded {
            Ok(loaded) => {
                if let (Some(tls), Some(config)) = (&self.tls, loaded.tls) {
                    *lock(tls) = config;
                }
                lock(&self.verified).retain(|(hash, _)| loaded.web.users.values().any(|known| known == hash));
                *lock(&self.web) = Arc::new(loaded.web);
                self.current.store(true, Ordering::Relaxed);
                tracing::info!(%file, "web configuration re-read");
            }
            Err(error) => {
                self.current.store(false, Ordering::Relaxed);
                tracing::error!(error, "the web configuration is wrong; the old one stays in force");
            }
        }
    }

    fn web(&self) -> Arc<WebConfig> {
        Arc::clone(&lock(&self.web))
    }

    /// Adds the configured headers to a response.
    pub(crate) fn decorate(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.web().headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                headers.insert(name, value);
            }
        }
    }

    /// Whether a request is authorized.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn authorize(&self, headers: &HeaderMap, peer: Peer) -> Result<(), Refused> {
        let web = self.web();
        if web.users.is_empty() {
            return Ok(());
        }
        let (user, password) = credentials(headers).ok_or(Refused::Wrong)?;
        let known = web.users.get(&user);
        let hash = known.cloned().unwrap_or_else(|| nobody(&web));
        let pair = (hash, password);
        if known.is_some() && lock(&self.verified).contains(&pair) {
            return Ok(());
        }
        let turn = tokio::time::timeout(PATIENCE, self.turns.turn(peer)).await;
        let turn = turn.ok().flatten().ok_or(Refused::Busy)?;
        let work = {
            let (hash, password) = pair.clone();
            // If the client disconnects, the work continues and keeps its turn.
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                bcrypt::verify(password, &hash).unwrap_or(false)
            })
        };
        let right = work.await.unwrap_or(false) && known.is_some();
        self.turns.remember(peer, right);
        if !right {
            return Err(Refused::Wrong);
        }
        let mut verified = lock(&self.verified);
        if verified.len() >= REMEMBERED {
            verified.clear();
        }
        verified.insert(pair);
        Ok(())
    }
}

/// A hash that is verified for unknown users, so that they take as long as known ones.
fn nobody(web: &WebConfig) -> String {
    let costs = web.users.values().filter_map(|hash| hash.parse::<bcrypt::HashParts>().ok());
    format!("$2b${:02}${NOBODY}", costs.map(|parts| parts.get_cost()).max().unwrap_or(bcrypt::DEFAULT_COST))
}

/// User and password of `Authorization: Basic`; without a zero byte, which bcrypt does not accept.
fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(decoded(encoded.trim())?).ok()?;
    let (user, password) = text.split_once(':').filter(|(_, password)| !password.contains('\0'))?;
    Some((user.to_owned(), password.to_owned()))
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// The files' contents, before comparing them with the previous ones.
struct Gathered {
    web: WebConfig,
    /// Certificate, key, and client CA.
    pem: Option<(NamedPem, NamedPem, Option<NamedPem>)>,
}

impl Gathered {
    fn build(self) -> Result<Loaded, String> {
        let Self { web, pem } = self;
        let tls = match (&web.tls, &pem) {
            (Some(config), Some((certificate, key, client_ca))) => {
                Some(Arc::new(tls::server_config(config, certificate, key, client_ca.as_ref())?))
            }
            _ => None,
        };
        Ok(Loaded { web, tls })
    }
}

/// Contents of all files as far as they could be read, and the parsed configuration.
fn gather(path: &Path) -> (Vec<Vec<u8>>, Result<Gathered, String>) {
    let mut files = Vec::new();
    let gathered = gather_into(path, &mut files);
    (files, gathered)
}

fn gather_into(path: &Path, files: &mut Vec<Vec<u8>>) -> Result<Gathered, String> {
    let text = read(path, MAX_CONFIG, files)?;
    let text = String::from_utf8(text).map_err(|_| format!("{}: not UTF-8", path.display()))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let web = web_config::parse(&text, directory).map_err(|error| format!("{}: {error}", path.display()))?;
    let Some(config) = &web.tls else { return Ok(Gathered { web, pem: None }) };
    let mut pem = |pem: &Pem| match pem {
        Pem::File(file) => read(file, MAX_FILE, files).map(|bytes| (file.display().to_string(), bytes)),
        Pem::Inline(text) => Ok((path.display().to_string(), text.clone().into_bytes())),
    };
    let pem = (pem(&config.certificate)?, pem(&config.key)?, config.client_ca.as_ref().map(pem).transpose()?);
    Ok(Gathered { pem: Some(pem), web })
}

fn read(path: &Path, limit: u64, files: &mut Vec<Vec<u8>>) -> Result<Vec<u8>, String> {
    let content = bounded::read(path, limit);
    files.push(content.clone().unwrap_or_else(String::into_bytes));
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(value: &str) -> Option<(String, String)> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        credentials(&headers)
    }

    #[test]
    fn credentials_are_read_as_browsers_and_scrapers_write_them() {
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(basic("Basic dXNlcjpwYXNz"), pair("user", "pass"));
        assert_eq!(basic("basic dXNlcjpwYTpzcw=="), pair("user", "pa:ss"), "a colon in the password");
        assert_eq!(basic("Basic dXNlcjo="), pair("user", ""));
        for nonsense in
            ["Basic", "Basic !!", "Basic dXNlcg==", "Bearer dXNlcjpwYXNz", "Basic /w==", "Basic dXNlcjpwAHA="]
        {
            assert_eq!(basic(nonsense), None, "{nonsense}");
        }
        assert_eq!(credentials(&HeaderMap::new()), None);
    }

    /// If it were broken, users that do not exist would be told apart by how fast they are refused.
    #[test]
    fn the_hash_of_nobody_is_one() {
        let hash = |cost| bcrypt::hash("x", cost).unwrap();
        let users = [("a".to_owned(), hash(4)), ("b".to_owned(), hash(6))].into();
        let nobody = nobody(&WebConfig { users, ..WebConfig::default() });
        assert_eq!(nobody.parse::<bcrypt::HashParts>().map(|parts| parts.get_cost()).ok(), Some(6));
        assert!(matches!(bcrypt::verify("", &nobody), Ok(false)));
    }
}
