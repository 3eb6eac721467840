//! `kaplan start`: the server as a process. It stops gracefully on SIGTERM or SIGINT: no new
//! requests, those under way are finished, the platform writes its checkpoint, exit code 0, all
//! within `shutdown_ms`. A second signal ends it at once; nothing acknowledged is lost by that, since it
//! is durable.

use crate::heartbeat;
use crate::logs;
use crate::settings::{Effective, Sparse};
use anyhow::Context;
use clap::Args;
use kaplan_base::SystemClock;
use kaplan_platform::Platform;
use kaplan_server::Server;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code after a second signal: 128 + SIGINT, as shells report it.
const EXIT_INTERRUPTED: i32 = 130;

/// Arguments of `kaplan start`.
#[derive(Args, Debug)]
#[command(
    after_help = "A flag wins over its variable, the variable over the file, the file over the \
    default.\n\nExamples:\n  \
    kaplan start\n  \
    kaplan start --data-dir /var/lib/kaplan --http 0.0.0.0:8080 --postgres off\n  \
    kaplan start --data gs://bucket/prefix\n  \
    kaplan start --read-only --data gs://bucket/prefix\n  \
    kaplan start --print-config > kaplan.toml\n  \
    kaplan start --config kaplan.toml --log-level debug"
)]
pub struct StartArgs {
    /// Settings file (TOML).
    #[arg(long, env = "KAPLAN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings that would be in effect, as a TOML file with comments, and exit.
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    settings: Sparse,
}

/// Runs the server until a signal.
pub async fn run(args: StartArgs) -> anyhow::Result<()> {
    let port = std::env::var("PORT").ok();
    let settings = Effective::resolve(&args.settings, args.config.as_deref(), port.as_deref())?;
    if args.print_config {
        write!(io::stdout(), "{}", settings.to_toml()?)?;
        return Ok(());
    }
    logs::init(settings.log_format, &settings.log_level, &settings.log_gcp_project)?;
    serve(settings).await
}

async fn serve(settings: Effective) -> anyhow::Result<()> {
    // Before anything is opened, so that a signal during recovery is not lost.
    let mut signals = Signals::new()?;
    let began = Instant::now();
    // The ports first: a port that is taken should not cost a recovery to find out.
    let server = Server::bind(settings.server).await?;
    let data_dir = settings.platform.data_dir.clone();
    let opened = tokio::select! {
        opened = Platform::open(settings.platform, Arc::new(SystemClock)) => opened,
        () = signals.next() => return Ok(()),
    };
    let platform =
        opened.with_context(|| format!("cannot open the data in {}", data_dir.display()))?;
    let opened_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let read_only = platform.is_replica();
    announce(server.http_addr(), server.postgres_addr(), &data_dir, read_only, opened_ms)?;
    let stopping = Arc::new(OnceLock::new());
    let signalled = Arc::clone(&stopping);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let watcher = tokio::spawn(async move {
        signals.next().await;
        let _ = signalled.set(Instant::now());
        tracing::info!("stopping: requests under way are finished; a second signal stops at once");
        drop(stop);
        signals.next().await;
        tracing::warn!("stopped at once by a second signal");
        std::process::exit(EXIT_INTERRUPTED);
    });
    let beat = tokio::spawn(heartbeat::run(platform.clone()));
    let served = server
        .run(platform.clone(), async {
            // Resolves when the sender is dropped, which is the request to stop.
            let _ = stopped.await;
        })
        .await;
    beat.abort();
    let began = stopping.get().copied().unwrap_or_else(Instant::now);
    let left = settings.shutdown.saturating_sub(began.elapsed());
    let closed = tokio::time::timeout(left, platform.close()).await;
    watcher.abort();
    served?;
    let Ok(closed) = closed else {
        tracing::warn!(
            "stopped without a checkpoint, for which the time was too short; nothing acknowledged is \
             lost, and the next start reads more of the log"
        );
        return Ok(());
    };
    closed.context("the data directory was not closed cleanly; nothing acknowledged is lost")?;
    tracing::info!("stopped");
    Ok(())
}

/// Says where the server is: a line for people, a log event for machines.
fn announce(
    http: Option<SocketAddr>,
    postgres: Option<SocketAddr>,
    data_dir: &Path,
    read_only: bool,
    opened_ms: u64,
) -> anyhow::Result<()> {
    let http = http.map(|address| format!("http://{address}"));
    let postgres = postgres.map(|address| format!("postgres://kaplan@{address}/kaplan"));
    if io::stdout().is_terminal() {
        let urls: Vec<&str> = http.iter().chain(&postgres).map(String::as_str).collect();
        let what = if read_only { "Kaplan, a read replica," } else { "Kaplan" };
        writeln!(io::stdout(), "{what} serves {}; Ctrl-C stops it", urls.join(" and "))?;
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        http = http.as_deref().unwrap_or("off"),
        postgres = postgres.as_deref().unwrap_or("off"),
        data_dir = %data_dir.display(),
        read_only,
        opened_ms,
        "serving"
    );
    Ok(())
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for either.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
