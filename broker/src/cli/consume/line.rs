//! One record as it is printed: by a format, as JSON, or for the eyes.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ottla_protocol::batch::TimestampType;
use ottla_protocol::record::Record;
use serde_json::{Map, Value, json};

use super::format::Format;
use crate::cli::output::{Tone, printable};
use crate::cli::units;

/// A record and where it stands.
pub(super) struct Line<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) timestamp_type: TimestampType,
    pub(super) record: &'a Record<'a>,
}

/// What a line looks like.
#[derive(Clone, Debug)]
pub(super) enum Look {
    Format(Format),
    Json,
    /// The value and nothing else, for whatever reads it.
    Bare,
    /// When, where, key and value, with nothing that a terminal would act on.
    Eyes {
        /// Several topics are read: their names stand beside the partitions.
        named: bool,
    },
}

impl Look {
    pub(super) fn write(&self, out: &mut impl Write, line: &Line<'_>) -> io::Result<()> {
        match self {
            Self::Format(format) => format.write(out, line),
            Self::Json => writeln!(out, "{}", line.to_json()),
            Self::Bare => {
                out.write_all(line.record.value.unwrap_or_default())?;
                out.write_all(b"\n")
            }
            Self::Eyes { named } => writeln!(out, "{}", line.to_text(*named)),
        }
    }
}

/// Text as text; what is none under a name of its own, packed as base64.
fn put(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(std::str::from_utf8) {
        None => object.insert(name.to_owned(), Value::Null),
        Some(Ok(text)) => object.insert(name.to_owned(), text.into()),
        Some(Err(_)) => {
            object.insert(format!("{name}_base64"), STANDARD.encode(bytes.unwrap_or_default()).into())
        }
    };
}

impl Line<'_> {
    /// `ottla produce --input json` reads it back.
    pub(super) fn to_json(&self) -> Value {
        let record = self.record;
        let headers: Vec<Value> = record
            .headers
            .iter()
            .map(|(name, value)| {
                let mut header = Map::new();
                put(&mut header, "name", Some(name));
                put(&mut header, "value", *value);
                Value::Object(header)
            })
            .collect();
        let mut object = Map::new();
        object.insert("topic".into(), self.topic.into());
        object.insert("partition".into(), self.partition.into());
        object.insert("offset".into(), record.offset.0.into());
        object.insert("timestamp".into(), record.timestamp.into());
        object.insert(
            "timestamp_type".into(),
            match self.timestamp_type {
                TimestampType::CreateTime => json!("create"),
                TimestampType::LogAppendTime => json!("append"),
            },
        );
        put(&mut object, "key", record.key);
        put(&mut object, "value", record.value);
        object.insert("headers".into(), headers.into());
        Value::Object(object)
    }

    fn to_text(&self, named: bool) -> String {
        let record = self.record;
        let place = if named {
            format!("{}-{}:{}", self.topic, self.partition, record.offset)
        } else {
            format!("{}:{}", self.partition, record.offset)
        };
        let mut text = Tone::Dim.paint(&format!("{}  {place:<9}", units::time(record.timestamp)));
        if let Some(key) = record.key {
            text.push_str("  ");
            text.push_str(&Tone::Bold.paint(&printable(key)));
        }
        text.push_str("  ");
        match record.value {
            Some(value) => text.push_str(&printable(value)),
            None => text.push_str(&Tone::Dim.paint("(null)")),
        }
        for (name, value) in &record.headers {
            let value = value.map_or_else(|| "(null)".to_owned(), printable);
            text.push_str(&Tone::Dim.paint(&format!("  {}={value}", printable(name))));
        }
        text
    }
}
