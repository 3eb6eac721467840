//! What happens to the systems beside Kaplan in one round: they are killed, or their connections are
//! cut, slowed or stopped, at random moments around the kill of Kaplan itself. All of it is over
//! before anything is compared with what they hold.

use crate::proxy::{Line, Proxy};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

/// A fault comes at most this long after the round's writes began.
const MAX_DELAY_MS: u64 = 700;
/// A line is bad for at most this long; then the next fault may come, or none.
const MAX_BAD_MS: u64 = 600;
/// Cuts of one round.
const MAX_CUTS: u64 = 4;

/// Something that goes wrong with one system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Connections end, so many times.
    Cut(u64),
    /// The line is bad for so many milliseconds.
    Bad(Line, u64),
    /// SIGKILL; it stays away until [`Beside::heal`].
    Kill,
}

/// A system that Kaplan reads from and writes to, by a proxy.
pub trait Beside {
    /// One of this many rounds kills it.
    const ROUNDS_PER_KILL: u32;
    /// What leads to it.
    fn proxy(&self) -> &Proxy;
    /// SIGKILL.
    async fn kill(&self) -> anyhow::Result<()>;
    /// Brings back one that was killed.
    async fn revive(&self) -> anyhow::Result<()>;
}

/// What was done to a system in a round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Struck {
    /// Whether it was killed, and has to be brought back.
    pub killed: bool,
    /// Cuts, and times that its line was bad.
    pub cuts: u64,
}

/// The faults of a round, with the moment of each after the last one.
pub fn plan<B: Beside>(rng: &mut ChaCha8Rng) -> Vec<(Duration, Fault)> {
    let mut faults = Vec::new();
    let bad = |rng: &mut ChaCha8Rng| rng.random_range(20..=MAX_BAD_MS);
    match rng.random_range(0..8) {
        0..3 => faults.push(Fault::Cut(rng.random_range(1..=MAX_CUTS))),
        3 => faults.push(Fault::Bad(Line::Slow, bad(rng))),
        4 => faults.push(Fault::Bad(Line::Silent, bad(rng))),
        5 => faults.push(Fault::Bad(Line::Refused, bad(rng))),
        _ => {}
    }
    if rng.random_ratio(1, B::ROUNDS_PER_KILL) {
        faults.push(Fault::Kill);
    }
    let mut delay = || Duration::from_millis(rng.random_range(0..=MAX_DELAY_MS));
    faults.into_iter().map(|fault| (delay(), fault)).collect()
}

/// Does what was planned; the line is good again afterwards.
pub async fn strike<B: Beside>(
    system: Option<&B>,
    plan: Vec<(Duration, Fault)>,
) -> anyhow::Result<Struck> {
    let mut struck = Struck::default();
    let Some(system) = system else { return Ok(struck) };
    for (delay, fault) in plan {
        tokio::time::sleep(delay).await;
        match fault {
            Fault::Cut(times) => {
                for _ in 0..times {
                    system.proxy().cut();
                    struck.cuts += 1;
                    tokio::time::sleep(delay / 4).await;
                }
            }
            Fault::Bad(line, ms) => {
                system.proxy().set(line);
                struck.cuts += 1;
                tokio::time::sleep(Duration::from_millis(ms)).await;
                system.proxy().set(Line::Good);
            }
            Fault::Kill => {
                system.kill().await?;
                struck.killed = true;
            }
        }
    }
    Ok(struck)
}

/// Brings back what was killed.
pub async fn heal<B: Beside>(system: Option<&B>, struck: Struck) -> anyhow::Result<()> {
    match system.filter(|_| struck.killed) {
        Some(system) => system.revive().await,
        None => Ok(()),
    }
}
