//! The serving layer: what a query reads. [`ServedView`] puts a batch view and the speed layer's
//! generations after it together at one LSN; [`compare`] tells two answers apart.

pub mod compare;
mod error;
mod view;

pub use error::{Error, Result};
pub use view::{Condition, Layer, ServedView, ViewTable};
