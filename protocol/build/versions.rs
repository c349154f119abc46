//! Ranges of versions, as the tables write them: `3`, `0-7`, `9+`, `none`.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub min: i16,
    /// `i16::MAX` for "and all later ones".
    pub max: i16,
}

impl Range {
    /// `None` for `none`.
    pub fn parse(text: &str) -> Option<Self> {
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

    pub fn intersect(self, other: Self) -> Option<Self> {
        let both = Self { min: self.min.max(other.min), max: self.max.min(other.max) };
        (both.min <= both.max).then_some(both)
    }

    /// The test for "`version` lies in `range`", where it is already known to lie in `self`.
    pub fn test_of(self, range: Option<Self>) -> Test {
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
pub enum Test {
    Always,
    Never,
    When(String),
}

impl Test {
    /// As a Rust expression of type `bool`.
    pub fn expression(&self) -> &str {
        match self {
            Self::Always => "true",
            Self::Never => "false",
            Self::When(text) => text,
        }
    }

    /// `body`, under this test.
    pub fn around(&self, body: &str) -> String {
        match self {
            Self::Always => format!("{body}\n"),
            Self::Never => String::new(),
            Self::When(text) => format!("if {text} {{ {body} }}\n"),
        }
    }
}
