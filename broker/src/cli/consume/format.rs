//! kcat's format strings: `%k = %s\n`.

use std::io::{self, Write};

use super::line::Line;

pub(in crate::cli) const HELP: &str = "%s value, %k key, %h headers, %t topic, %p partition, %o offset, %T timestamp in milliseconds, %d \
                                       timestamp as a date, %S and %K bytes of value and key (-1: null), %R the value's bytes as four \
                                       binary ones, %% a percent sign; \\n \\r \\t \\\\ \\xNN";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Value,
    ValueBytes,
    ValueBytesBinary,
    Key,
    KeyBytes,
    Headers,
    Topic,
    Partition,
    Offset,
    Timestamp,
    Date,
}

/// What is printed of each record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Format(Vec<Part>);

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let part = match c {
                '\\' => {
                    plain.push(escaped(&mut chars)?);
                    continue;
                }
                '%' => match chars.next() {
                    Some('%') => {
                        plain.push(b'%');
                        continue;
                    }
                    Some('s') => Part::Value,
                    Some('S') => Part::ValueBytes,
                    Some('R') => Part::ValueBytesBinary,
                    Some('k') => Part::Key,
                    Some('K') => Part::KeyBytes,
                    Some('h') => Part::Headers,
                    Some('t') => Part::Topic,
                    Some('p') => Part::Partition,
                    Some('o') => Part::Offset,
                    Some('T') => Part::Timestamp,
                    Some('d') => Part::Date,
                    Some(other) => return Err(format!("%{other} is no token; there are: {HELP}")),
                    None => return Err("a lone % stands at the end: write %% for the sign".to_owned()),
                },
                c => {
                    plain.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(part);
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }
}

/// What stands behind a backslash.
fn escaped(chars: &mut std::str::Chars<'_>) -> Result<u8, String> {
    Ok(match chars.next() {
        Some('n') => b'\n',
        Some('r') => b'\r',
        Some('t') => b'\t',
        Some('0') => 0,
        Some('\\') => b'\\',
        Some('x') => {
            let digits: String = chars.by_ref().take(2).collect();
            let byte = u8::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 2);
            byte.ok_or_else(|| format!("\\x{digits}: \\x takes two hexadecimal digits"))?
        }
        Some(other) => return Err(format!("\\{other} is no escape: there are \\n \\r \\t \\0 \\\\ \\xNN")),
        None => return Err("a lone \\ stands at the end: write \\\\ for the sign".to_owned()),
    })
}

/// A delimiter such as `\t`, `, ` or `\x00`.
pub(in crate::cli) fn delimiter(text: &str) -> Result<Vec<u8>, String> {
    let Format(parts) = text.replace('%', "%%").parse()?;
    match parts.into_iter().next() {
        Some(Part::Text(bytes)) => Ok(bytes),
        _ => Err("it must not be empty".to_owned()),
    }
}

impl Format {
    pub(super) fn write(&self, out: &mut impl Write, line: &Line<'_>) -> io::Result<()> {
        let record = line.record;
        let bytes =
            |field: Option<&[u8]>| field.map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX));
        for part in &self.0 {
            match part {
                Part::Text(text) => out.write_all(text)?,
                Part::Value => out.write_all(record.value.unwrap_or_default())?,
                Part::ValueBytes => write!(out, "{}", bytes(record.value))?,
                Part::ValueBytesBinary => {
                    let length = i32::try_from(bytes(record.value)).unwrap_or(i32::MAX);
                    out.write_all(&length.to_be_bytes())?;
                }
                Part::Key => out.write_all(record.key.unwrap_or_default())?,
                Part::KeyBytes => write!(out, "{}", bytes(record.key))?,
                Part::Headers => write_headers(out, line)?,
                Part::Topic => out.write_all(line.topic.as_bytes())?,
                Part::Partition => write!(out, "{}", line.partition)?,
                Part::Offset => write!(out, "{}", record.offset)?,
                Part::Timestamp => write!(out, "{}", record.timestamp)?,
                Part::Date => write!(out, "{}", crate::cli::units::time(record.timestamp))?,
            }
        }
        Ok(())
    }
}

fn write_headers(out: &mut impl Write, line: &Line<'_>) -> io::Result<()> {
    for (at, (name, value)) in line.record.headers.iter().enumerate() {
        if at > 0 {
            out.write_all(b",")?;
        }
        out.write_all(name)?;
        out.write_all(b"=")?;
        out.write_all(value.unwrap_or(b"NULL"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ottla_protocol::batch::TimestampType;
    use ottla_protocol::record::Record;
    use ottla_protocol::types::Offset;

    use super::*;

    #[test]
    fn tokens_are_filled_in_as_kcat_does() {
        let record = Record {
            offset: Offset(7),
            timestamp: 1_764_084_601_123,
            key: Some(b"k"),
            value: None,
            headers: vec![(b"a", Some(b"1")), (b"b", None)],
        };
        let line =
            Line { topic: "t", partition: 3, timestamp_type: TimestampType::CreateTime, record: &record };
        let cases: [(&str, &[u8]); 6] = [
            ("%t-%p@%o", b"t-3@7"),
            ("%k=%s (%K, %S)\\n", b"k= (1, -1)\n"),
            ("%R", &[0xff; 4]),
            ("%h", b"a=1,b=NULL"),
            ("%T %d 100%%", b"1764084601123 2025-11-25T15:30:01.123Z 100%"),
            ("\\x41\\té", "A\té".as_bytes()),
        ];
        for (format, expected) in cases {
            let mut out = Vec::new();
            let parsed: Format = format.parse().expect("valid");
            parsed.write(&mut out, &line).expect("memory");
            assert_eq!(out, expected, "{format}: {}", String::from_utf8_lossy(&out));
        }
        for format in ["%x", "%", "\\q", "\\", "\\x4"] {
            assert!(format.parse::<Format>().is_err(), "{format}");
        }
        assert_eq!(delimiter("\\t"), Ok(b"\t".to_vec()));
        assert_eq!(delimiter("%"), Ok(b"%".to_vec()));
        assert!(delimiter("").is_err());
    }
}
