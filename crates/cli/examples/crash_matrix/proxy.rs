//! Connections that can be cut, slowed and stopped: a port of our own that leads to another one.
//! What is cut is lost with whatever was on its way, in the middle of a message too.
//!
//! It never changes a byte that it passes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes passed on at once.
const CHUNK: usize = 16 << 10;
/// The same while it is slow, and the pause after it.
const SLOW_CHUNK: usize = 512;
const SLOW_PAUSE: Duration = Duration::from_millis(4);

/// How the proxy behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Line {
    /// It passes everything on.
    #[default]
    Good,
    /// A few bytes at a time.
    Slow,
    /// Nothing passes; connections stay open.
    Silent,
    /// Connections are closed as soon as they are made.
    Refused,
}

/// The line, and how often it was cut.
type State = (Line, u64);

/// A port that leads to another one.
pub struct Proxy {
    /// Where clients connect.
    pub port: u16,
    target: Arc<AtomicU16>,
    state: watch::Sender<State>,
}

impl Proxy {
    /// Listens; connections are refused until [`Proxy::lead_to`] has said where they go.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (target, state) = (Arc::new(AtomicU16::new(0)), watch::Sender::new(State::default()));
        tokio::spawn(serve(listener, Arc::clone(&target), state.subscribe()));
        Ok(Self { port, target, state })
    }

    /// Says where connections go.
    pub fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::Relaxed);
    }

    /// Ends all connections at once.
    pub fn cut(&self) {
        self.state.send_modify(|(_, cuts)| *cuts += 1);
    }

    /// Changes how it behaves; one that refuses ends what there is.
    pub fn set(&self, line: Line) {
        self.state.send_modify(|(now, cuts)| {
            *now = line;
            *cuts += u64::from(line == Line::Refused);
        });
    }
}

async fn serve(listener: TcpListener, target: Arc<AtomicU16>, state: watch::Receiver<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let port = target.load(Ordering::Relaxed);
        let state = state.clone();
        if port == 0 || state.borrow().0 == Line::Refused {
            continue;
        }
        tokio::spawn(async move {
            // Nobody there: the client sees its connection end.
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            connection(client, server, state).await;
        });
    }
}

/// Passes on in both directions until one side ends or the connection is cut.
async fn connection(client: TcpStream, server: TcpStream, mut state: watch::Receiver<State>) {
    let cuts = state.borrow().1;
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = pass(client_in, server_out, state.clone()) => {}
        () = pass(server_in, client_out, state.clone()) => {}
        _ = state.wait_for(|(_, now)| *now != cuts) => {}
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let slow = state.borrow().0 == Line::Slow;
        let room = if slow { SLOW_CHUNK } else { CHUNK };
        let read = match from.read(&mut buffer[..room]).await {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        if state.wait_for(|(line, _)| *line != Line::Silent).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        if slow {
            tokio::time::sleep(SLOW_PAUSE).await;
        }
    }
}
