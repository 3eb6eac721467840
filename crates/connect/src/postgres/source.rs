//! The connector `postgres-cdc`: tables are copied as of one position of PostgreSQL's log, and then
//! its transactions are followed from there.
//!
//! ```text
//! open    slot and publication are made or found; a transaction is begun that sees the tables that
//!         are not here yet as of S
//! follow  from the position that is durable up to S (the other tables then stand exactly there)
//! copy    the tables as of S, as one commit where they fit into one
//! follow  from S on
//! ```
//!
//! More tables than the name of a split can hold are copied one set after another: the source is opened
//! again between them.
//!
//! Whatever makes a table's changes incomplete (the slot was lost, the table was dropped and made
//! again, taken out of the publication, or had columns that did not fit for a while) ends in the
//! same way: it is copied again, and its rows here become those that it has. So the tables always
//! become what they are upstream. One table's trouble does not hold up the others.

use super::catalog::{self, Table as Upstream};
use super::copy::Copy;
use super::options::Options;
use super::pgoutput::{Begin, decode, unix_us};
use super::session::{self, Session};
use super::splits::{COPIED, Copied, Splits, Standing, wal};
use super::transaction::{COPY_INSTEAD, Table, Transactions};
use crate::source::{
    Discovered, Grown, Lag, MAX_PARCEL_BYTES, MAX_PARCEL_ROWS, POLL_WAIT, Parcel, Positions,
    Rejected, Source, Spec, Target,
};
use crate::{Error, Result, drift};
use async_trait::async_trait;
use futures::FutureExt;
use kaplan_sql::catalog::ColumnDef;
use pgwire_replication::{Lsn, ReplicationClient, ReplicationEvent};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How often the tables are looked at: whether they are still those that are followed.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// How often a position without changes is kept, so that the server may remove its log.
const IDLE_POSITION_EVERY: Duration = Duration::from_secs(10);
/// The server asks for a sign of life every 15 s; silence longer than this is a dead connection.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a slot that is still in use is waited for when the source is dropped.
const SLOT_RELEASE: Duration = Duration::from_secs(10);

/// A table of the source.
#[derive(Clone, Debug)]
struct Wanted {
    target: usize,
    stream: u32,
    schema: String,
    name: String,
    spec: Target,
    /// Why it is not followed.
    waits: Option<String>,
}

/// What is done at the moment.
enum Phase {
    /// Not connected.
    Closed,
    /// Up to the position of a copy that is to come.
    CatchUp(Box<Copy>),
    /// Copying.
    Copying(Box<Copy>),
    /// Following.
    Following,
}

/// The connector.
pub struct Postgres {
    options: Options,
    wanted: Vec<Wanted>,
    phase: Phase,
    client: Option<ReplicationClient>,
    life: u32,
    splits: Splits,
    transactions: Transactions,
    /// The last position that was given to the runner.
    given: u64,
    given_at: Instant,
    /// A transaction that begins after the position of the copy.
    held: Option<Begin>,
    /// The log's end, as far as known.
    end: u64,
    heard: Instant,
    looked: Instant,
    asked: bool,
    /// There are tables to copy that were too many for one copy.
    more: bool,
    /// Columns that tables have more upstream.
    grown: Vec<Grown>,
}

impl Postgres {
    /// Reads the definition.
    ///
    /// # Errors
    /// It is wrong: an option, or a table without a primary key.
    pub fn new(spec: Spec) -> Result<Postgres> {
        let options = Options::read(&spec.def.name, &spec.def.options)?;
        if let Some(format) = &spec.def.format {
            let plain = matches!(
                (format.form.as_str(), format.encode.as_str()),
                ("plain" | "debezium", "json" | "native")
            );
            if !plain {
                let message = "postgres-cdc has no formats: rows have the types of their tables";
                return Err(Error::config(message).hint("leave FORMAT .. ENCODE .. out"));
            }
        }
        if spec.def.table && options.table.is_none() {
            return Err(Error::config("postgres-cdc needs the option table.name")
                .hint("write table.name = 'public.orders'"));
        }
        let mut wanted = Vec::with_capacity(spec.targets.len());
        for (at, target) in spec.targets.into_iter().enumerate() {
            if target.primary_key.is_empty() {
                let message = format!("{} has no primary key", target.name);
                return Err(Error::config(message)
                    .hint("declare the one of the upstream table: PRIMARY KEY (id)"));
            }
            let written = target.upstream.clone().or_else(|| options.table.clone());
            let (schema, name) = options.table_name(&written.unwrap_or_default());
            let stream = spec.def.targets.get(at).map_or(0, |t| t.stream.0);
            wanted.push(Wanted { target: at, stream, schema, name, spec: target, waits: None });
        }
        let now = Instant::now();
        Ok(Postgres {
            options,
            wanted,
            phase: Phase::Closed,
            client: None,
            life: 0,
            splits: Splits::default(),
            transactions: Transactions::new(Vec::new(), 0),
            given: 0,
            given_at: now,
            held: None,
            end: 0,
            heard: now,
            looked: now,
            asked: false,
            more: false,
            grown: Vec::new(),
        })
    }

    /// The slot's life and where to go on in it; true when it is a new one.
    async fn slot(&self, session: &mut Session) -> Result<(u32, u64, bool)> {
        let slot = catalog::slot(session, &self.options).await?;
        let name = &self.options.slot;
        let known = self.splits.wal;
        let next = known.map_or(1, |(life, _)| life + 1);
        let anew = |why: &str| {
            if known.is_some() {
                tracing::warn!(slot = name, "{why}: the tables are copied again");
            }
        };
        let slot = match slot {
            Some(slot) if slot.lost => {
                anew("the server removed log that the slot needs");
                catalog::drop_slot(session, name).await?;
                None
            }
            None => {
                anew("the slot is gone");
                None
            }
            slot => slot,
        };
        match (slot, known) {
            (None, _) => Ok((next, catalog::make_slot(session, &self.options).await?, true)),
            (Some(slot), None) => Ok((next, slot.confirmed, true)),
            (Some(slot), Some((_, position))) if slot.confirmed > position => {
                anew("the slot was moved by somebody else");
                Ok((next, slot.confirmed, true))
            }
            (Some(slot), Some((_, position))) if self.end < position => {
                anew("the server went back in time");
                Ok((next, slot.confirmed, true))
            }
            (Some(_), Some((life, position))) => Ok((life, position, false)),
        }
    }

    /// The columns that tables have more upstream, where they are to be added here, with the numbers
    /// of the tables.
    async fn added(&self, session: &mut Session) -> Result<Vec<(Copied, Grown)>> {
        let mut added = Vec::new();
        for wanted in self.wanted.iter().filter(|_| self.options.evolve) {
            let Ok(Some(table)) = catalog::table(session, &wanted.schema, &wanted.name).await
            else {
                // What is wrong with it is told where it is followed.
                continue;
            };
            let new = |c: &&catalog::Column| {
                !c.generated && drift::refusal(&wanted.spec, &c.name).is_none()
            };
            let room = drift::MAX_EVOLVED_COLUMNS.saturating_sub(wanted.spec.columns.len());
            let columns = table.columns.iter().filter(new).take(room);
            let column =
                |c: &catalog::Column| ColumnDef::new(&c.name, catalog::type_here(&c.sql_type));
            let grown = Grown { target: wanted.target, columns: columns.map(column).collect() };
            if !grown.columns.is_empty() {
                added.push((Copied { stream: wanted.stream, oid: table.oid }, grown));
            }
        }
        Ok(added)
    }

    /// Has columns added before anything is read, and the tables copied again: upstream, rows that
    /// were there may have a value in a new column.
    fn grow(&mut self, added: Vec<(Copied, Grown)>) -> Positions {
        let mut stale = Positions::new();
        for (table, grown) in added {
            self.grown.push(grown);
            let Some((life, _)) = self.splits.wal else { continue };
            if matches!(self.splits.standing(life, table.stream), Standing::Copied { .. }) {
                stale.insert(self.splits.stale(life, table), 1);
            }
        }
        stale
    }

    /// Looks at the tables: those to follow, and those to copy first; splits that begin with it.
    async fn tables(
        &mut self,
        session: &mut Session,
        begun: &mut Positions,
    ) -> Result<(Vec<Table>, Vec<(Copied, usize, Vec<String>)>)> {
        let published = match catalog::published(session, &self.options).await? {
            Some(published) => published,
            None => {
                catalog::make_publication(session, &self.options).await?;
                catalog::Published { all: false, tables: BTreeSet::new(), partial: BTreeSet::new() }
            }
        };
        let (mut tables, mut copies) = (Vec::new(), Vec::new());
        for at in 0..self.wanted.len() {
            let wanted = self.wanted[at].clone();
            let standing = self.splits.standing(self.life, wanted.stream);
            let copied_before = self.splits.was_copied(wanted.stream);
            let found = look(session, &wanted, &published, copied_before).await?;
            let mut fresh = false;
            let found = match found {
                Ok(table) if published.all || published.tables.contains(&table.oid) => Ok(table),
                Ok(table) => {
                    fresh = true;
                    let added = catalog::publish(session, &self.options, &table).await;
                    added.map(|()| table).map_err(|e| e.to_string())
                }
                Err(reason) => Err(reason),
            };
            self.wanted[at].waits = found.as_ref().err().cloned();
            let table = match found {
                Ok(table) => table,
                Err(reason) => {
                    tracing::warn!(table = wanted.spec.name, reason, "a table waits");
                    if let Standing::Copied { oid, .. } = standing {
                        let copied = Copied { stream: wanted.stream, oid };
                        begun.insert(self.splits.stale(self.life, copied), 1);
                    }
                    continue;
                }
            };
            let since = match standing {
                Standing::Copied { oid, at } if oid == table.oid && !fresh => Some(at),
                _ => None,
            };
            let columns = columns_of(&wanted.spec, &table);
            if since.is_none() {
                let copied = Copied { stream: wanted.stream, oid: table.oid };
                copies.push((copied, tables.len(), columns));
            }
            tables.push(followed(&wanted, &table, since));
        }
        Ok((tables, copies))
    }

    /// Takes what the server sends until there is enough, or nothing more at the moment.
    async fn pull(&mut self, until: Option<u64>) -> Result<bool> {
        let deadline = Instant::now() + POLL_WAIT;
        let mut first = true;
        loop {
            let Some(client) = &mut self.client else {
                return Err(Error::unavailable("the source is not connected"));
            };
            let received = match first {
                true => tokio::time::timeout_at(deadline.into(), client.recv()).await.ok(),
                false => client.recv().now_or_never(),
            };
            first = false;
            let event = match received {
                None => break,
                Some(Ok(Some(event))) => event,
                Some(Ok(None)) => return Err(Error::unavailable("PostgreSQL ended the stream")),
                Some(Err(error)) => return Err(session::classified(error)),
            };
            self.heard = Instant::now();
            if self.take(event, until)? {
                return Ok(true);
            }
            let (bytes, rows) = self.transactions.waiting();
            let full = bytes >= MAX_PARCEL_BYTES || rows >= MAX_PARCEL_ROWS;
            if !self.transactions.is_open() && full {
                break;
            }
        }
        if self.heard.elapsed() > SILENCE {
            let seconds = SILENCE.as_secs();
            return Err(Error::unavailable(format!("PostgreSQL was silent for {seconds} s")));
        }
        Ok(false)
    }

    /// Takes one event; true when everything before `until` is done.
    fn take(&mut self, event: ReplicationEvent, until: Option<u64>) -> Result<bool> {
        let reached = |position: u64| until.is_some_and(|until| position >= until);
        match event {
            ReplicationEvent::Begin { final_lsn, xid, commit_time_micros } => {
                let commit_time_us = unix_us(commit_time_micros);
                let begin = Begin { final_lsn: final_lsn.0, commit_time_us, xid };
                if reached(begin.final_lsn) {
                    self.held = Some(begin);
                    return Ok(true);
                }
                self.transactions.begin(begin);
            }
            ReplicationEvent::XLogData { data, .. } => {
                let message = decode(data).map_err(|e| {
                    Error::unavailable(format!("PostgreSQL sent what is no message: {e}"))
                })?;
                self.transactions.change(message)?;
            }
            ReplicationEvent::Commit { end_lsn, .. } => {
                self.transactions.commit(end_lsn.0);
                self.end = self.end.max(end_lsn.0);
                return Ok(reached(end_lsn.0));
            }
            ReplicationEvent::KeepAlive { wal_end, reply_requested, .. } => {
                self.end = self.end.max(wal_end.0);
                self.asked |= reply_requested;
                if !self.transactions.is_open() {
                    self.transactions.advance(wal_end.0.min(until.unwrap_or(u64::MAX)));
                    return Ok(reached(wal_end.0));
                }
            }
            ReplicationEvent::Message { .. } | ReplicationEvent::StoppedAt { .. } => {}
        }
        Ok(false)
    }

    /// What is ready, as parcels.
    fn parcels(&mut self, now: bool) -> Result<Vec<Parcel>> {
        let mut parcels = Vec::new();
        for (at, reason) in self.transactions.take_suspended() {
            parcels.extend(self.suspend(at, reason));
        }
        if !parcels.is_empty() {
            // That they missed something is durable before the position is that misses it.
            return Ok(parcels);
        }
        let position = self.transactions.position();
        if self.transactions.is_open() || position <= self.given {
            return Ok(parcels);
        }
        let (changes, rejected) = self.transactions.take_changes()?;
        let idle = changes.is_empty() && rejected.is_empty();
        let due = now || self.asked || self.given_at.elapsed() >= IDLE_POSITION_EVERY;
        if idle && !due {
            return Ok(parcels);
        }
        (self.given, self.given_at, self.asked) = (position, Instant::now(), false);
        parcels.push(Parcel { split: wal(self.life), position, changes, rejected });
        Ok(parcels)
    }

    /// A table whose changes cannot be read any more; it is copied again once they can.
    fn suspend(&mut self, at: usize, reason: String) -> Option<Parcel> {
        let table = self.transactions.tables_mut().get(at)?.clone();
        let wanted = self.wanted.iter_mut().find(|w| w.target == table.target)?;
        tracing::warn!(table = table.name, reason, "a table is not followed any more");
        wanted.waits = Some(reason.clone());
        let copied = Copied { stream: wanted.stream, oid: table.oid };
        let split = self.splits.stale(self.life, copied);
        let reason = format!("{}: {reason}; it is copied again when it fits", table.name);
        let rejected = Rejected { position: 1, reason, ..Rejected::default() };
        Some(Parcel { rejected: vec![rejected], ..Parcel::at(split, 1) })
    }

    /// The next part of a copy; after the last one the tables are followed.
    async fn copying(&mut self, mut copy: Box<Copy>) -> Result<Vec<Parcel>> {
        let (parcel, last) = copy.next(self.transactions.tables_mut()).await?;
        if !last {
            self.phase = Phase::Copying(copy);
            return Ok(vec![parcel]);
        }
        for (at, _) in &copy.tables {
            if let Some(table) = self.transactions.tables_mut().get_mut(*at) {
                table.since = Some(copy.at);
            }
        }
        self.splits.done(&copy.split, copy.at);
        if let Some(begin) = self.held.take() {
            self.transactions.begin(begin);
        }
        self.heard = Instant::now();
        self.phase = Phase::Following;
        let wanted = &self.wanted;
        let waits = |t: &Table| wanted.iter().any(|w| w.target == t.target && w.waits.is_some());
        self.more = self.transactions.tables_mut().iter().any(|t| t.since.is_none() && !waits(t));
        Ok(vec![parcel])
    }

    /// Looks whether the tables are still those that are followed, and where the log ends.
    async fn look_again(&mut self) -> Result<()> {
        self.looked = Instant::now();
        let mut session = Session::open(&self.options).await?;
        self.end = self.end.max(catalog::check_server(&mut session).await?);
        if let Some((_, grown)) = self.added(&mut session).await?.first() {
            let names: Vec<&str> = grown.columns.iter().map(|c| c.name.as_str()).collect();
            let names = names.join(", ");
            let message = format!("columns were added upstream: {names}; looking again");
            return Err(Error::unavailable(message));
        }
        let Some(published) = catalog::published(&mut session, &self.options).await? else {
            return Err(Error::unavailable(format!(
                "the publication {} was dropped",
                self.options.publication
            )));
        };
        for at in 0..self.wanted.len() {
            let wanted = self.wanted[at].clone();
            let copied_before = self.splits.was_copied(wanted.stream);
            let found = look(&mut session, &wanted, &published, copied_before).await?;
            let known =
                self.transactions.tables_mut().iter().find(|t| t.target == wanted.target).cloned();
            let changed = match (&found, known.filter(|_| wanted.waits.is_none())) {
                (Ok(table), Some(known)) => {
                    table.oid != known.oid
                        || !(published.all || published.tables.contains(&table.oid))
                }
                (Ok(_), None) => true,
                (Err(_), followed) => followed.is_some(),
            };
            if changed {
                let name = &wanted.spec.name;
                return Err(Error::unavailable(format!(
                    "{name} was changed upstream; looking again"
                )));
            }
            if let Err(reason) = found {
                self.wanted[at].waits = Some(reason);
            }
        }
        Ok(())
    }
}

/// A table upstream, or why it cannot be followed.
async fn look(
    session: &mut Session,
    wanted: &Wanted,
    published: &catalog::Published,
    copied_before: bool,
) -> Result<std::result::Result<Upstream, String>> {
    let (schema, name) = (&wanted.schema, &wanted.name);
    let table = match catalog::table(session, schema, name).await {
        Ok(Some(table)) => table,
        Ok(None) => return Ok(Err(format!("there is no table {schema}.{name} upstream"))),
        Err(error) if error.kind == crate::Kind::Refused => return Ok(Err(error.to_string())),
        Err(error) => return Err(error),
    };
    if published.partial.contains(&table.oid) {
        let reason = format!("the publication has only some rows or columns of {schema}.{name}");
        return Ok(Err(reason));
    }
    Ok(match misfit(&wanted.spec, &table, copied_before) {
        Some(reason) => Err(reason),
        None => Ok(table),
    })
}

/// Why a table upstream cannot fill the one that is declared.
fn misfit(target: &Target, table: &Upstream, copied_before: bool) -> Option<String> {
    let there = format!("{}.{}", table.schema, table.name);
    let key: BTreeSet<String> = target.primary_key.iter().cloned().collect();
    for field in target.schema.fields() {
        let name = field.name();
        match table.columns.iter().find(|c| c.name == *name) {
            Some(column) if column.generated => {
                return Some(format!(
                    "column \"{name}\" of {there} is generated and not replicated; generate it here"
                ));
            }
            Some(_) => {}
            None if !field.is_nullable() || key.contains(name) || !copied_before => {
                return Some(format!("{there} has no column \"{name}\""));
            }
            // A column that was dropped later is NULL from then on.
            None => {}
        }
    }
    let upstream: BTreeSet<String> = table.key.iter().cloned().collect();
    let by = if table.full_identity { &upstream } else { &table.identity };
    let matches = *by == key || (table.full_identity && upstream.is_empty());
    let listed = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    (!matches).then(|| match by.is_empty() {
        true => format!("{there} has no primary key; ALTER TABLE .. REPLICA IDENTITY FULL"),
        false => {
            let (ours, theirs) = (listed(&key), listed(by));
            format!("the primary key of {} is ({ours}), that of {there} ({theirs})", target.name)
        }
    })
}

/// The declared columns that a table has, in its own spelling.
fn columns_of(target: &Target, table: &Upstream) -> Vec<String> {
    let declared = target.schema.fields().iter().map(|f| f.name());
    declared.filter(|name| table.columns.iter().any(|c| c.name == **name)).cloned().collect()
}

fn followed(wanted: &Wanted, table: &Upstream, since: Option<u64>) -> Table {
    Table {
        target: wanted.target,
        name: wanted.spec.name.clone(),
        upstream: format!("{}.{}", session::ident(&table.schema), session::ident(&table.name)),
        oid: table.oid,
        schema: wanted.spec.schema.clone(),
        key: wanted.spec.key(),
        since,
    }
}

#[async_trait]
impl Source for Postgres {
    async fn discover(&mut self, upstream: Option<&str>) -> Result<Discovered> {
        let written = upstream.map(str::to_owned).or_else(|| self.options.table.clone());
        let (schema, name) = self.options.table_name(&written.unwrap_or_default());
        let mut session = Session::open(&self.options).await?;
        catalog::check_server(&mut session).await?;
        let Some(table) = catalog::table(&mut session, &schema, &name).await? else {
            return Err(Error::config(format!("there is no table {schema}.{name} upstream"))
                .hint("name it with its schema, as PostgreSQL spells it"));
        };
        if table.key.is_empty() {
            let message = format!("{schema}.{name} has no primary key");
            return Err(Error::config(message).hint("declare the columns with a PRIMARY KEY here"));
        }
        let columns = table.columns.iter().filter(|c| !c.generated && !c.name.starts_with('_'));
        let column = |c: &catalog::Column| {
            let mut column = ColumnDef::new(&c.name, catalog::type_here(&c.sql_type));
            column.nullable = c.nullable && !table.key.contains(&c.name);
            column
        };
        Ok(Discovered { columns: columns.map(column).collect(), primary_key: table.key.clone() })
    }

    async fn open(&mut self, committed: &Positions) -> Result<Positions> {
        (self.phase, self.held, self.client, self.more) = (Phase::Closed, None, None, false);
        let mut session = Session::open(&self.options).await?;
        self.end = catalog::check_server(&mut session).await?;
        self.looked = Instant::now();
        let mut begun = Positions::new();
        if self.wanted.is_empty() {
            return Ok(begun);
        }
        self.splits = Splits::read(committed);
        let added = self.added(&mut session).await?;
        if !added.is_empty() {
            return Ok(self.grow(added));
        }
        let (life, mut position, new) = self.slot(&mut session).await?;
        self.life = life;
        let (tables, copies) = self.tables(&mut session, &mut begun).await?;
        if let (true, Some(reason)) =
            (tables.is_empty(), self.wanted.iter().find_map(|w| w.waits.clone()))
        {
            return Err(Error::unavailable(reason).hint("it is looked for from time to time"));
        }
        self.phase = Phase::Following;
        if !copies.is_empty() {
            let mut set: Vec<Copied> = copies.iter().map(|(copied, ..)| *copied).collect();
            let (split, part) = self.splits.copy(life, &mut set);
            if part.is_none() {
                begun.insert(split.clone(), 1);
            }
            let all = copies.len() == tables.len() && set.len() == copies.len();
            let copies = copies.into_iter().take(set.len());
            let copies = copies.map(|(_, at, columns)| (at, columns)).collect();
            let name = (split, part.unwrap_or(1));
            let copy = Copy::begin(session, &self.options, name, copies).await?;
            if new && all {
                // Nothing is followed yet, so there is nothing before the copy.
                position = copy.at;
            }
            self.phase = Phase::CatchUp(Box::new(copy));
        }
        if new {
            begun.insert(wal(life), position);
        }
        self.client = Some(session::stream(&self.options, position).await?);
        let transactions = Transactions::new(tables, position);
        self.transactions = transactions.may_split(!self.options.transactional);
        self.given = position;
        (self.given_at, self.heard, self.asked) = (Instant::now(), Instant::now(), false);
        Ok(begun)
    }

    fn grown(&mut self) -> Vec<Grown> {
        std::mem::take(&mut self.grown)
    }

    async fn poll(&mut self) -> Result<Vec<Parcel>> {
        if !self.grown.is_empty() {
            return Ok(Vec::new());
        }
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Closed if self.wanted.is_empty() => {
                tokio::time::sleep(POLL_WAIT).await;
                Ok(Vec::new())
            }
            Phase::Closed => Err(Error::unavailable("the source is not connected")),
            Phase::CatchUp(copy) => {
                let until = copy.at;
                let reached =
                    self.transactions.position() >= until || self.pull(Some(until)).await?;
                if reached {
                    self.transactions.advance(until);
                }
                let parcels = self.parcels(reached)?;
                let all = reached && self.given >= until;
                self.phase = match all {
                    true => Phase::Copying(copy),
                    false => Phase::CatchUp(copy),
                };
                Ok(parcels)
            }
            Phase::Copying(copy) => self.copying(copy).await,
            Phase::Following if self.more => {
                Err(Error::unavailable("the next tables are to be copied"))
            }
            Phase::Following => {
                self.pull(None).await?;
                let wider = self.transactions.take_wider() && self.options.evolve;
                if wider || self.looked.elapsed() >= LOOK_EVERY {
                    self.look_again().await?;
                }
                self.phase = Phase::Following;
                self.parcels(false)
            }
        }
    }

    async fn committed(&mut self, split: &str, position: u64) -> Result<()> {
        if let Some(client) = self.client.as_ref().filter(|_| split == wal(self.life)) {
            client.update_applied_lsn(Lsn(position));
        }
        Ok(())
    }

    fn too_large(&mut self, split: &str, targets: &BTreeSet<usize>) -> Result<Vec<Parcel>> {
        let named = self.wanted.iter().filter(|w| targets.contains(&w.target));
        let names: Vec<&str> = named.map(|w| w.spec.name.as_str()).collect();
        let reason = format!(
            "one transaction changes {} in more rows than one commit holds with their old values",
            names.join(", ")
        );
        if split != wal(self.life) {
            let message = format!("a part of {split} is too much for one commit");
            return Err(Error::new(crate::Kind::Refused, message));
        }
        if self.options.transactional {
            return Err(Error::new(crate::Kind::Refused, reason).hint(COPY_INSTEAD));
        }
        let tables = self.transactions.tables_mut().iter().enumerate();
        let at: Vec<usize> =
            tables.filter(|(_, t)| targets.contains(&t.target)).map(|(at, _)| at).collect();
        Ok(at.into_iter().filter_map(|at| self.suspend(at, reason.clone())).collect())
    }

    fn lag(&self) -> Option<Lag> {
        let amount = self.end.saturating_sub(self.given);
        Some(Lag { amount, unit: "bytes" }).filter(|_| !self.wanted.is_empty())
    }

    fn note(&self) -> Option<String> {
        let waiting = self.wanted.iter().filter_map(|w| w.waits.clone());
        let waiting: Vec<String> = waiting.collect();
        (!waiting.is_empty()).then(|| waiting.join("; "))
    }

    async fn dropped(&mut self) -> Result<()> {
        (self.phase, self.client) = (Phase::Closed, None);
        let began = Instant::now();
        loop {
            let mut session = Session::open(&self.options).await?;
            match catalog::drop_slot(&mut session, &self.options.slot).await {
                Err(_) if began.elapsed() < SLOT_RELEASE => {
                    tokio::time::sleep(POLL_WAIT).await;
                }
                Err(error) => {
                    let slot = &self.options.slot;
                    let message = format!("the slot {slot} is still there: {}", error.message);
                    return Err(Error::unavailable(message).hint(format!(
                        "SELECT pg_drop_replication_slot('{slot}'), or the server keeps its log"
                    )));
                }
                Ok(()) => return Ok(()),
            }
        }
    }
}

/// Positions of copies are below those of the log, which begins at this one.
const _: () = assert!(COPIED == 0x0100_0000);
