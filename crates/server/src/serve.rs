//! Binding and running the wires. Both addresses are bound before anything is served, so that a
//! port that is taken stops the start instead of half of the service.

use crate::http::Oidc;
use crate::{http, postgres};
use axum::serve::ListenerExt;
use kaplan_base::limits::MAX_BODY_BYTES;
use kaplan_platform::Platform;
use pgwire::tokio::TlsAcceptor;
use socket2::{SockRef, TcpKeepalive};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// How long open requests may take to finish at shutdown, when nothing else is said.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// A connection that was silent for so long is asked whether it is still there, and how often.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Ingest requests that may be under way at once, when nothing else is said.
const DEFAULT_IN_FLIGHT: usize = 256;

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The HTTP address; none for no HTTP. Port 0 takes a free one.
    pub http: Option<SocketAddr>,
    /// The PostgreSQL wire's address; none for no PostgreSQL wire. Port 0 takes a free one.
    pub postgres: Option<SocketAddr>,
    /// Certificate chain and private key of the PostgreSQL wire, PEM files; none for no TLS.
    pub postgres_tls: Option<(PathBuf, PathBuf)>,
    /// Users of the PostgreSQL wire and their passwords; with none, everybody is let in.
    pub postgres_users: Vec<(String, String)>,
    /// Largest body of an ingest request, in bytes, after decompression.
    pub max_body_bytes: usize,
    /// Most ingest requests under way at once; beyond it requests are answered 429 at once.
    pub max_in_flight: usize,
    /// How many proxies stand in front, whose entries of `X-Forwarded-For` say who calls; 0: the
    /// header is not believed.
    pub trusted_proxies: usize,
    /// How long open requests may take to finish at shutdown.
    pub shutdown_grace: Duration,
    /// Whose identity tokens HTTP asks for; none: everybody may call.
    pub oidc: Option<Oidc>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            http: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
            postgres: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 5432))),
            postgres_tls: None,
            postgres_users: Vec::new(),
            max_body_bytes: MAX_BODY_BYTES,
            max_in_flight: DEFAULT_IN_FLIGHT,
            trusted_proxies: 0,
            shutdown_grace: SHUTDOWN_GRACE,
            oidc: None,
        }
    }
}

/// Why serving did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address could not be bound.
    #[error("cannot listen for {wire} on {address}: {source} (hint: {})", hint(source))]
    Bind {
        /// `HTTP` or `PostgreSQL`.
        wire: &'static str,
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The PostgreSQL wire's certificate or key cannot be used.
    #[error(
        "TLS of the PostgreSQL wire: {0} (hint: postgres_tls_cert and postgres_tls_key are PEM files)"
    )]
    Tls(std::io::Error),
    /// A wire could not be set up.
    #[error("the {wire} wire cannot be set up: {source}")]
    SetUp {
        /// `HTTP` or `PostgreSQL`.
        wire: &'static str,
        /// Why.
        source: kaplan_platform::Error,
    },
    /// The system failed a listener that was bound.
    #[error("the {wire} listener failed: {source}")]
    Listen {
        /// `HTTP` or `PostgreSQL`.
        wire: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another program listens there, perhaps another kaplan; stop it or choose another port"
        }
        std::io::ErrorKind::PermissionDenied => "ports below 1024 need privileges; choose another",
        _ => "choose an address of this machine",
    }
}

/// The bound, not yet serving wires.
pub struct Server {
    options: Options,
    http: Option<TcpListener>,
    postgres: Option<TcpListener>,
    tls: Option<TlsAcceptor>,
}

/// Binds and serves until `shutdown` resolves, then lets open requests finish.
pub async fn serve(
    platform: Platform,
    options: Options,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    Server::bind(options).await?.run(platform, shutdown).await
}

async fn bind(
    wire: &'static str,
    address: Option<SocketAddr>,
) -> Result<Option<TcpListener>, Error> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address).await;
    listener.map(Some).map_err(|source| Error::Bind { wire, address, source })
}

impl Server {
    /// Binds the addresses.
    pub async fn bind(options: Options) -> Result<Server, Error> {
        let http = bind("HTTP", options.http).await?;
        let postgres = bind("PostgreSQL", options.postgres).await?;
        let files = options.postgres_tls.as_ref();
        let tls = files.map(|(certificate, key)| postgres::acceptor(certificate, key)).transpose();
        let tls = tls.map_err(Error::Tls)?;
        if let Some(address) = options.postgres
            && !address.ip().is_loopback()
            && options.postgres_users.is_empty()
        {
            tracing::warn!(
                %address,
                "the PostgreSQL wire asks for no password and listens beyond this machine: set \
                 postgres_user and postgres_password"
            );
        }
        Ok(Server { options, http, postgres, tls })
    }

    /// The address that HTTP listens on, with its real port.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref()?.local_addr().ok()
    }

    /// The address that the PostgreSQL wire listens on, with its real port.
    #[must_use]
    pub fn postgres_addr(&self) -> Option<SocketAddr> {
        self.postgres.as_ref()?.local_addr().ok()
    }

    /// Serves until `shutdown` resolves, then lets open requests finish for a while.
    pub async fn run(
        self,
        platform: Platform,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Error> {
        let stop = CancellationToken::new();
        let (signal, draining) = (stop.clone(), platform.clone());
        tokio::spawn(async move {
            shutdown.await;
            // Those who ask on connections that are open already are sent elsewhere.
            draining.drain();
            signal.cancel();
        });
        let wires = futures::future::try_join(
            run_http(self.http, platform.clone(), &self.options, stop.clone()),
            run_postgres(self.postgres, platform, self.tls, &self.options, stop.clone()),
        );
        let deadline = async {
            stop.cancelled().await;
            tokio::time::sleep(self.options.shutdown_grace).await;
        };
        let result = tokio::select! {
            served = wires => served.map(|_| ()),
            () = deadline => {
                tracing::warn!("requests were still open when the time to finish them was over");
                Ok(())
            }
        };
        stop.cancel();
        result
    }
}

async fn run_http(
    listener: Option<TcpListener>,
    platform: Platform,
    options: &Options,
    stop: CancellationToken,
) -> Result<(), Error> {
    let Some(listener) = listener else { return Ok(()) };
    let router = http::router(platform, options);
    let router = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener.tap_io(|socket: &mut TcpStream| keep_alive(socket)), router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .map_err(|source| Error::Listen { wire: "HTTP", source })
}

/// Has the system find out about clients that are gone without a word.
pub(crate) fn keep_alive(socket: &TcpStream) {
    let probes = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL);
    if let Err(error) = SockRef::from(socket).set_tcp_keepalive(&probes) {
        tracing::debug!(%error, "no keepalive on a connection");
    }
}

async fn run_postgres(
    listener: Option<TcpListener>,
    platform: Platform,
    tls: Option<TlsAcceptor>,
    options: &Options,
    stop: CancellationToken,
) -> Result<(), Error> {
    let Some(listener) = listener else { return Ok(()) };
    let served = postgres::listen(listener, platform, tls, options, stop).await;
    served.map_err(|source| Error::SetUp { wire: "PostgreSQL", source })
}
