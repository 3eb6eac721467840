//! The server's certificate and key, from PEM files.

use pgwire::tokio::TlsAcceptor;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What direct TLS connections must say that they speak.
const ALPN: &[u8] = b"postgresql";

fn invalid(path: &Path, error: impl std::fmt::Display) -> io::Error {
    let what = format!("{}: {error}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads certificate chain and key.
pub(crate) fn acceptor(certificate: &Path, key: &Path) -> io::Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(certificate).map_err(|e| invalid(certificate, e))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|e| invalid(certificate, e))?;
    if chain.is_empty() {
        return Err(invalid(certificate, "there is no certificate in it"));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| invalid(key, e))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
        .map_err(|e| invalid(key, e))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
