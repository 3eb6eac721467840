//! The commits that the topic holds, as readers see them: places of some of them, and the newest in
//! memory.
//!
//! Invariant: the commits are consecutive, from the first place to the head.

use crate::ring::Ring;
use crate::{Commit, Error, frame};
use kaplan_base::Lsn;
use std::collections::VecDeque;

/// Where a commit begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub lsn: Lsn,
    /// The offset of its first record.
    pub offset: i64,
    /// Bytes of commits that came before it, since the log was opened.
    before: u64,
}

pub(crate) struct Held {
    head: Lsn,
    /// In order, at least `gap` bytes apart; the first one is where the log begins.
    places: VecDeque<Place>,
    newest: Option<Place>,
    bytes: u64,
    gap: u64,
    ring: Ring,
}

/// Where a read finds its commits.
pub(crate) enum Found {
    Commits(Vec<Commit>),
    /// In the topic, from the nearest place before them on.
    Stored(Place),
}

impl Held {
    /// No commits; the next one comes after `head`.
    pub fn new(head: Lsn, gap: u64, cache_bytes: usize) -> Self {
        let (places, ring) = (VecDeque::new(), Ring::new(cache_bytes));
        Self { head, places, newest: None, bytes: 0, gap, ring }
    }

    pub fn head(&self) -> Lsn {
        self.head
    }

    pub fn start(&self) -> Lsn {
        self.places.front().map_or(self.head.next(), |place| place.lsn)
    }

    /// Where the log begins.
    pub fn first_offset(&self) -> Option<i64> {
        self.places.front().map(|place| place.offset)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes - self.places.front().map_or(self.bytes, |place| place.before)
    }

    /// The head is known without a commit.
    pub fn set_head(&mut self, head: Lsn) {
        self.head = head;
    }

    /// Adds the commit after the head, whose first record has this offset.
    pub fn push(&mut self, commit: Commit, offset: i64) {
        let place = Place { lsn: commit.lsn, offset, before: self.bytes };
        if self.places.back().is_none_or(|last| place.before >= last.before + self.gap) {
            self.places.push_back(place);
        }
        self.newest = Some(place);
        self.bytes += frame::len(&commit) as u64;
        self.head = commit.lsn;
        self.ring.push(commit);
    }

    /// Lets go of commits up to `through`, as far as places are known, but never of the newest, which
    /// says where the head is.
    pub fn let_go(&mut self, through: Lsn) {
        match self.newest {
            Some(newest) if newest.lsn.previous() <= through => self.places = [newest].into(),
            _ => self.drop_while(|next| next.lsn.previous() <= through),
        }
    }

    /// Lets go of what is not in the topic any more, which begins at `offset`.
    pub fn begins_at(&mut self, offset: i64) {
        let gone = self.places.front().is_some_and(|place| place.offset < offset);
        if gone && self.places.back().is_some_and(|place| place.offset < offset) {
            self.places =
                self.newest.filter(|newest| newest.offset >= offset).into_iter().collect();
        }
        while self.places.front().is_some_and(|place| place.offset < offset) {
            self.places.pop_front();
        }
    }

    fn drop_while(&mut self, gone: impl Fn(&Place) -> bool) {
        while self.places.get(1).is_some_and(&gone) {
            self.places.pop_front();
        }
    }

    /// The commits from `next` on, or where they are; None past the head.
    pub fn find(&self, next: Lsn, max_bytes: usize) -> Result<Option<Found>, Error> {
        if next > self.head {
            return Ok(None);
        }
        if let Some(commits) = self.ring.read(next, max_bytes).filter(|_| next >= self.start()) {
            return Ok(Some(Found::Commits(commits)));
        }
        let known = self.places.partition_point(|place| place.lsn <= next);
        match known.checked_sub(1).and_then(|at| self.places.get(at)) {
            Some(place) => Ok(Some(Found::Stored(*place))),
            None => Err(Error::Trimmed { start: self.start() }),
        }
    }
}
