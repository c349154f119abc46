//! How many connections there may be, in all and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts connections; shared by acceptors and connections.
#[derive(Clone, Debug)]
pub(crate) struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    per_ip_max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// Why a connection is closed as soon as it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("there are max.connections = {0} already")]
    Full(usize),
    #[error("there are max.connections.per.ip = {0} from this address already")]
    FullForIp(usize),
}

/// One connection's place; dropping it makes room.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Admission,
    ip: IpAddr,
}

impl Admission {
    pub(crate) fn new(max: usize, per_ip_max: usize) -> Self {
        Self(Arc::new(Shared { max, per_ip_max, open: Mutex::default() }))
    }

    pub(crate) fn admit(&self, ip: IpAddr) -> Result<Permit, Refusal> {
        let ip = ip.to_canonical();
        let mut open = self.open();
        if open.all >= self.0.max {
            return Err(Refusal::Full(self.0.max));
        }
        let of_ip = open.by_ip.entry(ip).or_default();
        if *of_ip >= self.0.per_ip_max {
            return Err(Refusal::FullForIp(self.0.per_ip_max));
        }
        *of_ip += 1;
        open.all += 1;
        Ok(Permit { admission: self.clone(), ip })
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.admission.open();
        open.all -= 1;
        let of_ip = open.by_ip.get_mut(&self.ip).expect("a permit was counted");
        *of_ip -= 1;
        if *of_ip == 0 {
            open.by_ip.remove(&self.ip);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn connections_are_counted_in_all_and_by_address() {
        let admission = Admission::new(3, 2);
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mapped = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        let first = admission.admit(a).expect("room");
        let _second = admission.admit(mapped).expect("room");
        assert_eq!(admission.admit(a).expect_err("full"), Refusal::FullForIp(2));
        let _third = admission.admit(b).expect("room");
        assert_eq!(admission.admit(b).expect_err("full"), Refusal::Full(3));
        drop(first);
        let _again = admission.admit(b).expect("room");
        assert_eq!(admission.open().by_ip.len(), 2);
    }
}
