//! The platform as a whole, on real files: views of both architectures over streams and tables,
//! batch runs, restarts, verification.

mod lifecycle;
mod support;
