//! Finalized features (KIP-584).

use std::collections::BTreeSet;

use ottla_protocol::error::ErrorCode;

use super::command::{Answer, ConfigRules, Failure};
use super::decide::Decision;
use super::image::Image;
use super::record::Record;

/// Kafka's kinds of update.
const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;
const UNSAFE_DOWNGRADE: i8 = 3;

/// The version of the metadata's records.
const METADATA_VERSION: &str = "metadata.version";

/// All of the changes, or none.
pub(super) fn update(
    image: &Image,
    rules: &dyn ConfigRules,
    changes: &[(String, i16, i8)],
    validate_only: bool,
) -> Decision {
    let mut seen = BTreeSet::new();
    let mut records = Vec::new();
    for (name, level, kind) in changes {
        let checked = if seen.insert(name) {
            check(image, rules, name, *level, *kind)
        } else {
            Err(Failure::new(
                ErrorCode::InvalidRequest,
                format!("The feature {name} stands twice in the request."),
            ))
        };
        if let Err(failure) = checked {
            return Decision::answer(Answer::Failed(failure));
        }
        if image.feature(name) != *level {
            records.push(Record::Feature { name: name.as_str().into(), level: *level });
        }
    }
    if validate_only {
        records.clear();
    }
    Decision { records, answer: Answer::Done }
}

fn check(image: &Image, rules: &dyn ConfigRules, name: &str, level: i16, kind: i8) -> Result<(), Failure> {
    let refused = |why: String| {
        let message = format!("Invalid update version {level} for feature {name}: {why}");
        Err(Failure::new(ErrorCode::InvalidUpdateVersion, message))
    };
    let Some(levels) = rules.feature_levels(name) else {
        return refused("this version of Ottla does not know it".into());
    };
    // Level 0 turns a feature off, where it is one of its levels.
    if !levels.contains(&level) {
        return refused(format!(
            "this version of Ottla has the levels {} to {}",
            levels.start(),
            levels.end()
        ));
    }
    let now = image.feature(name);
    match kind {
        // As in Kafka: an older level may not have records for what is there by now.
        SAFE_DOWNGRADE if level < now && name == METADATA_VERSION => {
            refused(format!("it is at {now}, and metadata that came with that might be lost"))
        }
        UPGRADE if level < now => refused(format!("it is at {now}, and a downgrade was not asked for")),
        SAFE_DOWNGRADE | UNSAFE_DOWNGRADE if level > now => {
            refused(format!("it is at {now}, and a downgrade was asked for"))
        }
        UNSAFE_DOWNGRADE if level < now => refused("unsafe downgrades are not part of this version".into()),
        UPGRADE | SAFE_DOWNGRADE | UNSAFE_DOWNGRADE => Ok(()),
        _ => refused(format!("there is no kind of update {kind}")),
    }
}
