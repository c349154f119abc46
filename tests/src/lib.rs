//! ottla-tests
