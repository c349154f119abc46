//! Three real processes: how they become a cluster, what they survive, whom they refuse.

mod dedicated;
mod failover;
mod founding;
mod membership;
