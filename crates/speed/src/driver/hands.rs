//! What the driver does with hands (see [`crate::crew`]): it deals them commits, has them give what they made,
//! and takes in the commits of those that are lost.

use super::{View, Worker};
use crate::crew::{Dealt, Hand, Part, Range, Taken, missed};
use crate::streams::{Changes, Streams};
use crate::{Error, Result};
use arrow::array::RecordBatch;
use kaplan_base::Lsn;
use kaplan_circuit::Clocks;
use kaplan_log::{Commit, Log};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The changes of a step.
pub(super) struct Deal {
    pub all: Changes,
    /// Those that are nobody else's, for views that are split; None: all.
    pub own: Option<Changes>,
}

impl Deal {
    pub fn of(&self, view: &View) -> &Changes {
        self.own.as_ref().filter(|_| view.split).unwrap_or(&self.all)
    }
}

/// Takes in commits of shares that were another's.
fn take_in(
    views: &mut BTreeMap<String, View>,
    (log, streams): (&dyn Log, &Streams),
    range: &mut Range,
    lsn: Lsn,
) -> Result<()> {
    while range.since < range.through {
        let read = missed(log, &range.shares, (range.since, range.through));
        let read = read.and_then(|(commits, last)| Ok((streams.decode(&commits)?, last)));
        let (deltas, last) = match read {
            Err(error @ Error::Log(kaplan_log::Error::Io { .. })) => return Err(error),
            // What the log does not hold any more, only a replay brings back.
            Err(error) => {
                for (name, view) in of_range(views, range) {
                    view.fail(name, &error, lsn);
                }
                return Ok(());
            }
            Ok(read) => read,
        };
        for (name, view) in of_range(views, range) {
            view.step(name, &deltas, lsn, &Clocks::default());
        }
        range.since = last;
    }
    Ok(())
}

/// The views that lack a range's commits.
fn of_range<'a>(
    views: &'a mut BTreeMap<String, View>,
    range: &Range,
) -> impl Iterator<Item = (&'a String, &'a mut View)> {
    let wanted = Arc::clone(&range.views);
    views.iter_mut().filter(move |(name, view)| {
        wanted.iter().any(|(n, version)| n == *name && *version == view.version)
    })
}

impl Worker {
    /// The changes that views get here.
    pub(super) fn deal(&self, commits: &[Commit]) -> Result<Deal> {
        if self.hands.is_empty() {
            return Ok(Deal { all: self.streams.decode(commits)?, own: None });
        }
        let others = |lsn| self.hands.iter().any(|taken| taken.range.shares.have(lsn));
        let own: Vec<Commit> = commits.iter().filter(|c| !others(c.lsn)).cloned().collect();
        let all = match self.views.values().all(|view| view.split) {
            true => Changes::new(),
            false => self.streams.decode(commits)?,
        };
        Ok(Deal { all, own: Some(self.streams.decode(&own)?) })
    }

    /// Takes in what the hands have, and what those had that are gone. False while the log cannot be
    /// read for these.
    pub(super) fn collect(&mut self) -> bool {
        let has_some = self.hands.iter().any(Taken::has_some);
        if has_some {
            self.hands.iter().filter(|t| t.has_some()).for_each(|t| t.hand.give());
            for mut taken in std::mem::take(&mut self.hands) {
                let given = if taken.has_some() { taken.hand.given() } else { Ok(Vec::new()) };
                match given.and_then(|parts| self.put_in(&parts)) {
                    Ok(()) => {
                        taken.range.since = taken.told;
                        self.hands.push(taken);
                    }
                    Err(reason) => self.lose(taken, &reason),
                }
            }
        }
        let missing = !self.lost.is_empty();
        while let Some(range) = self.lost.front_mut() {
            match take_in(&mut self.views, (&*self.log, &self.streams), range, self.position) {
                Ok(()) => drop(self.lost.pop_front()),
                Err(error) => {
                    tracing::error!(%error, after = range.since.0, "commits cannot be read again");
                    break;
                }
            }
        }
        if has_some || missing {
            self.publish();
            self.tell();
        }
        self.lost.is_empty()
    }

    /// Adds what a hand has given. Nothing of it, if some of it is of no view that is here.
    fn put_in(&mut self, parts: &[Part]) -> std::result::Result<(), String> {
        for Part { view: (name, version), rows } in parts {
            let view = self.views.get(name).filter(|view| view.version == *version && view.split);
            let fits = view.is_some_and(|view| match &view.circuit {
                Some(circuit) => circuit.takes(rows),
                // A view that has stopped takes nothing, and is replayed.
                None => true,
            });
            if !fits {
                return Err(format!("what it gave is not of view {name}, version {version}"));
            }
        }
        for Part { view: (name, _), rows } in parts {
            if let Some(view) = self.views.get_mut(name) {
                view.put_in(name, rows.clone());
            }
        }
        Ok(())
    }

    /// The commits of a hand that is gone become the driver's.
    fn lose(&mut self, taken: Taken, reason: &str) {
        let (name, Range { since, .. }) = (taken.hand.name(), &taken.range);
        tracing::warn!(
            worker = name,
            reason,
            after = since.0,
            to = taken.told.0,
            "a worker is lost; its commits are taken in here"
        );
        if taken.has_some() {
            self.lost.push_back(Range { through: taken.told, ..taken.range });
        }
    }

    /// Lets go of hands that are gone or have other shares now, and deals shares to those who are new.
    pub(super) fn muster(&mut self) {
        let Some(crew) = self.crew.clone() else { return };
        let stays = |taken: &Taken| taken.hand.shares().as_ref() == Some(&taken.range.shares);
        let changed = !self.hands.iter().all(stays);
        let full = self.hands.iter().any(|taken| taken.hand.is_full());
        if (full || changed) && !self.collect() {
            return;
        }
        if changed {
            self.hands.retain(stays);
        }
        let before = self.hands.len();
        self.take_on(&crew.hands());
        if changed || self.hands.len() != before {
            self.tell();
        }
    }

    /// Says who has what.
    fn tell(&self) {
        let Some(crew) = &self.crew else { return };
        let dealt = self.hands.iter().map(|taken| Dealt {
            name: taken.hand.name(),
            shares: &taken.range.shares,
            since: taken.range.since,
        });
        crew.dealt(&dealt.collect::<Vec<_>>());
    }

    /// Gives those who have none the shares that nobody else has.
    fn take_on(&mut self, there: &[Arc<dyn Hand>]) {
        let split = self.views.iter().filter(|(_, view)| view.split && view.circuit.is_some());
        let views: Arc<[_]> = split.map(|(name, view)| (name.clone(), view.version)).collect();
        if views.is_empty() {
            return;
        }
        for hand in there {
            if self.hands.iter().any(|taken| Arc::ptr_eq(hand, &taken.hand)) {
                continue;
            }
            let Some(shares) = hand.shares().filter(|shares| !shares.these.is_empty()) else {
                continue;
            };
            // Until the one that has a share knows that it is another's, it stays with that one.
            let meets = |taken: &Taken| {
                let theirs = &taken.range.shares;
                theirs.of != shares.of || !theirs.these.is_disjoint(&shares.these)
            };
            if self.hands.iter().any(meets) {
                continue;
            }
            hand.begin(self.position, &shares, &views);
            let (since, through) = (self.position, self.position);
            let range = Range { shares, since, through, views: Arc::clone(&views) };
            self.hands.push(Taken { hand: Arc::clone(hand), range, told: self.position });
        }
    }
}

impl View {
    /// Adds what another one has made of its commits.
    fn put_in(&mut self, name: &str, rows: RecordBatch) {
        let Some(circuit) = &mut self.circuit else { return };
        match circuit.put_in(rows) {
            Ok(()) => self.refresh(true),
            Err(error) => self.fail(name, &error.into(), self.lsn),
        }
    }
}
