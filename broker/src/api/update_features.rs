//! UpdateFeatures (key 57, KIP-584): other levels of features, all or none. v1 kinds of downgrade and dry runs; v2 no results for each.

use bytestring::ByteString;
use ottla_machine::controller::command::{Answer, Command};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::UpdateFeaturesRequest;
use ottla_protocol::messages::update_features_response::{UpdatableFeatureResult, UpdateFeaturesResponse};

use super::decided::decided;
use super::{Reply, RequestContext};

const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;

pub fn handle(cx: &mut RequestContext<'_>, request: UpdateFeaturesRequest) -> Reply<UpdateFeaturesResponse> {
    let kind = |allow_downgrade: bool, upgrade_type: i8| match (cx.version, allow_downgrade) {
        (0, true) => SAFE_DOWNGRADE,
        (0, false) => UPGRADE,
        _ => upgrade_type,
    };
    let updates = request.feature_updates;
    let changes = updates
        .iter()
        .map(|update| {
            let kind = kind(update.allow_downgrade, update.upgrade_type);
            (update.feature.to_string(), update.max_version_level, kind)
        })
        .collect();
    let names: Vec<ByteString> = updates.into_iter().map(|update| update.feature).collect();
    let command = Command::UpdateFeatures { changes, validate_only: request.validate_only };
    // Kafka asks for no time here: who gives none has as much as it takes.
    let timeout_ms = if request.timeout_ms > 0 { request.timeout_ms } else { i32::MAX };
    decided(cx, timeout_ms, command, move |answer| match answer {
        Answer::Done => UpdateFeaturesResponse {
            error_message: None,
            results: names
                .iter()
                .cloned()
                .map(|feature| UpdatableFeatureResult { feature, ..UpdatableFeatureResult::default() })
                .collect(),
            ..UpdateFeaturesResponse::default()
        },
        Answer::Failed(failure) => UpdateFeaturesResponse {
            error_code: failure.code.code(),
            error_message: Some(match failure.code {
                ErrorCode::InvalidUpdateVersion => {
                    format!("No feature was updated, because of this one: {}", failure.message).into()
                }
                _ => failure.message.into(),
            }),
            ..UpdateFeaturesResponse::default()
        },
        other => panic!("UpdateFeatures was answered with {other:?}"),
    })
}
