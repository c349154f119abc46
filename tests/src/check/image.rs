//! Nodes whose images are of the same version have equal images.

use std::collections::BTreeMap;

use ottla_machine::controller::image::Image;
use ottla_machine::controller::record::encode_snapshot;

use super::Violation;

#[derive(Debug, Default)]
pub struct Images(BTreeMap<u64, u32>);

impl Images {
    /// A node has this image.
    ///
    /// # Errors
    /// Another one has another of the same version.
    pub fn see(&mut self, node: usize, image: &Image) -> Result<(), Violation> {
        let hash = crc32c::crc32c(&encode_snapshot(image));
        let known = *self.0.entry(image.version).or_insert(hash);
        if known == hash {
            return Ok(());
        }
        let what =
            format!("node {} has another image of version {} than an earlier one", node + 1, image.version);
        Err(Violation::new("images are equal at equal versions", what))
    }
}
