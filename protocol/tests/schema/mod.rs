//! Kafka's schema tables, read once more and interpreted: a second way from a value to its bytes, which shares no code with the
//! generator that it checks.

#![allow(dead_code, unreachable_pub, reason = "each test target uses a part of it, and none has an outside")]

pub mod codec;
pub mod value;
pub mod write;

use serde_json::Value as Json;

pub type Versions = (i16, i16);

#[derive(Debug)]
pub struct Schema {
    pub name: String,
    pub kind: String,
    pub api_key: Option<i64>,
    pub versions: Versions,
    /// `i16::MAX` if never.
    pub flexible_from: i16,
    pub fields: Vec<Field>,
}

#[derive(Debug)]
pub struct Field {
    pub name: String,
    pub ty: Type,
    pub versions: Versions,
    pub nullable: Option<Versions>,
    pub tag: Option<u32>,
    pub default: Option<String>,
    pub never_flexible: bool,
}

#[derive(Debug)]
pub enum Type {
    Bool,
    /// Of so many bytes; signed, but for the protocol's `uint16`.
    Int(usize),
    Float,
    Uuid,
    Text,
    Bytes,
    Struct(Vec<Field>),
    Array(Box<Type>),
}

impl Schema {
    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }
}

impl Field {
    pub fn is_in(&self, version: i16) -> bool {
        contains(self.versions, version)
    }

    pub fn may_be_null(&self, version: i16) -> bool {
        self.nullable.is_some_and(|range| contains(range, version))
    }
}

fn contains((min, max): Versions, version: i16) -> bool {
    (min..=max).contains(&version)
}

/// All messages, then all records that a coordinator or a member of a group exchanges.
pub fn all() -> Vec<Schema> {
    let messages = include_str!("../../src/schema/messages.jsonl").lines();
    let records = include_str!("../../src/schema/records.jsonl").lines();
    let peers = include_str!("../../src/schema/peers.jsonl").lines();
    messages.chain(peers).chain(records).filter_map(schema).collect()
}

fn schema(line: &str) -> Option<Schema> {
    let raw: Json = serde_json::from_str(line).expect("a line of the table is JSON");
    if raw["type"] == "metadata" {
        return None;
    }
    let flexible = range(&raw["flexibleVersions"]);
    Some(Schema {
        name: text(&raw["name"]),
        kind: text(&raw["type"]),
        api_key: raw["apiKey"].as_i64(),
        versions: range(&raw["validVersions"])?,
        flexible_from: flexible.map_or(i16::MAX, |(min, _)| min),
        fields: fields(&raw, &raw["fields"]),
    })
}

fn fields(message: &Json, raw: &Json) -> Vec<Field> {
    raw.as_array().expect("fields are a list").iter().map(|field| read_field(message, field)).collect()
}

fn read_field(message: &Json, raw: &Json) -> Field {
    let tagged = range(&raw["taggedVersions"]);
    Field {
        name: text(&raw["name"]),
        ty: read_type(message, raw, raw["type"].as_str().expect("a type")),
        versions: range(&raw["versions"]).or(tagged).expect("versions"),
        nullable: range(&raw["nullableVersions"]),
        tag: tagged.map(|_| u32::try_from(raw["tag"].as_u64().expect("a tag")).expect("a small tag")),
        default: match raw.get("default") {
            None | Some(Json::Null) => None,
            Some(Json::String(words)) => Some(words.clone()),
            Some(other) => Some(other.to_string()),
        },
        never_flexible: raw["flexibleVersions"] == "none",
    }
}

fn read_type(message: &Json, field: &Json, name: &str) -> Type {
    match name {
        "bool" => Type::Bool,
        "int8" => Type::Int(1),
        "int16" | "uint16" => Type::Int(2),
        "int32" => Type::Int(4),
        "int64" => Type::Int(8),
        "float64" => Type::Float,
        "uuid" => Type::Uuid,
        "string" => Type::Text,
        "bytes" | "records" => Type::Bytes,
        _ => match name.strip_prefix("[]") {
            Some(element) => Type::Array(Box::new(read_type(message, field, element))),
            None if field.get("fields").is_some() => Type::Struct(fields(message, &field["fields"])),
            None => {
                let all = message["commonStructs"].as_array().expect("a struct of the message");
                let common = all.iter().find(|common| common["name"] == name).expect("a struct of that name");
                Type::Struct(fields(message, &common["fields"]))
            }
        },
    }
}

fn range(raw: &Json) -> Option<Versions> {
    let words = raw.as_str()?;
    let number = |digits: &str| digits.parse::<i16>().expect("a version");
    match words.split_once('-') {
        _ if words == "none" => None,
        Some((min, max)) => Some((number(min), number(max))),
        None => match words.strip_suffix('+') {
            Some(min) => Some((number(min), i16::MAX)),
            None => Some((number(words), number(words))),
        },
    }
}

fn text(raw: &Json) -> String {
    raw.as_str().expect("a text").to_owned()
}
