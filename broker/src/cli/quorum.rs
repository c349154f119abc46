//! `ottla quorum`: who votes on the metadata, and a new voter in the place of one whose disk is lost.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use ottla_protocol::messages::add_raft_voter_request::Listener;
use ottla_protocol::messages::describe_quorum_request::{PartitionData as Asked, TopicData};
use ottla_protocol::messages::describe_quorum_response::{PartitionData, ReplicaState};
use ottla_protocol::messages::{AddRaftVoterRequest, DescribeQuorumRequest, RemoveRaftVoterRequest};

use super::client::Client;

/// The voters may take so long to agree.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Subcommand)]
pub(super) enum Arguments {
    /// Show who votes, and who only follows.
    Status(At),
    /// Give the vote of node ID, whose disk is lost, to the node that runs under this id with a new directory.
    Replace {
        #[arg(value_name = "ID")]
        node: i32,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Args)]
pub(super) struct At {
    /// Any node of the cluster.
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:9092")]
    bootstrap: String,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments {
        Arguments::Status(at) => status(&at),
        Arguments::Replace { node, at } => replace(&at, node),
    }
}

impl At {
    fn connect(&self) -> anyhow::Result<Client> {
        let addresses = self.bootstrap.split(',').filter_map(|one| one.to_socket_addrs().ok()).flatten();
        let mut last = None;
        for address in addresses.collect::<Vec<SocketAddr>>() {
            match Client::connect_with(address, PATIENCE) {
                Ok(client) => return Ok(client),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("--bootstrap {}: give it as HOST:PORT", self.bootstrap)))
    }
}

fn describe(client: &mut Client) -> anyhow::Result<(PartitionData, Vec<Listener>)> {
    let topic =
        TopicData { topic_name: "__cluster_metadata".into(), partitions: vec![Asked { partition_index: 0 }] };
    let mut answer = client.call(2, &DescribeQuorumRequest { topics: vec![topic] })?;
    if answer.error_code != 0 {
        bail!("{}", answer.error_message.unwrap_or_default());
    }
    let listeners = answer.nodes.iter().flat_map(|node| &node.listeners).map(|listener| Listener {
        name: listener.name.clone(),
        host: listener.host.clone(),
        port: listener.port,
    });
    let listeners = listeners.collect();
    let topic = answer.topics.pop().context("the quorum was not described")?;
    Ok((topic.partitions.into_iter().next().context("the quorum was not described")?, listeners))
}

fn status(at: &At) -> anyhow::Result<()> {
    let (quorum, _) = describe(&mut at.connect()?)?;
    say(&format!("{:<5} {:<9} {:<24} {:>9}", "NODE", "ROLE", "DIRECTORY", "BEHIND BY"));
    let end = |replica: &ReplicaState| replica.log_end_offset;
    let last = quorum.current_voters.iter().map(end).max().unwrap_or_default();
    for (role, replicas) in [("voter", &quorum.current_voters), ("observer", &quorum.observers)] {
        for replica in replicas {
            let role =
                if role == "voter" && replica.replica_id == quorum.leader_id { "leader" } else { role };
            say(&format!(
                "{:<5} {role:<9} {:<24} {:>9}",
                replica.replica_id,
                replica.replica_directory_id.to_string(),
                (last - end(replica)).max(0)
            ));
        }
    }
    Ok(())
}

/// The old vote goes first: a quorum has one of each id.
fn replace(at: &At, node: i32) -> anyhow::Result<()> {
    let mut client = at.connect()?;
    let (quorum, listeners) = describe(&mut client)?;
    let of = |replicas: &[ReplicaState]| {
        replicas.iter().find(|replica| replica.replica_id == node).map(|replica| replica.replica_directory_id)
    };
    let Some(new) = of(&quorum.observers) else {
        bail!(
            "no node {node} without a vote is there: start it under its old node.id with an empty directory first (`ottla quorum status` \
             then shows it as an observer)"
        );
    };
    if let Some(old) = of(&quorum.current_voters) {
        let request = RemoveRaftVoterRequest { cluster_id: None, voter_id: node, voter_directory_id: old };
        let answer = client.call(0, &request)?;
        if answer.error_code != 0 {
            bail!("the old vote stays: {}", answer.error_message.unwrap_or_default());
        }
        say(&format!("node {node} with directory {old} votes no longer"));
    }
    let request = AddRaftVoterRequest {
        cluster_id: None,
        voter_id: node,
        voter_directory_id: new,
        timeout_ms: i32::try_from(PATIENCE.as_millis()).unwrap_or(i32::MAX),
        // Where it is reached, the quorum knows already; Kafka's form of the request wants to be told.
        listeners: listeners.into_iter().take(1).collect(),
        ..Default::default()
    };
    let answer = client.call(0, &request)?;
    if answer.error_code != 0 {
        bail!("node {node} got no vote: {}; try again", answer.error_message.unwrap_or_default());
    }
    say(&format!("node {node} with directory {new} votes"));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command's answer goes to standard output")]
fn say(line: &str) {
    println!("{line}");
}
