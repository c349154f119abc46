//! Where settings come from: `server.properties`, `KAFKA_*` variables, flags.

/// Reads Java's properties format: `=`, `:` or blanks between name and value, `#` and `!` comments, `\` escapes and continuations.
#[must_use]
pub fn parse(text: &str) -> Vec<(String, String)> {
    parse_lines(text).into_iter().map(|(_, name, value)| (name, value)).collect()
}

/// The same, with the number of the line where each begins, from 1 on.
#[must_use]
pub fn parse_lines(text: &str) -> Vec<(usize, String, String)> {
    let mut pairs = Vec::new();
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let mut logical = line.trim_start().to_owned();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while continues(&logical) {
            logical.pop();
            match lines.next() {
                Some((next, _)) => logical.push_str(next.trim_start()),
                None => break,
            }
        }
        let (name, value) = split(&logical);
        pairs.push((number, name, value));
    }
    pairs
}

/// An odd number of backslashes at the end joins the next line.
fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

fn split(line: &str) -> (String, String) {
    let mut escaped = false;
    let end = line
        .char_indices()
        .find(|(_, c)| {
            let found = !escaped && (matches!(c, '=' | ':') || c.is_whitespace());
            escaped = !escaped && *c == '\\';
            found
        })
        .map_or(line.len(), |(at, _)| at);
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start();
    (unescape(name), unescape(rest).trim_end().to_owned())
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some('r')) => out.push('\r'),
            ('\\', Some('u')) => {
                let code: String = chars.by_ref().take(4).collect();
                out.extend(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32));
            }
            ('\\', Some(other)) => out.push(other),
            ('\\', None) => {}
            (c, _) => out.push(c),
        }
    }
    out
}

/// Variables of the official image's scripts that are no settings.
const NO_SETTINGS: [&str; 10] = [
    "KAFKA_HOME",
    "KAFKA_OPTS",
    "KAFKA_HEAP_OPTS",
    "KAFKA_JMX_OPTS",
    "KAFKA_JMX_PORT",
    "KAFKA_JMX_HOSTNAME",
    "KAFKA_GC_LOG_OPTS",
    "KAFKA_LOG4J_OPTS",
    "KAFKA_JVM_PERFORMANCE_OPTS",
    "KAFKA_VERSION",
];

/// The setting that a variable of the official image names: `KAFKA_LOG_DIRS` is `log.dirs`, `__` stands for `_` and `___` for `-`.
#[must_use]
pub fn from_variable(variable: &str) -> Option<String> {
    let name = variable.strip_prefix("KAFKA_")?;
    if NO_SETTINGS.contains(&variable) || name.starts_with("LOG4J_") || name.starts_with("TOOLS_LOG4J_") {
        return None;
    }
    let lower = name.to_lowercase();
    Some(lower.replace("___", "-").replace("__", "\u{0}").replace('_', ".").replace('\u{0}', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_read_as_java_reads_them() {
        let text = "# comment\n! too\n\n a = b \nc:d\ne f g\nlong=one,\\\n   two\npath=C\\:\\\\x\\u0041\nempty=\nlast";
        let pairs = parse(text);
        let expected = [
            ("a", "b"),
            ("c", "d"),
            ("e", "f g"),
            ("long", "one,two"),
            ("path", "C:\\xA"),
            ("empty", ""),
            ("last", ""),
        ];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let numbers: Vec<usize> = parse_lines(text).into_iter().map(|(number, _, _)| number).collect();
        assert_eq!(numbers, [4, 5, 6, 7, 9, 10, 11]);
    }

    #[test]
    fn variables_name_settings_as_in_the_official_image() {
        let cases = [
            ("KAFKA_LOG_DIRS", Some("log.dirs")),
            ("KAFKA_NODE_ID", Some("node.id")),
            ("KAFKA_A__B", Some("a_b")),
            ("KAFKA_A___B", Some("a-b")),
            ("KAFKA_HEAP_OPTS", None),
            ("PATH", None),
        ];
        for (variable, expected) in cases {
            assert_eq!(from_variable(variable).as_deref(), expected, "{variable}");
        }
    }
}
