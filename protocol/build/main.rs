//! Generates Kafka's messages, and the records that its coordinators store, as Rust types from the tables in `src/schema`.
//!
//! Each line of those tables is one message: names, types, versions, defaults; facts of the wire format of Kafka 4.3.1. The output
//! is plain, non-generic code: one module per message, one `decode` and one `encode` per struct, so that the whole protocol
//! compiles in seconds and a reader can follow a field from the table to its bytes.

#![allow(clippy::print_stdout, reason = "a build script speaks to cargo by its standard output")]

mod decode;
mod encode;
mod model;
mod naming;
mod registry;
mod shape;
mod versions;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use model::{Kind, Message};

/// Kinds of stored records that are never read nor written here: Kafka's own KRaft metadata log, whose place Ottla's records take.
const KINDS_LEFT_OUT: &[&str] = &["metadata"];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    #[allow(clippy::print_stdout, reason = "how a build script talks to cargo")]
    {
        println!("cargo:rerun-if-changed=build");
        println!("cargo:rerun-if-changed=src/schema");
    }

    let kafkas = read(Path::new("src/schema/messages.jsonl"));
    // Ottla's own, between nodes. Their keys lie far above Kafka's.
    let mut messages = kafkas.clone();
    messages.extend(read(Path::new("src/schema/peers.jsonl")));
    let records = read(Path::new("src/schema/records.jsonl"));
    write(&out, "messages.rs", &modules(&messages));
    write(&out, "records.rs", &modules(&records));
    write(&out, "schema_versions.rs", &registry::schema_versions(&messages));
    // For the tests of this package alone: every message by its name, as function pointers.
    write(&out, "registry.rs", &registry::codecs(&messages, &records));
    write(&out, "registry_kafka_protocol.rs", &registry::codecs_of_kafka_protocol(&kafkas));
}

fn read(path: &Path) -> Vec<Message> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display()));
    let mut messages = Vec::new();
    for line in text.lines() {
        let raw: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", path.display()));
        if KINDS_LEFT_OUT.contains(&raw["type"].as_str().unwrap_or_default())
            || raw["validVersions"] == "none"
        {
            continue;
        }
        messages.push(Message::from_json(&raw));
    }
    messages
}

fn write(out: &Path, name: &str, text: &str) {
    let path = out.join(name);
    fs::write(&path, text).unwrap_or_else(|e| panic!("writing {}: {e}", path.display()));
}

fn modules(messages: &[Message]) -> String {
    let mut out = String::new();
    for message in messages {
        let module = naming::snake_case(&message.name);
        let _ = writeln!(
            out,
            "/// {} ({}), versions {} to {}.\n#[allow(clippy::all)]\npub mod {module} {{",
            message.name,
            message.kind.words(),
            message.valid.min,
            message.valid.max
        );
        out.push_str("use super::prelude::*;\n");
        for structure in message.structures() {
            shape::write_struct(&mut out, message, structure);
            decode::write_decode(&mut out, message, structure);
            encode::write_encode(&mut out, message, structure);
        }
        write_traits(&mut out, message, messages);
        let _ = writeln!(out, "}}\npub use {module}::{};", message.name);
    }
    out
}

/// `impl Message`, and `impl Request` for what a client sends.
fn write_traits(out: &mut String, message: &Message, all: &[Message]) {
    let name = &message.name;
    let api_key = message.api_key.map_or("None".to_owned(), |key| format!("Some({key})"));
    let flexible_from = message.flexible.map_or("None".to_owned(), |range| format!("Some({})", range.min));
    let (min, max) = (message.valid.min, message.valid.max);
    let _ = writeln!(
        out,
        "impl Message for {name} {{
    const API_KEY: Option<i16> = {api_key};
    const NAME: &'static str = \"{name}\";
    const MIN_VERSION: i16 = {min};
    const MAX_VERSION: i16 = {max};
    const FLEXIBLE_FROM: Option<i16> = {flexible_from};
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {{
        check_version(Self::NAME, Self::MIN_VERSION, Self::MAX_VERSION, version)?;
        Self::read(r, version)
    }}
    fn encode(&self, w: &mut Writer, version: i16) {{
        debug_assert!((Self::MIN_VERSION..=Self::MAX_VERSION).contains(&version), \"{name} has no version {{version}}\");
        self.write(w, version);
    }}
}}"
    );
    if message.kind == Kind::Request {
        let response = all
            .iter()
            .find(|other| other.kind == Kind::Response && other.api_key == message.api_key)
            .unwrap_or_else(|| panic!("{name} has no response"));
        let key = message.api_key.expect("a request has an API key");
        let _ = writeln!(
            out,
            "impl Request for {name} {{ const KEY: i16 = {key}; type Response = super::{}; }}",
            response.name
        );
    }
}
