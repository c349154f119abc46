//! ottla-benches
