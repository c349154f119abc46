//! A broker's parts and how they hang together.

use crate::clock::Clock;

/// Everything that a handler may reach, shared by the workers.
#[derive(Debug)]
pub struct Node {
    pub clock: Clock,
}
