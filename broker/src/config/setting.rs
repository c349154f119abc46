//! What a setting is: name, type, default, what it may be, and whether it acts.

/// Kafka's types, numbered as in DescribeConfigs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Boolean = 1,
    Text = 2,
    Int = 3,
    Short = 4,
    Long = 5,
    Double = 6,
    List = 7,
    Class = 8,
    Password = 9,
}

/// What setting it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Acts,
    /// Accepted and shown; the README lists it.
    NotYet,
    /// Concerns a Java virtual machine: accepted with a line that says it has no effect.
    JvmOnly,
    /// Would look like protection that is not there.
    Refused,
}

/// Which values of its type it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Valid {
    Any,
    Between(i64, i64),
    OneOf(&'static [&'static str]),
    ListOf(&'static [&'static str]),
    /// Between 0 and 1.
    Fraction,
    /// 1 to 9, or -1.
    GzipLevel,
    /// `latest`, `earliest`, or `by_duration:` and an ISO 8601 duration.
    OffsetReset,
    /// `*`, or pairs `partition:broker`.
    Replicas,
}

#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub name: &'static str,
    pub kind: Kind,
    /// As text; `None`: there is none.
    pub default: Option<&'static str>,
    pub valid: Valid,
    pub effect: Effect,
    /// May change at run time.
    pub dynamic: bool,
    /// What it governs, in one or two sentences; whether it does so here is `effect`'s to say.
    pub doc: &'static str,
}

/// A topic's setting and the broker's settings that give its default: name, and what to multiply by.
#[derive(Clone, Copy, Debug)]
pub struct TopicSetting {
    pub setting: Setting,
    pub synonyms: &'static [(&'static str, i64)],
}

/// A group's setting, the broker's setting that gives its default, and those that bound it.
#[derive(Clone, Copy, Debug)]
pub struct GroupSetting {
    pub setting: Setting,
    pub synonym: Option<&'static str>,
    pub at_least: Option<&'static str>,
    pub at_most: Option<&'static str>,
}

impl Setting {
    /// What DescribeConfigs says of it.
    #[must_use]
    pub fn documentation(&self) -> String {
        let effect = match self.effect {
            Effect::Acts => "",
            Effect::NotYet => " Has no effect in this version.",
            Effect::JvmOnly => " This concerns Java, and has no effect here.",
            Effect::Refused => " Refused when set: this version has no security.",
        };
        format!("{}{effect}", self.doc)
    }

    /// A valid value as DescribeConfigs shows it: without blanks around it, lists without blanks between items.
    #[must_use]
    pub fn shown(&self, value: &str) -> String {
        match self.kind {
            Kind::Boolean => value.trim().to_lowercase(),
            Kind::List => value.split(',').map(str::trim).collect::<Vec<_>>().join(","),
            Kind::Int | Kind::Short | Kind::Long => value
                .trim()
                .parse::<i64>()
                .map_or_else(|_| value.trim().to_owned(), |number| number.to_string()),
            Kind::Double => value
                .trim()
                .parse::<f64>()
                .map_or_else(|_| value.trim().to_owned(), |number| format!("{number:?}")),
            Kind::Text | Kind::Class | Kind::Password => value.trim().to_owned(),
        }
    }

    /// Whether `value` is of the type, and one that is allowed.
    ///
    /// # Errors
    /// What is wrong with it, in Kafka's words.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let name = self.name;
        let invalid = |why: String| Err(format!("Invalid value {value} for configuration {name}: {why}"));
        let value = value.trim();
        match self.kind {
            Kind::Boolean if !value.eq_ignore_ascii_case("true") && !value.eq_ignore_ascii_case("false") => {
                return invalid("Expected value to be either true or false".into());
            }
            Kind::Int if value.parse::<i32>().is_err() => return invalid("Not a number of type INT".into()),
            Kind::Short if value.parse::<i16>().is_err() => {
                return invalid("Not a number of type SHORT".into());
            }
            Kind::Long if value.parse::<i64>().is_err() => {
                return invalid("Not a number of type LONG".into());
            }
            Kind::Double if value.parse::<f64>().is_err() => {
                return invalid("Not a number of type DOUBLE".into());
            }
            _ => {}
        }
        match self.valid {
            Valid::Between(min, max) => match value.parse::<i64>() {
                Ok(number) if number < min => invalid(format!("Value must be at least {min}")),
                Ok(number) if number > max => invalid(format!("Value must be no more than {max}")),
                _ => Ok(()),
            },
            Valid::OneOf(allowed) if !allowed.contains(&value) => {
                invalid(format!("String must be one of: {}", allowed.join(", ")))
            }
            Valid::ListOf(allowed) => {
                let bad = value.split(',').map(str::trim).find(|item| !allowed.contains(item));
                match bad {
                    Some("") if value.is_empty() => Ok(()),
                    Some(_) => invalid(format!("String must be one of: {}", allowed.join(", "))),
                    None => Ok(()),
                }
            }
            Valid::Fraction => match value.parse::<f64>() {
                Ok(number) if number < 0.0 => invalid("Value must be at least 0".into()),
                Ok(number) if number <= 1.0 => Ok(()),
                _ => invalid("Value must be no more than 1".into()),
            },
            Valid::OffsetReset
                if !matches!(value, "latest" | "earliest") && !value.starts_with("by_duration:P") =>
            {
                invalid("It must be latest, earliest, or by_duration: and an ISO 8601 duration".into())
            }
            Valid::Replicas => {
                let pair = |item: &str| {
                    let (partition, broker) = item.trim().split_once(':')?;
                    partition.parse::<u32>().ok().and(broker.parse::<u32>().ok())
                };
                if matches!(value, "" | "*") || value.split(',').all(|item| pair(item).is_some()) {
                    Ok(())
                } else {
                    invalid("It must be * or a list of partition:broker pairs".into())
                }
            }
            Valid::GzipLevel => match value.parse::<i64>() {
                Ok(-1 | 1..=9) => Ok(()),
                _ => invalid("Value must be between 1 and 9 or -1".into()),
            },
            Valid::Any | Valid::OneOf(_) | Valid::OffsetReset => Ok(()),
        }
    }
}
