//! Ranges of versions, as the tables write them: `3`, `0-7`, `9+`, `none`.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) min: i16,
    /// `i16::MAX` for "and all later ones".
    pub(crate) max: i16,
}

impl Range {
    /// `None` for `none`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number = |digits: &str| {
            digits.parse::<i16>().unwrap_or_else(|_| panic!("not a range of versions: {text}"))
        };
        if text == "none" {
            return None;
        }
        if let Some(min) = text.strip_suffix('+') {
            return Some(Self { min: number(min), max: i16::MAX });
        }
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        Some(Self { min: number(min), max: number(max) })
    }

    pub(crate) fn intersect(self, other: Self) -> Option<Self> {
        let both = Self { min: self.min.max(other.min), max: self.max.min(other.max) };
        (both.min <= both.max).then_some(both)
    }

    /// The test for "`version` lies in `range`", where it is already known to lie in `self`.
    pub(crate) fn test_of(self, range: Option<Self>) -> Test {
        let Some(both) = range.and_then(|range| range.intersect(self)) else { return Test::Never };
        match (both.min > self.min, both.max < self.max) {
            (false, false) => Test::Always,
            (true, false) => Test::When(format!("version >= {}", both.min)),
            (false, true) => Test::When(format!("version <= {}", both.max)),
            (true, true) => Test::When(format!("({}..={}).contains(&version)", both.min, both.max)),
        }
    }
}

/// When a field is there, may be null, or is written in the flexible form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    Always,
    Never,
    When(String),
}

impl Test {
    /// As a Rust expression of type `bool`.
    pub(crate) fn expression(&self) -> &str {
        match self {
            Self::Always => "true",
            Self::Never => "false",
            Self::When(text) => text,
        }
    }

    /// `body`, under this test.
    pub(crate) fn around(&self, body: &str) -> String {
        match self {
            Self::Always => format!("{body}\n"),
            Self::Never => String::new(),
            Self::When(text) => format!("if {text} {{ {body} }}\n"),
        }
    }
}

/// Whether generated code reads the variable `version` (and not just a field of that name).
pub(crate) fn uses_version(code: &str) -> bool {
    code.match_indices("version").any(|(at, word)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let is_name = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        before != Some('.') && !is_name(before) && !is_name(after)
    })
}
