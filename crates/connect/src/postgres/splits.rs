//! What is remembered of a source: the names of its splits and their positions, as the log has them.
//!
//! | split | position |
//! |---|---|
//! | `wal/n` | PostgreSQL's log, of the slot's n-th life, is done up to here |
//! | `copy/n.g:s@o,..` | the tables `o` were copied into the streams `s`; below [`COPIED`] not yet |
//! | `stale/n.g:s@o` | the stream `s` missed changes and must be copied again |
//!
//! A slot that was lost and made again begins its next life, in which nothing is copied yet. Within a
//! life the entry with the highest `g` says how a stream stands. Positions only rise, and nothing
//! else has to be kept: from these names a source knows what to do after any failure.

use crate::source::Positions;

/// The first position of PostgreSQL's log; positions of a copy below it are its parts.
pub const COPIED: u64 = 1 << 24;
/// Longest name of a split, so that more tables than that are copied in several sets.
const MAX_NAME_BYTES: usize = 900;

/// A stream and the number of the table that it was copied from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The stream.
    pub stream: u32,
    /// The table.
    pub oid: u32,
}

/// How a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was never copied in this life of the slot.
    New,
    /// It has the table `oid` as of `at`.
    Copied {
        /// The table.
        oid: u32,
        /// The position.
        at: u64,
    },
    /// It missed changes.
    Stale,
}

/// The splits of a source, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Splits {
    /// The slot's life and the position in it; none before the first.
    pub wal: Option<(u32, u64)>,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    life: u32,
    number: u32,
    stale: bool,
    tables: Vec<Copied>,
    position: u64,
}

/// The name of the split of the slot's n-th life.
pub fn wal(life: u32) -> String {
    format!("wal/{life}")
}

impl Splits {
    /// Reads the names; those of another form are passed over.
    pub fn read(positions: &Positions) -> Splits {
        let mut splits = Splits::default();
        for (name, position) in positions {
            if let Some(life) = name.strip_prefix("wal/").and_then(|n| n.parse().ok()) {
                splits.wal = splits.wal.max(Some((life, *position)));
            } else if let Some(entry) = entry(name, *position) {
                splits.entries.push(entry);
            }
        }
        splits.entries.sort_by_key(|entry| (entry.life, entry.number));
        splits
    }

    /// How a stream stands in a life of the slot.
    pub fn standing(&self, life: u32, stream: u32) -> Standing {
        let of =
            |entry: &&Entry| entry.life == life && entry.tables.iter().any(|t| t.stream == stream);
        let Some(entry) = self.entries.iter().rev().find(of) else { return Standing::New };
        let table = entry.tables.iter().find(|t| t.stream == stream);
        match (entry.stale, table) {
            (false, Some(table)) if entry.position >= COPIED => {
                Standing::Copied { oid: table.oid, at: entry.position }
            }
            (false, _) => Standing::New,
            (true, _) => Standing::Stale,
        }
    }

    /// Whether a stream was ever copied.
    pub fn was_copied(&self, stream: u32) -> bool {
        let done = |entry: &&Entry| !entry.stale && entry.position >= COPIED;
        self.entries.iter().filter(done).any(|e| e.tables.iter().any(|t| t.stream == stream))
    }

    /// The split under which these tables are copied together, and its position so far: one that was
    /// begun, or another one. As many tables as its name can hold.
    pub fn copy(&self, life: u32, tables: &mut Vec<Copied>) -> (String, Option<u64>) {
        let last = self.entries.last().filter(|e| e.life == life && !e.stale);
        if let Some(begun) = last.filter(|e| e.position < COPIED && e.tables == *tables) {
            return (begun.name.clone(), Some(begun.position));
        }
        let mut name = format!("copy/{life}.{}:", self.next(life));
        let mut fit = 0;
        for table in tables.iter() {
            let more = format!("{}{}@{}", if fit == 0 { "" } else { "," }, table.stream, table.oid);
            if name.len() + more.len() > MAX_NAME_BYTES {
                break;
            }
            name.push_str(&more);
            fit += 1;
        }
        tables.truncate(fit);
        (name, None)
    }

    /// The split that says that a stream missed changes; known from now on.
    pub fn stale(&mut self, life: u32, table: Copied) -> String {
        let name = format!("stale/{life}.{}:{}@{}", self.next(life), table.stream, table.oid);
        self.entries.extend(entry(&name, 1));
        name
    }

    /// Takes in that the copy of a split is done.
    pub fn done(&mut self, name: &str, position: u64) {
        self.entries.retain(|entry| entry.name != name);
        self.entries.extend(entry(name, position));
        self.entries.sort_by_key(|entry| (entry.life, entry.number));
    }

    fn next(&self, life: u32) -> u32 {
        let numbers = self.entries.iter().filter(|e| e.life == life).map(|e| e.number);
        numbers.max().map_or(1, |number| number + 1)
    }
}

fn entry(name: &str, position: u64) -> Option<Entry> {
    let (kind, rest) = name.split_once('/')?;
    let stale = match kind {
        "copy" => false,
        "stale" => true,
        _ => return None,
    };
    let (numbers, tables) = rest.split_once(':')?;
    let (life, number) = numbers.split_once('.')?;
    let table = |text: &str| {
        let (stream, oid) = text.split_once('@')?;
        Some(Copied { stream: stream.parse().ok()?, oid: oid.parse().ok()? })
    };
    Some(Entry {
        name: name.to_owned(),
        life: life.parse().ok()?,
        number: number.parse().ok()?,
        stale,
        tables: tables.split(',').map(table).collect::<Option<_>>()?,
        position,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(names: &[(&str, u64)]) -> Splits {
        Splits::read(&names.iter().map(|(n, p)| ((*n).to_owned(), *p)).collect())
    }

    #[test]
    fn the_last_word_on_a_stream_counts() {
        let far = COPIED + 7;
        let mut known = splits(&[
            ("wal/1", far),
            ("wal/2", far + 1),
            ("copy/1.1:4@10,5@11", far),
            ("copy/2.1:4@10", far),
            ("copy/2.2:5@11", 3),
            ("x", 1),
        ]);
        assert_eq!(known.wal, Some((2, far + 1)));
        assert_eq!(known.standing(2, 4), Standing::Copied { oid: 10, at: far });
        assert_eq!(known.standing(2, 5), Standing::New, "its copy has not ended");
        assert!(known.was_copied(5) && !known.was_copied(6));
        let mut five = vec![Copied { stream: 5, oid: 11 }];
        assert_eq!(known.copy(2, &mut five), ("copy/2.2:5@11".to_owned(), Some(3)));
        assert_eq!(known.stale(2, Copied { stream: 4, oid: 10 }), "stale/2.3:4@10");
        assert_eq!(known.standing(2, 4), Standing::Stale);
        known.done("copy/2.4:4@12", far);
        assert_eq!(known.standing(2, 4), Standing::Copied { oid: 12, at: far });
    }

    #[test]
    fn many_tables_are_several_sets() {
        let mut tables: Vec<_> = (0..500).map(|n| Copied { stream: n, oid: 100_000 + n }).collect();
        let (name, position) = Splits::default().copy(1, &mut tables);
        assert!(name.len() <= MAX_NAME_BYTES && position.is_none());
        assert!(tables.len() > 50 && tables.len() < 500);
        assert_eq!(entry(&name, 1).unwrap().tables, tables);
    }
}
