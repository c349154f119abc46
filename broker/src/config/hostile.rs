//! Settings as nobody should write them: whatever a file, a variable or a flag holds is taken or refused, and never a panic.
//!
//! `OTTLA_FUZZ_FACTOR` makes each test so many times as long, `OTTLA_FUZZ_SEED` says where it begins.

#![allow(clippy::print_stdout)] // The counts are the report of a long run.

use ottla_machine::controller::image::Image;
use ottla_protocol::types::NodeId;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::properties::{from_variable, parse};
use super::setting::Kind;
use super::{Config, Source, TopicConfig, broker_settings, describe};

fn runs() -> u64 {
    4_000 * variable("OTTLA_FUZZ_FACTOR", 1)
}

fn variable(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn rng(run: u64) -> SmallRng {
    SmallRng::seed_from_u64(variable("OTTLA_FUZZ_SEED", 1).wrapping_mul(1 << 40).wrapping_add(run))
}

/// Text rich in what means something to a parser of properties and numbers.
fn text(rng: &mut SmallRng, longest: usize) -> String {
    const PIECES: [&str; 32] = [
        "=",
        ":",
        " ",
        "\t",
        "\n",
        "\r\n",
        "\\",
        "\\\\",
        "\\u",
        "\\u00e9",
        "\\ud800",
        "#",
        "!",
        ",",
        "//",
        "://",
        "a",
        "Z",
        "0",
        "9",
        "-1",
        "9223372036854775808",
        "1e309",
        "NaN",
        "true",
        "PLAINTEXT://:1",
        "by_duration:P",
        "é",
        "\u{10ffff}",
        "\0",
        ".",
        "_",
    ];
    (0..rng.random_range(0..=longest)).map(|_| PIECES[rng.random_range(0..PIECES.len())]).collect()
}

/// As a careful program writes properties.
fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' | '=' | ':' | '#' | '!' | ' ' => out.extend(['\\', c]),
            c => out.push(c),
        }
        out
    })
}

#[test]
fn any_text_is_properties_and_what_was_escaped_comes_back() {
    for run in 0..runs() {
        let mut rng = rng(run);
        let noise = text(&mut rng, 40);
        let pairs = parse(&noise);
        assert!(pairs.len() <= noise.lines().count(), "run {run}: {noise:?}");
        let (name, value) = (format!("n{}", text(&mut rng, 5)), format!("{}v", text(&mut rng, 8)));
        let file = format!("{}={}\n# {}\n", escaped(&name), escaped(&value), run);
        assert_eq!(parse(&file), [(name, value)], "run {run}: {file:?}");
        let _name = from_variable(&format!("KAFKA_{}", text(&mut rng, 6)));
    }
    println!("{} executions", runs());
}

#[test]
fn any_value_of_any_setting_is_taken_or_refused_and_what_is_taken_can_be_read() {
    let mut taken = 0u64;
    for run in 0..runs() {
        let mut rng = rng(run);
        let settings = broker_settings();
        let pairs: Vec<(String, String)> = (0..rng.random_range(1..4))
            .map(|_| {
                let setting = &settings[rng.random_range(0..settings.len())];
                let name = match rng.random_range(0..20) {
                    0 => text(&mut rng, 6),
                    1 => format!("{}{}", setting.name, text(&mut rng, 1)),
                    _ => setting.name.to_owned(),
                };
                let value = match rng.random_range(0..4) {
                    0 => setting.default.unwrap_or_default().to_owned(),
                    1 => rng.random::<i64>().to_string(),
                    2 => rng.random_range(-2..100_000).to_string(),
                    _ => text(&mut rng, 6),
                };
                (name, value)
            })
            .collect();
        let source = Source { origin: "a test".into(), pairs };
        match Config::load(std::slice::from_ref(&source)) {
            Ok((config, _)) => {
                taken += 1;
                // Whoever rests on a setting reads it without asking again.
                for setting in settings {
                    let has_value = config.text(setting.name).is_some_and(|text| !text.is_empty());
                    if has_value && matches!(setting.kind, Kind::Int | Kind::Short | Kind::Long) {
                        let _number = config.number(setting.name);
                    }
                }
                let _config = TopicConfig::resolve(&config, &Image::default(), NodeId(1), "t");
                let _described = describe::broker(&config, &Image::default(), Some(NodeId(1)));
            }
            Err(error) => assert!(error.to_string().contains(": "), "run {run}: {error}"),
        }
    }
    println!("{} executions, {taken} taken", runs());
    assert!(taken > runs() / 20, "too few were taken to prove much");
}
