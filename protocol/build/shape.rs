//! Writes a struct and its `Default`.

use std::fmt::Write as _;

use crate::model::{Field, Message, Struct};
use crate::versions::Range;

pub(crate) fn write_struct(out: &mut String, message: &Message, structure: &Struct) {
    let derived = structure.fields.iter().all(Field::default_is_derived);
    let default = if derived { ", Default" } else { "" };
    let _ = writeln!(out, "#[derive(Clone, Debug, PartialEq{default})]\npub struct {} {{", structure.name);
    for field in &structure.fields {
        let ty = field.ty.rust();
        let ty = if field.is_option() { format!("Option<{ty}>") } else { ty };
        let _ = writeln!(out, "/// {}\npub {}: {ty},", describe(message, field), field.name);
    }
    out.push_str("}\n");
    if !derived {
        let _ = writeln!(out, "impl Default for {} {{ fn default() -> Self {{ Self {{", structure.name);
        for field in &structure.fields {
            let _ = writeln!(out, "{}: {},", field.name, field.default_expression());
        }
        out.push_str("} } }\n");
    }
}

/// One line of documentation: where the field exists, where it may be null, its default.
fn describe(message: &Message, field: &Field) -> String {
    let words = |range: Range| {
        if range.max >= message.valid.max {
            format!("{}+", range.min)
        } else {
            format!("{}-{}", range.min, range.max)
        }
    };
    let mut text = format!("Versions {}", words(field.versions));
    if let Some(tag) = field.tag {
        let _ = write!(text, ", tag {tag}");
    }
    if let Some(range) = field.nullable {
        let _ = write!(text, ", null in {}", words(range));
    }
    if !field.default_is_derived() || field.is_option() {
        let _ = write!(text, ", default `{}`", field.default_expression());
    }
    if field.ignorable {
        text.push_str(", ignorable");
    }
    text.push('.');
    text
}
