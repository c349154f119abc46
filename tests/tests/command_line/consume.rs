//! `ottla consume`.

use std::io::{BufRead as _, BufReader, Write as _};

use crate::shell::Shell;

#[test]
fn places_counts_partitions_and_expressions_choose_what_is_printed() {
    let shell = Shell::open(&[]);
    shell.topic("t", 2);
    shell.pipe(&["produce", "t", "-p", "0"], b"a0\na1\na2\na3\n").good();
    shell.pipe(&["produce", "t", "-p", "1"], b"b0\nb1\n").good();
    let sorted = |arguments: &[&str]| {
        let mut all = vec!["consume", "t", "-e"];
        all.extend(arguments);
        let out = shell.run(&all).good();
        let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join(" ")
    };
    let cases: &[(&[&str], &str)] = &[
        (&[], "a0 a1 a2 a3 b0 b1"),
        (&["--from", "end"], ""),
        (&["--from", "2"], "a2 a3"),
        (&["-o", "-1"], "a3 b1"),
        (&["--from", "-10m"], "a0 a1 a2 a3 b0 b1"),
        (&["--from", "2001-01-01"], "a0 a1 a2 a3 b0 b1"),
        (&["--from", "@4000000000000"], ""),
        (&["-p", "1"], "b0 b1"),
        (&["-p", "0,1", "-o", "1"], "a1 a2 a3 b1"),
        (&["-p", "0", "-c", "2"], "a0 a1"),
        (&["--grep", "^.1$"], "a1 b1"),
        (&["--grep", "a", "-c", "3"], "a0 a1 a2"),
        (&["-p", "1", "-f", "%t/%p/%o=%s\\n"], "t/1/0=b0 t/1/1=b1"),
    ];
    for (arguments, expected) in cases {
        assert_eq!(sorted(arguments), *expected, "{arguments:?}");
    }
    for (arguments, code, says) in [
        (["--from", "soon"], 2, "give it as beginning"),
        (["-f", "%q"], 2, "%q is no token"),
        (["--grep", "("], 2, "regex"),
        (["-p", "7"], 1, "topic t has no partition 7"),
    ] {
        let said = shell.run(&["consume", "t", "-e", arguments[0], arguments[1]]);
        assert_eq!(said.code, Some(code), "{arguments:?}: {said:?}");
        assert!(said.err.contains(says), "{arguments:?}: {}", said.err);
    }
}

#[test]
fn it_follows_the_log_until_it_is_told_to_end() {
    let shell = Shell::open(&[]);
    shell.topic("t", 1);
    let mut consumer = shell.spawn(&["consume", "t"]);
    let mut out = BufReader::new(consumer.stdout.take().expect("piped"));
    let mut producer = shell.spawn(&["produce", "t"]);
    let mut input = producer.stdin.take().expect("piped");
    for value in ["first", "second"] {
        // Each line goes as it comes, though the input does not end.
        writeln!(input, "{value}").expect("it reads");
        input.flush().expect("it reads");
        let mut line = String::new();
        out.read_line(&mut line).expect("it prints");
        assert_eq!(line.trim_end(), value);
    }
    drop(input);
    assert!(producer.wait().expect("it ends").success());
    let pid = rustix::process::Pid::from_child(&consumer);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    assert!(consumer.wait().expect("it ends").success());
}

#[test]
fn a_group_goes_on_where_it_was() {
    let shell = Shell::open(&[]);
    shell.topic("t", 2);
    shell.pipe(&["produce", "t", "-p", "0"], b"a0\na1\na2\n").good();
    shell.pipe(&["produce", "t", "-p", "1"], b"b0\n").good();
    let read = |more: &[&str]| {
        let mut arguments = vec!["consume", "t", "-e", "--group", "g"];
        arguments.extend(more);
        let mut lines: Vec<String> = shell.run(&arguments).good().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    // Counted to the record: what was fetched beyond it is not committed.
    let first = read(&["-c", "2"]);
    assert_eq!(first.len(), 2);
    let second = read(&[]);
    let mut all = [first, second].concat();
    all.sort();
    assert_eq!(all, ["a0", "a1", "a2", "b0"]);
    assert!(read(&[]).is_empty());
    shell.pipe(&["produce", "t", "-p", "1"], b"b1\n").good();
    assert_eq!(read(&[]), ["b1"]);
}

#[test]
fn two_members_share_the_partitions_and_a_signal_commits() {
    let shell = Shell::open(&["group.initial.rebalance.delay.ms=0"]);
    shell.topic("t", 2);
    let mut members: Vec<_> =
        (0..2).map(|_| shell.spawn(&["consume", "t", "-G", "g", "-f", "%p %s\n"])).collect();
    ottla_tests::process::eventually("each has one", || {
        let group = shell.run(&["group", "describe", "g", "--json"]);
        let Ok(group) = serde_json::from_str::<serde_json::Value>(&group.out) else { return false };
        let members = group["members"].as_array().cloned().unwrap_or_default();
        let one = |member: &serde_json::Value| {
            member["partitions"].as_array().is_some_and(|share| share.len() == 1)
        };
        group["state"] == "Stable" && members.len() == 2 && members.iter().all(one)
    });
    shell.run(&["produce", "t", "x", "-p", "0"]).good();
    shell.run(&["produce", "t", "y", "-p", "1"]).good();
    let mut printed = Vec::new();
    for member in &mut members {
        let mut line = String::new();
        BufReader::new(member.stdout.take().expect("piped")).read_line(&mut line).expect("it prints");
        printed.push(line.trim_end().to_owned());
        let pid = rustix::process::Pid::from_child(member);
        // As timeout(1) does: to the process, and at once to its group again.
        for _ in 0..2 {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(member.wait().expect("it ends").success());
    }
    printed.sort();
    assert_eq!(printed, ["0 x", "1 y"]);
    let lag = shell.run(&["group", "lag", "g", "--over", "0", "--json"]).json();
    assert_eq!((&lag["lag"], &lag["members"]), (&0.into(), &0.into()), "{lag}");
}

#[test]
fn records_that_are_gone_are_told_and_passed_over() {
    let shell = Shell::open(&[]);
    shell.topic("t", 1);
    shell.pipe(&["produce", "t"], b"a\nb\nc\n").good();
    let said = shell.run(&["consume", "t", "-e", "-o", "1"]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("b\nc\n", ""));
    delete_records(&shell, 2);
    let said = shell.run(&["consume", "t", "-e", "-o", "0"]);
    assert_eq!(said.out, "c\n", "{said:?}");
    assert!(said.err.contains("t-0: offset 0 is gone, the log begins at 2"), "{}", said.err);
}

fn delete_records(shell: &Shell, before: i64) {
    use ottla_protocol::messages::DeleteRecordsRequest;
    use ottla_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
    let partition = DeleteRecordsPartition { partition_index: 0, offset: before };
    let topic = DeleteRecordsTopic { name: "t".into(), partitions: vec![partition] };
    let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 10_000 };
    let answer = shell.node.connect().call(2, &request);
    assert_eq!(answer.topics[0].partitions[0].error_code, 0, "{answer:?}");
}
