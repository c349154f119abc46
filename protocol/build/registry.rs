//! Tables over all messages: for the frame's headers, and for the tests.

use std::fmt::Write as _;

use crate::model::{Kind, Message};
use crate::naming::snake_case;

/// What Kafka 4.1.0 had no messages for.
const NEWER_THAN_THEIRS: &str = "StreamsGroup";

/// For each API key: the versions of its request's schema, and the first flexible one.
pub(crate) fn schema_versions(messages: &[Message]) -> String {
    let mut out = String::from("const SCHEMA_VERSIONS: &[SchemaVersions] = &[\n");
    for request in messages.iter().filter(|message| message.kind == Kind::Request) {
        let response = messages
            .iter()
            .find(|other| other.kind == Kind::Response && other.api_key == request.api_key)
            .unwrap_or_else(|| panic!("{} has no response", request.name));
        assert_eq!(request.valid, response.valid, "{}: its response has other versions", request.name);
        assert_eq!(
            request.flexible, response.flexible,
            "{}: its response is flexible elsewhere",
            request.name
        );
        let flexible_from = request.flexible.map_or(i16::MAX, |range| range.min);
        let _ = writeln!(
            out,
            "SchemaVersions {{ api_key: {}, min: {}, max: {}, flexible_from: {flexible_from} }},",
            request.api_key.expect("a request has an API key"),
            request.valid.min,
            request.valid.max
        );
    }
    out.push_str("];\n");
    out
}

pub(crate) fn codecs(messages: &[Message], records: &[Message]) -> String {
    let mut out = String::from("pub const CODECS: &[Codec] = &[\n");
    for (file, group) in [("messages", messages), ("records", records)] {
        for message in group {
            let name = &message.name;
            let module = snake_case(name);
            let is_request = message.kind == Kind::Request;
            let _ = writeln!(out, "codec::<ottla_protocol::{file}::{module}::{name}>({is_request}),");
        }
    }
    out.push_str("];\n");
    out
}

/// The messages that the `kafka-protocol` crate, generated from Kafka 4.1.0, has as well.
pub(crate) fn codecs_of_kafka_protocol(messages: &[Message]) -> String {
    let mut out = String::from("const THEIRS: &[Theirs] = &[\n");
    for message in messages.iter().filter(|message| !message.name.starts_with(NEWER_THAN_THEIRS)) {
        let name = &message.name;
        let _ = writeln!(out, "theirs::<kafka_protocol::messages::{name}>(\"{name}\"),");
    }
    out.push_str("];\n");
    out
}
