//! The programs' memory: jemalloc, set for state, which is large arrays that come and go. Arrays of a MiB and
//! more come out of one arena, so that what one thread has freed the next one takes; nothing is given
//! back to the system for a while, whose pages cost more to touch for the first time than to copy into.
//!
//! Depending on this crate makes it the allocator; [`keep_freed_memory`] bounds how long memory is kept.

use std::time::Duration;
use tikv_jemalloc_ctl::raw;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// jemalloc's options, <https://jemalloc.net/jemalloc.3.html#tuning>. The arena of large arrays keeps nothing
/// unless all arenas keep everything when it is made. Memory of the muzzy kind is the system's to take
/// whenever it needs some; if it had a term as well, large arrays would go back at once.
#[allow(unsafe_code, reason = "jemalloc looks for this name")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static OPTIONS: &[u8] = b"oversize_threshold:1048576,dirty_decay_ms:-1,muzzy_decay_ms:-1\0";

/// An array of this size makes the arena of large ones.
const LARGE_BYTES: usize = 4 << 20;

/// Freed memory is offered to the system little by little over this time.
const KEPT: Duration = Duration::from_secs(30);

/// Keeps freed memory from the system for half a minute at most, also while nothing else happens. To be
/// called once, at the start of a program; without it memory is kept for ever.
pub fn keep_freed_memory() {
    std::hint::black_box(Vec::<u8>::with_capacity(LARGE_BYTES));
    let milliseconds = isize::try_from(KEPT.as_millis()).unwrap_or(isize::MAX);
    let set = |name: &str| {
        let name = format!("{name}\0");
        // SAFETY: these options are of the type ssize_t. An arena that is not made yet refuses it, and will
        // have what is set for all.
        #[allow(unsafe_code, reason = "jemalloc's options have no types")]
        let _ = unsafe { raw::write(name.as_bytes(), milliseconds) };
    };
    set("arenas.dirty_decay_ms");
    // SAFETY: the number of arenas is an unsigned, the switch a bool.
    #[allow(unsafe_code, reason = "jemalloc's options have no types")]
    let arenas = unsafe {
        let _ = raw::write(b"background_thread\0", true);
        raw::read::<u32>(b"arenas.narenas\0").unwrap_or(0)
    };
    for arena in 0..arenas {
        set(&format!("arena.{arena}.dirty_decay_ms"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For how many milliseconds an arena keeps what was freed; 0: it is not made.
    #[allow(unsafe_code, reason = "jemalloc's options have no types")]
    fn kept(arena: u32) -> isize {
        let name = format!("arena.{arena}.dirty_decay_ms\0");
        // SAFETY: the option is of the type ssize_t.
        unsafe { raw::read(name.as_bytes()).unwrap_or(0) }
    }

    #[test]
    fn the_arena_of_large_arrays_keeps_memory_as_the_others_do() {
        keep_freed_memory();
        // SAFETY: the number of arenas is an unsigned.
        #[allow(unsafe_code, reason = "jemalloc's options have no types")]
        let arenas = unsafe { raw::read::<u32>(b"arenas.narenas\0").unwrap_or(0) };
        let kept: Vec<isize> = (0..arenas).map(kept).filter(|kept| *kept != 0).collect();
        assert!(kept.len() > 1, "the options were not taken");
        assert!(kept.iter().all(|kept| *kept == 30_000), "{kept:?}");
        // SAFETY: the option is of the type ssize_t.
        #[allow(unsafe_code, reason = "jemalloc's options have no types")]
        let muzzy = unsafe { raw::read::<isize>(b"arenas.muzzy_decay_ms\0").unwrap_or(0) };
        assert_eq!(muzzy, -1, "large arrays would be given back at once");
    }
}
