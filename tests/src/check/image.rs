//! Nodes whose images are of the same version have equal images.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_machine::controller::image::Image;

use super::Violation;

/// Versions that are remembered: nobody's image is older than so many.
const KEPT: usize = 5_000;

#[derive(Debug, Default)]
pub struct Images(BTreeMap<u64, Arc<Image>>);

impl Images {
    /// A node has this image.
    ///
    /// # Errors
    /// Another one has another of the same version.
    pub fn see(&mut self, node: usize, image: &Arc<Image>) -> Result<(), Violation> {
        let known = self.0.entry(image.version).or_insert_with(|| Arc::clone(image));
        // All of it: what a snapshot forgets is forgotten in its bytes, too.
        if Arc::ptr_eq(known, image) || **known == **image {
            if self.0.len() > KEPT {
                self.0.pop_first();
            }
            return Ok(());
        }
        let what =
            format!("node {} has another image of version {} than an earlier one", node + 1, image.version);
        Err(Violation::new("images are equal at equal versions", what))
    }
}
