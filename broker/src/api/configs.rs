//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs and ListConfigResources (keys 32, 33, 44, 74).

use std::collections::BTreeSet;

use bytestring::ByteString;
use ottla_machine::controller::command::{Answer, Command, ConfigChange, ConfigOp, Failure};
use ottla_machine::controller::image::{ConfigKind, ConfigResource};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
};
use ottla_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, ListConfigResourcesRequest, ListConfigResourcesResponse,
    alter_configs_response, incremental_alter_configs_response, list_config_resources_response,
};
use ottla_protocol::types::NodeId;
use ottla_protocol::wire::Message;

use super::{Reply, RequestContext};
use crate::config::describe::{self, Described};

pub fn describe(
    cx: &mut RequestContext<'_>,
    request: DescribeConfigsRequest,
) -> Reply<DescribeConfigsResponse> {
    let results = request
        .resources
        .iter()
        .map(|resource| {
            let found = lines(cx, resource.resource_type, &resource.resource_name);
            let mut result = DescribeConfigsResult {
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
                ..DescribeConfigsResult::default()
            };
            match found {
                Ok(lines) => {
                    let wanted = |line: &Described| match &resource.configuration_keys {
                        Some(keys) if !keys.is_empty() => keys.iter().any(|key| **key == *line.name),
                        _ => true,
                    };
                    result.configs =
                        lines.into_iter().filter(wanted).map(|line| shown(line, &request)).collect();
                }
                Err(failure) => {
                    result.error_code = failure.code.code();
                    result.error_message = Some(failure.message.into());
                }
            }
            result
        })
        .collect();
    Reply::Now(DescribeConfigsResponse { results, ..DescribeConfigsResponse::default() })
}

fn lines(cx: &RequestContext<'_>, kind: i8, name: &str) -> Result<Vec<Described>, Failure> {
    let image = cx.node.image.load();
    let invalid = |message: String| Err(Failure::new(ErrorCode::InvalidRequest, message));
    match ConfigKind::from_code(kind) {
        Some(ConfigKind::Topic) => {
            ottla_machine::controller::topics::check_name(name)?;
            if image.topic_by_name(name).is_none() {
                return Err(ErrorCode::UnknownTopicOrPartition.into());
            }
            Ok(describe::topic(&cx.node.config, &image, cx.node.id, name))
        }
        Some(ConfigKind::Broker) if name.is_empty() => Ok(describe::broker(&cx.node.config, &image, None)),
        Some(ConfigKind::Broker) => match name.parse::<i32>() {
            Ok(id) if id == cx.node.id.0 => Ok(describe::broker(&cx.node.config, &image, Some(NodeId(id)))),
            Ok(id) => invalid(format!(
                "Unexpected broker id, expected {} or empty string, but received {id}",
                cx.node.id
            )),
            Err(_) => invalid(format!("Broker id must be an integer, but it is: {name}")),
        },
        Some(ConfigKind::Group) if name.is_empty() => invalid("A group's id is not empty.".into()),
        Some(ConfigKind::Group) => Ok(describe::group(&cx.node.config, &image, cx.node.id, name)),
        // Nothing can be set for these in this version, so there is nothing to show.
        Some(ConfigKind::ClientMetrics) => Ok(Vec::new()),
        Some(ConfigKind::BrokerLogger) => {
            invalid("loggers are not configured over the protocol; set RUST_LOG".into())
        }
        None => invalid(format!("Unsupported resource type: {kind}")),
    }
}

fn shown(line: Described, request: &DescribeConfigsRequest) -> DescribeConfigsResourceResult {
    let synonyms = line.synonyms.into_iter().filter(|_| request.include_synonyms);
    DescribeConfigsResourceResult {
        name: ByteString::from_static(line.name),
        value: line.value.map(Into::into),
        read_only: line.read_only,
        config_source: line.source as i8,
        is_sensitive: line.sensitive,
        synonyms: synonyms
            .map(|(name, value, source)| DescribeConfigsSynonym {
                name: ByteString::from_static(name),
                value: value.map(Into::into),
                source: source as i8,
            })
            .collect(),
        config_type: line.kind as i8,
        documentation: request.include_documentation.then(|| line.documentation.into()),
    }
}

/// What is to be changed. As in Kafka, a broker takes changes of its own settings and of everybody's, not those of another one.
fn resource(own: NodeId, kind: i8, name: &str) -> Result<ConfigResource, Failure> {
    match ConfigKind::from_code(kind) {
        Some(ConfigKind::Broker) if name.parse().is_ok_and(|id: i32| id != own.0) => {
            let message = format!("Unexpected broker id, expected {own}, but received {name}");
            Err(Failure::new(ErrorCode::InvalidRequest, message))
        }
        Some(kind) => Ok(ConfigResource::new(kind, name)),
        None => Err(Failure::new(ErrorCode::InvalidRequest, format!("Unsupported resource type: {kind}"))),
    }
}

/// What became of one resource.
struct Outcome {
    resource_type: i8,
    resource_name: ByteString,
    error_code: i16,
    error_message: Option<ByteString>,
}

/// Has changes decided, and answers with what became of each `named` resource, in order.
fn submit<R: Message + 'static>(
    cx: &mut RequestContext<'_>,
    named: Vec<(i8, ByteString)>,
    changes: Vec<ConfigChange>,
    validate_only: bool,
    respond: impl FnOnce(Vec<Outcome>) -> R + Send + 'static,
) -> Reply<R> {
    let slot = cx.defer();
    cx.node.controller.submit(Command::AlterConfigs { changes, validate_only }, move |answer| {
        let answers = match answer {
            Answer::Configs(answers) => answers,
            Answer::Failed(failure) => vec![Err(failure); named.len()],
            other => panic!("a change of configurations was answered with {other:?}"),
        };
        let outcomes = named.into_iter().zip(answers).map(|((resource_type, resource_name), answer)| {
            let (error_code, error_message) = match answer {
                Ok(()) => (0, None),
                Err(failure) => (failure.code.code(), Some(failure.message.into())),
            };
            Outcome { resource_type, resource_name, error_code, error_message }
        });
        slot.complete(&respond(outcomes.collect()));
    });
    Reply::Later
}

pub fn alter(cx: &mut RequestContext<'_>, request: AlterConfigsRequest) -> Reply<AlterConfigsResponse> {
    let own = cx.node.id;
    let changes = request
        .resources
        .iter()
        .map(|named| ConfigChange {
            resource: resource(own, named.resource_type, &named.resource_name),
            ops: named
                .configs
                .iter()
                .map(|config| {
                    (config.name.to_string(), ConfigOp::Set(config.value.as_deref().map(str::to_owned)))
                })
                .collect(),
            replace: true,
        })
        .collect();
    let named = request.resources.into_iter().map(|named| (named.resource_type, named.resource_name));
    submit(cx, named.collect(), changes, request.validate_only, |outcomes| {
        let responses = outcomes.into_iter().map(|outcome| {
            let Outcome { resource_type, resource_name, error_code, error_message } = outcome;
            alter_configs_response::AlterConfigsResourceResponse {
                error_code,
                error_message,
                resource_type,
                resource_name,
            }
        });
        AlterConfigsResponse { responses: responses.collect(), ..AlterConfigsResponse::default() }
    })
}

pub fn alter_incrementally(
    cx: &mut RequestContext<'_>,
    request: IncrementalAlterConfigsRequest,
) -> Reply<IncrementalAlterConfigsResponse> {
    let own = cx.node.id;
    let op = |code: i8, value: Option<String>| match code {
        0 => ConfigOp::Set(value),
        1 => ConfigOp::Delete,
        2 => ConfigOp::Append(value),
        3 => ConfigOp::Subtract(value),
        other => ConfigOp::Unknown(other),
    };
    let changes = request
        .resources
        .iter()
        .map(|named| ConfigChange {
            resource: resource(own, named.resource_type, &named.resource_name),
            ops: named
                .configs
                .iter()
                .map(|config| {
                    let value = config.value.as_deref().map(str::to_owned);
                    (config.name.to_string(), op(config.config_operation, value))
                })
                .collect(),
            replace: false,
        })
        .collect();
    let named = request.resources.into_iter().map(|named| (named.resource_type, named.resource_name));
    submit(cx, named.collect(), changes, request.validate_only, |outcomes| {
        let responses = outcomes.into_iter().map(|outcome| {
            let Outcome { resource_type, resource_name, error_code, error_message } = outcome;
            incremental_alter_configs_response::AlterConfigsResourceResponse {
                error_code,
                error_message,
                resource_type,
                resource_name,
            }
        });
        IncrementalAlterConfigsResponse {
            responses: responses.collect(),
            ..IncrementalAlterConfigsResponse::default()
        }
    })
}

/// v0 lists subscriptions of client metrics only (KIP-714), of which there are none; v1 every kind (KIP-1142).
pub fn list(
    cx: &mut RequestContext<'_>,
    request: ListConfigResourcesRequest,
) -> Reply<ListConfigResourcesResponse> {
    let image = cx.node.image.load();
    let all = [
        ConfigKind::Topic,
        ConfigKind::Broker,
        ConfigKind::BrokerLogger,
        ConfigKind::ClientMetrics,
        ConfigKind::Group,
    ];
    let wanted: BTreeSet<i8> = match (cx.version, request.resource_types.is_empty()) {
        (0, _) => [ConfigKind::ClientMetrics.code()].into(),
        (_, true) => all.iter().map(|kind| kind.code()).collect(),
        (_, false) => request.resource_types.iter().copied().collect(),
    };
    if wanted.iter().any(|code| ConfigKind::from_code(*code).is_none()) {
        return Reply::Now(ListConfigResourcesResponse {
            error_code: ErrorCode::UnsupportedVersion.code(),
            ..ListConfigResourcesResponse::default()
        });
    }
    let mut config_resources = Vec::new();
    for code in wanted {
        let names: Vec<ByteString> = match ConfigKind::from_code(code) {
            Some(ConfigKind::Topic) => image.topic_ids.keys().map(|name| ByteString::from(&**name)).collect(),
            Some(ConfigKind::Group) => {
                let groups = image.configs.keys().filter(|set| set.kind == ConfigKind::Group);
                groups.map(|group| ByteString::from(&*group.name)).collect()
            }
            Some(ConfigKind::Broker | ConfigKind::BrokerLogger) => {
                image.brokers.keys().map(|id| ByteString::from(id.to_string())).collect()
            }
            _ => Vec::new(),
        };
        config_resources.extend(names.into_iter().map(|resource_name| {
            list_config_resources_response::ConfigResource { resource_name, resource_type: code }
        }));
    }
    Reply::Now(ListConfigResourcesResponse { config_resources, ..ListConfigResourcesResponse::default() })
}
