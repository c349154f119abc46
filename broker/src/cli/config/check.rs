//! `ottla config check`: an existing server.properties, line by line, before anything is started with it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use crate::cli::exit::Said;
use crate::cli::output::{Output, Tone, say};
use crate::cli::table::{Cell, Table};
use crate::config::setting::{Kind, Setting};
use crate::config::{Config, Source, Verdict, broker_setting, properties, verdict};

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    file: PathBuf,
    /// Show only what is refused or has no effect.
    #[arg(long, short = 'q')]
    quiet: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Honoured,
    NoEffect,
    Refused,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::NoEffect => "no effect",
            Self::Refused => "refused",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Self::Honoured => Tone::Good,
            Self::NoEffect => Tone::Warning,
            Self::Refused => Tone::Bad,
        }
    }
}

/// One setting of the file.
#[derive(Debug)]
struct Judged {
    line: usize,
    name: String,
    value: String,
    outcome: Outcome,
    why: String,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = arguments.file.display();
    let text = std::fs::read_to_string(&arguments.file).with_context(|| format!("can't read {path}"))?;
    let judged = judge(&text);
    let count = |outcome| judged.iter().filter(|one| one.outcome == outcome).count();
    let refused = count(Outcome::Refused);
    if arguments.output.is_json() {
        let lines = judged.iter().map(|one| {
            json!({ "line": one.line, "name": one.name, "value": shown(one), "outcome": one.outcome.word(), "why": one.why })
        });
        let answer = json!({
            "file": arguments.file, "honoured": count(Outcome::Honoured), "no_effect": count(Outcome::NoEffect), "refused": refused,
            "settings": lines.collect::<Vec<Value>>(),
        });
        say(&answer.to_string())?;
    } else {
        let mut table = Table::new(&[">LINE", "RESULT", "SETTING", "VALUE", "WHY"]);
        for one in judged.iter().filter(|one| !arguments.quiet || one.outcome != Outcome::Honoured) {
            table.row([
                one.line.into(),
                Cell::new(one.outcome.word(), one.outcome.tone()),
                one.name.clone().into(),
                shown(one).into(),
                one.why.clone().into(),
            ]);
        }
        let mut text = if table.is_empty() { String::new() } else { table.to_text() + "\n" };
        text.push_str(&format!(
            "{path}: {} honoured, {} without effect, {refused} refused",
            count(Outcome::Honoured),
            count(Outcome::NoEffect),
        ));
        say(&text)?;
        if refused == 0 {
            say(&format!("a node starts with it: ottla serve --config {path}"))?;
        } else {
            say("no node starts with it until the refused lines are gone")?;
        }
    }
    if refused > 0 { Err(Said.into()) } else { Ok(()) }
}

/// A long value is cut, a secret one is not shown.
fn shown(one: &Judged) -> String {
    const SHOWN_MAX: usize = 60;
    if broker_setting(&one.name).is_some_and(|setting| setting.kind == Kind::Password)
        || one.name.ends_with("password")
        || one.name.ends_with("jaas.config")
    {
        return "(hidden)".to_owned();
    }
    match one.value.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}...", &one.value[..at]),
        None => one.value.clone(),
    }
}

fn judge(text: &str) -> Vec<Judged> {
    let pairs = properties::parse_lines(text);
    let last: BTreeMap<&str, usize> = pairs.iter().map(|(line, name, _)| (name.as_str(), *line)).collect();
    let mut judged: Vec<Judged> = pairs
        .iter()
        .map(|(line, name, value)| {
            let (mut outcome, mut why) = judge_alone(name, value);
            if last[name.as_str()] != *line && outcome == Outcome::Honoured {
                (outcome, why) = (Outcome::NoEffect, format!("line {} sets it again", last[name.as_str()]));
            }
            Judged { line: *line, name: name.clone(), value: value.clone(), outcome, why }
        })
        .collect();
    together(&mut judged);
    judged
}

fn judge_alone(name: &str, value: &str) -> (Outcome, String) {
    match verdict(name, value) {
        Verdict::Acts(setting) => (Outcome::Honoured, of_default(setting, value)),
        Verdict::Default(_) => (Outcome::Honoured, "what is done anyway".to_owned()),
        Verdict::Unset(_) => (Outcome::NoEffect, "empty: as if it was not there".to_owned()),
        Verdict::NotYet(_) => (Outcome::NoEffect, "not part of this version".to_owned()),
        Verdict::JvmOnly(_) => (Outcome::NoEffect, "concerns a Java virtual machine; there is none".to_owned()),
        // The name and the value stand beside it.
        Verdict::Invalid(message) => {
            let why = message.split_once(&format!("configuration {name}: ")).map(|(_, why)| why.to_owned());
            (Outcome::Refused, why.unwrap_or(message))
        }
        Verdict::Refused => (
            Outcome::Refused,
            "this version has no TLS, authentication or authorisation, and must not look as if it had: remove it".to_owned(),
        ),
        Verdict::Unknown { .. } if name.starts_with("zookeeper.") => {
            (Outcome::Refused, "there is no ZooKeeper: the nodes keep the metadata themselves; remove it".to_owned())
        }
        Verdict::Unknown { nearest } => {
            let near = nearest.map_or_else(
                || "remove it, or correct its name".to_owned(),
                |near| format!("did you mean {near}?"),
            );
            (Outcome::Refused, format!("there is no such setting: {near}"))
        }
    }
}

fn of_default(setting: &Setting, value: &str) -> String {
    if setting.default.is_some_and(|default| setting.shown(default) == setting.shown(value)) {
        "the default here too".to_owned()
    } else {
        String::new()
    }
}

/// Settings that are right one by one may not fit together: what the start would say, at the line that it speaks of.
fn together(judged: &mut Vec<Judged>) {
    if judged.iter().any(|one| one.outcome == Outcome::Refused) {
        return;
    }
    let pairs = judged.iter().map(|one| (one.name.clone(), one.value.clone())).collect();
    let Err(error) = Config::load(&[Source { origin: String::new(), pairs }]) else { return };
    let message = error.to_string().trim_start_matches([':', ' ']).to_owned();
    // By its name, the longest if several stand there, or by a value.
    let by_name = judged.iter().enumerate().filter(|(_, one)| message.contains(&one.name));
    let by_name = by_name.max_by_key(|(_, one)| one.name.len()).map(|(at, _)| at);
    let by_value = || {
        judged
            .iter()
            .position(|one| one.value.split(',').any(|item| item.len() > 3 && message.contains(item.trim())))
    };
    let named = by_name.or_else(by_value).map(|at| &mut judged[at]);
    match named {
        Some(one) => (one.outcome, one.why) = (Outcome::Refused, message),
        None => judged.push(Judged {
            line: 0,
            name: "the whole".to_owned(),
            value: String::new(),
            outcome: Outcome::Refused,
            why: message,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(text: &str) -> Vec<(usize, &'static str, String)> {
        judge(text).into_iter().map(|one| (one.line, one.outcome.word(), one.why)).collect()
    }

    #[test]
    fn each_line_is_judged_as_the_start_would() {
        let text = "# a file\nnum.partitions=3\n\nnum.io.threads=9\nmetric.reporters=a.B\nlog.retention.hour=5\nnum.partitions=4\n\
                    ssl.keystore.location=/k\nlog.retention.ms=soon\nbroker.rack=\nzookeeper.connect=z:1\n";
        let found = outcomes(text);
        let expected = [
            (2, "no effect", "line 7 sets it again"),
            (4, "no effect", "not part of this version"),
            (5, "no effect", "concerns a Java virtual machine; there is none"),
            (6, "refused", "there is no such setting: did you mean log.retention.hours?"),
            (7, "honoured", ""),
            (8, "refused", "this version has no TLS"),
            (9, "refused", "Not a number of type LONG"),
            (10, "no effect", "empty: as if it was not there"),
            (11, "refused", "there is no ZooKeeper"),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((line, word, why), expected) in found.iter().zip(expected) {
            assert_eq!((*line, *word), (expected.0, expected.1), "{found:?}");
            assert!(why.starts_with(expected.2), "{why}");
        }
    }

    #[test]
    fn what_is_right_alone_and_wrong_together_is_refused_at_its_line() {
        let found = outcomes("node.id=1\nlisteners=SASL_SSL://:9092\n");
        assert_eq!((found[1].0, found[1].1), (2, "refused"), "{found:?}");
        assert_eq!(found[0].1, "honoured");
    }
}
