//! The durable log: every commit in order, bytes in and bytes out.
//!
//! Invariant: a commit is acknowledged ([`Log::append`] returns `Ok`) only when it is durable, and
//! an acknowledged commit is read back exactly once, at its own LSN, byte for byte, whatever is
//! killed, cut off or filled up in between. Readers see durable commits only.
//!
//! The log refuses to guess. Damage below what it knows to be durable is [`Error::Corrupt`], never
//! skipped; after a failed write or fsync it takes nothing more until it is opened again. It does
//! not look into payloads, does not deduplicate and does not decide when to trim.
//!
//! [`LocalLog`] keeps segment files in a directory, [`ObjectLog`] segments in a bucket, where a
//! newer opening takes over from an older one, and [`KafkaLog`] transactions in a topic, which are
//! taken over in the same way. A [`Follower`] reads along in a bucket, a [`KafkaReader`] in a
//! topic, and neither takes anything over. A [`KafkaGroup`] deals out shares of work among
//! processes. [`conformance`] is the suite that all logs pass; [`sim`] is a disk that loses power,
//! and [`simulate`] and [`simulate_objects`] run a log on it, or on a bucket that fails, for as
//! many random steps as one likes.

mod commit;
pub mod conformance;
pub mod disk;
mod error;
mod follow;
mod frame;
mod held;
mod kafka;
mod local;
mod mark;
mod object;
mod recover;
mod ring;
mod segment;
pub mod sim;
pub mod simulate;
pub mod simulate_objects;
mod stopped;
mod stored;

pub use commit::{Commit, Log, MAX_PRODUCER_BYTES, Producer, Write};
pub use disk::{Disk, RealDisk};
pub use error::Error;
pub use follow::{Follower, Found};
pub use kafka::{KafkaGroup, KafkaLog, KafkaOptions, KafkaReader};
pub use local::{LocalLog, Options};
pub use object::{ObjectLog, ObjectOptions};
pub use recover::Recovery;
