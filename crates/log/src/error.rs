//! What can go wrong in a log, with the facts, whether the write may have happened, and what the
//! caller does next.

use kaplan_base::{Lsn, Remedy};
use std::io;

/// A failed operation of a log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No space: nothing was written, and the log goes on once there is space.
    #[error(
        "disk full: no room for {bytes} bytes in log file {file}; nothing was written; free space and retry"
    )]
    DiskFull {
        /// The file that could not grow.
        file: String,
        /// How many bytes were to be written.
        bytes: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A write, fsync or directory change failed, and the log takes no more until it is reopened.
    #[error(
        "could not {action} the log's {file}; the log takes no more commits until it is reopened: {source}"
    )]
    Failed {
        /// What was tried.
        action: &'static str,
        /// The file.
        file: String,
        /// Whether the commits may be found after a reopen.
        may_have_happened: bool,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier failure poisoned the log.
    #[error("the log takes no more commits until it is reopened, since: {cause}")]
    Poisoned {
        /// The earlier failure.
        cause: String,
    },
    /// Stored bytes that were known to be durable are damaged or missing.
    #[error(
        "log file {segment} is damaged at byte {offset}: {reason}; restore the file from a copy, or \
         move the log's directory away and rebuild it from the lake, which loses the commits that \
         were not archived yet"
    )]
    Corrupt {
        /// The damaged file.
        segment: String,
        /// Where the damage begins, in bytes from the start of the file.
        offset: u64,
        /// What was found there.
        reason: String,
    },
    /// A record of the log's topic is damaged, somebody else's, or not the one that must be there.
    #[error(
        "the record at offset {offset} of the log's topic {topic} is refused: {reason}; nobody but Kaplan \
         may write to that topic or delete from it"
    )]
    Record {
        /// The topic.
        topic: String,
        /// The record's offset.
        offset: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// A topic cannot be what it is to be, or is not the one that is.
    #[error("the topic {topic} is refused: {reason}; {fix}")]
    Topic {
        /// The topic.
        topic: String,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        fix: String,
    },
    /// A file was written by another version of the log.
    #[error(
        "log file {file} has format {found}, and this program reads format {supported}; use the program that wrote it"
    )]
    Version {
        /// The file.
        file: String,
        /// Its format.
        found: u32,
        /// The format that this program reads.
        supported: u32,
    },
    /// A follower was asked to write.
    #[error("this process follows the log, and another one writes it")]
    ReadOnly,
    /// The commits asked for were trimmed.
    #[error("the log begins at commit {start}; read earlier commits from the lake")]
    Trimmed {
        /// The first commit still held.
        start: Lsn,
    },
    /// A group does not continue the log.
    #[error("commit {found} was appended where commit {expected} must follow")]
    NotConsecutive {
        /// The LSN that must come next.
        expected: Lsn,
        /// The LSN that came.
        found: Lsn,
    },
    /// A commit or a part of it is larger than the log takes.
    #[error("{what} of commit {lsn} has {bytes} bytes; the limit is {limit}; send less at once")]
    TooLarge {
        /// Which part is too large.
        what: &'static str,
        /// The commit.
        lsn: Lsn,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Another process, or another log in this one, has the directory open.
    #[error("the log's directory is in use by another process; stop that one first")]
    Locked,
    /// Another process has taken the log over; this one never appends again.
    #[error(
        "another instance has taken over the log (epoch {epoch}): this one acknowledges nothing \
         more; nothing of this group was written"
    )]
    Fenced {
        /// The epoch of the process that has it now.
        epoch: u64,
    },
    /// Reading or preparing a file failed.
    #[error("could not {action} the log's {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// What the caller does next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::DiskFull { .. } | Self::Locked | Self::Io { .. } => Remedy::Retry,
            Self::Failed { .. } | Self::Poisoned { .. } | Self::Fenced { .. } => Remedy::Reopen,
            Self::Corrupt { .. } | Self::Record { .. } | Self::Version { .. } => Remedy::Report,
            Self::Trimmed { .. }
            | Self::NotConsecutive { .. }
            | Self::TooLarge { .. }
            | Self::Topic { .. }
            | Self::ReadOnly => Remedy::FixInput,
        }
    }

    /// Whether the commits that the failed call was to append may be found after a reopen.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::Failed { may_have_happened: true, .. })
    }

    pub(crate) fn io(action: &'static str, file: &str, source: io::Error) -> Self {
        Self::Io { action, file: file.to_owned(), source }
    }

    pub(crate) fn corrupt(segment: &str, offset: u64, reason: impl Into<String>) -> Self {
        Self::Corrupt { segment: segment.to_owned(), offset, reason: reason.into() }
    }
}
