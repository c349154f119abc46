//! Writes the `write` of a struct.

use std::fmt::Write as _;

use crate::model::{Default, Field, Message, Struct, Type};
use crate::versions::{Test, uses_version};

pub(crate) fn write_encode(out: &mut String, message: &Message, structure: &Struct) {
    let flexible = message.valid.test_of(message.flexible);
    let mut body = String::new();
    for field in structure.fields.iter().filter(|field| field.tag.is_none()) {
        body.push_str(&message.valid.test_of(Some(field.versions)).around(&statement(message, field)));
    }
    body.push_str(&flexible.around(&tags(message, structure)));

    let version = if uses_version(&body) { "version" } else { "_version" };
    let writer = if body.contains("w.") || body.contains("(w,") { "w" } else { "_w" };
    let _ = writeln!(
        out,
        "impl {} {{
/// Writes the struct in the form of `version`; what that version lacks is left out.
pub fn write(&self, {writer}: &mut Writer, {version}: i16) {{
{body}}}
}}",
        structure.name
    );
}

fn statement(message: &Message, field: &Field) -> String {
    let flexible = if field.never_flexible { Test::Never } else { message.valid.test_of(message.flexible) };
    let flexible = flexible.expression().to_owned();
    let place = format!("self.{}", field.name);
    if !field.is_option() {
        return value(&field.ty, &flexible, &place, false);
    }
    // Where null is not allowed the empty value stands for it: encoding never fails.
    let nullable = field.versions.test_of(field.nullable);
    let (yes, no) =
        if field.tag.is_some() { ("w.varint(1);", "w.varint(0);") } else { ("w.i8(1);", "w.i8(-1);") };
    let absent = absent(&field.ty, &flexible, &nullable, no);
    let present = value(&field.ty, &flexible, "x", true);
    let marker = match (&field.ty, &nullable) {
        (Type::Struct(_), Test::Always) => yes.to_owned(),
        (Type::Struct(_), Test::When(test)) => format!("if {test} {{ {yes} }}"),
        _ => String::new(),
    };
    format!("match &{place} {{ Some(x) => {{ {marker} {present} }} None => {{ {absent} }} }}")
}

/// What is written for `None`; for a struct, `marker`.
fn absent(ty: &Type, flexible: &str, nullable: &Test, marker: &str) -> String {
    let (null, empty) = match ty {
        Type::Str => (format!("w.null_string({flexible});"), format!("w.string(\"\", {flexible});")),
        Type::Bytes => (format!("w.null_bytes({flexible});"), format!("w.bytes(&[], {flexible});")),
        Type::Array(_) => (format!("w.null_array({flexible});"), format!("w.array_len(0, {flexible});")),
        Type::Struct(name) => (marker.to_owned(), format!("{name}::default().write(w, version);")),
        scalar => panic!("{scalar:?} is never null"),
    };
    match nullable {
        Test::Always => null,
        Test::Never => empty,
        Test::When(test) => format!("if {test} {{ {null} }} else {{ {empty} }}"),
    }
}

/// Writes the value at `place`, which is a reference if `by_reference`.
fn value(ty: &Type, flexible: &str, place: &str, by_reference: bool) -> String {
    let reference = if by_reference { "" } else { "&" };
    match ty {
        Type::Str => format!("w.string({reference}{place}, {flexible});"),
        Type::Bytes => format!("w.bytes({reference}{place}, {flexible});"),
        Type::Struct(_) => format!("{place}.write(w, version);"),
        Type::Array(element) => {
            let each = value(element, flexible, "e", true);
            format!("w.array_len({place}.len(), {flexible}); for e in {reference}{place} {{ {each} }}")
        }
        scalar => {
            let star = if by_reference { "*" } else { "" };
            format!("w.{}({star}{place});", scalar.scalar().expect("all other types are scalars").0)
        }
    }
}

/// The tagged fields at the end of a flexible struct: those that differ from their default, by rising tag.
fn tags(message: &Message, structure: &Struct) -> String {
    let mut tagged: Vec<(u32, &Field)> =
        structure.fields.iter().filter_map(|field| Some((field.tag?, field))).collect();
    if tagged.is_empty() {
        return "w.varint(0);".to_owned();
    }
    tagged.sort_by_key(|(tag, _)| *tag);
    let mut count = String::new();
    let mut bodies = String::new();
    for (tag, field) in tagged {
        let differs = differs(field);
        let test = match message.valid.test_of(Some(field.versions)) {
            Test::Always => differs,
            Test::When(test) => format!("{test} && {differs}"),
            Test::Never => unreachable!("such fields were left out"),
        };
        let _ = writeln!(count, "let tag_{tag} = {test};");
        let _ = writeln!(
            bodies,
            "if tag_{tag} {{ let start = w.begin_tag({tag}); {} w.end_tag(start); }}",
            statement(message, field)
        );
    }
    let names: Vec<String> =
        structure.fields.iter().filter_map(|field| Some(format!("u32::from(tag_{})", field.tag?))).collect();
    format!("{count} w.varint({}); {bodies}", names.join(" + "))
}

fn differs(field: &Field) -> String {
    let place = format!("self.{}", field.name);
    match (&field.default, &field.ty) {
        (Default::Null, _) => format!("{place}.is_some()"),
        (Default::Natural, Type::Array(_) | Type::Str | Type::Bytes) if !field.is_option() => {
            format!("!{place}.is_empty()")
        }
        (Default::Natural, Type::Bool) => place,
        _ => format!("{place} != {}", field.default_expression()),
    }
}
