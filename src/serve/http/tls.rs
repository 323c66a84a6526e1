//! Builds the rustls configuration from the web configuration.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, NamedGroup, RootCertStore, ServerConfig, SignatureScheme};

use crate::serve::http::web_config::{ClientAuth, Tls, TlsVersion};

/// A file name for errors, and PEM data.
pub(crate) type NamedPem = (String, Vec<u8>);

/// Builds the server configuration.
///
/// # Errors
/// The file or name that is wrong.
pub(crate) fn server_config(
    config: &Tls,
    certificate: &NamedPem,
    key: &NamedPem,
    client_ca: Option<&NamedPem>,
) -> Result<ServerConfig, String> {
    let provider = Arc::new(provider(config)?);
    let chain = certificates(certificate)?;
    let key_der =
        PrivateKeyDer::from_pem_slice(&key.1).map_err(|error| format!("{}: no private key: {error}", key.0))?;
    let versions = [(TlsVersion::Tls13, &rustls::version::TLS13), (TlsVersion::Tls12, &rustls::version::TLS12)];
    let (min, max) = config.versions;
    let versions: Vec<_> = versions.iter().filter(|(is, _)| (min..=max).contains(is)).map(|(_, it)| *it).collect();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(&versions).map_err(|error| format!("TLS: {error}"))?;
    let builder = match config.client_auth {
        ClientAuth::NoClientCert => builder.with_no_client_auth(),
        ClientAuth::Request => builder.with_client_cert_verifier(Arc::new(AnyClient { needed: false, algorithms })),
        ClientAuth::RequireAny => builder.with_client_cert_verifier(Arc::new(AnyClient { needed: true, algorithms })),
        ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify => {
            let ca = client_ca.ok_or("the client CA is missing")?;
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", ca.0))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match config.client_auth {
                ClientAuth::VerifyIfGiven => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| format!("{}: {error}", ca.0))?)
        }
    };
    let mut server = builder
        .with_single_cert(chain, key_der)
        .map_err(|error| format!("{} and {} do not fit: {error}", certificate.0, key.0))?;
    server.ignore_client_order = config.prefer_server_order;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(server)
}

fn certificates((name, pem): &NamedPem) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| format!("{name}: {error}"))?;
    if chain.is_empty() { Err(format!("{name}: no certificate in it")) } else { Ok(chain) }
}

/// The ring provider with the selected cipher suites and groups.
fn provider(config: &Tls) -> Result<CryptoProvider, String> {
    let mut provider = ring::default_provider();
    // Go's names of TLS 1.3 suites lack the version.
    let suite_name = |suite: &rustls::SupportedCipherSuite| format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
    let known: Vec<String> = provider.cipher_suites.iter().map(suite_name).collect();
    chosen("cipher_suites", &config.cipher_suites, &known)?;
    if !config.cipher_suites.is_empty() {
        // As in Go, the list applies to TLS 1.2; TLS 1.3 suites are all enabled.
        let tls13 = |suite: &rustls::SupportedCipherSuite| suite.tls13().is_some();
        provider.cipher_suites.retain(|suite| tls13(suite) || config.cipher_suites.contains(&suite_name(suite)));
    }
    let group_name = |group: NamedGroup| match group {
        NamedGroup::secp256r1 => "CurveP256",
        NamedGroup::secp384r1 => "CurveP384",
        NamedGroup::X25519 => "X25519",
        _ => "",
    };
    let known: Vec<String> = provider.kx_groups.iter().map(|group| group_name(group.name()).to_owned()).collect();
    chosen("curve_preferences", &config.curves, &known)?;
    if !config.curves.is_empty() {
        provider.kx_groups.retain(|group| config.curves.iter().any(|name| name == group_name(group.name())));
    }
    Ok(provider)
}

fn chosen(what: &str, names: &[String], known: &[String]) -> Result<(), String> {
    match names.iter().find(|name| !known.contains(name)) {
        Some(name) => {
            Err(format!("tls_server_config: {what}: {name:?} is not served; these are: {}", known.join(", ")))
        }
        None => Ok(()),
    }
}

/// Accepts any certificate for which the client has the key, whoever signed it.
#[derive(Debug)]
struct AnyClient {
    needed: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        self.needed
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
