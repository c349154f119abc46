//! ottla-machine
