//! No code. Cargo builds a dependency with the features that the crates being built ask for, so
//! building one crate alone would compile DataFusion again with fewer features than the whole
//! workspace does. Depending on this crate, which names every dependency, keeps one set.
