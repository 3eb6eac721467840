//! One connection's socket: TLS when it is asked for and configured, messages no larger than a
//! limit, and the loop that takes messages to the handlers.

use super::connection::Connection;
use super::prepared::Prepared;
use super::sqlstate;
use super::startup::Startup;
use futures::StreamExt;
use pgwire::api::cancel::DefaultCancelHandler;
use pgwire::api::{ClientInfo, PgWireConnectionState};
use pgwire::error::{ErrorInfo, PgWireError};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use pgwire::tokio::TlsAcceptor;
use pgwire::tokio::server::{
    MaybeTls, PgWireMessageServerCodec, negotiate_tls, process_error, process_message,
};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::codec::{Framed, FramedParts};
use tokio_util::sync::CancellationToken;

/// Largest message of a client.
pub(super) const MAX_MESSAGE_BYTES: u32 = 16 << 20;
/// Largest start-up message, which has no password behind it yet.
const MAX_STARTUP_BYTES: u32 = 10_000;
/// How long a client may take to start up.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);

/// Follows the messages that are read from a stream and fails before one above the limit is
/// buffered.
///
/// ```text
/// start-up messages: length u32, body        others: type u8, length u32, body
/// ```
struct Limited<S> {
    inner: S,
    follow: Follow,
}

#[derive(Default)]
struct Follow {
    /// What is known of the header: its bytes so far.
    header: Vec<u8>,
    /// Bytes of the body still to come.
    body: u32,
    started: bool,
}

impl Follow {
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.body > 0 {
                let step = bytes.len().min(usize::try_from(self.body).unwrap_or(usize::MAX));
                self.body -= u32::try_from(step).unwrap_or(self.body);
                bytes = &bytes[step..];
                continue;
            }
            self.header.push(*first);
            bytes = rest;
            let typed = usize::from(self.started);
            if self.header.len() < 4 + typed {
                continue;
            }
            let length: [u8; 4] = self.header[typed..].try_into().unwrap_or_default();
            let length = u32::from_be_bytes(length);
            let limit = if self.started { MAX_MESSAGE_BYTES } else { MAX_STARTUP_BYTES };
            if length > limit || length < 4 {
                let what = format!("a message of {length} bytes; at most {limit} are taken");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            self.header.clear();
            self.started = true;
            self.body = length - 4;
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let this = &mut *self;
        Poll::Ready(this.follow.take(&buffer.filled()[before..]))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

type Socket = Framed<Limited<MaybeTls>, PgWireMessageServerCodec<Prepared>>;

/// What serves one connection.
pub(super) struct Handlers {
    pub connection: Arc<Connection>,
    pub startup: Arc<Startup>,
    pub cancel: Arc<DefaultCancelHandler>,
}

/// Serves one connection until it ends or the server stops.
pub(super) async fn serve(
    socket: TcpStream,
    tls: Option<TlsAcceptor>,
    handlers: Handlers,
    stop: CancellationToken,
) -> io::Result<()> {
    let deadline = Instant::now() + STARTUP_TIMEOUT;
    let negotiated = tokio::time::timeout_at(deadline, negotiate_tls(socket, tls)).await;
    // Too slow, or TLS from the first byte where there is none.
    let Ok(negotiated) = negotiated else { return Ok(()) };
    let Some(socket) = negotiated? else { return Ok(()) };
    let parts = socket.into_parts();
    let mut follow = Follow::default();
    follow.take(&parts.read_buf)?;
    let limited = Limited { inner: parts.io, follow };
    let mut limited = FramedParts::new::<PgWireBackendMessage>(limited, parts.codec);
    (limited.read_buf, limited.write_buf) = (parts.read_buf, parts.write_buf);
    let mut socket = Framed::from_parts(limited);
    tokio::select! {
        served = messages(&mut socket, &handlers, deadline) => served,
        () = stop.cancelled() => {
            let why = "terminating connection: the server is shutting down";
            let error = PgWireError::UserError(Box::new(sqlstate::fatal("57P01", why)));
            process_error(&mut socket, error, true).await
        }
    }
}

fn starting(socket: &Socket) -> bool {
    matches!(
        socket.state(),
        PgWireConnectionState::AwaitingStartup | PgWireConnectionState::AuthenticationInProgress
    )
}

async fn messages(socket: &mut Socket, handlers: &Handlers, deadline: Instant) -> io::Result<()> {
    loop {
        let next = match starting(socket) {
            true => match tokio::time::timeout_at(deadline, socket.next()).await {
                Ok(next) => next,
                Err(_) => return Ok(()),
            },
            false => socket.next().await,
        };
        let message = match next {
            None | Some(Ok(PgWireFrontendMessage::Terminate(_))) => return Ok(()),
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                let fatal = sqlstate::fatal("08P01", format!("protocol error: {error}"));
                return process_error(socket, PgWireError::UserError(Box::new(fatal)), true).await;
            }
        };
        let unknown = starting(socket);
        let extended = match socket.state() {
            PgWireConnectionState::CopyInProgress(extended) => extended,
            _ => message.is_extended_query(),
        };
        let done = process_message(
            message,
            socket,
            handlers.startup.clone(),
            handlers.connection.clone(),
            handlers.connection.clone(),
            handlers.connection.clone(),
            handlers.cancel.clone(),
        );
        if let Err(error) = done.await {
            if unknown {
                // After an error the library waits for queries, whoever the client is.
                return process_error(socket, sqlstate::ending(error), true).await;
            }
            let error = ErrorInfo::from(sqlstate::shown(error));
            let ends = error.is_fatal();
            let error = PgWireError::UserError(Box::new(error));
            process_error(socket, error, extended || ends).await?;
            if ends {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_above_the_limit_are_refused_at_their_header() {
        let mut follow = Follow::default();
        follow.take(&[0, 0, 0, 8, 0, 3]).unwrap();
        follow.take(&[0, 0, b'Q', 0, 0]).unwrap();
        follow.take(&[0, 6, b'x', 0, b'd']).unwrap();
        assert_eq!(follow.header, [b'd']);
        assert!(follow.take(&[1, 0, 0, 1]).is_err());
        assert!(Follow::default().take(&[0, 1, 0, 0]).is_err());
    }
}
