//! `ottla config show`.

use anyhow::Context as _;
use clap::Args;
use ottla_client::{ConfigEntry, Resource};
use serde_json::{Value, json};

use crate::cli::connect::Connect;
use crate::cli::output::{Output, Tone, say};
use crate::cli::table::{Cell, Table};

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// Of which broker [default: the one with the lowest id].
    #[arg(long, value_name = "ID", conflicts_with = "topic")]
    broker: Option<i32>,
    /// Of a topic instead.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// All that is in force, also what nobody set.
    #[arg(long, short = 'e')]
    effective: bool,
    /// Only settings whose name contains this.
    #[arg(value_name = "WORD")]
    word: Option<String>,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut cluster = arguments.connect.cluster()?;
    let resource = match (&arguments.topic, arguments.broker) {
        (Some(topic), _) => Resource::Topic(cluster.topic(topic)?.name),
        (None, Some(id)) => Resource::Broker(id),
        (None, None) => {
            let metadata = cluster.metadata(Some(&[]), false)?;
            Resource::Broker(metadata.brokers.first().context("the cluster names no broker")?.id)
        }
    };
    let mut configs = cluster.configs(&resource, None)?;
    configs.sort_by(|a, b| a.name.cmp(&b.name));
    configs.retain(|config| {
        // Who names a setting wants to see it whoever set it.
        (arguments.effective || arguments.word.is_some() || !config.is_default)
            && arguments.word.as_ref().is_none_or(|word| config.name.contains(word.as_str()))
    });
    let of = match &resource {
        Resource::Topic(topic) => format!("topic {topic}"),
        Resource::Broker(id) => format!("broker {id}"),
        Resource::AllBrokers => "all brokers".to_owned(),
    };
    if arguments.output.is_json() {
        let list: Vec<Value> = configs.iter().map(to_json).collect();
        return Ok(say(&json!({ "of": of, "settings": list }).to_string())?);
    }
    let mut table = Table::new(&["SETTING", "VALUE", "SET BY"]);
    for config in &configs {
        let source = if config.is_default { Cell::new("default", Tone::Dim) } else { config.source.into() };
        table.row([config.name.clone().into(), value(config).into(), source]);
    }
    if table.is_empty() {
        let none = match &arguments.word {
            Some(word) => format!("{of} has no setting with {word} in its name"),
            None => format!("nothing is set for {of}: --effective shows the defaults in force"),
        };
        return Ok(say(&none)?);
    }
    Ok(say(&format!("{}\n\n{}", Tone::Bold.paint(&of), table.to_text()))?)
}

fn value(config: &ConfigEntry) -> String {
    match &config.value {
        Some(value) => value.clone(),
        None if config.is_sensitive => "(hidden)".to_owned(),
        None => "-".to_owned(),
    }
}

fn to_json(config: &ConfigEntry) -> Value {
    json!({
        "name": config.name, "value": config.value, "source": config.source, "default": config.is_default,
        "read_only": config.is_read_only, "sensitive": config.is_sensitive, "documentation": config.documentation,
    })
}
