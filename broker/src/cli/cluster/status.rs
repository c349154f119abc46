//! What a cluster says of itself, asked as any client asks, beside what its processes look like from outside.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use ottla_client::{Connection, Options};
use ottla_protocol::messages::describe_configs_request::DescribeConfigsResource;
use ottla_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use ottla_protocol::messages::describe_topic_partitions_request::Cursor;
use ottla_protocol::messages::{
    DescribeClusterRequest, DescribeConfigsRequest, DescribeQuorumRequest, DescribeTopicPartitionsRequest,
};
use serde_json::{Value, json};

use super::process::Life;
use super::state::State;

/// So many partitions in one answer.
const PAGE: i32 = 2000;
/// So many partitions in trouble are shown by name.
const SHOWN_MAX: usize = 10;
const RESOURCE_TOPIC: i8 = 2;
/// A node that does not answer within this is shown as one that does not.
const PATIENCE: Duration = Duration::from_secs(1);

/// The cluster at one moment.
pub(super) struct Status {
    pub(super) bootstrap: String,
    pub(super) nodes: Vec<Node>,
    /// What the controller, or else any node, answered; why nobody did.
    pub(super) answer: Result<Answer, String>,
}

pub(super) struct Node {
    pub(super) id: i32,
    pub(super) port: u16,
    pub(super) pid: u32,
    pub(super) life: Life,
}

#[derive(Default)]
pub(super) struct Answer {
    pub(super) cluster_id: String,
    pub(super) controller: Option<i32>,
    /// By node id; true: fenced.
    pub(super) brokers: BTreeMap<i32, bool>,
    pub(super) voters: Vec<i32>,
    pub(super) topics: usize,
    pub(super) partitions: Vec<Partition>,
}

pub(super) struct Partition {
    pub(super) topic: String,
    pub(super) index: i32,
    pub(super) leader: i32,
    pub(super) replicas: Vec<i32>,
    pub(super) isr: Vec<i32>,
    pub(super) elr: Vec<i32>,
    pub(super) min_isr: usize,
}

impl Partition {
    fn is_offline(&self) -> bool {
        self.leader < 0
    }

    fn is_under_replicated(&self) -> bool {
        self.isr.len() < self.replicas.len()
    }

    /// Writes with acks=all are refused. The minimum is never above the number of replicas.
    fn is_under_min(&self) -> bool {
        self.isr.len() < self.min_isr.min(self.replicas.len())
    }
}

impl Status {
    /// Asks the nodes that run; the controller's answer is the freshest.
    pub(super) fn take(state: &State) -> Self {
        let nodes: Vec<Node> = state
            .nodes
            .iter()
            .map(|node| Node {
                id: i32::try_from(node.id).unwrap_or(i32::MAX),
                port: node.port,
                pid: node.pid,
                life: Life::of(node.pid),
            })
            .collect();
        let mut answer = Err("no node runs".to_owned());
        for node in nodes.iter().filter(|node| node.life == Life::Running) {
            match ask(node.port, &nodes) {
                Ok(said) => {
                    answer = Ok(said);
                    break;
                }
                Err(error) => answer = Err(format!("node {}: {error:#}", node.id)),
            }
        }
        Self { bootstrap: state.bootstrap(), nodes, answer }
    }

    /// One line.
    pub(super) fn to_json(&self, dir: &Path) -> String {
        let answer = self.answer.as_ref().ok();
        let nodes = self.nodes.iter().map(|node| {
            let fenced = answer.and_then(|answer| answer.brokers.get(&node.id));
            json!({
                "id": node.id,
                "port": node.port,
                "pid": node.pid,
                "alive": node.life != Life::Stopped,
                "state": node.life.word(),
                "roles": answer.map(|answer| answer.roles(node.id)),
                "fenced": fenced,
                "leads": answer.map(|answer| answer.count(|partition| partition.leader == node.id)),
                "replicas": answer.map(|answer| answer.count(|partition| partition.replicas.contains(&node.id))),
                "in_sync": answer.map(|answer| answer.count(|partition| partition.isr.contains(&node.id))),
            })
        });
        let of = |wanted: fn(&Partition) -> bool| {
            answer.map(|answer| {
                answer
                    .partitions
                    .iter()
                    .filter(|partition| wanted(partition))
                    .map(Partition::to_json)
                    .collect()
            })
        };
        let under_replicated: Option<Vec<Value>> = of(Partition::is_under_replicated);
        let under_min: Option<Vec<Value>> = of(Partition::is_under_min);
        let offline: Option<Vec<Value>> = of(Partition::is_offline);
        json!({
            "bootstrap": self.bootstrap,
            "dir": dir,
            "cluster_id": answer.map(|answer| &answer.cluster_id),
            "controller": answer.and_then(|answer| answer.controller),
            "nodes": nodes.collect::<Vec<_>>(),
            "topics": answer.map(|answer| answer.topics),
            "partitions": answer.map(|answer| answer.partitions.len()),
            "under_replicated": under_replicated,
            "under_min_isr": under_min,
            "offline": offline,
            "error": self.answer.as_ref().err(),
        })
        .to_string()
    }

    /// A few aligned lines.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |parts: std::fmt::Arguments<'_>| {
            let _ = writeln!(text, "{}", parts.to_string().trim_end());
        };
        line(format_args!(
            "{:<5} {:<16} {:<8} {:<18} {:<19} {:>6} {:>9} {:>8}",
            "NODE", "ADDRESS", "PID", "STATE", "ROLES", "LEADS", "REPLICAS", "IN SYNC"
        ));
        let answer = self.answer.as_ref().ok();
        for node in &self.nodes {
            let fenced = answer.and_then(|answer| answer.brokers.get(&node.id).copied()).unwrap_or(false);
            let word = match (node.life, fenced) {
                (Life::Stopped, _) | (_, false) => node.life.word().to_owned(),
                (life, true) => format!("{}, fenced", life.word()),
            };
            let pid = if node.life == Life::Stopped { "-".to_owned() } else { node.pid.to_string() };
            let address = format!("127.0.0.1:{}", node.port);
            let Some(answer) = answer else {
                line(format_args!("{:<5} {address:<16} {pid:<8} {word}", node.id));
                continue;
            };
            let roles = answer.roles(node.id).join(", ");
            line(format_args!(
                "{:<5} {address:<16} {pid:<8} {word:<18} {roles:<19} {:>6} {:>9} {:>8}",
                node.id,
                answer.count(|partition| partition.leader == node.id),
                answer.count(|partition| partition.replicas.contains(&node.id)),
                answer.count(|partition| partition.isr.contains(&node.id)),
            ));
        }
        line(format_args!(""));
        match &self.answer {
            Err(why) => line(format_args!("nobody answers: {why}")),
            Ok(answer) => {
                let controller = answer.controller.map_or("none now".to_owned(), |id| format!("node {id}"));
                line(format_args!("{:<12} {}", "cluster", answer.cluster_id));
                line(format_args!("{:<12} {controller}", "controller"));
                line(format_args!(
                    "{:<12} {} in {} topic{}: {} under-replicated, {} under min.insync.replicas, {} offline",
                    "partitions",
                    answer.partitions.len(),
                    answer.topics,
                    if answer.topics == 1 { "" } else { "s" },
                    answer.count(Partition::is_under_replicated),
                    answer.count(Partition::is_under_min),
                    answer.count(Partition::is_offline),
                ));
                for shown in answer.in_trouble() {
                    line(format_args!("{:<12} {shown}", ""));
                }
            }
        }
        text
    }
}

impl Answer {
    fn count(&self, wanted: impl Fn(&Partition) -> bool) -> usize {
        self.partitions.iter().filter(|partition| wanted(partition)).count()
    }

    fn roles(&self, id: i32) -> Vec<&'static str> {
        let roles = [("broker", self.brokers.contains_key(&id)), ("controller", self.voters.contains(&id))];
        roles.into_iter().filter_map(|(role, has)| has.then_some(role)).collect()
    }

    /// The partitions that lack something, the worst first.
    fn in_trouble(&self) -> Vec<String> {
        let mut lacking: Vec<&Partition> = self
            .partitions
            .iter()
            .filter(|partition| partition.is_under_replicated() || partition.is_offline())
            .collect();
        lacking.sort_by_key(|partition| (!partition.is_offline(), !partition.is_under_min()));
        let more = lacking.len().saturating_sub(SHOWN_MAX);
        let mut shown: Vec<String> =
            lacking.iter().take(SHOWN_MAX).map(|partition| partition.to_text()).collect();
        if more > 0 {
            shown.push(format!("and {more} more"));
        }
        shown
    }
}

impl Partition {
    fn to_json(&self) -> Value {
        json!({
            "topic": self.topic,
            "partition": self.index,
            "leader": self.leader,
            "replicas": self.replicas,
            "isr": self.isr,
            "elr": self.elr,
        })
    }

    fn to_text(&self) -> String {
        let ids = |ids: &[i32]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let leader =
            if self.is_offline() { "no leader".to_owned() } else { format!("leader {}", self.leader) };
        let elr = if self.elr.is_empty() { String::new() } else { format!(", eligible {}", ids(&self.elr)) };
        let isr = if self.isr.is_empty() { "nobody".to_owned() } else { ids(&self.isr) };
        format!("{}-{}: {leader}, in sync {isr} of {}{elr}", self.topic, self.index, ids(&self.replicas))
    }
}

/// Asks the node at `port`, or the controller that it names.
fn ask(port: u16, nodes: &[Node]) -> anyhow::Result<Answer> {
    let options =
        Options { client_id: "ottla-cluster".to_owned(), connect_timeout: PATIENCE, patience: PATIENCE };
    let connect = |port| Connection::open(&format!("127.0.0.1:{port}"), &options);
    let mut client = connect(port)?;
    let (mut controller, mut voters) = quorum(&mut client)?;
    let at = nodes.iter().find(|node| Some(node.id) == controller && node.life == Life::Running);
    if let Some(at) = at.filter(|at| at.port != port)
        && let Ok(mut other) = connect(at.port)
        && let Ok(said) = quorum(&mut other)
    {
        (controller, voters) = said;
        client = other;
    }
    let request =
        DescribeClusterRequest { include_fenced_brokers: true, endpoint_type: 1, ..Default::default() };
    let cluster = client.call(0..=2, &request)?;
    let partitions = partitions(&mut client)?;
    let mut answer = Answer {
        cluster_id: cluster.cluster_id.to_string(),
        controller,
        brokers: cluster.brokers.iter().map(|broker| (broker.broker_id, broker.is_fenced)).collect(),
        voters,
        topics: 0,
        partitions,
    };
    let mut topics: Vec<String> = answer.partitions.iter().map(|partition| partition.topic.clone()).collect();
    topics.dedup();
    answer.topics = topics.len();
    let minima = minima(&mut client, &topics)?;
    for partition in &mut answer.partitions {
        partition.min_isr = minima.get(&partition.topic).copied().unwrap_or(1);
    }
    Ok(answer)
}

/// Who leads the quorum, and who votes.
fn quorum(client: &mut Connection) -> anyhow::Result<(Option<i32>, Vec<i32>)> {
    let topic = TopicData {
        topic_name: "__cluster_metadata".into(),
        partitions: vec![PartitionData { partition_index: 0 }],
    };
    let mut answer = client.call(0..=2, &DescribeQuorumRequest { topics: vec![topic] })?;
    let topic = answer.topics.pop().context("the quorum was not described")?;
    let quorum = topic.partitions.into_iter().next().context("the quorum was not described")?;
    let leader = Some(quorum.leader_id).filter(|id| *id >= 0);
    Ok((leader, quorum.current_voters.iter().map(|voter| voter.replica_id).collect()))
}

fn partitions(client: &mut Connection) -> anyhow::Result<Vec<Partition>> {
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let request =
            DescribeTopicPartitionsRequest { cursor, response_partition_limit: PAGE, ..Default::default() };
        let page = client.call(0..=0, &request)?;
        for topic in page.topics {
            let name = topic.name.unwrap_or_default().to_string();
            found.extend(topic.partitions.into_iter().map(|partition| Partition {
                topic: name.clone(),
                index: partition.partition_index,
                leader: partition.leader_id,
                replicas: partition.replica_nodes,
                isr: partition.isr_nodes,
                elr: partition.eligible_leader_replicas.unwrap_or_default(),
                min_isr: 1,
            }));
        }
        let Some(next) = page.next_cursor else { return Ok(found) };
        cursor = Some(Cursor { topic_name: next.topic_name, partition_index: next.partition_index });
    }
}

/// `min.insync.replicas` by topic.
fn minima(client: &mut Connection, topics: &[String]) -> anyhow::Result<BTreeMap<String, usize>> {
    let resource = |topic: &String| DescribeConfigsResource {
        resource_type: RESOURCE_TOPIC,
        resource_name: topic.as_str().into(),
        configuration_keys: Some(vec!["min.insync.replicas".into()]),
    };
    let request =
        DescribeConfigsRequest { resources: topics.iter().map(resource).collect(), ..Default::default() };
    let answer = client.call(1..=4, &request)?;
    let minimum =
        |configs: &[ottla_protocol::messages::describe_configs_response::DescribeConfigsResourceResult]| {
            configs.first().and_then(|config| config.value.as_ref()?.parse().ok()).unwrap_or(1)
        };
    Ok(answer
        .results
        .iter()
        .map(|result| (result.resource_name.to_string(), minimum(&result.configs)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(index: i32, leader: i32, isr: &[i32]) -> Partition {
        Partition {
            topic: "orders".into(),
            index,
            leader,
            replicas: vec![1, 2, 3],
            isr: isr.to_vec(),
            elr: if leader < 0 { vec![3] } else { vec![] },
            min_isr: 2,
        }
    }

    fn status(answer: Result<Answer, String>) -> Status {
        let node = |id: i32, life| Node { id, port: 9092, pid: 4_000 + id.unsigned_abs(), life };
        let nodes = vec![node(1, Life::Running), node(2, Life::Paused), node(3, Life::Stopped)];
        Status { bootstrap: "127.0.0.1:9092".into(), nodes, answer }
    }

    fn hurt() -> Answer {
        Answer {
            cluster_id: "abc".into(),
            controller: Some(1),
            brokers: BTreeMap::from([(1, false), (2, true), (3, true)]),
            voters: vec![1, 2, 3],
            topics: 1,
            partitions: vec![
                partition(0, 1, &[1, 2, 3]),
                partition(1, 1, &[1, 2]),
                partition(2, 1, &[1]),
                partition(3, -1, &[]),
            ],
        }
    }

    #[test]
    fn a_hurt_cluster_shows_what_it_lacks_the_worst_first() {
        let text = status(Ok(hurt())).to_text();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert!(lines[1].starts_with("1     127.0.0.1:9092   4001     running "), "{text}");
        assert!(lines[2].contains("paused, fenced") && lines[3].contains("- "), "{text}");
        assert_eq!(
            lines[5..],
            [
                "cluster      abc",
                "controller   node 1",
                "partitions   4 in 1 topic: 3 under-replicated, 2 under min.insync.replicas, 1 offline",
                "orders-3: no leader, in sync nobody of 1,2,3, eligible 3",
                "orders-2: leader 1, in sync 1 of 1,2,3",
                "orders-1: leader 1, in sync 1,2 of 1,2,3",
            ]
        );
    }

    #[test]
    fn the_line_of_json_counts_per_node_and_names_the_partitions() {
        let line: Value =
            serde_json::from_str(&status(Ok(hurt())).to_json(Path::new("d"))).expect("a line of JSON");
        let node = &line["nodes"][0];
        assert_eq!(node["leads"], 3);
        assert_eq!(node["replicas"], 4);
        assert_eq!(node["roles"], json!(["broker", "controller"]));
        assert_eq!(
            (&line["nodes"][1]["state"], &line["nodes"][1]["fenced"]),
            (&json!("paused"), &json!(true))
        );
        assert_eq!(line["offline"][0]["partition"], 3);
        assert_eq!(
            (
                line["under_replicated"].as_array().map(Vec::len),
                line["under_min_isr"].as_array().map(Vec::len)
            ),
            (Some(3), Some(2))
        );
    }

    #[test]
    fn a_cluster_that_nobody_answers_for_still_shows_its_processes() {
        let text = status(Err("node 1: nobody answers at 127.0.0.1:9092".into())).to_text();
        assert!(text.contains("running") && text.contains("nobody answers"), "{text}");
    }
}
