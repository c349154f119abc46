//! Three real processes: how they become a cluster, what they survive, whom they refuse.

mod failover;
mod founding;
mod membership;
