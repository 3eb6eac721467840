//! `kaplan worker`: a process that takes in a share of the commits of a server whose log is in Kafka, and
//! keeps the states that they make until somebody reads them. It has no data of its own: it may be
//! started and killed at any time.

use crate::client::{Client, Refusal, Target};
use crate::logs;
use crate::settings::LogFormat;
use clap::Args;
use kaplan_platform::workers::{Link, Order, Report, WorkerOptions, Workers, run as work};
use kaplan_platform::{Code, Error};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// A server that does not answer a turn for this long is gone.
const TURN_LIMIT: Duration = Duration::from_secs(10);
/// So long a server waits for what it has asked for; later it has given it up.
const PARTS_LIMIT: Duration = Duration::from_secs(30);

/// Arguments of `kaplan worker`.
#[derive(Args, Debug)]
#[command(
    after_help = "The brokers deal the commits out to the workers that are there, and again when \
    one comes or goes; SHOW WORKERS says who has what.\n\nExamples:\n  \
    kaplan start --log-url kafka://broker:9092/log\n  \
    kaplan worker --url http://127.0.0.1:8080\n  \
    kaplan worker --url http://kaplan:8080 --brokers broker-1:9092,broker-2:9092"
)]
pub struct WorkerArgs {
    /// The worker's name, unlike that of any other (default: host and process).
    #[arg(long, env = "KAPLAN_WORKER_NAME", value_name = "NAME")]
    name: Option<String>,
    /// Brokers of the log's topic, if they are to be called otherwise than the server calls them.
    #[arg(long, env = "KAPLAN_WORKER_BROKERS", value_name = "HOST:PORT,..")]
    brokers: Option<String>,
    /// Properties of the connection to the brokers, as name=value,name=value, as in the server's setting
    /// of that name. Better in the environment than as a flag, which other users of the machine see.
    #[arg(
        long,
        env = "KAPLAN_LOG_PROPERTIES",
        value_name = "LIST",
        default_value = "",
        hide_env_values = true
    )]
    log_properties: String,
    /// What the log on standard error looks like.
    #[arg(long, env = "KAPLAN_LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug or trace, also by module.
    #[arg(long, env = "KAPLAN_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    log_level: String,
    #[command(flatten)]
    target: Target,
}

/// Works until a signal.
pub async fn run(args: WorkerArgs) -> anyhow::Result<()> {
    logs::init(args.log_format, &args.log_level, "")?;
    let client = Client::new(&args.target)?;
    let name = args.name.unwrap_or_else(|| {
        let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "worker" } else { host.trim() };
        format!("{host}-{}", std::process::id())
    });
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tracing::info!(name, server = client.address(), "working");
    let options = WorkerOptions { brokers: args.brokers, log_properties: args.log_properties };
    Ok(work(Http { client, name }, options, stop).await?)
}

/// The server, by HTTP.
struct Http {
    client: Client,
    name: String,
}

impl Http {
    fn path(&self, last: &'static str) -> [&str; 4] {
        ["v1", "workers", &self.name, last]
    }
}

/// A refusal that does not pass keeps its words; everything else may pass.
fn error(error: anyhow::Error) -> Error {
    match error.downcast_ref::<Refusal>() {
        Some(refusal) if (400..500).contains(&refusal.status) && refusal.status != 429 => {
            let known = Error::new(Code::InvalidInput, refusal.message.clone());
            match &refusal.hint {
                Some(hint) => known.hint(hint.clone()),
                None => known,
            }
        }
        _ => Error::new(Code::Unavailable, format!("{error:#}")),
    }
}

impl Link for Http {
    async fn hello(&self) -> Result<Workers, Error> {
        self.client.get(&["v1", "workers"]).await.map_err(error)
    }

    async fn turn(&self, report: &Report) -> Result<Vec<Order>, Error> {
        let request = self.client.post(&self.path("turn")).map_err(error)?;
        self.client.json(request.timeout(TURN_LIMIT).json(report)).await.map_err(error)
    }

    async fn parts(&self, number: u64, parts: Vec<u8>) -> Result<(), Error> {
        let request = self.client.post(&self.path("parts")).map_err(error)?;
        let request = request.query(&[("number", number)]).timeout(PARTS_LIMIT).body(parts);
        self.client.done(request).await.map(drop).map_err(error)
    }
}
