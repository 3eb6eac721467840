//! Damage: what happens to bytes by accident, and what somebody does to them on purpose.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Kinds of damage that one input has at most.
const MAX_STEPS: usize = 6;
/// The longest run of repeated bytes, for whatever is nested or counted.
const MAX_REPEATED: usize = 128 << 10;
/// Numbers that lengths and counts go wrong at.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Damages bytes, with pieces of others of their kind; sometimes they stay as they are.
pub fn damaged(good: &[u8], others: &[Vec<u8>], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..rng.random_range(0..=MAX_STEPS) {
        if bytes.is_empty() {
            break;
        }
        step(&mut bytes, others, rng);
    }
    bytes
}

fn step(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut ChaCha8Rng) {
    let at = rng.random_range(0..bytes.len());
    let piece = |rng: &mut ChaCha8Rng, from: &[u8], most: usize| {
        let start = rng.random_range(0..from.len());
        let end = (start + rng.random_range(1..=most)).min(from.len());
        from[start..end].to_vec()
    };
    match rng.random_range(0..10) {
        0 => bytes[at] = rng.random(),
        1 => bytes[at] ^= 1 << rng.random_range(0..8),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..(at + rng.random_range(1..64)).min(bytes.len()))),
        4 => {
            let piece = piece(rng, bytes, 64);
            bytes.splice(at..at, piece);
        }
        5 => {
            let other = &others[rng.random_range(0..others.len())];
            if !other.is_empty() {
                let piece = piece(rng, other, 4_096);
                let end = (at + rng.random_range(0..=piece.len())).min(bytes.len());
                bytes.splice(at..end, piece);
            }
        }
        6 | 7 => number(&mut bytes[at..], rng),
        8 => bytes.insert(at, rng.random()),
        _ => {
            let piece = piece(rng, bytes, 8);
            let times = rng.random_range(1..=MAX_REPEATED / piece.len());
            let times = if rng.random_ratio(1, 8) { times } else { times % 64 };
            bytes.splice(at..at, piece.repeat(times));
        }
    }
}

/// Writes a number where a length or a count may be, in one width and order or the other.
fn number(bytes: &mut [u8], rng: &mut ChaCha8Rng) {
    let edge = EDGES[rng.random_range(0..EDGES.len())];
    let value = edge.wrapping_add(rng.random_range(0..3)).wrapping_sub(1);
    let width = [1, 2, 4, 8][rng.random_range(0..4)].min(bytes.len());
    if rng.random() {
        bytes[..width].copy_from_slice(&value.to_le_bytes()[..width]);
    } else {
        bytes[..width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
    }
}

/// One of several.
pub fn any<'a>(of: &'a [Vec<u8>], rng: &mut ChaCha8Rng) -> &'a [u8] {
    &of[rng.random_range(0..of.len())]
}
