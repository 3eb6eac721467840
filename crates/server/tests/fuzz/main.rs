//! Bytes from outside, damaged on purpose: no decoder may panic, hang or take memory that the bytes do
//! not pay for, and what it reads in spite of the damage must be right in itself.
//!
//! `cargo test -p kaplan-server --test fuzz` gives each target some thousand inputs of a fresh seed;
//! `-- [TARGET..] [--cases N] [--seconds S] [--seed N] [--case K]` chooses. Each input has its own
//! generator made of target, seed and number, so that one can be run again alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a test program: it prints its result and stops where it is wrong itself"
)]

mod bodies;
mod damage;
mod http;
mod log;
mod pgoutput;
mod records;

use peak_alloc::PeakAlloc;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Inputs of each target, unless told otherwise.
const DEFAULT_CASES: u64 = 2_000;
/// An input that takes this long hangs.
const HANG: Duration = Duration::from_secs(30);
/// Memory that an input may take, unless its target says more.
pub const MAX_BYTES: usize = 64 << 20;
/// The deepest call of a decoder must do with the stack of a thread that answers requests.
const STACK_BYTES: usize = 2 << 20;

/// What became of an input.
pub enum Outcome {
    /// It was read.
    Read,
    /// It was refused with a reason.
    Refused,
}

/// Something that takes bytes from outside.
pub trait Target {
    fn name(&self) -> &'static str;

    /// The memory that one input may take.
    fn max_bytes(&self) -> usize {
        MAX_BYTES
    }

    /// One input in this many is tried: those of slow targets are fewer.
    fn share(&self) -> u64 {
        1
    }

    /// A damaged input.
    fn input(&self, rng: &mut ChaCha8Rng) -> Vec<u8>;

    /// Takes it.
    ///
    /// # Errors
    /// What is wrong with how it was taken.
    fn take(&mut self, input: &[u8]) -> Result<Outcome, String>;

    /// Looks at what all inputs together have done.
    fn finish(&mut self) -> Result<(), String> {
        Ok(())
    }
}

struct Options {
    targets: Vec<String>,
    cases: u64,
    /// Of all targets together.
    seconds: Option<u64>,
    seed: u64,
    case: Option<u64>,
}

/// The input that is being taken, for the thread that looks for hangs.
static AT_WORK: Mutex<Option<(String, Instant)>> = Mutex::new(None);

fn main() {
    let options = options();
    std::thread::spawn(watch);
    let run = move || run(&options);
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).unwrap();
    std::process::exit(thread.join().unwrap_or(1));
}

fn options() -> Options {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let fresh = now.as_nanos() as u64 % 1_000_000_000;
    let given = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let mut options = Options {
        targets: Vec::new(),
        cases: DEFAULT_CASES,
        seconds: None,
        seed: given("SEED").unwrap_or(fresh),
        case: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|n| n.parse().ok());
        match argument.as_str() {
            "--cases" => options.cases = number().expect("a number"),
            "--seconds" => options.seconds = number(),
            "--seed" => options.seed = number().expect("a number"),
            "--case" => options.case = number(),
            // What `cargo test` may pass on to every test program.
            other if other.starts_with('-') => {}
            _ => options.targets.push(argument),
        }
    }
    options
}

/// Ends the program when an input takes too long: a thread cannot be stopped.
fn watch() {
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let hung = AT_WORK.lock().unwrap().as_ref().filter(|(_, at)| at.elapsed() > HANG).cloned();
        if let Some((what, _)) = hung {
            println!("HANG: {what} took more than {} s", HANG.as_secs());
            std::process::exit(1);
        }
    }
}

fn targets() -> Vec<Box<dyn Target>> {
    let mut all: Vec<Box<dyn Target>> = Vec::new();
    all.extend(log::targets());
    all.extend(bodies::targets());
    all.extend(records::targets());
    all.push(Box::new(pgoutput::Messages));
    all.push(Box::new(http::Ingest::start()));
    all
}

fn run(options: &Options) -> i32 {
    println!("fuzz: seed {}", options.seed);
    let chosen = |t: &dyn Target| {
        options.targets.is_empty() || options.targets.iter().any(|name| t.name().contains(name))
    };
    let mut targets: Vec<_> = targets().into_iter().filter(|t| chosen(t.as_ref())).collect();
    // From here on a panic is told with the number that repeats it.
    std::panic::set_hook(Box::new(|_| {}));
    let each = options.seconds.map(|s| Duration::from_secs(s) / targets.len().max(1) as u32);
    let (mut inputs, mut failures) = (0, 0);
    for target in &mut targets {
        let (began, mut refused, mut number) = (Instant::now(), 0_u64, 0);
        let cases = options.cases.div_ceil(target.share());
        let mut failed = 0;
        while options.case.is_none_or(|_| number == 0) && failed < 5 {
            let over = each.map_or(number >= cases, |limit| began.elapsed() >= limit);
            if over {
                break;
            }
            match one(target.as_mut(), options.seed, options.case.unwrap_or(number)) {
                Ok(Outcome::Read) => {}
                Ok(Outcome::Refused) => refused += 1,
                Err(account) => {
                    failed += 1;
                    println!("BROKEN: {account}");
                }
            }
            number += 1;
        }
        if let Err(account) = target.finish() {
            failed += 1;
            println!("BROKEN: {}: {account}", target.name());
        }
        let (name, ms) = (target.name(), began.elapsed().as_millis());
        println!("{name}: {number} inputs, {refused} refused, {ms} ms");
        (inputs, failures) = (inputs + number, failures + failed);
    }
    let seed = options.seed;
    println!(r#"{{"target":"fuzz","cases":{inputs},"seed":{seed},"failures":{failures}}}"#);
    i32::from(failures > 0)
}

/// The generator of one input.
fn generator(target: &str, seed: u64, number: u64) -> ChaCha8Rng {
    let name = target.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    ChaCha8Rng::seed_from_u64(name ^ seed.rotate_left(32) ^ number)
}

/// Makes one input and has it taken.
fn one(target: &mut dyn Target, seed: u64, number: u64) -> Result<Outcome, String> {
    let again = format!("{} --seed {seed} --case {number}", target.name());
    let input = target.input(&mut generator(target.name(), seed, number));
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    *AT_WORK.lock().unwrap() = Some((again.clone(), Instant::now()));
    let taken = catch_unwind(AssertUnwindSafe(|| target.take(&input)));
    *AT_WORK.lock().unwrap() = None;
    let used = MEMORY.peak_usage().saturating_sub(before);
    let outcome = match taken {
        Ok(outcome) => outcome,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(format!("panic: {}", text.unwrap_or_default()))
        }
    };
    match outcome {
        Ok(_) if used > target.max_bytes() + 64 * input.len() => {
            Err(format!("{again}: {used} bytes of memory for an input of {} bytes", input.len()))
        }
        Ok(outcome) => Ok(outcome),
        Err(account) => Err(format!("{again}: {account}")),
    }
}
