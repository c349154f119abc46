//! What the controller decides for a client, within the time that the client gives it.

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use ottla_machine::controller::command::{Answer, Command, Failure};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::wire::Message;

use super::{Reply, RequestContext};

/// What was decided in the client's time has so long to be committed before the client is told that time is over: as in Kafka the
/// client's time is for the decision, and on a controller that is well even one millisecond is enough.
const GRACE_MS: u64 = 250;

/// Has `command` decided and answers with what `respond` makes of it. If it is not decided within `timeout_ms`, it never will be, and
/// `respond` is given REQUEST_TIMED_OUT; so it is if it was decided and is not committed soon, and then it may be yet.
pub(super) fn decided<R: Message + 'static>(
    cx: &mut RequestContext<'_>,
    timeout_ms: i32,
    command: Command,
    respond: impl Fn(Answer) -> R + Send + Sync + 'static,
) -> Reply<R> {
    let timed_out = || Answer::Failed(ErrorCode::RequestTimedOut.into());
    let limit_ms = u64::try_from(timeout_ms).unwrap_or(0);
    // As in Kafka, for whoever gives no time nothing is done.
    if limit_ms == 0 {
        return Reply::Now(respond(timed_out()));
    }
    let respond = Arc::new(respond);
    let overdue = Arc::clone(&respond);
    let slot = cx.defer_until(cx.tick_ms + limit_ms + GRACE_MS, move || overdue(timed_out()));
    cx.node.controller.submit_within(command, Duration::from_millis(limit_ms), move |answer| {
        slot.complete(&respond(answer));
    });
    Reply::Later
}

/// The message beside an error: as in Kafka, time that is over needs none where there is one error for each topic.
pub(super) fn said(failure: Failure) -> Option<ByteString> {
    (failure.code != ErrorCode::RequestTimedOut).then(|| failure.message.into())
}
