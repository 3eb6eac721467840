//! Events as Arrow batches, one a kind, with the columns of `streams.sql`; none is NULL.

use crate::event::Event;
use arrow::array::{
    ArrayRef, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use std::sync::Arc;

/// The three streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `person`
    Person,
    /// `auction`
    Auction,
    /// `bid`
    Bid,
}

const INT: DataType = DataType::Int64;
const TEXT: DataType = DataType::Utf8;
const TIME: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

const PERSON: &[(&str, DataType)] = &[
    ("id", INT),
    ("name", TEXT),
    ("email_address", TEXT),
    ("credit_card", TEXT),
    ("city", TEXT),
    ("state", TEXT),
    ("date_time", TIME),
    ("extra", TEXT),
];
const AUCTION: &[(&str, DataType)] = &[
    ("id", INT),
    ("item_name", TEXT),
    ("description", TEXT),
    ("initial_bid", INT),
    ("reserve", INT),
    ("date_time", TIME),
    ("expires", TIME),
    ("seller", INT),
    ("category", INT),
    ("extra", TEXT),
];
const BID: &[(&str, DataType)] = &[
    ("auction", INT),
    ("bidder", INT),
    ("price", INT),
    ("channel", TEXT),
    ("url", TEXT),
    ("date_time", TIME),
    ("extra", TEXT),
];

impl Kind {
    /// All kinds, in the order in which an auction refers to a person and a bid to both.
    pub const ALL: [Kind; 3] = [Kind::Person, Kind::Auction, Kind::Bid];

    /// The stream's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Person => "person",
            Kind::Auction => "auction",
            Kind::Bid => "bid",
        }
    }

    /// The stream's columns.
    #[must_use]
    pub fn schema(self) -> SchemaRef {
        let columns = match self {
            Kind::Person => PERSON,
            Kind::Auction => AUCTION,
            Kind::Bid => BID,
        };
        let field = |(name, kind): &(&str, DataType)| Field::new(*name, kind.clone(), false);
        Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
    }
}

/// A range of events.
#[derive(Clone, Debug)]
pub struct Batches {
    /// The persons among them.
    pub person: RecordBatch,
    /// The auctions among them.
    pub auction: RecordBatch,
    /// The bids among them.
    pub bid: RecordBatch,
}

impl Batches {
    /// The batch of one kind.
    #[must_use]
    pub fn of_kind(&self, kind: Kind) -> &RecordBatch {
        match kind {
            Kind::Person => &self.person,
            Kind::Auction => &self.auction,
            Kind::Bid => &self.bid,
        }
    }

    pub(crate) fn of(events: impl Iterator<Item = Event>) -> Result<Self, ArrowError> {
        let mut columns = Kind::ALL.map(Columns::new);
        for event in events {
            let [person, auction, bid] = &mut columns;
            match event {
                Event::Person(p) => {
                    person.int(0, p.id.cast_signed());
                    person.texts(1, &[&p.name, &p.email_address, &p.credit_card, p.city, p.state]);
                    person.time(6, p.date_time_us);
                    person.text(7, &p.extra);
                }
                Event::Auction(a) => {
                    auction.int(0, a.id.cast_signed());
                    auction.texts(1, &[&a.item_name, &a.description]);
                    auction.int(3, a.initial_bid);
                    auction.int(4, a.reserve);
                    auction.time(5, a.date_time_us);
                    auction.time(6, a.expires_us);
                    auction.int(7, a.seller.cast_signed());
                    auction.int(8, a.category.cast_signed());
                    auction.text(9, &a.extra);
                }
                Event::Bid(b) => {
                    bid.int(0, b.auction.cast_signed());
                    bid.int(1, b.bidder.cast_signed());
                    bid.int(2, b.price);
                    bid.texts(3, &[&b.channel, &b.url]);
                    bid.time(5, b.date_time_us);
                    bid.text(6, &b.extra);
                }
            }
        }
        let [person, auction, bid] = columns.map(Columns::finish);
        Ok(Batches { person: person?, auction: auction?, bid: bid? })
    }
}

enum Column {
    Int(Int64Builder),
    Text(StringBuilder),
    Time(TimestampMicrosecondBuilder),
}

struct Columns {
    schema: SchemaRef,
    columns: Vec<Column>,
}

impl Columns {
    fn new(kind: Kind) -> Self {
        let schema = kind.schema();
        let column = |data_type: &DataType| match data_type {
            DataType::Utf8 => Column::Text(StringBuilder::new()),
            DataType::Int64 => Column::Int(Int64Builder::new()),
            _ => Column::Time(TimestampMicrosecondBuilder::new()),
        };
        let columns = schema.fields().iter().map(|f| column(f.data_type())).collect();
        Self { schema, columns }
    }

    fn int(&mut self, at: usize, value: i64) {
        if let Some(Column::Int(column)) = self.columns.get_mut(at) {
            column.append_value(value);
        }
    }

    fn time(&mut self, at: usize, value: i64) {
        if let Some(Column::Time(column)) = self.columns.get_mut(at) {
            column.append_value(value);
        }
    }

    fn text(&mut self, at: usize, value: &str) {
        if let Some(Column::Text(column)) = self.columns.get_mut(at) {
            column.append_value(value);
        }
    }

    fn texts(&mut self, from: usize, values: &[&str]) {
        for (at, value) in values.iter().enumerate() {
            self.text(from + at, value);
        }
    }

    fn finish(self) -> Result<RecordBatch, ArrowError> {
        let array = |column: Column| -> ArrayRef {
            match column {
                Column::Int(mut c) => Arc::new(c.finish()),
                Column::Text(mut c) => Arc::new(c.finish()),
                Column::Time(mut c) => Arc::new(c.finish()),
            }
        };
        let columns = self.columns.into_iter().map(array).collect();
        RecordBatch::try_new(self.schema, columns)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::{Config, Kind};

    #[test]
    fn every_event_is_in_its_batch() {
        let batches = Config::default().batches(0, 1_000).unwrap();
        let rows = Kind::ALL.map(|kind| batches.of_kind(kind).num_rows());
        assert_eq!(rows, [20, 60, 920]);
    }

    #[test]
    fn ranges_join_without_a_seam() {
        let config = Config { seed: 9, ..Config::default() };
        let (all, later) = (config.batches(0, 500).unwrap(), config.batches(250, 500).unwrap());
        for kind in Kind::ALL {
            let (all, later) = (all.of_kind(kind), later.of_kind(kind));
            let from = all.num_rows() - later.num_rows();
            assert_eq!(&all.slice(from, later.num_rows()), later);
        }
    }
}
