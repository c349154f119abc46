//! From a value to its bytes; if asked, with one length or count forged.

use super::value::{Value, default_of};
use super::{Field, Schema, Type};

/// Replaces the `place`-th length, count or number of tagged fields by `claim`, and all that would follow by `filler`.
#[derive(Clone, Debug)]
pub struct Forgery {
    pub place: usize,
    pub claim: Claim,
    pub filler: Vec<u8>,
}

/// What the forged length says.
#[derive(Clone, Copy, Debug)]
pub enum Claim {
    /// So many elements or bytes.
    Count(u32),
    /// These bits, whatever they mean in the form of the place.
    Raw(u32),
}

/// The bytes of `value`; and whether the forgery's place was reached.
pub fn write(schema: &Schema, value: &Value, version: i16, forgery: Option<&Forgery>) -> (Vec<u8>, bool) {
    let mut w =
        Writer { version, flexible: schema.is_flexible(version), forgery, lengths: 0, stopped: false };
    let mut out = Vec::new();
    w.fields(&mut out, &schema.fields, value);
    (out, w.stopped)
}

struct Writer<'a> {
    version: i16,
    flexible: bool,
    forgery: Option<&'a Forgery>,
    /// How many lengths were written so far.
    lengths: usize,
    stopped: bool,
}

impl Writer<'_> {
    fn fields(&mut self, out: &mut Vec<u8>, fields: &[Field], value: &Value) {
        let Value::Struct(values) = value else { panic!("a struct has a struct's value: {value:?}") };
        let mut tagged: Vec<(u32, &Field, &Value)> = Vec::new();
        for (field, value) in fields.iter().zip(values) {
            match field.tag {
                _ if !field.is_in(self.version) => {}
                Some(tag) if *value != default_of(field) => tagged.push((tag, field, value)),
                Some(_) => {}
                None => self.field(out, field, value),
            }
        }
        if !self.flexible {
            return;
        }
        tagged.sort_by_key(|(tag, ..)| *tag);
        self.tag_count(out, tagged.len());
        for (tag, field, value) in tagged {
            if self.stopped {
                return;
            }
            let mut body = Vec::new();
            self.field(&mut body, field, value);
            varint(out, tag);
            varint(out, u32::try_from(body.len()).expect("small"));
            out.extend(body);
        }
    }

    fn field(&mut self, out: &mut Vec<u8>, field: &Field, value: &Value) {
        if self.stopped {
            return;
        }
        let flexible = self.flexible && !field.never_flexible;
        if matches!(field.ty, Type::Struct(_)) && field.may_be_null(self.version) {
            let null = if field.tag.is_some() { 0 } else { 0xff };
            out.push(if *value == Value::Null { null } else { 1 });
            if *value == Value::Null {
                return;
            }
        }
        self.value(out, &field.ty, value, flexible);
    }

    fn value(&mut self, out: &mut Vec<u8>, ty: &Type, value: &Value, flexible: bool) {
        if self.stopped {
            return;
        }
        match (ty, value) {
            (Type::Text, Value::Null) => self.length(out, None, 2, flexible),
            (Type::Bytes | Type::Array(_), Value::Null) => self.length(out, None, 4, flexible),
            (Type::Bool, Value::Bool(is)) => out.push(u8::from(*is)),
            (Type::Int(bytes), Value::Int(number)) => out.extend(&number.to_be_bytes()[8 - bytes..]),
            (Type::Float, Value::Float(number)) => out.extend(number.to_be_bytes()),
            (Type::Uuid, Value::Uuid(bytes)) => out.extend(bytes),
            (Type::Text, Value::Text(text)) => {
                self.length(out, Some(text.len()), 2, flexible);
                self.rest(out, text.as_bytes());
            }
            (Type::Bytes, Value::Bytes(bytes)) => {
                self.length(out, Some(bytes.len()), 4, flexible);
                self.rest(out, bytes);
            }
            (Type::Array(element), Value::Array(values)) => {
                self.length(out, Some(values.len()), 4, flexible);
                for value in values {
                    self.value(out, element, value, flexible);
                }
            }
            (Type::Struct(fields), value) => self.fields(out, fields, value),
            (ty, value) => panic!("{value:?} is no value of {ty:?}"),
        }
    }

    fn rest(&self, out: &mut Vec<u8>, bytes: &[u8]) {
        if !self.stopped {
            out.extend(bytes);
        }
    }

    fn length(&mut self, out: &mut Vec<u8>, len: Option<usize>, bytes: usize, flexible: bool) {
        let len = len.map(|len| u32::try_from(len).expect("small"));
        // In the flexible form the number is one more, and zero for null; in the old form -1 is null.
        let raw = |len: u32| if flexible { len.saturating_add(1) } else { len };
        let null = if flexible { 0 } else { u32::MAX };
        let claim = self.forge();
        let number = match claim {
            None => len.map_or(null, raw),
            Some(Claim::Count(count)) => raw(count),
            Some(Claim::Raw(bits)) => bits,
        };
        if flexible {
            varint(out, number);
        } else {
            out.extend(&number.to_be_bytes()[4 - bytes..]);
        }
        self.stop_if(claim.is_some(), out);
    }

    fn tag_count(&mut self, out: &mut Vec<u8>, count: usize) {
        if self.stopped {
            return;
        }
        let claim = self.forge();
        varint(
            out,
            match claim {
                None => u32::try_from(count).expect("small"),
                Some(Claim::Count(number) | Claim::Raw(number)) => number,
            },
        );
        self.stop_if(claim.is_some(), out);
    }

    fn forge(&mut self) -> Option<Claim> {
        let place = self.lengths;
        self.lengths += 1;
        self.forgery.filter(|forgery| forgery.place == place).map(|forgery| forgery.claim)
    }

    fn stop_if(&mut self, forged: bool, out: &mut Vec<u8>) {
        if let Some(forgery) = self.forgery.filter(|_| forged) {
            out.extend(&forgery.filler);
            self.stopped = true;
        }
    }
}

pub fn varint(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
