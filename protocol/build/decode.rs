//! Writes the `read` of a struct.

use std::fmt::Write as _;

use crate::model::{Field, Message, Struct, Type};
use crate::versions::{Test, uses_version};

/// Each field is read into a variable of its own, and the struct is made at the end: filling in a default one would drop what it held.
pub(crate) fn write_decode(out: &mut String, message: &Message, structure: &Struct) {
    let flexible = message.valid.test_of(message.flexible);
    let mut body = String::new();
    for field in structure.fields.iter().filter(|field| field.tag.is_none()) {
        let variable = variable(field);
        let value = expression(message, field);
        let _ = match message.valid.test_of(Some(field.versions)) {
            Test::Always => writeln!(body, "let {variable} = {value};"),
            Test::When(test) => {
                let default = field.default_expression();
                writeln!(body, "let {variable} = if {test} {{ {value} }} else {{ {default} }};")
            }
            Test::Never => unreachable!("such fields were left out"),
        };
    }
    for field in structure.fields.iter().filter(|field| field.tag.is_some()) {
        let _ = writeln!(body, "let mut {} = {};", variable(field), field.default_expression());
    }
    body.push_str(&flexible.around(&tags(message, structure)));

    let version = if uses_version(&body) { "version" } else { "_version" };
    let reader = if body.contains("r.") || body.contains("(r,") { "r" } else { "_r" };
    let _ = writeln!(
        out,
        "impl {} {{
/// Reads the struct in the form of `version`, which is one of the message's.
pub fn read({reader}: &mut Reader, {version}: i16) -> Result<Self, DecodeError> {{
{body}Ok(Self {{",
        structure.name
    );
    for field in &structure.fields {
        let _ = writeln!(out, "{}: {},", field.name, variable(field));
    }
    out.push_str("})\n}\n}\n");
}

fn variable(field: &Field) -> String {
    format!("field_{}", field.name)
}

/// What reads a field in a version that has it.
fn expression(message: &Message, field: &Field) -> String {
    let flexible = if field.never_flexible { Test::Never } else { message.valid.test_of(message.flexible) };
    let flexible = flexible.expression().to_owned();
    let nullable = field.versions.test_of(field.nullable);
    let value = |nullable: bool| match &field.ty {
        Type::Struct(name) if nullable => {
            let test = if field.tag.is_some() { "is_tagged_struct_present" } else { "is_struct_present" };
            format!("if r.{test}()? {{ Some({name}::read(r, version)?) }} else {{ None }}")
        }
        ty => value(ty, &flexible, nullable),
    };
    match nullable {
        Test::Never if !field.is_option() => value(false),
        Test::Never => format!("Some({})", value(false)),
        Test::Always => value(true),
        Test::When(test) => format!("if {test} {{ {} }} else {{ Some({}) }}", value(true), value(false)),
    }
}

/// The expression that reads one value: of type `Option<T>` if it may be null.
fn value(ty: &Type, flexible: &str, nullable: bool) -> String {
    let prefix = if nullable { "nullable_" } else { "" };
    match ty {
        Type::Str => format!("r.{prefix}string({flexible})?"),
        Type::Bytes => format!("r.{prefix}bytes({flexible})?"),
        Type::Struct(name) => format!("{name}::read(r, version)?"),
        Type::Array(element) => array(element, flexible, nullable),
        scalar => {
            assert!(!nullable, "a number is never null");
            format!("r.{}()?", scalar.scalar().expect("all other types are scalars").0)
        }
    }
}

fn array(element: &Type, flexible: &str, nullable: bool) -> String {
    let prefix = if nullable { "nullable_" } else { "" };
    let one = value(element, flexible, false);
    let rust = element.rust();
    let fill = format!("let mut v = Vec::with_capacity(n); for _ in 0..n {{ v.push({one}); }}");
    if nullable {
        format!(
            "match r.{prefix}array_len({flexible}, size_of::<{rust}>())? {{ Some(n) => {{ {fill} Some(v) }} None => None }}"
        )
    } else {
        format!("{{ let n = r.array_len({flexible}, size_of::<{rust}>())?; {fill} v }}")
    }
}

/// The tagged fields at the end of a flexible struct.
fn tags(message: &Message, structure: &Struct) -> String {
    let mut arms = String::new();
    for field in &structure.fields {
        let Some(tag) = field.tag else { continue };
        let guard = match message.valid.test_of(Some(field.versions)) {
            Test::Always => String::new(),
            Test::When(test) => format!(" if {test}"),
            Test::Never => unreachable!("such fields were left out"),
        };
        let _ = writeln!(
            arms,
            "{tag}{guard} => {{ {} = {}; r.end_of_tag(end)?; }}",
            variable(field),
            expression(message, field)
        );
    }
    if arms.is_empty() {
        return "r.skip_tags()?;".to_owned();
    }
    format!(
        "for _ in 0..r.tag_count()? {{ let (tag, end) = r.tag()?; match tag {{ {arms} _ => r.skip_tag(end)?, }} }}"
    )
}
