//! ottla-raft
