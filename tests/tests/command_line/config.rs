//! `ottla config`.

use serde_json::json;

use crate::shell::{Shell, alone};

#[test]
fn a_file_for_kafka_is_judged_line_by_line_without_a_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("server.properties");
    let file = path.to_str().expect("a path of letters");
    let well = "# as Kafka ships it\nprocess.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@localhost:9093\n\
                controller.listener.names=CONTROLLER\nlisteners=PLAINTEXT://:9092,CONTROLLER://:9093\nnum.network.threads=3\n\
                num.io.threads=16\nlog.dirs=/tmp/logs\nmetric.reporters=a.B\n";
    std::fs::write(&path, well).expect("written");
    let said = alone(&["config", "check", file, "--json"]).json();
    assert_eq!((&said["refused"], &said["no_effect"]), (&json!(0), &json!(2)), "{said}");
    let text = alone(&["config", "check", file, "--quiet"]).good();
    assert!(text.contains("num.io.threads") && !text.contains("node.id"), "{text}");

    std::fs::write(
        &path,
        format!("{well}log.retention.hour=5\nssl.keystore.password=secret\nnum.partitions=x\n"),
    )
    .expect("written");
    let said = alone(&["config", "check", file]);
    assert_eq!(said.code, Some(1), "{said:?}");
    for (line, words) in
        [("11", "did you mean log.retention.hours?"), ("12", "no TLS"), ("13", "Not a number of type INT")]
    {
        let found = said.out.lines().find(|shown| shown.split_whitespace().next() == Some(line));
        assert!(
            found.is_some_and(|shown| shown.contains("refused") && shown.contains(words)),
            "{line}: {}",
            said.out
        );
    }
    assert!(!said.out.contains("secret"), "{}", said.out);
    // What it refuses, the start refuses.
    let started = alone(&["serve", "--config", file, "--data-dir", dir.path().to_str().expect("letters")]);
    assert_eq!(started.code, Some(1), "{started:?}");

    let said = alone(&["config", "check", "/nowhere/server.properties"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("can't read /nowhere/server.properties"), "{}", said.err);
}

#[test]
fn a_running_broker_shows_what_is_set_and_what_is_in_force() {
    let shell = Shell::open(&["num.partitions=7"]);
    let set = shell.run(&["config", "show"]).good();
    assert!(set.contains("num.partitions") && !set.contains("num.replica.fetchers"), "{set}");
    let all = shell.run(&["config", "show", "--effective", "--json"]).json();
    let settings = all["settings"].as_array().expect("a list");
    let find = |name: &str| settings.iter().find(|setting| setting["name"] == name).expect("it is there");
    assert_eq!(
        (&find("num.partitions")["value"], &find("num.partitions")["source"]),
        (&json!("7"), &json!("file"))
    );
    assert_eq!(find("log.retention.hours")["default"], true);
    let one = shell.run(&["config", "show", "retention.hours"]).good();
    assert_eq!(one.lines().count(), 4, "{one}");

    shell.run(&["topic", "create", "t", "--set", "retention.ms=5000"]).good();
    let topic = shell.run(&["config", "show", "--topic", "t", "--json"]).json();
    let settings = topic["settings"].as_array().expect("a list");
    assert!(
        settings.iter().any(|setting| setting["name"] == "retention.ms" && setting["value"] == "5000"),
        "{topic}"
    );
    assert_eq!(shell.run(&["config", "show", "--topic", "nowhere"]).code, Some(1));
}
