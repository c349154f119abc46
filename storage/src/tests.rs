//! Tests of a whole log: against a model, on both disks, and through crashes.

mod batches;
mod compaction;
mod crash;
mod damage;
mod faults;
mod model;
mod times;
