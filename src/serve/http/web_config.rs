//! Parser for `--web.config.file`, in the format of exporter-toolkit. Pure and strict.
//!
//! Errors give line and column, of the value or the block it is in. Options that are not supported are errors, never
//! ignored: TLS below 1.2, `client_allowed_sans`, `rate_limit`. Only `http2` is accepted without effect, since scrapers
//! also speak HTTP/1.1.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, de};

/// Contents of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WebConfig {
    /// TLS settings; `None`: plain HTTP.
    pub tls: Option<Tls>,
    /// Headers added to every response.
    pub headers: Vec<(String, String)>,
    /// bcrypt hashes by user; empty: no authentication.
    pub users: BTreeMap<String, String>,
}

/// TLS settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Certificate chain, PEM.
    pub certificate: Pem,
    /// Private key, PEM.
    pub key: Pem,
    /// CA for clients' certificates, PEM.
    pub client_ca: Option<Pem>,
    /// Policy for clients' certificates.
    pub client_auth: ClientAuth,
    /// Minimum and maximum version.
    pub versions: (TlsVersion, TlsVersion),
    /// Names of cipher suites; empty: all supported.
    pub cipher_suites: Vec<String>,
    /// Names of key exchange groups; empty: all supported.
    pub curves: Vec<String>,
    /// Whether the server's order of cipher suites takes precedence.
    pub prefer_server_order: bool,
}

/// PEM data, or a file with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pem {
    /// Path, resolved relative to the configuration file.
    File(PathBuf),
    /// The data.
    Inline(String),
}

/// `client_auth_type`, named as in Go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum ClientAuth {
    /// Not requested.
    #[default]
    #[serde(alias = "")]
    NoClientCert,
    /// Requested; optional, not verified.
    #[serde(alias = "RequestClientCert")]
    Request,
    /// Required, not verified.
    #[serde(alias = "RequireAnyClientCert", alias = "RequireClientCert")]
    RequireAny,
    /// Optional; verified if given.
    #[serde(alias = "VerifyClientCertIfGiven")]
    VerifyIfGiven,
    /// Required and verified.
    #[serde(alias = "RequireAndVerifyClientCert")]
    RequireAndVerify,
}

/// Supported versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TlsVersion {
    /// 1.2
    Tls12,
    /// 1.3
    Tls13,
}

impl<'de> Deserialize<'de> for TlsVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "TLS12" => Ok(Self::Tls12),
            "TLS13" => Ok(Self::Tls13),
            old @ ("TLS10" | "TLS11") => {
                Err(D::Error::custom(format!("{old}: TLS below 1.2 is not served; write TLS12 or TLS13")))
            }
            other => Err(D::Error::unknown_variant(other, &["TLS12", "TLS13"])),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    tls_server_config: Option<RawTls>,
    http_server_config: RawHttp,
    basic_auth_users: Option<BTreeMap<String, BcryptHash>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawTls {
    cert: Option<String>,
    key: Option<String>,
    client_ca: Option<String>,
    cert_file: Option<String>,
    key_file: Option<String>,
    client_ca_file: Option<String>,
    client_auth_type: ClientAuth,
    min_version: Option<TlsVersion>,
    max_version: Option<TlsVersion>,
    cipher_suites: Vec<String>,
    curve_preferences: Vec<String>,
    prefer_server_cipher_suites: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawHttp {
    /// Ignored: only HTTP/1.1 is served, which Prometheus speaks.
    #[serde(rename = "http2")]
    _http2: Option<bool>,
    headers: Headers,
}

struct BcryptHash(String);

/// bcrypt costs; each step doubles the time, and 16 takes seconds.
const COSTS: std::ops::RangeInclusive<u32> = 4..=16;

impl<'de> Deserialize<'de> for BcryptHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hash = String::deserialize(deserializer)?;
        match bcrypt::HashParts::from_str(&hash).map(|parts| parts.get_cost()) {
            Ok(cost) if COSTS.contains(&cost) => Ok(Self(hash)),
            Ok(cost) => {
                let (low, high) = (COSTS.start(), COSTS.end());
                Err(D::Error::custom(format!("a bcrypt hash of cost {cost}; {low} to {high} can be verified in time")))
            }
            Err(_) => Err(D::Error::invalid_value(
                de::Unexpected::Other("something else"),
                &"a bcrypt hash, as of: htpasswd -nBC 10 '' | tr -d ':\\n'",
            )),
        }
    }
}

/// Headers that exporter-toolkit allows, with their values if restricted.
const HEADERS: &[(&str, &[&str])] = &[
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

#[derive(Default)]
struct Headers(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut headers = Vec::new();
        for (name, value) in BTreeMap::<String, String>::deserialize(deserializer)? {
            let known = HEADERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(&name));
            let (_, values) = known.ok_or_else(|| {
                let names: Vec<&str> = HEADERS.iter().map(|(name, _)| *name).collect();
                D::Error::custom(format!("header {name:?} cannot be set; {} can", names.join(", ")))
            })?;
            if !value.is_empty() && !values.is_empty() && !values.contains(&value.to_ascii_lowercase().as_str()) {
                let values = values.join(" or ");
                return Err(D::Error::custom(format!("header {name}: {value:?} is not {values}")));
            }
            if !value.is_ascii() || value.chars().any(char::is_control) {
                return Err(D::Error::custom(format!("header {name}: {value:?} is no value of a header")));
            }
            if !value.is_empty() {
                headers.push((name, value));
            }
        }
        Ok(Self(headers))
    }
}

/// Parses the file's text; paths in it are relative to `directory`.
///
/// # Errors
/// What is wrong, and in which line.
pub(crate) fn parse(text: &str, directory: &Path) -> Result<WebConfig, String> {
    if text.trim().is_empty() {
        return Ok(WebConfig::default());
    }
    // A snippet in an error would show hashes and keys.
    let options = serde_saphyr::options! { with_snippet: false };
    let raw: Option<RawConfig> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?;
    let RawConfig { tls_server_config, http_server_config, basic_auth_users } = raw.unwrap_or_default();
    let tls = tls_server_config.map(|raw| tls(raw, directory)).transpose()?.flatten();
    let users: BTreeMap<String, String> =
        basic_auth_users.unwrap_or_default().into_iter().map(|(user, BcryptHash(hash))| (user, hash)).collect();
    if let Some(user) = users.keys().find(|user| user.contains(':')) {
        return Err(format!("basic_auth_users: {user:?} has a colon, which ends a user's name"));
    }
    Ok(WebConfig { tls, headers: http_server_config.headers.0, users })
}

fn tls(raw: RawTls, directory: &Path) -> Result<Option<Tls>, String> {
    let pem = |what: &str, file: Option<String>, inline: Option<String>| {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        match (given(file), given(inline)) {
            (Some(_), Some(_)) => Err(format!("tls_server_config: both {what} and {what}_file are given")),
            (Some(file), None) => Ok(Some(Pem::File(directory.join(file)))),
            (None, Some(text)) => Ok(Some(Pem::Inline(text))),
            (None, None) => Ok(None),
        }
    };
    let client_ca = pem("client_ca", raw.client_ca_file, raw.client_ca)?;
    let verifies = matches!(raw.client_auth_type, ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify);
    let (certificate, key) = match (pem("cert", raw.cert_file, raw.cert)?, pem("key", raw.key_file, raw.key)?) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) if client_ca.is_none() && raw.client_auth_type == ClientAuth::NoClientCert => return Ok(None),
        (None, _) => return Err("tls_server_config: cert or cert_file is missing".into()),
        (_, None) => return Err("tls_server_config: key or key_file is missing".into()),
    };
    match (&client_ca, raw.client_auth_type) {
        (None, _) if verifies => {
            return Err(
                "tls_server_config: client_auth_type verifies, and client_ca or client_ca_file is missing".into()
            );
        }
        (Some(_), ClientAuth::NoClientCert) => {
            return Err("tls_server_config: a client CA is given, and client_auth_type asks for no certificate".into());
        }
        _ => {}
    }
    let versions = (raw.min_version.unwrap_or(TlsVersion::Tls12), raw.max_version.unwrap_or(TlsVersion::Tls13));
    if versions.0 > versions.1 {
        return Err("tls_server_config: min_version is above max_version".into());
    }
    Ok(Some(Tls {
        certificate,
        key,
        client_ca,
        client_auth: raw.client_auth_type,
        versions,
        cipher_suites: raw.cipher_suites,
        curves: raw.curve_preferences,
        prefer_server_order: raw.prefer_server_cipher_suites.unwrap_or(true),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

    fn read(text: &str) -> Result<WebConfig, String> {
        parse(text, Path::new("/etc/natwatch"))
    }

    #[test]
    fn a_whole_file_is_read() {
        let config = read(&format!(
            "tls_server_config:\n  cert_file: node.crt\n  key_file: /run/node.key\n  client_ca_file: ca.crt\n  \
             client_auth_type: RequireAndVerifyClientCert\n  min_version: TLS13\nhttp_server_config:\n  http2: true\n  \
             headers:\n    X-Frame-Options: deny\nbasic_auth_users:\n  alice: {HASH}\n"
        ))
        .unwrap();
        let tls = config.tls.unwrap();
        assert_eq!(tls.certificate, Pem::File("/etc/natwatch/node.crt".into()));
        assert_eq!(tls.key, Pem::File("/run/node.key".into()));
        assert_eq!(tls.client_auth, ClientAuth::RequireAndVerify);
        assert_eq!(tls.versions, (TlsVersion::Tls13, TlsVersion::Tls13));
        assert_eq!(config.headers, [("X-Frame-Options".to_owned(), "deny".to_owned())]);
        assert_eq!(config.users["alice"], HASH);
    }

    #[test]
    fn nothing_is_nothing() {
        for text in ["", "\n", "{}", "# only a comment\n", "tls_server_config: {}\nbasic_auth_users:\n"] {
            assert_eq!(read(text), Ok(WebConfig::default()), "{text:?}");
        }
    }

    #[test]
    fn every_error_says_where_or_what() {
        for (text, words) in [
            ("tls_server_config:\n  cert_fil: x\n", &["cert_fil", "line 2"][..]),
            ("basic_auth_users:\n  bob: secret\n", &["bcrypt", "line 2"]),
            (&format!("basic_auth_users:\n  bob: {}\n", HASH.replace("$10$", "$31$")), &["cost 31", "line 2"]),
            (&format!("basic_auth_users:\n  'bob:x': {HASH}\n"), &["colon"]),
            ("tls_server_config:\n  client_auth_type: Maybe\n", &["Maybe", "line 2"]),
            (
                "tls_server_config:\n  cert_file: a\n  key_file: b\n  min_version: TLS10\n",
                &["TLS10", "TLS12", "line 4"],
            ),
            ("http_server_config:\n  headers:\n    Server: x\n", &["Server", "line 3"]),
            ("http_server_config:\n  headers:\n    X-Frame-Options: maybe\n", &["maybe", "line 3"]),
            ("basic_auth_users: [", &["line 1"]),
            ("tls_server_config: {}\nrate_limit: {}\n", &["rate_limit", "line 2"]),
            ("tls_server_config:\n  client_allowed_sans: [x]\n", &["client_allowed_sans", "line 2"]),
            ("tls_server_config:\n  cert_file: a\n", &["key"]),
            ("tls_server_config:\n  cert_file: a\n  cert: b\n  key_file: c\n", &["both cert"]),
            ("tls_server_config:\n  cert_file: a\n  key_file: b\n  client_ca_file: c\n", &["client_auth_type"]),
            (
                "tls_server_config:\n  cert_file: a\n  key_file: b\n  client_auth_type: VerifyClientCertIfGiven\n",
                &["client_ca"],
            ),
            ("tls_server_config:\n  client_auth_type: RequireAnyClientCert\n", &["cert"]),
        ] {
            let error = read(text).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{text:?}: {error}");
            assert!(!error.contains('\n') && !error.contains("$2y$"), "a secret or a second line: {error}");
        }
    }
}
