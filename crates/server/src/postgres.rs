//! The PostgreSQL wire: simple and extended queries, COPY, cancelling, TLS and passwords when they
//! are configured. `socket` takes messages, `startup` begins a conversation, `connection` answers
//! statements, `catalog` answers questions about the server itself.

mod catalog;
mod cell;
mod connection;
mod copy;
mod named;
mod parameters;
mod prepared;
mod session;
mod settings;
mod socket;
mod sqlstate;
mod startup;
mod tls;
mod wire_type;

use crate::serve::Options;
use catalog::Catalog;
use connection::Connection;
use kaplan_platform::Platform;
use pgwire::api::cancel::DefaultCancelHandler;
use pgwire::api::{ConnectionManager, RandomPidSecretKeyGenerator};
use pgwire::tokio::TlsAcceptor;
use prepared::Shared;
use socket::Handlers;
use startup::{Startup, Users};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(crate) use tls::acceptor;

/// Most connections at once.
const MAX_CONNECTIONS: usize = 256;
/// Connections beyond those that are told why they are refused, or carry a cancel request.
const MAX_REFUSALS: usize = 32;
/// Pause after a failed accept, so that a system without file handles is not hammered.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the connections of one listener share.
struct Wire {
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    users: Option<Arc<Users>>,
    manager: Arc<ConnectionManager>,
    keys: Arc<RandomPidSecretKeyGenerator>,
    slots: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Accepts connections until `stop`.
pub(crate) async fn listen(
    listener: TcpListener,
    platform: Platform,
    tls: Option<TlsAcceptor>,
    options: &Options,
    stop: CancellationToken,
) -> Result<(), kaplan_platform::Error> {
    let catalog = Catalog::new(&platform)?;
    let users = (!options.postgres_users.is_empty()).then(|| Users::new(&options.postgres_users));
    let wire = Arc::new(Wire {
        shared: Arc::new(Shared { platform, catalog }),
        tls,
        users: users.map(Arc::new),
        manager: Arc::new(ConnectionManager::new()),
        keys: Arc::default(),
        slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
        stop,
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = wire.stop.cancelled() => return Ok(()),
        };
        match accepted {
            Ok((socket, _)) => {
                crate::serve::keep_alive(&socket);
                accept(&wire, socket);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a PostgreSQL connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn accept(wire: &Arc<Wire>, socket: TcpStream) {
    let startup = || {
        let keys = Arc::<RandomPidSecretKeyGenerator>::clone(&wire.keys);
        Startup::new(Arc::clone(&wire.manager), keys, wire.users.as_ref())
    };
    let (slot, startup) = match Arc::clone(&wire.slots).try_acquire_owned() {
        Ok(slot) => (slot, startup()),
        Err(_) => {
            tracing::warn!(MAX_CONNECTIONS, "refused a PostgreSQL connection: too many");
            let why = format!("sorry, too many clients already: at most {MAX_CONNECTIONS}");
            let Ok(slot) = Arc::clone(&wire.refusals).try_acquire_owned() else { return };
            (slot, startup().refuse("53300", why))
        }
    };
    let wire = Arc::clone(wire);
    tokio::spawn(async move {
        let peer = socket.peer_addr().map_or_else(|e| e.to_string(), |a| a.to_string());
        tracing::debug!(peer, "PostgreSQL connection opened");
        let handlers = Handlers {
            connection: Arc::new(Connection::new(Arc::clone(&wire.shared))),
            startup: Arc::new(startup),
            cancel: Arc::new(DefaultCancelHandler::new(Arc::clone(&wire.manager))),
        };
        let served = socket::serve(socket, wire.tls.clone(), handlers, wire.stop.clone()).await;
        if let Err(error) = served {
            tracing::debug!(peer, %error, "PostgreSQL connection broke");
        }
        tracing::debug!(peer, "PostgreSQL connection closed");
        drop(slot);
    });
}
