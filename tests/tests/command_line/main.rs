//! The command line against a real node of this build, as a user and as a script run it.

mod config;
mod consume;
mod doctor;
mod failover;
mod group;
mod produce;
mod shell;
mod topic;
mod whole;
