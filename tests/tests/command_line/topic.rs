//! `ottla topic`.

use serde_json::{Value, json};

use crate::shell::Shell;

#[test]
fn a_topic_is_made_described_changed_and_deleted() {
    let shell = Shell::open(&[]);
    assert!(shell.run(&["topic", "list"]).good().starts_with("no topics"));
    let made = shell
        .run(&["topic", "create", "orders", "-p", "3", "--set", "retention.ms=3600000", "--json"])
        .json();
    assert_eq!((&made["created"], &made["partitions"]), (&json!(true), &json!(3)), "{made}");
    assert_eq!(
        shell.run(&["topic", "create", "orders", "--if-not-exists", "--json"]).json()["created"],
        false
    );
    shell.pipe(&["produce", "orders", "-p", "1"], b"one\ntwo\n").good();

    let list = shell.run(&["topic", "list", "--output", "json"]).json();
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!((&list[0]["records"], &list[0]["under_replicated"]), (&json!(2), &json!(0)), "{list}");
    assert!(list[0]["bytes"].as_i64().is_some_and(|bytes| bytes > 0), "{list}");
    let text = shell.run(&["topic", "list"]).good();
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["TOPIC", "PARTITIONS", "REPLICAS", "RECORDS", "SIZE", "STATE"], "{text}");
    assert_eq!(words[1][..4], ["orders", "3", "1", "2"], "{text}");

    let described = shell.run(&["topic", "describe", "orders", "--json"]).json();
    let partition = &described[0]["partitions"][1];
    assert_eq!(
        (&partition["start"], &partition["end"], &partition["leader"]),
        (&json!(0), &json!(2), &json!(1))
    );
    let retention = |described: &Value| {
        let settings = described[0]["settings"].as_array().expect("a list").clone();
        settings
            .into_iter()
            .find(|setting| setting["name"] == "retention.ms")
            .map(|setting| setting["value"].clone())
    };
    assert_eq!(retention(&described), Some(json!("3600000")));

    shell
        .run(&[
            "topic",
            "alter",
            "orders",
            "--unset",
            "retention.ms",
            "--set",
            "cleanup.policy=compact",
            "-p",
            "5",
        ])
        .good();
    let described = shell.run(&["topic", "describe", "orders", "--json"]).json();
    assert_eq!(retention(&described), None, "{described}");
    assert_eq!(described[0]["partitions"].as_array().map(Vec::len), Some(5));
    let text = shell.run(&["topic", "describe", "orders"]).good();
    let row = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert!(row.into_iter().any(|row| row == ["cleanup.policy", "compact", "topic"]), "{text}");

    let deleted = shell.run(&["topic", "delete", "orders", "--yes", "--json"]).json();
    assert_eq!(deleted, json!([{ "topic": "orders", "deleted": true, "error": null }]));
    assert_eq!(shell.run(&["topic", "list", "--json"]).json(), json!([]));
}

#[test]
fn what_is_refused_says_the_value_and_the_way_out() {
    let shell = Shell::open(&[]);
    shell.topic("there", 2);
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["topic", "create", "there"], 1, &["topic there", "TOPIC_ALREADY_EXISTS", "--if-not-exists"]),
        (&["topic", "create", "t", "-r", "3"], 1, &["topic t", "INVALID_REPLICATION_FACTOR"]),
        (&["topic", "create", "t", "--set", "retention.ms=soon"], 1, &["retention.ms", "soon"]),
        (
            &["topic", "create", "t", "--set", "retention.ms"],
            1,
            &["--set retention.ms: give it as NAME=VALUE"],
        ),
        (&["topic", "create", "t", "-p", "0"], 2, &["0"]),
        (&["topic", "describe", "nowhere"], 1, &["there is no topic nowhere", "ottla topic create nowhere"]),
        (&["topic", "alter", "there"], 1, &["nothing to change"]),
        (&["topic", "alter", "there", "-p", "1"], 1, &["has 2 partitions"]),
        (&["topic", "delete", "there"], 1, &["--yes"]),
        (&["topic", "delete", "there", "nowhere", "--yes"], 1, &["there is no topic nowhere"]),
    ];
    for (arguments, code, says) in cases {
        let said = shell.run(arguments);
        assert_eq!(said.code, Some(*code), "{arguments:?}: {said:?}");
        for words in *says {
            assert!(said.err.contains(words), "{arguments:?}: {words}: {}", said.err);
        }
    }
    // A command that is half wrong did nothing, and what is not there may be left out.
    assert!(shell.run(&["topic", "list"]).good().contains("there"));
    shell.run(&["topic", "delete", "there", "nowhere", "--yes", "--if-exists"]).good();
    let possible = shell.run(&["topic", "create", "t", "--dry-run", "--json"]).json();
    assert_eq!(possible["possible"], true);
    assert_eq!(shell.run(&["topic", "list", "--json"]).json(), json!([]));
}
