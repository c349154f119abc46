//! `ottla produce`: writes lines as records.

mod lines;
mod parse;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use ottla_client::{Acks, Failure, Outgoing, Producer, ProducerOptions};
use ottla_protocol::compression::Compression;
use serde_json::json;

use super::connect::Connect;
use super::consume::format::delimiter;
use super::exit::Said;
use super::interrupt;
use super::output::{Output, harmless, say};
use super::progress::Progress;
use super::units;
use lines::{Lines, Next};

/// Without new lines for so long, what there is is sent.
const LINGER: Duration = Duration::from_millis(20);
/// So many failures are told one by one.
const TOLD_MAX: u64 = 10;

#[derive(Args)]
#[command(after_help = super::exit::CODES)]
pub(super) struct Arguments {
    /// Where to write.
    topic: String,
    /// The values of the records; without any, each line of standard input is one.
    #[arg(value_name = "VALUE")]
    values: Vec<String>,
    /// Read from this file instead of standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "values")]
    file: Option<PathBuf>,
    /// What a line is: text, or JSON as `ottla consume --output json` prints it.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    input: Input,
    /// What stands between key and value; \t and the like are understood.
    #[arg(long, short = 'K', value_name = "SEPARATOR", value_parser = delimiter)]
    key_separator: Option<Separator>,
    /// The key of every record.
    #[arg(long, short = 'k', conflicts_with = "key_separator")]
    key: Option<String>,
    /// A header of every record.
    #[arg(long, short = 'H', value_name = "NAME=VALUE")]
    header: Vec<String>,
    /// Where every record goes; otherwise its key decides.
    #[arg(long, short = 'p', value_name = "N")]
    partition: Option<i32>,
    /// Send an empty value as null: on a compacted topic that deletes the key.
    #[arg(long, short = 'Z')]
    null: bool,
    /// How batches are packed.
    #[arg(long, short = 'z', value_enum, default_value_t, value_name = "CODEC")]
    codec: Codec,
    /// How hard the codec tries; its own default is good.
    #[arg(long, value_name = "LEVEL", allow_hyphen_values = true)]
    level: Option<i32>,
    /// Who must have a record before it counts as written.
    #[arg(long, short = 'a', value_enum, default_value_t, value_name = "ACKS")]
    acks: Needed,
    /// Bytes of records in a batch, before they are packed.
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 10)]
    batch_bytes: usize,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

type Separator = Vec<u8>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Input {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Codec {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Needed {
    /// All replicas in sync; retries write nothing twice.
    #[default]
    #[value(alias = "-1")]
    All,
    /// The leader.
    #[value(name = "1")]
    Leader,
    /// Nobody: what became of a record is not known.
    #[value(name = "0")]
    Nobody,
}

impl Codec {
    fn compression(self) -> Compression {
        match self {
            Self::None => Compression::None,
            Self::Gzip => Compression::Gzip,
            Self::Snappy => Compression::Snappy,
            Self::Lz4 => Compression::Lz4,
            Self::Zstd => Compression::Zstd,
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    interrupt::listen()?;
    let headers = parse::headers(&arguments.header)?;
    let template = Outgoing {
        key: arguments.key.as_deref().map(str::as_bytes),
        headers: headers.iter().map(|(name, value)| (&name[..], Some(&value[..]))).collect(),
        partition: arguments.partition,
        ..Outgoing::default()
    };
    let options = ProducerOptions {
        acks: match arguments.acks {
            Needed::All => Acks::All,
            Needed::Leader => Acks::Leader,
            Needed::Nobody => Acks::None,
        },
        compression: arguments.codec.compression(),
        level: arguments.level,
        batch_bytes: arguments.batch_bytes.max(1),
        delivery_timeout: arguments.connect.timeout(),
    };
    let lines = if arguments.values.is_empty() {
        match &arguments.file {
            Some(path) => {
                let file =
                    std::fs::File::open(path).with_context(|| format!("can't read {}", path.display()))?;
                Lines::of(file)?
            }
            None => Lines::of(io::stdin())?,
        }
    } else {
        Lines::given(&arguments.values)
    };
    let from_person = arguments.values.is_empty() && arguments.file.is_none() && io::stdin().is_terminal();
    let producer = Producer::open(arguments.connect.cluster()?, &arguments.topic, options)?;
    if from_person {
        eprintln!("a record a line; Ctrl-D ends");
    }
    let mut writing = Writing {
        arguments,
        producer,
        progress: Progress::new(!from_person),
        meter: units::Meter::new(),
        line: 0,
        refused: 0,
        told: 0,
    };
    let outcome = writing.all(&lines, &template);
    writing.finish(outcome)
}

struct Writing<'a> {
    arguments: &'a Arguments,
    producer: Producer,
    progress: Progress,
    meter: units::Meter,
    /// Of the input, from 1 on.
    line: u64,
    refused: u64,
    told: u64,
}

impl Writing<'_> {
    fn all(&mut self, lines: &Lines, template: &Outgoing<'_>) -> anyhow::Result<()> {
        while !interrupt::came() {
            match lines.next(LINGER)? {
                Next::Some(chunk) => {
                    for line in chunk.lines() {
                        self.line += 1;
                        self.send(line, template)?;
                    }
                    self.tell_failures();
                    let (delivered, bytes) = (self.producer.delivered(), self.producer.delivered_bytes());
                    let meter = &mut self.meter;
                    self.progress.show(|| {
                        format!(
                            "{} records written, {}, {}",
                            units::count(i64::try_from(delivered).unwrap_or(i64::MAX)),
                            units::bytes(i64::try_from(bytes).unwrap_or(i64::MAX)),
                            units::rate(meter.rate(delivered))
                        )
                    });
                }
                Next::Later => {
                    self.producer.flush();
                    self.tell_failures();
                }
                Next::End => break,
            }
        }
        Ok(())
    }

    fn send(&mut self, line: &[u8], template: &Outgoing<'_>) -> anyhow::Result<()> {
        let parsed = match self.arguments.input {
            Input::Json => {
                parse::json_record(line).map_err(|why| anyhow::anyhow!("line {}: {why}", self.line))
            }
            Input::Text => {
                let (key, value) = match &self.arguments.key_separator {
                    Some(separator) => parse::split(line, separator),
                    None => (template.key, line),
                };
                let value = if self.arguments.null && value.is_empty() { None } else { Some(value) };
                let record = Outgoing {
                    tag: self.line,
                    timestamp: units::now_ms(),
                    key,
                    value,
                    headers: template.headers.clone(),
                    partition: template.partition,
                };
                return Ok(self.producer.send(&record)?);
            }
        };
        match parsed {
            Ok(record) => {
                let outgoing = record.outgoing(self.line, template);
                Ok(self.producer.send(&outgoing)?)
            }
            Err(error) => {
                self.refused += 1;
                self.tell(&format!("{error:#}"));
                Ok(())
            }
        }
    }

    fn tell(&mut self, why: &str) {
        self.told += 1;
        if self.told <= TOLD_MAX {
            self.progress.clear();
            eprintln!("ottla: {}", harmless(why));
        }
    }

    fn tell_failures(&mut self) {
        for failure in self.producer.take_failures() {
            self.refused += failure.tags.len() as u64;
            self.tell(&not_written(&failure));
        }
    }

    fn finish(mut self, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        self.producer.flush();
        self.tell_failures();
        self.progress.clear();
        let (delivered, seconds) = (self.producer.delivered(), self.meter.elapsed().as_secs_f64());
        if self.told > TOLD_MAX {
            eprintln!("ottla: and {} more such messages", self.told - TOLD_MAX);
        }
        if self.arguments.output.is_json() {
            let answer = json!({
                "topic": self.arguments.topic,
                "written": delivered,
                "bytes": self.producer.delivered_bytes(),
                "not_written": self.refused,
                "seconds": (seconds * 1000.0).round() / 1000.0,
            });
            say(&answer.to_string())?;
        } else if io::stderr().is_terminal() || self.refused > 0 {
            let unsaid = if self.arguments.acks == Needed::Nobody { "sent" } else { "written" };
            let failed = if self.refused > 0 {
                format!(", {} not", units::count(self.refused.cast_signed()))
            } else {
                String::new()
            };
            let records = if delivered == 1 { "record" } else { "records" };
            eprintln!(
                "{} {records} {unsaid} to {}{failed}, in {}",
                units::count(delivered.cast_signed()),
                self.arguments.topic,
                units::duration(seconds),
            );
        }
        outcome?;
        if self.refused > 0 { Err(Said.into()) } else { Ok(()) }
    }
}

fn not_written(failure: &Failure) -> String {
    let lines = match (failure.tags.first(), failure.tags.last(), failure.tags.len()) {
        (Some(first), _, 1) => format!("line {first} is not written"),
        (Some(first), Some(last), count) => {
            format!("{count} records of lines {first} to {last} are not written")
        }
        _ => "records are not written".to_owned(),
    };
    format!("{lines}: {}", failure.why)
}
