//! ApiVersions (key 18): what this broker speaks, and which features are on.
//!
//! v3 names the client's software (KIP-511) and lists features (KIP-584); v4 may list features whose lowest version is 0
//! (KAFKA-17011). A version that is not known is answered in version 0 with error 35 and our own line, and the connection goes on.

use std::ops::RangeInclusive;

use bytestring::ByteString;
use ottla_machine::controller::image::Image;
use ottla_protocol::api::{APIS, ApiKey};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::ApiVersionsRequest;
use ottla_protocol::messages::api_versions_response::{
    ApiVersion, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};

use super::{Output, Reply, RequestContext, SERVED};

/// A feature that works, and the levels it has.
struct Feature {
    name: &'static str,
    min: i16,
    max: i16,
}

/// The level of `metadata.version` that a new cluster gets: Kafka 4.3's.
pub const METADATA_VERSION: i16 = 30;

/// What is finalized beside it where a cluster is founded by several nodes.
pub(crate) const OF_SEVERAL_NODES: [(&str, i16); 1] = [("eligible.leader.replicas.version", 1)];

/// `metadata.version` 7 is Kafka 3.3's, the lowest that Kafka 4 knows.
/// Eligible leader replicas (KIP-966) are tracked always, and so can't be switched off.
const FEATURES: &[Feature] = &[
    Feature { name: "eligible.leader.replicas.version", min: 1, max: 1 },
    Feature { name: "metadata.version", min: 7, max: METADATA_VERSION },
];

/// The levels that this program has of a feature.
pub(crate) fn levels_of(name: &str) -> Option<RangeInclusive<i16>> {
    FEATURES.iter().find(|feature| feature.name == name).map(|feature| feature.min..=feature.max)
}

pub fn handle(cx: &mut RequestContext<'_>, request: ApiVersionsRequest) -> Reply<ApiVersionsResponse> {
    if cx.version >= 3 {
        let (name, version) = (&request.client_software_name, &request.client_software_version);
        if !is_software_text(name) || !is_software_text(version) {
            return Reply::Now(ApiVersionsResponse {
                error_code: ErrorCode::InvalidRequest.code(),
                ..Default::default()
            });
        }
        cx.connection.client_software = Some(((&**name).into(), (&**version).into()));
    }
    // KAFKA-17011: before version 4 clients refuse a lowest version of 0.
    let lists_zero = cx.version >= 4;
    Reply::Now(response(&cx.node.image.load(), lists_zero))
}

/// The body, in version 0, of the answer to a version that is not served.
pub(crate) fn unsupported_version() -> Output {
    let own = APIS.iter().filter(|api| api.key == ApiKey::ApiVersions);
    let response = ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.code(),
        api_keys: own.map(line).collect(),
        ..Default::default()
    };
    Output::of(&response, 0)
}

fn response(image: &Image, lists_zero: bool) -> ApiVersionsResponse {
    let served = APIS.iter().filter(|api| !api.peer && SERVED.contains(&api.key));
    let supported = FEATURES.iter().filter(|feature| feature.min > 0 || lists_zero);
    let finalized = image.features.iter().filter(|(_, level)| **level > 0);
    ApiVersionsResponse {
        api_keys: served.map(line).collect(),
        supported_features: supported
            .map(|feature| SupportedFeatureKey {
                name: ByteString::from_static(feature.name),
                min_version: feature.min,
                max_version: feature.max,
            })
            .collect(),
        finalized_features_epoch: i64::try_from(image.version).unwrap_or(i64::MAX),
        finalized_features: finalized
            .map(|(name, level)| FinalizedFeatureKey {
                name: ByteString::from(&**name),
                max_version_level: *level,
                min_version_level: *level,
            })
            .collect(),
        ..Default::default()
    }
}

fn line(api: &ottla_protocol::api::Api) -> ApiVersion {
    ApiVersion { api_key: api.key.code(), min_version: api.advertised_min, max_version: api.max }
}

/// Letters, digits, `-` and `.`, beginning and ending with a letter or digit (KIP-511).
fn is_software_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_are_judged_as_kip_511_says() {
        for good in ["a", "apache-kafka-java", "3.9.0", "librdkafka", "X1-y.2"] {
            assert!(is_software_text(good), "{good}");
        }
        for bad in ["", "-a", "a-", ".", "a b", "a_b", "é", "a\n"] {
            assert!(!is_software_text(bad), "{bad}");
        }
    }

    #[test]
    fn only_what_has_a_handler_is_advertised_and_produce_from_version_0() {
        let response = response(&Image::default(), true);
        let for_clients = SERVED.iter().filter(|key| !key.api().peer).count();
        assert_eq!(response.api_keys.len(), for_clients);
        for api in &response.api_keys {
            assert!(api.api_key != 0 || api.min_version == 0);
        }
    }
}
