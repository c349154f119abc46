//! What a broker's own processes take, where they run on this machine. A process is found by the port that it listens on (Linux).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};
use serde::Serialize;

/// A listening socket's state in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// Processes that are looked at together: those of one broker, or of a cluster.
#[derive(Clone, Debug)]
pub struct Processes {
    pids: Vec<u32>,
}

/// What processes have taken so far.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    /// User and system time of all threads, ended ones included.
    pub cpu_seconds: f64,
    /// Memory of their own; mapped files, which the kernel may take back at any time, are not in it.
    pub rss_anon_bytes: u64,
    /// Read from a disk, where the kernel tells.
    pub disk_read_bytes: Option<u64>,
}

impl Processes {
    /// Those that listen on these addresses; `None` if any of them is not found on this machine.
    #[must_use]
    pub fn listening_on(addresses: &[SocketAddr]) -> Option<Self> {
        let pids: Option<BTreeSet<u32>> = addresses.iter().map(|address| listener(*address)).collect();
        pids.filter(|pids| !pids.is_empty()).map(|pids| Self { pids: pids.into_iter().collect() })
    }

    /// This process.
    #[must_use]
    pub fn own() -> Self {
        Self { pids: vec![std::process::id()] }
    }

    #[must_use]
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// What all of them have taken; `None` if one is gone.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        let mut sum = Usage { disk_read_bytes: Some(0), ..Usage::default() };
        for pid in &self.pids {
            sum.cpu_seconds += cpu_seconds(*pid)?;
            sum.rss_anon_bytes += rss_anon_bytes(*pid)?;
            sum.disk_read_bytes = sum.disk_read_bytes.zip(disk_read_bytes(*pid)).map(|(sum, one)| sum + one);
        }
        Some(sum)
    }

    /// Memory of their own now, all together: cheaper to ask for than all of [`Self::usage`].
    #[must_use]
    pub fn rss_anon_bytes(&self) -> Option<u64> {
        self.pids.iter().map(|pid| rss_anon_bytes(*pid)).sum()
    }

    /// Writes a topic's log files to the disk and asks the kernel to forget their pages, so that the next read comes from the disk. The
    /// bytes of the files.
    ///
    /// # Errors
    /// The processes' files may not be looked at, or hold nothing of the topic.
    pub fn evict(&self, topic: &str) -> io::Result<u64> {
        let mut bytes = 0;
        for pid in &self.pids {
            for file in log_files(*pid, topic)? {
                let file = File::open(file)?;
                file.sync_all()?;
                fadvise(&file, 0, None, Advice::DontNeed)?;
                bytes += file.metadata()?.len();
            }
        }
        if bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no log file of {topic} was found")));
        }
        Ok(bytes)
    }
}

/// The segments of a topic that a process keeps, found beside those that it has open.
fn log_files(pid: u32, topic: &str) -> io::Result<BTreeSet<PathBuf>> {
    let is_of_topic = |dir: &Path| {
        let name = dir.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.strip_prefix(topic)?.strip_prefix('-')?.parse::<u32>().ok()).is_some()
    };
    let mut log_dirs = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One that was closed meanwhile.
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        if let Some(dir) = target.parent().filter(|dir| is_of_topic(dir))
            && let Some(log_dir) = dir.parent()
        {
            log_dirs.insert(log_dir.to_owned());
        }
    }
    let mut files = BTreeSet::new();
    for log_dir in log_dirs {
        for dir in fs::read_dir(log_dir)? {
            let dir = dir?.path();
            if !is_of_topic(&dir) {
                continue;
            }
            for file in fs::read_dir(dir)? {
                let path = file?.path();
                if path.extension().is_some_and(|extension| extension == "log") {
                    files.insert(path);
                }
            }
        }
    }
    Ok(files)
}

/// Whether an address is one of this machine's: only those can be bound.
#[must_use]
pub fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

fn listener(address: SocketAddr) -> Option<u32> {
    if !is_local(address.ip()) {
        return None;
    }
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| inode_in(&table, address))?;
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()? {
        let Ok(process) = process else { continue };
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Processes of others can't be looked into.
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        if targets.into_iter().any(|target| target.as_os_str() == wanted.as_str()) {
            return Some(pid);
        }
    }
    None
}

/// The socket that takes connections to an address, in a table of the kernel's.
fn inode_in(table: &str, address: SocketAddr) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (ip, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let ip = ip_of(ip)?;
        let takes = ip == address.ip() || ip.is_unspecified();
        (*state == LISTENS && port == address.port() && takes).then(|| inode.parse().ok())?
    })
}

/// An address as the kernel prints it: words of four bytes, each in the machine's order.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let words: Option<Vec<[u8; 4]>> = (0..hex.len() / 8)
        .map(|at| Some(u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes()))
        .collect();
    let bytes = words?.concat();
    if let Ok(four) = <[u8; 4]>::try_from(&bytes[..]) {
        return Some(Ipv4Addr::from(four).into());
    }
    let sixteen = Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).ok()?);
    Some(sixteen.to_ipv4_mapped().map_or(sixteen.into(), IpAddr::from))
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn rss_anon_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1_024)
}

fn disk_read_bytes(pid: u32) -> Option<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("read_bytes:")?.trim().parse().ok())
}

/// Type of the file system that holds a directory.
#[must_use]
pub fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let holding = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        dir.starts_with(at).then(|| (at.len(), kind.to_owned()))
    });
    // Of several at one place the last covers the others.
    holding.max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_process_is_found_by_the_port_it_listens_on() {
        for host in ["127.0.0.1", "0.0.0.0", "::1", "::"] {
            let Ok(socket) = TcpListener::bind((host, 0)) else { continue };
            let port = socket.local_addr().expect("bound").port();
            let local: IpAddr =
                if host.contains(':') { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
            let found = Processes::listening_on(&[SocketAddr::from((local, port))]);
            assert_eq!(found.map(|found| found.pids), Some(vec![std::process::id()]), "{host}");
            drop(socket);
            assert!(Processes::listening_on(&[SocketAddr::from((local, port))]).is_none(), "{host}");
        }
    }

    #[test]
    fn a_process_that_works_takes_cpu_and_memory() {
        let own = Processes::own();
        let before = own.usage().expect("this one lives");
        let mut worked = 0_u64;
        let usage = loop {
            worked = (0..1_000_000_u64).fold(worked, |sum, n| sum.wrapping_mul(31).wrapping_add(n));
            let usage = own.usage().expect("this one lives");
            if usage.cpu_seconds > before.cpu_seconds {
                break usage;
            }
        };
        assert!(usage.rss_anon_bytes > 50_000, "{usage:?} {worked}");
    }

    #[test]
    fn pages_that_were_evicted_are_found_by_the_topics_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let partition = dir.path().join("t-0");
        fs::create_dir_all(&partition).expect("a directory");
        fs::create_dir_all(dir.path().join("t-other-0")).expect("a directory");
        fs::write(dir.path().join("t-other-0/0.log"), [1; 10]).expect("a file");
        fs::write(partition.join("1.log"), [1; 5_000]).expect("a file");
        fs::write(partition.join("0.index"), [1; 5_000]).expect("a file");
        fs::write(partition.join("0.log"), [1; 7_000]).expect("a file");
        let held = File::open(partition.join("1.log")).expect("a file");
        assert_eq!(Processes::own().evict("t").expect("its own files"), 12_000);
        drop(held);
        assert!(Processes::own().evict("nothing").is_err());
    }
}
