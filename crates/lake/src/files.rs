//! Data files: how they are written. Parquet with zstd, row groups of a million rows, statistics
//! of every column: few large groups replay fast, and `_lsn` ranges prune them.
//!
//! Encoding runs on a blocking thread, never on one that answers requests.

use arrow::datatypes::{DataType, SchemaRef};
use deltalake::datafile::writer::{DeltaWriter, WriterConfig};
use deltalake::datafile::{BatchStream, DeltaDataWriter};
use deltalake::kernel::Add;
use deltalake::logstore::LogStoreRef;
use deltalake::table::config::TablePropertiesExt;
use deltalake::table::state::DeltaTableState;
use deltalake::{DeltaResult, DeltaTableError};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use std::num::NonZeroU64;

/// Rows of one Parquet row group.
const ROW_GROUP_ROWS: usize = 1 << 20;
/// Rows given to the Parquet writer at a time.
const WRITE_ROWS: usize = 1 << 16;
/// An append begins another data file at this size.
pub(crate) const FILE_BYTES: u64 = 512 << 20;

/// Whether values of this type are integers in Parquet. What they differ by takes less room than a
/// dictionary of them, and half the time to write and to read.
fn is_whole(data_type: &DataType) -> bool {
    use DataType::{Date32, Int8, Int16, Int32, Int64, Time64, Timestamp};
    matches!(data_type, Int8 | Int16 | Int32 | Int64 | Date32 | Time64(_) | Timestamp(..))
}

/// Writes rows in storage types into new data files; they are durable but not yet part of the
/// table. After an error nothing refers to what was written, and a vacuum removes it.
pub(crate) async fn write(
    log_store: LogStoreRef,
    state: &DeltaTableState,
    schema: SchemaRef,
    file_bytes: u64,
    rows: BatchStream,
) -> DeltaResult<Vec<Add>> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS));
    for field in schema.fields().iter().filter(|field| is_whole(field.data_type())) {
        let column = ColumnPath::from(field.name().as_str());
        properties = properties
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
    }
    let config = WriterConfig::new(
        schema,
        Vec::new(),
        Some(properties.build()),
        NonZeroU64::new(file_bytes),
        Some(WRITE_ROWS),
        state.table_config().num_indexed_cols(),
        None,
    );
    let writer = Box::new(DeltaWriter::new(log_store.object_store(None), config));
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(writer.write_all(rows)))
        .await
        .map_err(|lost| DeltaTableError::GenericError { source: lost.into() })?
}
