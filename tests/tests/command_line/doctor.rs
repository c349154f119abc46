//! `ottla doctor`.

use serde_json::{Value, json};

use crate::shell::{Nobody, Shell, alone};

fn results(findings: &Value, check: &str) -> Vec<Value> {
    let findings = findings.as_array().expect("a list");
    findings
        .iter()
        .filter(|finding| finding["check"] == check)
        .map(|finding| finding["result"].clone())
        .collect()
}

/// The findings, whatever the machine that runs the tests is like.
fn findings(shell: &Shell) -> Value {
    let dir = shell.node.data_dir().to_str().expect("a path of letters");
    let said = shell.run(&["doctor", "--json", "--data-dir", dir]);
    assert!(matches!(said.code, Some(0 | 1)), "{said:?}");
    serde_json::from_str(&said.out).expect("JSON")
}

#[test]
fn a_node_that_is_well_answers_as_advertised() {
    let shell = Shell::open(&[]);
    let found = findings(&shell);
    assert_eq!(results(&found, "cluster"), [json!("ok")], "{found}");
    assert_eq!(results(&found, "listener"), [json!("ok")], "{found}");
    assert_eq!(results(&found, "partitions"), [json!("ok")], "{found}");
    for check in ["open files", "disk sync", "free space", "clock"] {
        assert!(!results(&found, check).is_empty(), "{check}: {found}");
    }
    // Whatever is not well comes with its fix.
    for finding in found.as_array().expect("a list") {
        let well = finding["result"] == "ok";
        assert!(well || finding["fix"].is_string(), "{finding}");
    }
}

#[test]
fn an_address_that_leads_nowhere_or_to_another_is_found() {
    let other = Shell::open(&[]);
    let nobody = Nobody::new();
    let advertised = format!("advertised.listeners=PLAINTEXT://127.0.0.1:{}", other.node.address().port());
    let misled = Shell::open(&[&advertised]);
    let found = findings(&misled);
    assert_eq!(results(&found, "listener"), [json!("problem")], "{found}");
    let text = misled.run(&["doctor"]);
    assert_eq!(text.code, Some(1), "{text:?}");
    assert!(text.out.contains("where cluster") && text.out.contains("advertised.listeners="), "{}", text.out);

    let said = alone(&["doctor", "-b", &nobody.address(), "--json"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let found: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(results(&found, "cluster"), [json!("problem")], "{found}");
}
