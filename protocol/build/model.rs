//! A message as the tables describe it: structs of fields, each with the versions it belongs to.

use serde_json::Value;

use crate::naming::snake_case;
use crate::versions::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
    Header,
    CoordinatorKey,
    CoordinatorValue,
    Data,
}

impl Kind {
    fn parse(text: &str) -> Self {
        match text {
            "request" => Self::Request,
            "response" => Self::Response,
            "header" => Self::Header,
            "coordinator-key" => Self::CoordinatorKey,
            "coordinator-value" => Self::CoordinatorValue,
            "data" => Self::Data,
            other => panic!("unknown kind of message: {other}"),
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
            Self::Header => "header",
            Self::CoordinatorKey => "key of a coordinator's record",
            Self::CoordinatorValue => "value of a coordinator's record",
            Self::Data => "data",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    Int64,
    Float64,
    Uuid,
    Str,
    /// `bytes` and `records`: the same on the wire.
    Bytes,
    Struct(String),
    Array(Box<Type>),
}

impl Type {
    fn parse(text: &str) -> Self {
        if let Some(element) = text.strip_prefix("[]") {
            return Self::Array(Box::new(Self::parse(element)));
        }
        match text {
            "bool" => Self::Bool,
            "int8" => Self::Int8,
            "int16" => Self::Int16,
            "uint16" => Self::Uint16,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "float64" => Self::Float64,
            "uuid" => Self::Uuid,
            "string" => Self::Str,
            "bytes" | "records" => Self::Bytes,
            name if name.starts_with(|c: char| c.is_ascii_uppercase()) => Self::Struct(name.to_owned()),
            other => panic!("unknown type: {other}"),
        }
    }

    /// The Rust type, not yet wrapped in `Option`.
    pub(crate) fn rust(&self) -> String {
        match self {
            Self::Array(element) => format!("Vec<{}>", element.rust()),
            Self::Struct(name) => name.clone(),
            Self::Str => "ByteString".to_owned(),
            Self::Bytes => "Bytes".to_owned(),
            Self::Uuid => "Uuid".to_owned(),
            scalar => scalar.scalar().expect("all other types are scalars").1.to_owned(),
        }
    }

    /// For a type of fixed size: the method of `Reader` and `Writer`, and the Rust type.
    pub(crate) fn scalar(&self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::Bool => ("bool", "bool"),
            Self::Int8 => ("i8", "i8"),
            Self::Int16 => ("i16", "i16"),
            Self::Uint16 => ("u16", "u16"),
            Self::Int32 => ("i32", "i32"),
            Self::Int64 => ("i64", "i64"),
            Self::Float64 => ("f64", "f64"),
            Self::Uuid => ("uuid", "Uuid"),
            _ => return None,
        })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) ty: Type,
    /// Already cut to the versions of the message.
    pub(crate) versions: Range,
    pub(crate) nullable: Option<Range>,
    /// Set for a tagged field; it is tagged in all of its versions.
    pub(crate) tag: Option<u32>,
    pub(crate) default: Default,
    /// The header's client id keeps the old form in every version (KIP-511).
    pub(crate) never_flexible: bool,
    pub(crate) ignorable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Default {
    /// Zero, false or empty.
    Natural,
    Null,
    Number(i64),
    True,
}

impl Field {
    pub(crate) fn is_option(&self) -> bool {
        self.nullable.is_some()
    }

    /// As a Rust expression.
    pub(crate) fn default_expression(&self) -> String {
        let natural = match &self.ty {
            Type::Struct(name) => format!("{name}::default()"),
            Type::Array(_) => "Vec::new()".to_owned(),
            Type::Str => "ByteString::new()".to_owned(),
            Type::Bytes => "Bytes::new()".to_owned(),
            Type::Uuid => "Uuid::ZERO".to_owned(),
            Type::Bool => "false".to_owned(),
            Type::Float64 => "0.0".to_owned(),
            _ => "0".to_owned(),
        };
        match self.default {
            Default::Null => "None".to_owned(),
            Default::Number(number) => number.to_string(),
            Default::True => "true".to_owned(),
            Default::Natural if self.is_option() => format!("Some({natural})"),
            Default::Natural => natural,
        }
    }

    /// Whether `#[derive(Default)]` gives the field's default.
    pub(crate) fn default_is_derived(&self) -> bool {
        match self.default {
            Default::Natural => !self.is_option(),
            Default::Null => true,
            Default::Number(_) | Default::True => false,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Struct {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
}

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) api_key: Option<i16>,
    pub(crate) valid: Range,
    pub(crate) flexible: Option<Range>,
    structs: Vec<Struct>,
}

impl Message {
    pub(crate) fn from_json(raw: &Value) -> Self {
        let name = text(raw, "name").to_owned();
        let valid =
            Range::parse(text(raw, "validVersions")).expect("messages without versions were left out");
        let mut message = Self {
            kind: Kind::parse(text(raw, "type")),
            api_key: raw["apiKey"].as_i64().map(|key| i16::try_from(key).expect("an API key is an int16")),
            valid,
            flexible: Range::parse(text(raw, "flexibleVersions")).and_then(|range| range.intersect(valid)),
            structs: Vec::new(),
            name,
        };
        let flexible_to_the_end = message.flexible.is_none_or(|range| range.max == valid.max);
        assert!(flexible_to_the_end, "{}: flexible versions end before the message's", message.name);
        message.add_struct(&message.name.clone(), &raw["fields"]);
        for common in raw["commonStructs"].as_array().into_iter().flatten() {
            message.add_struct(text(common, "name"), &common["fields"]);
        }
        message
    }

    /// The message's own struct first.
    pub(crate) fn structures(&self) -> &[Struct] {
        &self.structs
    }

    fn add_struct(&mut self, name: &str, fields: &Value) {
        let place = self.structs.len();
        self.structs.push(Struct { name: name.to_owned(), fields: Vec::new() });
        for raw in fields.as_array().unwrap_or_else(|| panic!("{name} has no fields")) {
            let Some(field) = self.field(raw) else { continue };
            if let Some(inner) = raw.get("fields").filter(|_| raw["type"].as_str().is_some()) {
                let element = text(raw, "type").trim_start_matches("[]").to_owned();
                self.add_struct(&element, inner);
            }
            self.structs[place].fields.push(field);
        }
        let twice = self.structs.iter().filter(|other| other.name == name).count();
        assert_eq!(twice, 1, "{}: two structs named {name}", self.name);
    }

    /// `None` for a field of versions that are no longer valid.
    fn field(&self, raw: &Value) -> Option<Field> {
        let name = text(raw, "name");
        let range = |key: &str| raw.get(key).and_then(Value::as_str).and_then(Range::parse);
        let tagged = range("taggedVersions");
        // A field that names only its tagged versions exists in just those.
        let versions = range("versions").or(tagged).unwrap_or_else(|| panic!("{name} has no versions"));
        let versions = versions.intersect(self.valid)?;
        let tag = tagged.map(|tagged| {
            assert_eq!(tagged.intersect(versions), Some(versions), "{}.{name}: tagged in part", self.name);
            u32::try_from(raw["tag"].as_u64().expect("a tagged field has a tag")).expect("a tag is small")
        });
        Some(Field {
            name: snake_case(name),
            ty: Type::parse(text(raw, "type")),
            versions,
            nullable: range("nullableVersions").and_then(|range| range.intersect(versions)),
            tag,
            default: default(raw.get("default")),
            never_flexible: raw.get("flexibleVersions").is_some_and(|value| value == "none"),
            ignorable: raw["ignorable"].as_bool().unwrap_or(false),
        })
    }
}

fn text<'a>(raw: &'a Value, key: &str) -> &'a str {
    raw[key].as_str().unwrap_or_else(|| panic!("{key} is missing in {raw}"))
}

fn default(raw: Option<&Value>) -> Default {
    let words = match raw {
        None => return Default::Natural,
        // Kafka reads a JSON null as "none given": a text "null" alone makes the default null.
        Some(Value::Null) => return Default::Natural,
        Some(Value::String(words)) => words.clone(),
        Some(other) => other.to_string(),
    };
    match words.as_str() {
        "" | "0" | "false" => Default::Natural,
        "null" => Default::Null,
        "true" => Default::True,
        number => {
            let value = match number.strip_prefix("0x") {
                Some(digits) => i64::from_str_radix(digits, 16),
                None => number.parse(),
            };
            Default::Number(value.unwrap_or_else(|_| panic!("unknown default: {number}")))
        }
    }
}
