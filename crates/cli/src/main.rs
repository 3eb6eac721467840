//! The program `kaplan`: a server (`start`), and clients that speak HTTP to one. Results go to
//! standard output, everything else to standard error; a failed command exits with 1, a wrong
//! command line with 2.

mod client;
mod demo;
mod heartbeat;
mod load;
mod logs;
mod settings;
mod shell;
mod start;
mod status;
mod views;
mod worker;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Stack of each worker thread: planning deeply nested SQL recurses.
const STACK_BYTES: usize = 16 << 20;

#[derive(Parser)]
#[command(
    name = "kaplan",
    version,
    about = "A data platform for events: log, lake, batch, speed and serving in one program",
    after_help = "Examples:\n  \
        kaplan demo                                 see what it does\n  \
        kaplan start --data-dir ./kaplan-data       run a server\n  \
        kaplan sql -c 'SHOW VIEWS'                  ask it\n  \
        kaplan load flights flights.parquet         load events\n  \
        kaplan verify delays_by_carrier             prove that a view is right"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    Start(Box<start::StartArgs>),
    /// Run SQL, or open a shell.
    Sql(shell::SqlArgs),
    /// Load files into a stream or table, each row once even when started again.
    Load(load::LoadArgs),
    /// Start a batch run.
    Batch(views::BatchArgs),
    /// Rebuild a view from history; it serves all the while.
    Replay(views::ViewArgs),
    /// Compare a view with its SQL over all history; exits with 1 when they differ.
    Verify(views::ViewArgs),
    /// Take in a share of the commits of a server whose log is in Kafka.
    Worker(worker::WorkerArgs),
    /// Show what the server holds and how it fares.
    Status(status::StatusArgs),
    /// Run the flights example.
    Demo(demo::DemoArgs),
}

fn main() -> ExitCode {
    kaplan_allocator::keep_freed_memory();
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(cli.command));
            // What still runs after a command has ended is not waited for.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output had enough, as `head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Start(args) => start::run(*args).await,
        Command::Sql(args) => shell::run(args).await,
        Command::Load(args) => load::run(args).await,
        Command::Batch(args) => views::batch(args).await,
        Command::Replay(args) => views::replay(args).await,
        Command::Verify(args) => views::verify(args).await,
        Command::Worker(args) => worker::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Demo(args) => demo::run(args).await,
    }
}

/// Prints an error with its causes. An HTTP client's error names layer upon layer; only the last
/// one says something.
fn report(error: &anyhow::Error) {
    eprintln!("error: {error}");
    let mut causes = error.chain().skip(1);
    while let Some(cause) = causes.next() {
        if cause.downcast_ref::<reqwest::Error>().is_some() {
            let last = causes.by_ref().last().map_or_else(|| cause.to_string(), |c| c.to_string());
            eprintln!("cause: {last}");
        } else {
            eprintln!("cause: {cause}");
        }
    }
}

/// Only our own writing counts: a broken pipe below an HTTP request is a lost connection.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let written = error.downcast_ref::<std::io::Error>();
    written.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
