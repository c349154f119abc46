//! What holds for every command: exit codes, pipes that close, completions and manual pages.

use std::process::Stdio;

use serde_json::Value;

use crate::shell::{Nobody, Shell, alone, bare};

#[test]
fn exit_codes_are_as_documented() {
    let help = alone(&["--help"]).good();
    assert!(help.contains("Exit codes: 0 done; 1 refused"), "{help}");
    let held = Nobody::new();
    let nobody = held.address();
    for command in [
        &["topic", "list"][..],
        &["produce", "t", "x"],
        &["consume", "t", "-e"],
        &["group", "list"],
        &["config", "show"],
        &["quorum", "status"],
    ] {
        let mut arguments = command.to_vec();
        arguments.extend(["-b", &nobody]);
        let said = alone(&arguments);
        assert_eq!(said.code, Some(3), "{command:?}: {said:?}");
        assert!(
            said.err.contains(&format!("no broker answers at {nobody} (connection refused)")),
            "{}",
            said.err
        );
        assert!(said.err.contains("ottla doctor"), "{}", said.err);
    }
    for wrong in [
        &["topic", "frobnicate"][..],
        &["consume"],
        &["group", "reset", "g"],
        &["topic", "list", "--output", "xml"],
    ] {
        assert_eq!(alone(wrong).code, Some(2), "{wrong:?}");
    }
    let said = alone(&["topic", "list", "-b", "nonsense"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("\"nonsense\" is no address: give it as HOST:PORT"), "{}", said.err);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let shell = Shell::open(&[]);
    shell.topic("t", 1);
    let input = "a line\n".repeat(200_000);
    shell.pipe(&["produce", "t"], input.as_bytes()).good();
    let mut consumer = shell.command(&["consume", "t", "-e"]);
    let mut consumer = consumer
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ottla runs");
    // More than a pipe holds is still to come.
    drop(consumer.stdout.take());
    let output = consumer.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = alone(&["completions", shell]).good();
        for word in ["topic", "consume", "doctor", "bootstrap-server"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    alone(&["man", dir.path().to_str().expect("a path of letters")]).good();
    for page in [
        "ottla",
        "ottla-topic-create",
        "ottla-consume",
        "ottla-group-lag",
        "ottla-config-check",
        "ottla-cluster-up",
    ] {
        let text = std::fs::read_to_string(dir.path().join(format!("{page}.1"))).expect("a page");
        assert!(text.contains(".SH NAME"), "{page}");
    }
}

#[test]
fn nothing_is_coloured_but_on_a_terminal_and_quorum_speaks_json() {
    let shell = Shell::open(&[]);
    shell.topic("t", 1);
    for arguments in [&["topic", "list"][..], &["topic", "describe", "t"], &["quorum", "status"]] {
        let said = shell.run(arguments).good();
        assert!(!said.contains('\x1b'), "{said:?}");
    }
    let quorum = shell.run(&["quorum", "status", "--output", "json"]).json();
    assert_eq!(quorum["leader"], 1, "{quorum}");
    assert_eq!(quorum["nodes"].as_array().map(Vec::len), Some(1), "{quorum}");
}

#[test]
fn the_address_is_taken_from_the_environment_and_from_several_the_first_that_answers() {
    let shell = Shell::open(&[]);
    let nobody = Nobody::new();
    let servers = format!("{},{}", nobody.address(), shell.node.bootstrap());
    let said = bare().args(["topic", "list", "--json", "-b", &servers]).output().expect("ottla runs");
    assert!(said.status.success(), "{said:?}");
    let list: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!(list, Value::Array(Vec::new()));
}
