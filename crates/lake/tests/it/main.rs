//! The lake from outside: exactly-once appends, exact types, compaction, fencing, and what other
//! readers see of it.

mod appends;
mod fixture;
mod maintenance;
mod python;
mod types;
