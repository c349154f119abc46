//! How a command ends: the codes that scripts may rely on, and what to do about the commonest errors.

use std::io;
use std::process::ExitCode;

use ottla_client::Error;
use ottla_protocol::error::ErrorCode;

use super::output::harmless;

/// Shown under every `--help`.
pub(super) const CODES: &str = "Exit codes: 0 done; 1 refused, failed, or a check found something; 2 wrong command line; 3 no broker \
                                answered.";

const FAILED: u8 = 1;
const NOBODY: u8 = 3;

/// The command has said all there is to say, and did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("not everything was done")]
pub(super) struct Said;

/// Tells a person why, and a script by the code.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    // Whoever reads our output has seen enough (`| head`).
    let pipe_closed = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    let client = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    if client.is_none() && error.chain().any(pipe_closed) {
        return ExitCode::SUCCESS;
    }
    if !error.is::<Said>() {
        eprintln!("ottla: {}", harmless(&format!("{error:#}")));
        if let Some(hint) = client.and_then(hint) {
            eprintln!("       {hint}");
        }
    }
    ExitCode::from(if client.is_some_and(Error::is_absence) { NOBODY } else { FAILED })
}

/// The way out.
fn hint(error: &Error) -> Option<String> {
    Some(match error {
        Error::Unreachable { .. } => {
            "`ottla` starts a node here; --bootstrap-server HOST:PORT says where another is; `ottla doctor` looks for the cause".into()
        }
        Error::TimedOut { .. } => "--timeout SECONDS waits longer; `ottla doctor` looks for the cause".into(),
        Error::NoTopic(name) => format!("`ottla topic list` shows which there are, `ottla topic create {name}` makes it"),
        Error::Refused { code, .. } => match code {
            ErrorCode::NonEmptyGroup => {
                "stop its members first: `ottla group describe` shows who and where they are".into()
            }
            ErrorCode::UnknownMemberId => {
                "the group has members, which go on from where they are: stop them first (`ottla group describe` shows them)".into()
            }
            ErrorCode::TopicAlreadyExists => "--if-not-exists takes it as it is".into(),
            ErrorCode::InvalidReplicationFactor => {
                "`ottla doctor` shows which brokers there are; --replication-factor takes at most that many".into()
            }
            ErrorCode::NotEnoughReplicas | ErrorCode::NotEnoughReplicasAfterAppend => {
                "`ottla topic describe` shows which replicas are missing".into()
            }
            _ => return None,
        },
        _ => return None,
    })
}
