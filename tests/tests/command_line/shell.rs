//! `ottla ...` as it would be typed, with the node's address behind it.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};

use ottla_tests::process::{Ottla, command};
use serde_json::Value;

pub(crate) struct Shell {
    pub(crate) node: Ottla,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It must have ended well.
    pub(crate) fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// The only line, which is JSON.
    pub(crate) fn json(self) -> Value {
        let out = self.good();
        assert_eq!(out.lines().count(), 1, "{out}");
        serde_json::from_str(&out).expect("a line of JSON")
    }
}

impl Shell {
    /// With a node of its own.
    pub(crate) fn open(settings: &[&str]) -> Self {
        Self { node: Ottla::start_with(settings) }
    }

    /// `ottla ARGUMENTS -b ...`
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare();
        command.args(arguments).env("OTTLA_BOOTSTRAP_SERVER", self.node.bootstrap());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        Said::of(&self.command(arguments).stdin(Stdio::null()).output().expect("ottla runs"))
    }

    /// The same with something on standard input.
    pub(crate) fn pipe(&self, arguments: &[&str], input: &[u8]) -> Said {
        let mut child = self.spawn(arguments);
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        // A thread of its own: the command may answer before it has read all.
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("ottla ends");
        writer.join().expect("it only writes");
        Said::of(&output)
    }

    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("ottla runs")
    }

    /// `ottla topic create NAME -p PARTITIONS`.
    pub(crate) fn topic(&self, name: &str, partitions: usize) {
        self.run(&["topic", "create", name, "-p", &partitions.to_string()]).good();
    }
}

/// Without the surroundings of whoever runs the tests.
pub(crate) fn bare() -> Command {
    let mut command = command();
    command.env_remove("OTTLA_BOOTSTRAP_SERVER").env_remove("NO_COLOR");
    command
}

/// A command without a node.
pub(crate) fn alone(arguments: &[&str]) -> Said {
    Said::of(&bare().args(arguments).stdin(Stdio::null()).output().expect("ottla runs"))
}

/// An address where nobody listens, and nobody can as long as this lives.
pub(crate) struct Nobody {
    address: SocketAddr,
    _held: OwnedFd,
}

impl Nobody {
    pub(crate) fn new() -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
        let held = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&held, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = getsockname(&held).expect("an address").try_into().expect("an internet address");
        Self { address, _held: held }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }
}
