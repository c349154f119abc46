//! Topics, configurations and directories, as an administrator asks for them.

use std::collections::BTreeMap;

use ottla_protocol::messages::create_partitions_request::{CreatePartitionsRequest, CreatePartitionsTopic};
use ottla_protocol::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use ottla_protocol::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use ottla_protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use ottla_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use ottla_protocol::messages::{DescribeLogDirsRequest, describe_configs_response};

use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::metadata::TopicPartition;

/// A topic to be made. -1 partitions or replicas: as many as the cluster gives by default (KIP-464).
#[derive(Clone, Debug)]
pub struct NewTopic {
    pub name: String,
    pub partitions: i32,
    pub replication_factor: i16,
    pub configs: Vec<(String, String)>,
}

/// Whose configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    Topic(String),
    /// One broker's, with what stands in its own file.
    Broker(i32),
    /// What is set for all brokers of the cluster.
    AllBrokers,
}

impl Resource {
    fn kind(&self) -> i8 {
        match self {
            Self::Topic(_) => 2,
            Self::Broker(_) | Self::AllBrokers => 4,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Topic(name) => name.clone(),
            Self::Broker(id) => id.to_string(),
            Self::AllBrokers => String::new(),
        }
    }
}

/// One setting as a broker shows it.
#[derive(Clone, Debug)]
pub struct ConfigEntry {
    pub name: String,
    /// `None` also where it is secret.
    pub value: Option<String>,
    /// Where the value comes from, in words: `topic`, `broker`, `all brokers`, `file`, `default`.
    pub source: &'static str,
    pub is_default: bool,
    pub is_sensitive: bool,
    pub is_read_only: bool,
    pub documentation: Option<String>,
}

/// A change of one setting; `None` takes it back.
#[derive(Clone, Debug)]
pub struct ConfigChange {
    pub name: String,
    pub value: Option<String>,
}

/// What one broker keeps in one directory.
#[derive(Clone, Debug, Default)]
pub struct LogDir {
    pub broker: i32,
    pub path: String,
    /// 0, or why nothing more is known: the directory is offline.
    pub error_code: i16,
    /// Bytes by partition, without copies that are on their way to another directory.
    pub partitions: BTreeMap<TopicPartition, i64>,
    /// Of the file system, where the broker says (Kafka 3.4).
    pub total_bytes: Option<i64>,
    pub usable_bytes: Option<i64>,
}

fn timeout_ms(cluster: &Cluster) -> i32 {
    i32::try_from(cluster.options().patience.as_millis()).unwrap_or(i32::MAX)
}

impl Cluster {
    /// Makes topics; each has an outcome of its own. With `only_check` nothing is made.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn create_topics(
        &mut self,
        topics: &[NewTopic],
        only_check: bool,
    ) -> Result<Vec<(String, Result<()>)>> {
        let wanted = topics.iter().map(|topic| CreatableTopic {
            name: topic.name.as_str().into(),
            num_partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            configs: topic
                .configs
                .iter()
                .map(|(name, value)| CreatableTopicConfig {
                    name: name.as_str().into(),
                    value: Some(value.as_str().into()),
                })
                .collect(),
            ..Default::default()
        });
        let request = CreateTopicsRequest {
            topics: wanted.collect(),
            timeout_ms: timeout_ms(self),
            validate_only: only_check,
        };
        let answer = self.ask_any(|any| any.call(4..=7, &request))?;
        Ok(answer
            .topics
            .iter()
            .map(|topic| {
                let what = format!("topic {}", topic.name);
                (topic.name.to_string(), Error::check(what, topic.error_code, topic.error_message.as_deref()))
            })
            .collect())
    }

    /// Deletes topics by name; each has an outcome of its own.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn delete_topics(&mut self, names: &[String]) -> Result<Vec<(String, Result<()>)>> {
        let request = DeleteTopicsRequest {
            topics: names
                .iter()
                .map(|name| DeleteTopicState { name: Some(name.as_str().into()), ..Default::default() })
                .collect(),
            topic_names: names.iter().map(|name| name.as_str().into()).collect(),
            timeout_ms: timeout_ms(self),
        };
        let answer = self.ask_any(|any| any.call(1..=6, &request))?;
        Ok(answer
            .responses
            .iter()
            .map(|topic| {
                let name = topic.name.as_deref().unwrap_or_default().to_owned();
                let outcome =
                    Error::check(format!("topic {name}"), topic.error_code, topic.error_message.as_deref());
                (name, outcome)
            })
            .collect())
    }

    /// Gives a topic more partitions, `count` in all.
    ///
    /// # Errors
    /// It is refused, or nobody answers.
    pub fn create_partitions(&mut self, topic: &str, count: i32) -> Result<()> {
        let wanted = CreatePartitionsTopic { name: topic.into(), count, assignments: None };
        let request = CreatePartitionsRequest {
            topics: vec![wanted],
            timeout_ms: timeout_ms(self),
            validate_only: false,
        };
        let answer = self.ask_any(|any| any.call(0..=3, &request))?;
        answer.results.iter().try_for_each(|result| {
            Error::check(format!("topic {topic}"), result.error_code, result.error_message.as_deref())
        })
    }

    /// The settings of a topic or broker; `names` narrows them down.
    ///
    /// # Errors
    /// It is not there, or nobody answers.
    pub fn configs(&mut self, of: &Resource, names: Option<&[&str]>) -> Result<Vec<ConfigEntry>> {
        let mut all = self.configs_of(std::slice::from_ref(of), names)?;
        all.pop().map_or_else(|| Ok(Vec::new()), |(_, configs)| configs)
    }

    /// The same for several, all of the same kind; in their order.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn configs_of(
        &mut self,
        of: &[Resource],
        names: Option<&[&str]>,
    ) -> Result<Vec<(String, Result<Vec<ConfigEntry>>)>> {
        let asked = of.iter().map(|resource| DescribeConfigsResource {
            resource_type: resource.kind(),
            resource_name: resource.name().into(),
            configuration_keys: names.map(|names| names.iter().map(|name| (*name).into()).collect()),
        });
        let request = DescribeConfigsRequest {
            resources: asked.collect(),
            include_documentation: names.is_none(),
            ..Default::default()
        };
        // A broker's own file is known to itself alone.
        let answer = match of.first() {
            Some(Resource::Broker(id)) => self.ask(*id, |node| node.call(1..=4, &request))?,
            _ => self.ask_any(|any| any.call(1..=4, &request))?,
        };
        Ok(answer
            .results
            .into_iter()
            .map(|result| {
                let name = result.resource_name.to_string();
                let what = match result.resource_type {
                    2 => format!("topic {name}"),
                    _ => format!("broker {name}"),
                };
                let outcome = Error::check(what, result.error_code, result.error_message.as_deref());
                (name, outcome.map(|()| result.configs.into_iter().map(entry).collect()))
            })
            .collect())
    }

    /// Changes settings; all others stay as they are (KIP-339).
    ///
    /// # Errors
    /// One is refused (then none is changed), or nobody answers.
    pub fn alter_configs(&mut self, of: &Resource, changes: &[ConfigChange]) -> Result<()> {
        let configs = changes.iter().map(|change| AlterableConfig {
            name: change.name.as_str().into(),
            config_operation: i8::from(change.value.is_none()),
            value: change.value.as_deref().map(Into::into),
        });
        let resource = AlterConfigsResource {
            resource_type: of.kind(),
            resource_name: of.name().into(),
            configs: configs.collect(),
        };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        let answer = match of {
            Resource::Broker(id) => self.ask(*id, |node| node.call(0..=1, &request))?,
            _ => self.ask_any(|any| any.call(0..=1, &request))?,
        };
        answer.responses.iter().try_for_each(|result| {
            let what = match of {
                Resource::Topic(name) => format!("topic {name}"),
                Resource::Broker(id) => format!("broker {id}"),
                Resource::AllBrokers => "all brokers".to_owned(),
            };
            Error::check(what, result.error_code, result.error_message.as_deref())
        })
    }

    /// The directories of one broker, with what lies in them.
    ///
    /// # Errors
    /// The broker does not answer.
    pub fn log_dirs(&mut self, broker: i32) -> Result<Vec<LogDir>> {
        let request = DescribeLogDirsRequest { topics: None };
        let answer = self.ask(broker, |node| node.call(1..=4, &request))?;
        Error::check(format!("the directories of broker {broker}"), answer.error_code, None)?;
        let known = |bytes: i64| Some(bytes).filter(|bytes| *bytes >= 0);
        Ok(answer
            .results
            .into_iter()
            .map(|dir| LogDir {
                broker,
                path: dir.log_dir.to_string(),
                error_code: dir.error_code,
                total_bytes: known(dir.total_bytes),
                usable_bytes: known(dir.usable_bytes),
                partitions: dir
                    .topics
                    .iter()
                    .flat_map(|topic| {
                        topic.partitions.iter().filter(|partition| !partition.is_future_key).map(
                            |partition| {
                                let name = TopicPartition::new(&*topic.name, partition.partition_index);
                                (name, partition.partition_size)
                            },
                        )
                    })
                    .collect(),
            })
            .collect())
    }
}

/// `config_source` of DescribeConfigs.
const TOPIC: i8 = 1;
const BROKER: i8 = 2;
const ALL_BROKERS: i8 = 3;
const FILE: i8 = 4;
const DEFAULT: i8 = 5;

fn entry(config: describe_configs_response::DescribeConfigsResourceResult) -> ConfigEntry {
    ConfigEntry {
        name: config.name.to_string(),
        value: config.value.map(|value| value.to_string()),
        source: match config.config_source {
            TOPIC => "topic",
            BROKER => "broker",
            ALL_BROKERS => "all brokers",
            FILE => "file",
            DEFAULT => "default",
            _ => "other",
        },
        is_default: config.config_source == DEFAULT,
        is_sensitive: config.is_sensitive,
        is_read_only: config.read_only,
        documentation: config.documentation.map(|text| text.to_string()),
    }
}
