//! `ottla quorum`: who votes on the metadata, and a new voter in the place of one whose disk is lost.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use ottla_client::{Cluster, Connection};
use ottla_protocol::messages::add_raft_voter_request::Listener;
use ottla_protocol::messages::describe_quorum_request::{PartitionData as Asked, TopicData};
use ottla_protocol::messages::describe_quorum_response::{PartitionData, ReplicaState};
use ottla_protocol::messages::{AddRaftVoterRequest, DescribeQuorumRequest, RemoveRaftVoterRequest};
use serde_json::{Value, json};

use super::connect::Connect;
use super::output::{Output, say};
use super::table::Table;

/// The voters may take so long to agree.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Subcommand)]
#[command(after_help = super::exit::CODES)]
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
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match arguments {
        Arguments::Status(at) => status(at),
        Arguments::Replace { node, at } => replace(at, *node),
    }
}

/// Any node passes these on to whom they concern.
fn any(cluster: &mut Cluster) -> anyhow::Result<&mut Connection> {
    let any = cluster.any()?;
    any.set_patience(PATIENCE)?;
    Ok(any)
}

fn describe(client: &mut Connection) -> anyhow::Result<(PartitionData, Vec<Listener>)> {
    let topic =
        TopicData { topic_name: "__cluster_metadata".into(), partitions: vec![Asked { partition_index: 0 }] };
    let mut answer = client.call(0..=2, &DescribeQuorumRequest { topics: vec![topic] })?;
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
    let mut cluster = at.connect.cluster()?;
    let (quorum, _) = describe(any(&mut cluster)?)?;
    let end = |replica: &ReplicaState| replica.log_end_offset;
    let last = quorum.current_voters.iter().map(end).max().unwrap_or_default();
    let mut rows = Vec::new();
    for (role, replicas) in [("voter", &quorum.current_voters), ("observer", &quorum.observers)] {
        for replica in replicas {
            let leads = role == "voter" && replica.replica_id == quorum.leader_id;
            rows.push((replica, if leads { "leader" } else { role }, (last - end(replica)).max(0)));
        }
    }
    if at.output.is_json() {
        let nodes = rows.iter().map(|(replica, role, behind)| {
            json!({
                "node": replica.replica_id, "role": role, "directory": replica.replica_directory_id.to_string(),
                "behind_by": behind,
            })
        });
        let answer = json!({
            "leader": quorum.leader_id, "epoch": quorum.leader_epoch, "nodes": nodes.collect::<Vec<Value>>(),
        });
        return Ok(say(&answer.to_string())?);
    }
    let mut table = Table::new(&["NODE", "ROLE", "DIRECTORY", ">BEHIND BY"]);
    for (replica, role, behind) in rows {
        let directory = replica.replica_directory_id.to_string();
        table.row([replica.replica_id.into(), role.into(), directory.into(), behind.into()]);
    }
    Ok(say(&table.to_text())?)
}

/// The old vote goes first: a quorum has one of each id.
fn replace(at: &At, node: i32) -> anyhow::Result<()> {
    let mut cluster = at.connect.cluster()?;
    let client = any(&mut cluster)?;
    let (quorum, listeners) = describe(client)?;
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
        let answer = client.call(0..=0, &request)?;
        if answer.error_code != 0 {
            bail!("the old vote stays: {}", answer.error_message.unwrap_or_default());
        }
        tell(
            at,
            &json!({ "node": node, "directory": old.to_string(), "votes": false }),
            &format!("node {node} with directory {old} votes no longer"),
        )?;
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
    let answer = client.call(0..=1, &request)?;
    if answer.error_code != 0 {
        bail!("node {node} got no vote: {}; try again", answer.error_message.unwrap_or_default());
    }
    let answer = json!({ "node": node, "directory": new.to_string(), "votes": true });
    Ok(tell(at, &answer, &format!("node {node} with directory {new} votes"))?)
}

fn tell(at: &At, answer: &Value, text: &str) -> std::io::Result<()> {
    say(&if at.output.is_json() { answer.to_string() } else { text.to_owned() })
}
