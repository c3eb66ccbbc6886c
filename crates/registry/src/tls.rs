//! TLS towards registries: the machine's authorities, and what `certs.d` has for one of them.

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::error::{RegistryError, errno_text};

/// Files looked at in one directory of `certs.d`.
const MAX_FILES: usize = 256;

/// The machine's authorities; read once.
fn machine_roots() -> RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS
        .get_or_init(|| {
            let mut roots = RootCertStore::empty();
            // What cannot be read is missing only when a server needs it; then the connection says so.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        })
        .clone()
}

/// The configuration for a registry whose directory in `certs.d` is `dir`. Reads files: blocks.
pub(crate) fn client(dir: &Path, insecure: bool) -> Result<Arc<ClientConfig>, RegistryError> {
    let provider = Arc::new(ring::default_provider());
    let failed = |e: Error| RegistryError::Protocol(format!("tls: {e}"));
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let files = list(dir)?;
    let builder = if insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        let mut roots = machine_roots();
        for name in files.iter().filter(|name| name.ends_with(".crt")) {
            for certificate in certificates(&dir.join(name))? {
                roots.add(certificate).map_err(failed)?;
            }
        }
        builder.with_root_certificates(roots)
    };
    let Some(cert) = files.iter().find(|name| name.ends_with(".cert")) else {
        if let Some(key) = files.iter().find(|name| name.ends_with(".key")) {
            let cert = key.replace(".key", ".cert");
            return Err(missing(key, &cert, "certificate", "key"));
        }
        return Ok(Arc::new(builder.with_no_client_auth()));
    };
    let key = cert.replace(".cert", ".key");
    if !files.contains(&key) {
        return Err(missing(cert, &key, "key", "certificate"));
    }
    let chain = certificates(&dir.join(cert))?;
    let bytes = read(&dir.join(&key))?;
    let key = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|e| RegistryError::Protocol(format!("tls: {e}")))?;
    let config = builder.with_client_auth_cert(chain, key).map_err(failed)?;
    Ok(Arc::new(config))
}

fn missing(has: &str, wants: &str, what: &str, of: &str) -> RegistryError {
    RegistryError::Protocol(format!(
        "missing {what} {wants} for client {of} {has}. CA certificates must use the extension .crt"
    ))
}

/// Names in a directory, sorted; none if it is not there.
fn list(dir: &Path) -> Result<Vec<String>, RegistryError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(unreadable(dir, &e)),
    };
    let mut names = Vec::new();
    for entry in entries.take(MAX_FILES) {
        let entry = entry.map_err(|e| unreadable(dir, &e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn unreadable(path: &Path, e: &std::io::Error) -> RegistryError {
    RegistryError::Protocol(format!("open {}: {}", path.display(), errno_text(e)))
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    fs::read(path).map_err(|e| unreadable(path, &e))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(RegistryError::Protocol(format!(
            "no certificate in {}",
            path.display()
        ))),
        Err(e) => Err(RegistryError::Protocol(format!("{}: {e}", path.display()))),
    }
}

/// A failed handshake, in Go's words where they are known.
pub(crate) fn handshake_text(e: &std::io::Error) -> String {
    let inner = e.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidMessage(_)) => {
            "http: server gave HTTP response to HTTPS client".to_owned()
        }
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "tls: failed to verify certificate: x509: certificate signed by unknown authority"
                .to_owned()
        }
        Some(Error::InvalidCertificate(why)) => {
            format!("tls: failed to verify certificate: x509: {why}")
        }
        Some(other) => format!("tls: {other}"),
        None => errno_text(e),
    }
}

/// Takes whoever answers: the registry was named insecure.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
