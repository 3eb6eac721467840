//! One value of a result as the wire has it. NULL is told apart here: the encoder of intervals takes
//! whatever stands below a NULL for a value.

use arrow::array::ArrayRef;
use arrow::datatypes::Field;
use arrow_pg::encoder::{Encoder, encode_value};
use pgwire::api::results::FieldInfo;
use pgwire::error::PgWireResult;

/// Adds the value of one row of a column.
pub(super) fn encode_cell<E: Encoder>(
    encoder: &mut E,
    array: &ArrayRef,
    row: usize,
    column: &Field,
    field: &FieldInfo,
) -> PgWireResult<()> {
    if array.is_null(row) {
        return encoder.encode_field(&None::<i8>, field);
    }
    encode_value(encoder, array, row, column, field)
}
