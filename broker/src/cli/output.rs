//! What commands print: text for people, JSON for programs, colour only where it is wanted.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};

use clap::{Args, ValueEnum};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Args, Clone, Copy, Debug, Default)]
pub(super) struct Output {
    /// Tables for people, or one line of JSON.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Short for --output json.
    #[arg(long)]
    json: bool,
}

impl Output {
    pub(super) fn is_json(self) -> bool {
        self.json || self.output == Format::Json
    }
}

/// A line to standard output. A pipe that closes is an error like any other: it ends the command.
pub(super) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.trim_end_matches('\n').as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// How a word is meant. Colour says nothing that the word does not say too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Bold,
    Dim,
    Good,
    Warning,
    Bad,
}

impl Tone {
    /// The text in this tone, where standard output takes colour.
    pub(super) fn paint(self, text: &str) -> String {
        if self == Self::Plain || text.is_empty() || !is_coloured() {
            text.to_owned()
        } else {
            self.always(text)
        }
    }

    fn always(self, text: &str) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

fn is_coloured() -> bool {
    takes_colour(io::stdout().is_terminal(), |name| std::env::var_os(name))
}

/// A terminal, and nobody said `NO_COLOR` (no-color.org) or that the terminal is dumb.
fn takes_colour(terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    terminal && !refused && variable("TERM").is_none_or(|term| term != "dumb")
}

/// Text that may hold what came from outside, such as a broker's error message, in lines that a terminal does not act on.
pub(super) fn harmless(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(|line| printable(line.as_bytes())).collect();
    lines.join("\n")
}

/// What came from outside may hold anything; a terminal must not act on it.
pub(super) fn printable(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_nothing_to_act_on() {
        assert_eq!(printable("naïve — 日本".as_bytes()), "naïve — 日本");
        assert_eq!(harmless("two\nlines\x1b"), "two\nlines\\u{1b}");
        assert_eq!(printable(b"\x1b[2Jx\ny\xff\0"), "\\u{1b}[2Jx\\ny\\xff\\u{0}");
    }

    #[test]
    fn a_terminal_is_coloured_unless_somebody_minds() {
        let with = |name: &'static str, value: &'static str| {
            move |asked: &str| (asked == name).then(|| OsString::from(value))
        };
        assert!(takes_colour(true, with("TERM", "xterm")));
        assert!(takes_colour(true, with("NO_COLOR", "")));
        assert!(!takes_colour(true, with("NO_COLOR", "1")));
        assert!(!takes_colour(true, with("TERM", "dumb")));
        assert!(!takes_colour(false, with("TERM", "xterm")));
    }

    #[test]
    fn colour_ends_where_its_word_does() {
        assert_eq!(Tone::Bad.always("offline"), "\x1b[31moffline\x1b[0m");
        assert_eq!(Tone::Plain.always("ok"), "ok");
    }
}
