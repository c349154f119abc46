//! Who an idempotent producer is (KIP-98).

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::InitProducerIdRequest;
use ottla_protocol::types::{ProducerEpoch, ProducerId};

use crate::cluster::Cluster;
use crate::error::{Error, Result};

/// An id and its epoch; sequences of each partition count from 0 under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
}

impl Identity {
    /// Of a producer whose retries may write twice.
    pub(crate) const NONE: Self = Self { id: ProducerId::NONE, epoch: ProducerEpoch::NONE };

    /// A fresh one, or none where the brokers give none: then a retry may write twice, as with every producer before KIP-98.
    pub(crate) fn fetch_if_given(cluster: &mut Cluster) -> Result<Self> {
        match Self::fetch(cluster) {
            Err(Error::NotServed { .. }) => Ok(Self::NONE),
            Err(error) if error.code() == Some(ErrorCode::ClusterAuthorizationFailed) => Ok(Self::NONE),
            outcome => outcome,
        }
    }

    /// A fresh one from any broker.
    pub(crate) fn fetch(cluster: &mut Cluster) -> Result<Self> {
        cluster.retry(|cluster| {
            let request = InitProducerIdRequest {
                transactional_id: None,
                producer_id: -1,
                producer_epoch: -1,
                ..Default::default()
            };
            let answer = cluster.ask_any(|any| any.call(0..=4, &request))?;
            Error::check("the producer's identity", answer.error_code, None)?;
            Ok(Self { id: ProducerId(answer.producer_id), epoch: ProducerEpoch(answer.producer_epoch) })
        })
    }
}
