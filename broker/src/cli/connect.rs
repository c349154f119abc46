//! Where the cluster is: the same options for every command that talks to one.

use std::time::Duration;

use clap::Args;
use ottla_client::{Cluster, Options};

#[derive(Args, Clone)]
pub(super) struct Connect {
    /// One or several brokers of the cluster, with commas between.
    #[arg(
        long,
        short = 'b',
        visible_alias = "bootstrap",
        value_name = "HOST:PORT",
        env = "OTTLA_BOOTSTRAP_SERVER",
        default_value = "localhost:9092"
    )]
    bootstrap_server: String,
    /// How many seconds an answer is waited for.
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    timeout: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.001..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("it takes seconds between 0.001 and 86400".to_owned()),
    }
}

impl Connect {
    pub(super) fn bootstrap(&self) -> &str {
        &self.bootstrap_server
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout)
    }

    pub(super) fn options(&self) -> Options {
        let patience = self.timeout();
        Options {
            client_id: "ottla-cli".to_owned(),
            connect_timeout: patience.min(Duration::from_secs(5)),
            patience,
        }
    }

    pub(super) fn cluster(&self) -> ottla_client::Result<Cluster> {
        Cluster::connect(&self.bootstrap_server, self.options())
    }
}
