//! TLS of the senders: certificates that the options name, or the machine's.

use std::fs;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::error::{Refused, errno_text};

/// What the options of a driver say of TLS. Empty: not given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files<'a> {
    pub(crate) ca: &'a str,
    /// Besides the `ca` those of the machine are believed.
    pub(crate) machine: bool,
    pub(crate) cert: &'a str,
    pub(crate) key: &'a str,
    pub(crate) skip_verify: bool,
}

/// Builds the configuration of a client. Reads files.
pub(crate) fn client(files: &Files<'_>) -> Result<Arc<ClientConfig>, Refused> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| Refused(format!("tls: {e}")))?;
    let builder = if files.skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots(files)?)
    };
    let config = if files.cert.is_empty() && files.key.is_empty() {
        builder.with_no_client_auth()
    } else {
        let bad = |e: String| Refused(format!("Could not load X509 key pair: {e}"));
        let chain = certificates(files.cert).map_err(bad)?;
        let key = read(files.key).map_err(bad)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| bad(e.to_string()))?;
        let config = builder.with_client_auth_cert(chain, key);
        config.map_err(|e| bad(e.to_string()))?
    };
    Ok(Arc::new(config))
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("open {path}: {}", errno_text(&e)))
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("no certificate in {path}")),
        Err(e) => Err(e.to_string()),
    }
}

fn roots(files: &Files<'_>) -> Result<RootCertStore, Refused> {
    let mut roots = RootCertStore::empty();
    let ca = files.ca;
    if ca.is_empty() || files.machine {
        // What cannot be read of the machine's own is missing only when a server needs it; then it says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if ca.is_empty() {
        return Ok(roots);
    }
    let bad = |e: String| Refused(format!("could not read CA certificate {ca:?}: {e}"));
    for certificate in certificates(ca).map_err(bad)? {
        roots.add(certificate).map_err(|e| bad(e.to_string()))?;
    }
    Ok(roots)
}

/// Takes whoever answers: the option to skip the check asks for it.
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
        verify_tls12_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
