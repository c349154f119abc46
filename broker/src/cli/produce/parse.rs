//! What a line says: key and value by a separator, or a JSON object as `ottla consume --output json` prints it.

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ottla_client::Outgoing;
use serde_json::{Map, Value};

use crate::cli::units;

/// Key and value; a line without the separator has no key.
pub(super) fn split<'a>(line: &'a [u8], separator: &[u8]) -> (Option<&'a [u8]>, &'a [u8]) {
    match line.windows(separator.len()).position(|window| window == separator) {
        Some(at) => (Some(&line[..at]), &line[at + separator.len()..]),
        None => (None, line),
    }
}

/// `NAME=VALUE`s.
pub(super) fn headers(given: &[String]) -> anyhow::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let headers = given.iter().map(|header| {
        let (name, value) =
            header.split_once('=').with_context(|| format!("--header {header}: give it as NAME=VALUE"))?;
        Ok((name.as_bytes().to_vec(), value.as_bytes().to_vec()))
    });
    headers.collect()
}

type Field = Option<Vec<u8>>;

/// A record of its own bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct JsonRecord {
    key: Field,
    value: Field,
    headers: Vec<(Vec<u8>, Field)>,
    timestamp: Option<i64>,
}

impl JsonRecord {
    pub(super) fn outgoing<'a>(&'a self, tag: u64, template: &Outgoing<'a>) -> Outgoing<'a> {
        let own = self.headers.iter().map(|(name, value)| (&name[..], value.as_deref()));
        Outgoing {
            tag,
            timestamp: self.timestamp.unwrap_or_else(units::now_ms),
            key: self.key.as_deref().or(template.key),
            value: self.value.as_deref(),
            headers: template.headers.iter().copied().chain(own).collect(),
            partition: template.partition,
        }
    }
}

/// Where the record stood before (topic, partition, offset) is passed over: it goes where its key says, or --partition.
pub(super) fn json_record(line: &[u8]) -> anyhow::Result<JsonRecord> {
    let value: Value = serde_json::from_slice(line).context("it is no JSON")?;
    let Value::Object(object) = value else {
        bail!("it is no JSON object such as {{\"key\":\"k\",\"value\":\"v\"}}")
    };
    let mut headers = Vec::new();
    if let Some(list) = object.get("headers").filter(|list| !list.is_null()) {
        for header in list.as_array().context("headers is no list")? {
            let header = header.as_object().context("a header is an object with name and value")?;
            let name = field(header, "name")?.context("a header has no name")?;
            headers.push((name, field(header, "value")?));
        }
    }
    let timestamp = match object.get("timestamp") {
        None | Some(Value::Null) => None,
        Some(time) => Some(time.as_i64().context("timestamp is no number of milliseconds")?),
    };
    Ok(JsonRecord { key: field(&object, "key")?, value: field(&object, "value")?, headers, timestamp })
}

/// Text as it is, `NAME_base64` unpacked; any other JSON value is sent as JSON.
fn field(object: &Map<String, Value>, name: &str) -> anyhow::Result<Field> {
    if let Some(packed) = object.get(&format!("{name}_base64")) {
        let packed = packed.as_str().with_context(|| format!("{name}_base64 is no text"))?;
        return STANDARD.decode(packed).map(Some).with_context(|| format!("{name}_base64 is no base64"));
    }
    Ok(match object.get(name) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone().into_bytes()),
        Some(other) => Some(other.to_string().into_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_separator_parts_key_and_value() {
        assert_eq!(split(b"k:v:w", b":"), (Some(&b"k"[..]), &b"v:w"[..]));
        assert_eq!(split(b":v", b":"), (Some(&b""[..]), &b"v"[..]));
        assert_eq!(split(b"value", b":"), (None, &b"value"[..]));
        assert_eq!(split(b"k, v", b", "), (Some(&b"k"[..]), &b"v"[..]));
    }

    #[test]
    fn json_lines_are_read_as_they_are_printed() {
        let line = br#"{"topic":"t","partition":1,"offset":5,"timestamp":7,"key":"k","value_base64":"/wA=","headers":[{"name":"a","value":"1"},{"name":"a","value":null}]}"#;
        let expected = JsonRecord {
            key: Some(b"k".to_vec()),
            value: Some(vec![0xff, 0]),
            headers: vec![(b"a".to_vec(), Some(b"1".to_vec())), (b"a".to_vec(), None)],
            timestamp: Some(7),
        };
        assert_eq!(json_record(line).expect("valid"), expected);
        let record = json_record(br#"{"value":{"a":1}}"#).expect("valid");
        assert_eq!(record.value.as_deref(), Some(&br#"{"a":1}"#[..]));
        for wrong in ["x", "[]", r#"{"headers":1}"#, r#"{"timestamp":"now"}"#, r#"{"value_base64":"?"}"#] {
            assert!(json_record(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
