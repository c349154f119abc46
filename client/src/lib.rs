//! A small client of the Kafka protocol for the command line and for load: blocking, one thread, no hidden ones.
//!
//! [`Connection`] speaks to one broker in the versions that both know; [`Cluster`] finds the broker to speak to, and asks again where
//! an error passes by itself; [`Producer`], [`Consumer`] and [`Member`] do what the clients of those names do. It is written against
//! the protocol, not against Ottla: any broker of Kafka 2.8 or later will do.

mod admin;
mod cluster;
mod connection;
mod consumer;
mod error;
mod group;
mod identity;
mod membership;
mod metadata;
mod offsets;
mod partitioner;
mod pending;
mod producer;

pub use admin::{ConfigChange, ConfigEntry, LogDir, NewTopic, Resource};
pub use cluster::{Cluster, Options};
pub use connection::{Connection, Sent};
pub use consumer::{Consumer, Fetched, Isolation};
pub use error::{Error, Result, is_retriable};
pub use group::{Committed, Group, GroupListing, GroupMember};
pub use membership::{Member, Progress};
pub use metadata::{Broker, Metadata, Partition, Topic, TopicPartition};
pub use offsets::{At, Found};
pub use partitioner::{murmur2, partition_of};
pub use pending::Outgoing;
pub use producer::{Acks, Failure, Producer, ProducerOptions};
