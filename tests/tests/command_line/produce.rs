//! `ottla produce`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::shell::Shell;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
}

#[test]
fn keys_headers_partitions_and_nulls_arrive_as_they_were_given() {
    let shell = Shell::open(&[]);
    shell.topic("t", 3);
    shell
        .pipe(
            &["produce", "t", "-K", ":", "-H", "a=1", "-H", "a=2", "-p", "2", "-Z"],
            b"k:v\nno key\ngone:\n",
        )
        .good();
    let read = lines(&shell.run(&["consume", "t", "--exit", "--json"]).good());
    let short = |record: &Value| {
        (
            record["partition"].clone(),
            record["offset"].clone(),
            record["key"].clone(),
            record["value"].clone(),
        )
    };
    assert_eq!(
        read.iter().map(short).collect::<Vec<_>>(),
        [
            (json!(2), json!(0), json!("k"), json!("v")),
            (json!(2), json!(1), json!(null), json!("no key")),
            (json!(2), json!(2), json!("gone"), json!(null)),
        ]
    );
    assert_eq!(read[0]["headers"], json!([{ "name": "a", "value": "1" }, { "name": "a", "value": "2" }]));
}

#[test]
fn many_lines_are_written_in_order_by_key_with_every_codec() {
    let shell = Shell::open(&[]);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        shell.topic(codec, 4);
        let mut input = String::new();
        for n in 0..5_000 {
            let _ = writeln!(input, "k{},{n}", n % 17);
        }
        // Small batches: several are in flight to the same leader.
        let said = shell.pipe(
            &["produce", codec, "-K", ",", "-z", codec, "--batch-bytes", "2000", "--json"],
            input.as_bytes(),
        );
        let answer = said.json();
        assert_eq!((&answer["written"], &answer["not_written"]), (&json!(5_000), &json!(0)), "{answer}");
        let out = shell.run(&["consume", codec, "-e", "-f", "%k %s\n"]).good();
        let mut last: BTreeMap<String, i64> = BTreeMap::new();
        for line in out.lines() {
            let (key, value) = line.split_once(' ').expect("a key and a value");
            let value: i64 = value.parse().expect("a number");
            let before = last.insert(key.to_owned(), value);
            assert!(before.is_none_or(|before| before < value), "{codec} {key}: {before:?} before {value}");
        }
        assert_eq!((out.lines().count(), last.len()), (5_000, 17), "{codec}");
    }
}

#[test]
fn json_lines_bring_back_what_was_consumed_bytes_included() {
    let shell = Shell::open(&[]);
    shell.pipe(&["produce", "from", "-K", ":", "-H", "h=x"], b"k:text \xc3\xa9\nbin:\xff\xfe\x00!\n").good();
    let dump = shell.run(&["consume", "from", "-e", "--output", "json"]).good();
    assert!(dump.contains("value_base64"), "{dump}");
    shell.pipe(&["produce", "to", "--input", "json"], dump.as_bytes()).good();
    let without_topic = |dump: &str| {
        lines(dump)
            .into_iter()
            .map(|mut record| {
                record["topic"] = Value::Null;
                record
            })
            .collect::<Vec<_>>()
    };
    let again = shell.run(&["consume", "to", "-e", "--output", "json"]).good();
    assert_eq!(without_topic(&again), without_topic(&dump));
}

#[test]
fn what_is_not_written_is_told_by_its_line_and_the_rest_is_written() {
    let shell = Shell::open(&[]);
    shell.run(&["topic", "create", "small", "--set", "max.message.bytes=2000"]).good();
    let mut input = String::new();
    for n in 1..=200 {
        let _ = writeln!(input, "{n} {}", "x".repeat(if n == 77 { 3_000 } else { 50 }));
    }
    // All of them are one batch at first, which the topic does not take.
    let said = shell.pipe(&["produce", "small"], input.as_bytes());
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("line 77 is not written: small-0"), "{}", said.err);
    assert!(said.err.contains("MESSAGE_TOO_LARGE"), "{}", said.err);
    assert!(said.err.contains("199 records written to small, 1 not"), "{}", said.err);
    let out = shell.run(&["consume", "small", "-e"]).good();
    let numbers: Vec<&str> = out.lines().filter_map(|line| line.split(' ').next()).collect();
    let expected: Vec<String> = (1..=200).filter(|n| *n != 77).map(|n| n.to_string()).collect();
    assert_eq!(numbers, expected);

    shell.run(&["topic", "create", "keyed", "--set", "cleanup.policy=compact"]).good();
    let said = shell.pipe(&["produce", "keyed", "-K", ":"], b"a:1\nno key\nb:2\n");
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("line 2 is not written"), "{}", said.err);
    assert_eq!(shell.run(&["consume", "keyed", "-e", "-f", "%k=%s "]).good(), "a=1 b=2 ");

    let said =
        shell.pipe(&["produce", "t", "--input", "json"], b"{\"value\":\"a\"}\nnonsense\n{\"value\":\"b\"}\n");
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("line 2: it is no JSON"), "{}", said.err);
    assert_eq!(shell.run(&["consume", "t", "-e"]).good(), "a\nb\n");
}

#[test]
fn values_may_stand_on_the_command_line_and_acks_be_chosen() {
    let shell = Shell::open(&[]);
    for acks in ["all", "1", "0"] {
        shell.run(&["produce", acks, "one", "two words", "-a", acks, "-k", "key"]).good();
        // What nobody acknowledged comes a little later.
        let out = shell.run(&["consume", acks, "-c", "2", "-f", "%k:%s\n"]).good();
        assert_eq!(out, "key:one\nkey:two words\n", "acks={acks}");
    }
    let said = shell.run(&["produce", "all", "x", "-p", "9"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("topic all has no partition 9: it has 0 to 0"), "{}", said.err);
}
