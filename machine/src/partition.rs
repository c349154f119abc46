//! One replica of a partition: who may append, what is committed, what its producers have sent.

pub mod leader;
pub mod producers;
#[cfg(test)]
mod tests;
pub mod turned_away;
