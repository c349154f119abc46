//! Lines as they come, in chunks: read by a thread of its own, so that what was read is not held up by what was not.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that wait; beyond them the reader does.
const CHUNKS_MAX: usize = 8;

pub(super) struct Lines {
    chunks: Receiver<io::Result<Chunk>>,
}

/// Whole lines. All but the last of the input end in a newline.
pub(super) struct Chunk(Vec<u8>);

pub(super) enum Next {
    Some(Chunk),
    /// Nothing came within the time.
    Later,
    End,
}

impl Chunk {
    /// Without their ends, also those of Windows.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let bytes = self.0.strip_suffix(b"\n").unwrap_or(&self.0);
        bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
    }
}

impl Lines {
    pub(super) fn of(input: impl Read + Send + 'static) -> io::Result<Self> {
        let (sender, chunks) = sync_channel(CHUNKS_MAX);
        std::thread::Builder::new().name("input".into()).spawn(move || read(input, &sender))?;
        Ok(Self { chunks })
    }

    /// Each of them one line, whatever it holds.
    pub(super) fn given(values: &[String]) -> Self {
        let (sender, chunks) = sync_channel(values.len());
        for value in values {
            let mut bytes = value.clone().into_bytes();
            bytes.push(b'\n');
            let _ = sender.send(Ok(Chunk(bytes)));
        }
        Self { chunks }
    }

    pub(super) fn next(&self, within: Duration) -> io::Result<Next> {
        match self.chunks.recv_timeout(within) {
            Ok(chunk) => Ok(Next::Some(chunk?)),
            Err(RecvTimeoutError::Timeout) => Ok(Next::Later),
            Err(RecvTimeoutError::Disconnected) => Ok(Next::End),
        }
    }
}

fn read(mut input: impl Read, sender: &SyncSender<io::Result<Chunk>>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    // The begin of a line whose end has not come.
    let mut open: Vec<u8> = Vec::new();
    loop {
        match input.read(&mut buffer) {
            Ok(0) => {
                if !open.is_empty() {
                    let _ = sender.send(Ok(Chunk(open)));
                }
                return;
            }
            Ok(count) => {
                let read = &buffer[..count];
                let Some(end) = read.iter().rposition(|byte| *byte == b'\n') else {
                    open.extend_from_slice(read);
                    continue;
                };
                let mut whole = std::mem::take(&mut open);
                whole.extend_from_slice(&read[..=end]);
                open.extend_from_slice(&read[end + 1..]);
                if sender.send(Ok(Chunk(whole))).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let _ = sender.send(Err(error));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in pieces of three.
    struct Slow(&'static [u8]);

    impl Read for Slow {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(3);
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn all(lines: &Lines) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        loop {
            match lines.next(Duration::from_secs(30)).expect("readable") {
                Next::Some(chunk) => found.extend(chunk.lines().map(<[u8]>::to_vec)),
                Next::Later => panic!("nothing came"),
                Next::End => return found,
            }
        }
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let input = b"one\ntwo words\n\nwindows\r\n\xff\xfe\nno end";
        let lines = Lines::of(Slow(input)).expect("a thread");
        let expected: [&[u8]; 6] = [b"one", b"two words", b"", b"windows", b"\xff\xfe", b"no end"];
        assert_eq!(all(&lines), expected);
        assert!(all(&Lines::of(Slow(b"")).expect("a thread")).is_empty());
        assert_eq!(all(&Lines::of(Slow(b"\n")).expect("a thread")), [b""]);
    }

    #[test]
    fn a_given_value_is_one_record() {
        assert_eq!(all(&Lines::given(&["a".into(), String::new()])), [&b"a"[..], b""]);
    }
}
