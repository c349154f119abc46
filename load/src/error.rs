//! Why a measurement was given up.

use std::io;
use std::time::Duration;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::wire::DecodeError;

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("the connection: {0}")]
    Connection(#[from] io::Error),
    #[error("an answer can't be read: {0}")]
    Answer(#[from] DecodeError),
    #[error("an answer to request {got} came where that to {expected} was due")]
    Order { expected: i32, got: i32 },
    #[error("{what} was answered with {error}{}", detail(message.as_deref()))]
    Refused { what: String, error: &'static str, message: Option<String> },
    #[error("{what} was not answered as hoped within {limit:?}; the last word was: {last}")]
    Patience { what: &'static str, limit: Duration, last: String },
}

impl BenchError {
    pub fn refused(what: impl Into<String>, code: i16, message: Option<&str>) -> Self {
        Self::Refused { what: what.into(), error: name_of(code), message: message.map(str::to_owned) }
    }
}

fn detail(message: Option<&str>) -> String {
    message.map(|message| format!(": {message}")).unwrap_or_default()
}

/// The name of an error code.
#[must_use]
pub fn name_of(code: i16) -> &'static str {
    ErrorCode::from_code(code).map_or("an unknown error code", ErrorCode::name)
}
