//! One connection without its socket.

pub mod mailbox;
