//! `ottla group`.

use serde_json::json;

use crate::shell::Shell;

#[test]
fn a_group_is_listed_described_measured_reset_and_forgotten() {
    let shell = Shell::open(&[]);
    assert_eq!(shell.run(&["group", "list"]).good(), "no groups\n");
    shell.topic("t", 2);
    shell.pipe(&["produce", "t", "-p", "0"], b"a0\na1\na2\na3\n").good();
    shell.pipe(&["produce", "t", "-p", "1"], b"b0\n").good();
    shell.run(&["consume", "t", "-e", "-G", "g"]).good();
    shell.pipe(&["produce", "t", "-p", "0"], b"a4\na5\n").good();

    let list = shell.run(&["group", "list", "--json"]).json();
    assert_eq!(
        (&list[0]["group"], &list[0]["state"], &list[0]["members"]),
        (&json!("g"), &json!("Empty"), &json!(0)),
        "{list}"
    );
    let described = shell.run(&["group", "describe", "g", "--json"]).json();
    assert_eq!(
        described["committed"],
        json!([
            { "topic": "t", "partition": 0, "offset": 4 },
            { "topic": "t", "partition": 1, "offset": 1 },
        ])
    );

    let lag = shell.run(&["group", "lag", "g", "--over", "0.3", "--json"]).json();
    assert_eq!(
        (&lag["lag"], &lag["partitions"][0]["lag"], &lag["partitions"][1]["lag"]),
        (&json!(2), &json!(2), &json!(0)),
        "{lag}"
    );
    let seconds = lag["lag_seconds"].as_f64().expect("the oldest record that waits has an age");
    assert!((0.0..600.0).contains(&seconds), "{lag}");
    // Six records came within the last minute; nothing goes out.
    assert!(lag["rate_in"].as_f64().is_some_and(|rate| rate > 0.0), "{lag}");
    assert_eq!((&lag["rate_out"], &lag["empty_in_seconds"]), (&json!(0.0), &json!(null)), "{lag}");
    let cause = lag["causes"][0].as_str().expect("a cause");
    assert!(cause.starts_with("no members: nobody reads for this group"), "{lag}");
    let text = shell.run(&["group", "lag", "g", "--over", "0.1"]).good();
    assert!(text.contains("t-0") && !text.contains("t-1") && text.contains("never"), "{text}");
    assert!(text.contains("why: no members"), "{text}");

    let shown = shell.run(&["group", "reset", "g", "--to", "beginning", "--topic", "t:0", "--json"]).json();
    assert_eq!(
        (&shown["executed"], &shown["partitions"][0]["offset"]),
        (&json!(false), &json!(0)),
        "{shown}"
    );
    let offsets = || {
        let described = shell.run(&["group", "describe", "g", "--json"]).json();
        [0, 1].map(|at: usize| described["committed"][at]["offset"].as_i64().expect("an offset"))
    };
    assert_eq!(offsets(), [4, 1], "nothing is changed unless told so");
    let cases: &[(&[&str], [i64; 2])] = &[
        (&["--to", "beginning", "--topic", "t:0"], [0, 1]),
        (&["--to", "end"], [6, 1]),
        (&["--shift", "-2"], [4, 0]),
        (&["--shift", "100"], [6, 1]),
        (&["--to", "-1"], [5, 0]),
        (&["--to", "-1h"], [0, 0]),
        (&["--to", "3", "-t", "t:0"], [3, 0]),
    ];
    for (arguments, expected) in cases {
        let mut all = vec!["group", "reset", "g", "--execute"];
        all.extend(*arguments);
        shell.run(&all).good();
        assert_eq!(offsets(), *expected, "{arguments:?}");
    }
    assert_eq!(
        shell.run(&["consume", "t", "-e", "-G", "g", "-f", "%s "]).good().split_whitespace().count(),
        4
    );

    let gone = shell.run(&["group", "delete", "g", "--json"]).json();
    assert_eq!(gone, json!([{ "group": "g", "deleted": true, "error": null }]));
    assert_eq!(shell.run(&["group", "list", "--json"]).json(), json!([]));
}

#[test]
fn a_group_with_members_is_neither_reset_nor_forgotten() {
    let shell = Shell::open(&["group.initial.rebalance.delay.ms=0"]);
    shell.topic("t", 1);
    let mut member = shell.spawn(&["consume", "t", "-G", "g"]);
    ottla_tests::process::eventually("it has joined", || {
        let group = shell.run(&["group", "list", "--json"]);
        serde_json::from_str::<serde_json::Value>(&group.out).is_ok_and(|list| list[0]["state"] == "Stable")
    });
    shell.run(&["produce", "t", "x"]).good();
    let said = shell.run(&["group", "reset", "g", "--to", "beginning", "--topic", "t", "--execute"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("group g has 1 member"), "{}", said.err);
    let said = shell.run(&["group", "delete", "g"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.err.contains("NON_EMPTY_GROUP") && said.err.contains("ottla group describe"),
        "{}",
        said.err
    );
    let text = shell.run(&["group", "describe", "g"]).good();
    assert!(text.contains("ottla-cli") && text.contains("t 0"), "{text}");
    member.kill().expect("it runs");
    member.wait().expect("it ends");
}

#[test]
fn lag_is_watched_until_it_is_told_to_end() {
    use std::io::{BufRead as _, BufReader};
    let shell = Shell::open(&[]);
    shell.run(&["produce", "t", "a", "b"]).good();
    shell.run(&["consume", "t", "-c", "1", "-G", "g"]).good();
    let mut watch = shell.spawn(&["group", "lag", "g", "--watch", "--json"]);
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let mut next = || -> serde_json::Value {
        serde_json::from_str(&lines.next().expect("a line").expect("readable")).expect("JSON")
    };
    let first = next();
    assert_eq!((&first["lag"], &first["rate_out"]), (&json!(1), &json!(null)), "{first}");
    shell.run(&["consume", "t", "-e", "-G", "g"]).good();
    loop {
        let later = next();
        if later["lag"] == 0 {
            assert_eq!((&later["empty_in_seconds"], &later["causes"]), (&json!(0.0), &json!([])), "{later}");
            break;
        }
    }
    let pid = rustix::process::Pid::from_child(&watch);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    assert!(watch.wait().expect("it ends").success());
}

#[test]
fn a_group_that_is_not_there_is_an_error() {
    let shell = Shell::open(&[]);
    for arguments in [&["group", "describe", "g"][..], &["group", "lag", "g"], &["group", "delete", "g"]] {
        let said = shell.run(arguments);
        assert_eq!(said.code, Some(1), "{arguments:?}: {said:?}");
        assert!(said.err.contains("group g"), "{}", said.err);
    }
    let said = shell.run(&["group", "reset", "g", "--to", "end"]);
    assert!(said.err.contains("has no offsets: say of which topic"), "{said:?}");
}
