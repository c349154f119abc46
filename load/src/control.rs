//! What the machine takes without any broker: figures of the same minute, beside which the others are read.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::clock::{sleep_precisely, sleep_until};
use crate::latency::{Latency, Summary};

/// What goes there and what comes back, in bytes: about a produce request of one record and its answer.
const PING_BYTES: usize = 1_150;
const PONG_BYTES: usize = 60;

const PAGE_BYTES: usize = 4_096;

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Control {
    /// A round trip between two threads over loopback, at the rate of the latency figures.
    pub ping_pong: Summary,
    /// `pwrite` of 4 KiB at the end of a file, and `fdatasync`.
    pub fdatasync_4k: Summary,
}

/// How often a round trip is made, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub pings_per_second: f64,
    pub duration: Duration,
}

/// Measures both for `duration` each. The file is made in `dir`, and removed.
///
/// # Errors
/// The machine has no loopback, or the directory takes no file.
pub fn measure(dir: &Path, pace: Pace) -> io::Result<Control> {
    let ping_pong = ping_pong(pace)?;
    let path = dir.join("control.tmp");
    let synced = append_and_sync(&path, pace.duration);
    std::fs::remove_file(&path)?;
    Ok(Control { ping_pong, fdatasync_4k: synced?.summary() })
}

/// A round trip between two threads over loopback.
///
/// # Errors
/// The machine has no loopback.
pub fn ping_pong(pace: Pace) -> io::Result<Summary> {
    let every = Duration::from_secs_f64(1.0 / pace.pings_per_second);
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut ping = TcpStream::connect(listener.local_addr()?)?;
    let (mut pong, _) = listener.accept()?;
    for stream in [&ping, &pong] {
        stream.set_nodelay(true)?;
    }
    let echo = thread::spawn(move || {
        let mut buffer = [0; PING_BYTES];
        while pong.read_exact(&mut buffer).is_ok() && pong.write_all(&buffer[..PONG_BYTES]).is_ok() {}
    });
    sleep_precisely();
    let mut latency = Latency::default();
    let mut buffer = [0; PING_BYTES];
    let began = Instant::now();
    let mut due = began;
    while due < began + pace.duration {
        sleep_until(due);
        ping.write_all(&buffer)?;
        ping.read_exact(&mut buffer[..PONG_BYTES])?;
        latency.record(due.elapsed());
        due += every;
    }
    drop(ping);
    echo.join().map_err(|_| io::Error::other("the echo ended"))?;
    Ok(latency.summary())
}

fn append_and_sync(path: &Path, duration: Duration) -> io::Result<Latency> {
    let file = File::create(path)?;
    let page = [0x5a; PAGE_BYTES];
    let mut latency = Latency::default();
    let began = Instant::now();
    let mut at = 0;
    while began.elapsed() < duration {
        let start = Instant::now();
        file.write_all_at(&page, at)?;
        file.sync_data()?;
        latency.record(start.elapsed());
        at += 4_096;
    }
    Ok(latency)
}
