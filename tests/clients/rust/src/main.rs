//! The `rdkafka` crate (librdkafka) in the scenario of ../README.md.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, ClientContext, Offset};

type Done = Result<(), Box<dyn Error>>;

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Done {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [bootstrap, "create", topic, partitions] => create(bootstrap, topic, partitions.parse()?),
        [bootstrap, "produce", topic, codec, from, to] => {
            produce(bootstrap, topic, codec, from.parse()?, to.parse()?)
        }
        [bootstrap, "consume", topic, group, count] => {
            consume(bootstrap, topic, group, count.parse()?, false)
        }
        [bootstrap, "consume", topic, group, count, "die"] => {
            consume(bootstrap, topic, group, count.parse()?, true)
        }
        [bootstrap, "times", topic, timestamp] => times(bootstrap, topic, timestamp.parse()?),
        [bootstrap, "large", topic, bytes] => large(bootstrap, topic, bytes.parse()?),
        _ => Err("usage: client BOOTSTRAP create|produce|consume|times|large ARGUMENTS".into()),
    }
}

fn config(bootstrap: &str, more: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    for (name, value) in more {
        config.set(*name, *value);
    }
    config
}

fn create(bootstrap: &str, topic: &str, partitions: i32) -> Done {
    let admin: AdminClient<_> = config(bootstrap, &[]).create()?;
    let wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for outcome in block_on(admin.create_topics([&wanted], &AdminOptions::new()))? {
        outcome.map_err(|(topic, code)| format!("{topic}: {code}"))?;
    }
    Ok(())
}

/// Collects what became of each record.
#[derive(Default)]
struct Outcomes(std::sync::Mutex<Vec<Result<i64, KafkaError>>>);

impl ClientContext for Outcomes {}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let outcome = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.clone()),
        };
        self.0.lock().expect("no delivery panics").push(outcome);
    }
}

/// Sends the records and waits for all of their outcomes.
fn send_all(
    config: &ClientConfig,
    topic: &str,
    records: &[(String, Vec<u8>)],
) -> Result<Vec<Result<i64, KafkaError>>, Box<dyn Error>> {
    let producer: BaseProducer<Outcomes> = config.create_with_context(Outcomes::default())?;
    for (key, value) in records {
        producer.send(BaseRecord::to(topic).key(key).payload(value)).map_err(|(error, _)| error)?;
    }
    producer.flush(PATIENCE)?;
    Ok(std::mem::take(&mut *producer.context().0.lock().expect("no delivery panics")))
}

fn produce(bootstrap: &str, topic: &str, codec: &str, from: u64, to: u64) -> Done {
    let config =
        config(bootstrap, &[("compression.type", codec), ("enable.idempotence", "true"), ("linger.ms", "5")]);
    let records: Vec<_> =
        (from..to).map(|i| (format!("k{}", i % 10), format!("v{i}").into_bytes())).collect();
    let acked = send_all(&config, topic, &records)?.into_iter().collect::<Result<Vec<_>, _>>()?;
    println!("acked {}", acked.len());
    Ok(())
}

fn consume(bootstrap: &str, topic: &str, group: &str, count: usize, die: bool) -> Done {
    let consumer: BaseConsumer = config(
        bootstrap,
        &[
            ("group.id", group),
            ("enable.auto.commit", "false"),
            ("auto.offset.reset", "earliest"),
            ("session.timeout.ms", "6000"),
            ("heartbeat.interval.ms", "1000"),
        ],
    )
    .create()?;
    consumer.subscribe(&[topic])?;
    let (mut left, limit) = (count, Instant::now() + PATIENCE);
    while left > 0 {
        if Instant::now() > limit {
            return Err(format!("{left} records did not come within {PATIENCE:?}").into());
        }
        let Some(message) = consumer.poll(Duration::from_millis(500)) else { continue };
        let message = message?;
        let value = String::from_utf8_lossy(message.payload().unwrap_or_default());
        println!("{value}\t{}\t{}", message.partition(), message.offset());
        left -= 1;
        if left % 50 == 0 {
            consumer.commit_consumer_state(CommitMode::Sync)?;
        }
    }
    std::io::stdout().flush()?;
    if die {
        let this = std::process::id().to_string();
        std::process::Command::new("kill").args(["-9", &this]).status()?;
    }
    Ok(())
}

fn times(bootstrap: &str, topic: &str, timestamp: i64) -> Done {
    let consumer: BaseConsumer = config(bootstrap, &[("group.id", "times")]).create()?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let mut wanted = rdkafka::TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|t| t.partitions()) {
        wanted.add_partition_offset(topic, partition.id(), Offset::Offset(timestamp))?;
    }
    let found = consumer.offsets_for_times(wanted, PATIENCE)?;
    let found: BTreeMap<i32, Offset> = found.elements().iter().map(|e| (e.partition(), e.offset())).collect();
    for (partition, offset) in found {
        let offset = if let Offset::Offset(offset) = offset { offset } else { -1 };
        println!("{partition} {offset}");
    }
    Ok(())
}

fn large(bootstrap: &str, topic: &str, bytes: usize) -> Done {
    let config = config(bootstrap, &[("message.max.bytes", "20000000")]);
    let outcome = send_all(&config, topic, &[("large".into(), vec![b'x'; bytes])])?.remove(0);
    match outcome {
        Ok(_) => println!("accepted"),
        Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
            println!("refused")
        }
        Err(error) => return Err(format!("refused for another reason: {error}").into()),
    }
    Ok(())
}
