//! Kills a real `kaplan` process at random moments and counts what is wrong afterwards:
//! `crash_matrix [--rounds N] [--seed S]`.
//!
//! Every round writes, runs batches, replays or defines views, is killed with SIGKILL, starts
//! again on the same directory, sends again what was not acknowledged, and compares every stream,
//! table and view with what the program itself knows. Beside it there are a Kafka broker (needs maven
//! and java) and a PostgreSQL (needs its server), which sources read and sinks write. They are killed
//! now and then too, and a proxy before each cuts, slows and stops connections. Exits with
//! 1 on any difference, and then keeps the data directory and prints its path. The seed repeats the
//! choices, not the moments: those depend on the machine.
//!
//! Refuses to run without the program: build it with `cargo build -p kaplan-cli`.

#[path = "../../../platform/tests/it/broker.rs"]
#[allow(clippy::unwrap_used, dead_code, reason = "the tests' own; a broken broker ends the run")]
mod broker;
mod check;
mod database;
mod faults;
mod load;
mod proxy;
mod queue;
mod server;
mod truth;
#[path = "../../../platform/tests/it/postgres/upstream.rs"]
#[allow(clippy::expect_used, dead_code, reason = "the tests' own; a broken server ends the run")]
mod upstream;

use anyhow::{Context, bail};
use check::Report;
use database::Database;
use faults::{heal, plan, strike};
use load::{Stopped, World};
use queue::Queue;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use server::Server;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The systems beside Kaplan, as far as they can be had.
struct Systems {
    queue: Option<Queue>,
    database: Option<Database>,
}

const DEFAULT_ROUNDS: u64 = 10;
/// Rounds on one data directory.
const ROUNDS_PER_DIRECTORY: u64 = 25;
/// Each view is also verified by the server itself in one of this many rounds.
const ROUNDS_PER_VERIFY: u64 = 5;
/// The systems beside are compared in one of this many rounds, and after one of them died.
const ROUNDS_PER_BESIDE: u64 = 3;
/// The kill comes at most this long after the phase began.
const MAX_DELAY_MS: u64 = 400;
/// Writes run this long before the phase begins.
const WARM_UP: Duration = Duration::from_millis(100);

/// What goes on, besides writes, when the kill comes.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Write,
    Quiet,
    Batch,
    Replay,
    Define,
    Recover,
    /// Batches and replays together; everything is compared before the kill, too.
    Alive,
}

const PHASES: [Phase; 7] = [
    Phase::Write,
    Phase::Quiet,
    Phase::Batch,
    Phase::Replay,
    Phase::Define,
    Phase::Recover,
    Phase::Alive,
];

fn main() -> ExitCode {
    match arguments().and_then(|(rounds, seed)| run(rounds, seed)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say(&format!("crash_matrix: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// One line on the standard output; a reader that went away is no reason to stop.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn arguments() -> anyhow::Result<(u64, u64)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut rounds, mut seed) = (DEFAULT_ROUNDS, u64::from(now.subsec_nanos()));
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        match (name.as_str(), value) {
            ("--rounds", Some(value)) => rounds = value,
            ("--seed", Some(value)) => seed = value,
            _ => bail!("{name}: use --rounds N and --seed S with whole numbers"),
        }
    }
    Ok((rounds, seed))
}

#[tokio::main(worker_threads = 2)]
async fn run(rounds: u64, seed: u64) -> anyhow::Result<bool> {
    say(&format!("crash-matrix: {rounds} rounds, seed {seed}"));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut report, started) = (Report::default(), Instant::now());
    let mut beside = Systems { queue: Queue::new().await?, database: Database::new().await? };
    let mut done = 0;
    while done < rounds && report.clean() {
        let count = ROUNDS_PER_DIRECTORY.min(rounds - done);
        let directory = tempfile::Builder::new().prefix("kaplan-crash-").tempdir()?;
        let path = directory.path().to_path_buf();
        let outcome = life(path.clone(), (count, done), &mut beside, &mut rng, &mut report).await;
        if let Err(error) = &outcome {
            report.violation(format!("{error:#}"));
        }
        done = report.rounds;
        if !report.clean() {
            say(&format!("the data directory is kept: {}", directory.keep().display()));
        }
        let seconds = started.elapsed().as_secs_f64();
        let acknowledged = report.acknowledged;
        say(&format!("{done} rounds, {acknowledged} events acknowledged, {seconds:.0} s"));
    }
    say(&report.json(seed));
    Ok(report.clean())
}

/// Some rounds on one new directory.
async fn life(
    directory: PathBuf,
    (rounds, first): (u64, u64),
    beside: &mut Systems,
    rng: &mut ChaCha8Rng,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut server = Server::start(&directory)?;
    server.ready().await?;
    let mut world = World::new(rng.random());
    check::define(&server).await?;
    beside.define(&server).await?;
    for round in 0..rounds {
        let began = Instant::now();
        let phase = PHASES[rng.random_range(0..PHASES.len())];
        let delay = Duration::from_millis(rng.random_range(0..=MAX_DELAY_MS));
        let (queue_faults, database_faults) = (plan::<Queue>(rng), plan::<Database>(rng));
        let what = format!("{phase:?} after {} ms", delay.as_millis());
        let what = format!("{what}, Kafka {queue_faults:?}, PostgreSQL {database_faults:?}");
        let (stop, stopped) = watch::channel(false);
        let sending = beside.start(rng.random(), &stopped)?;
        let read = beside.database.is_some();
        let (restarted, queue_struck, database_struck) = tokio::try_join!(
            until_killed(server, &mut world, (phase, delay, read), rng, report),
            strike(beside.queue.as_ref(), queue_faults),
            strike(beside.database.as_ref(), database_faults),
        )?;
        server = restarted;
        stop.send_replace(true);
        for sending in sending {
            sending.await?;
        }
        let last = round + 1 == rounds;
        let verify = |view: u64| last || (round + view).is_multiple_of(ROUNDS_PER_VERIFY);
        let own = async {
            world.settle(&server).await.context("sending again after the restart")?;
            check::all(&server, &world, verify, report).await
        };
        // What is Kaplan's own is right while the others are still away.
        tokio::try_join!(
            own,
            heal(beside.queue.as_ref(), queue_struck),
            heal(beside.database.as_ref(), database_struck),
        )?;
        let killed = u64::from(queue_struck.killed) + u64::from(database_struck.killed);
        report.kills += killed;
        report.cuts += queue_struck.cuts + database_struck.cuts;
        let own = began.elapsed();
        if last || killed > 0 || round.is_multiple_of(ROUNDS_PER_BESIDE) {
            beside.check(&server, report).await.context("the systems beside")?;
        }
        report.rounds += 1;
        report.acknowledged += world.take_acknowledged();
        let (number, all) = (first + round + 1, began.elapsed());
        let (own, all) = (own.as_millis(), all.as_millis());
        say(&format!("round {number}: {what}: {own} ms, with the systems beside {all} ms"));
        if !report.clean() {
            say(&format!("the server's log: {}", server.log_path().display()));
            break;
        }
    }
    server.kill().await?;
    if let Some(database) = &beside.database {
        database.forget().await;
    }
    Ok(())
}

impl Systems {
    async fn define(&mut self, server: &Server) -> anyhow::Result<()> {
        if let Some(queue) = &mut self.queue {
            queue.define(server).await?;
        }
        let with_queue = self.queue.is_some();
        match &mut self.database {
            Some(database) => database.define(server, with_queue).await,
            None => Ok(()),
        }
    }

    /// Lets records and transactions come until stopped.
    fn start(&mut self, seed: u64, stopped: &Stopped) -> anyhow::Result<Vec<JoinHandle<()>>> {
        let mut tasks = Vec::new();
        if let Some(queue) = &mut self.queue {
            tasks.push(queue.start(seed, stopped.clone())?);
        }
        if let Some(database) = &self.database {
            tasks.extend(database.start(seed, stopped));
        }
        Ok(tasks)
    }

    async fn check(&mut self, server: &Server, report: &mut Report) -> anyhow::Result<()> {
        if let Some(queue) = &mut self.queue {
            queue.check(server, report).await.context("Kafka")?;
        }
        let with_queue = self.queue.is_some();
        match &mut self.database {
            Some(database) => {
                database.check(server, with_queue, report).await.context("PostgreSQL")
            }
            None => Ok(()),
        }
    }
}

/// Loads the server, kills it in the phase, and starts it again.
async fn until_killed(
    mut server: Server,
    world: &mut World,
    (phase, delay, read_beside): (Phase, Duration, bool),
    rng: &mut ChaCha8Rng,
    report: &mut Report,
) -> anyhow::Result<Server> {
    let (stop, stopped) = watch::channel(false);
    let writers = world.start(&server, &stopped);
    let reader = tokio::spawn(check::read_along(server.client(), stopped.clone()));
    let beside =
        read_beside.then(|| tokio::spawn(database::read_along(server.client(), stopped.clone())));
    tokio::time::sleep(WARM_UP).await;
    if matches!(phase, Phase::Quiet) {
        stop.send_replace(true);
    }
    let extras = extras(phase, &server, rng, &stopped);
    tokio::time::sleep(delay).await;
    if matches!(phase, Phase::Alive) {
        stop.send_replace(true);
    } else {
        server.kill().await?;
        stop.send_replace(true);
    }
    for extra in extras {
        extra.await??;
    }
    report.differences += reader.await??;
    if let Some(beside) = beside {
        report.differences += beside.await??;
    }
    world.join(writers).await?;
    if matches!(phase, Phase::Alive) {
        check::all(&server, world, |_| false, report).await?;
        check::runs(&server, report).await?;
        server.kill().await?;
    }
    report.kills += 1;
    server = server.restart()?;
    if matches!(phase, Phase::Recover) {
        tokio::time::sleep(delay).await;
        server.kill().await?;
        report.kills += 1;
        server = server.restart()?;
    }
    server.ready().await?;
    Ok(server)
}

/// What goes on besides the writes.
fn extras(
    phase: Phase,
    server: &Server,
    rng: &mut ChaCha8Rng,
    stopped: &Stopped,
) -> Vec<JoinHandle<anyhow::Result<()>>> {
    let (client, stopped) = (|| server.client(), || stopped.clone());
    match phase {
        Phase::Batch => vec![load::batches(client(), rng.random(), stopped())],
        Phase::Replay => vec![load::replays(client(), rng.random(), stopped())],
        Phase::Define => vec![load::definitions(client(), rng.random(), stopped())],
        Phase::Alive => vec![
            load::batches(client(), rng.random(), stopped()),
            load::replays(client(), rng.random(), stopped()),
        ],
        Phase::Write | Phase::Quiet | Phase::Recover => Vec::new(),
    }
}
