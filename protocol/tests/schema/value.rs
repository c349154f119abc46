//! Values of a schema: its defaults, and random ones.

use rand::Rng as _;
use rand::rngs::SmallRng;

use super::{Field, Type};

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Uuid([u8; 16]),
    Text(String),
    Bytes(Vec<u8>),
    Array(Vec<Value>),
    /// One value for each field of the struct, in whatever version.
    Struct(Vec<Value>),
}

/// The value that the schema gives a field that nobody set.
pub fn default_of(field: &Field) -> Value {
    let words = field.default.as_deref().unwrap_or_default();
    match &field.ty {
        _ if words == "null" => Value::Null,
        Type::Bool => Value::Bool(words == "true"),
        Type::Int(_) => Value::Int(match words.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16).expect("a hexadecimal default"),
            None => words.parse().unwrap_or(0),
        }),
        Type::Float => Value::Float(0.0),
        Type::Uuid => Value::Uuid([0; 16]),
        Type::Text => Value::Text(words.to_owned()),
        Type::Bytes => Value::Bytes(Vec::new()),
        Type::Array(_) => Value::Array(Vec::new()),
        Type::Struct(fields) => defaults(fields),
    }
}

pub fn defaults(fields: &[Field]) -> Value {
    Value::Struct(fields.iter().map(default_of).collect())
}

/// A random value that `version` can carry; what it lacks has its default.
pub fn random(fields: &[Field], version: i16, rng: &mut SmallRng) -> Value {
    let one = |field: &Field| {
        let keeps_default = field.tag.is_some() && rng.random_ratio(1, 3);
        if !field.is_in(version) || keeps_default {
            return default_of(field);
        }
        if field.may_be_null(version) && rng.random_ratio(1, 4) {
            return Value::Null;
        }
        random_of(&field.ty, version, rng)
    };
    Value::Struct(fields.iter().map(one).collect())
}

fn random_of(ty: &Type, version: i16, rng: &mut SmallRng) -> Value {
    match ty {
        Type::Bool => Value::Bool(rng.random()),
        Type::Int(bytes) => {
            let wide: i64 = if rng.random() { rng.random_range(-2..100) } else { rng.random() };
            let unused = 64 - 8 * u32::try_from(*bytes).expect("at most eight bytes");
            Value::Int(wide << unused >> unused)
        }
        Type::Float => Value::Float(f64::from(rng.random::<i32>())),
        Type::Uuid => Value::Uuid(rng.random()),
        Type::Text => {
            let chars = ['a', 'Z', '0', '.', '\u{e4}', '\u{20ac}', '\u{1f9a6}'];
            let long = if rng.random_ratio(1, 20) { 200 } else { 8 };
            let text = (0..rng.random_range(0..long)).map(|_| chars[rng.random_range(0..chars.len())]);
            Value::Text(text.collect())
        }
        Type::Bytes => {
            let long = if rng.random_ratio(1, 20) { 20_000 } else { 20 };
            Value::Bytes((0..rng.random_range(0..long)).map(|_| rng.random()).collect())
        }
        Type::Array(element) => {
            let long = if rng.random_ratio(1, 10) && !matches!(**element, Type::Struct(_)) { 150 } else { 3 };
            Value::Array((0..rng.random_range(0..=long)).map(|_| random_of(element, version, rng)).collect())
        }
        Type::Struct(fields) => random(fields, version, rng),
    }
}

/// A value in which every array has one element and nothing is null, so that every field is reached.
pub fn full(fields: &[Field], version: i16) -> Value {
    let one =
        |field: &Field| if field.is_in(version) { full_of(&field.ty, version) } else { default_of(field) };
    Value::Struct(fields.iter().map(one).collect())
}

fn full_of(ty: &Type, version: i16) -> Value {
    match ty {
        Type::Bool => Value::Bool(true),
        Type::Int(_) => Value::Int(1),
        Type::Float => Value::Float(1.0),
        Type::Uuid => Value::Uuid([1; 16]),
        Type::Text => Value::Text("t".to_owned()),
        Type::Bytes => Value::Bytes(vec![1]),
        Type::Array(element) => Value::Array(vec![full_of(element, version)]),
        Type::Struct(fields) => full(fields, version),
    }
}
