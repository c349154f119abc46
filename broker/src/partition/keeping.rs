//! What housekeeping does to a partition: retention, and the steps of a compaction that need its lock.

use std::sync::Arc;

use ottla_machine::partition::producers::Producers;
use ottla_protocol::types::Offset;
use ottla_storage::compaction::{Compacted, Compaction};
use ottla_storage::retention::Retention;
use ottla_storage::{LogView, Removal, StorageError};

use super::Partition;

/// What a pass of the cleaner works on.
#[derive(Debug)]
pub(crate) struct CleaningPlan {
    pub(crate) view: LogView,
    pub(crate) producers: Producers,
    pub(crate) dirty_from: Offset,
    pub(crate) dirty_to: Offset,
    pub(crate) delete_retention_ms: i64,
}

impl Partition {
    /// Lets go of segments that are too old or too many, and of producers that have been silent too long.
    ///
    /// # Errors
    /// Files that cannot be read or removed.
    pub(crate) fn retain(self: &Arc<Self>, now_ms: i64, producers_ms: i64) -> Result<(), StorageError> {
        let (view, retention) = {
            let mut state = self.lock();
            if self.ensure_open(&mut state).is_err() {
                return Ok(());
            }
            state.producers.expire(now_ms.saturating_sub(producers_ms));
            let log = state.log.as_ref().expect("just opened");
            if !state.config.delete && log.start_offset().0 == 0 {
                return Ok(());
            }
            let keep = |value: i64| if state.config.delete { value } else { -1 };
            let retention = Retention {
                max_age_ms: keep(state.config.retention_ms),
                max_bytes: keep(state.config.retention_bytes),
                now_ms,
                log_start: log.start_offset(),
                high_watermark: state.replica.high_watermark(),
                log_bytes: log.size_bytes(),
            };
            (log.view(), retention)
        };
        let Some(below) = retention.expired_below(view.summaries())? else { return Ok(()) };
        // What is known of producers outlives their records, also through a restart: they may send the same again.
        self.flush();
        let save = self.producers_to_save(&mut self.lock(), true);
        if let Some(save) = save {
            self.save_producers(&save);
        }
        let removal = self.lock().log.as_mut().and_then(|log| log.drop_segments_below(below));
        match removal {
            Some(removal) => {
                tracing::info!("{}: records below offset {below} are past their retention", self.dir_name);
                removal.run()
            }
            None => Ok(()),
        }
    }

    /// Whether there is enough to compact, and what. Seals the last segment once its records have waited too long.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub(crate) fn plan_cleaning(self: &Arc<Self>, now_ms: i64) -> Result<Option<CleaningPlan>, StorageError> {
        let mut state = self.lock();
        if !state.config.compact || self.ensure_open(&mut state).is_err() {
            return Ok(None);
        }
        let config = Arc::clone(&state.config);
        let log = state.log.as_ref().expect("just opened");
        let (view, dirty_from) = (log.view(), log.cleaned_to());
        let producers = state.producers.clone();
        let high_watermark = state.replica.high_watermark();
        drop(state);
        let (mut clean_bytes, mut dirty_bytes, mut dirty_to, mut overdue) = (0, 0, dirty_from, false);
        for summary in view.summaries() {
            let summary = summary?;
            if summary.end <= dirty_from {
                clean_bytes += summary.size;
                continue;
            }
            let age = now_ms.saturating_sub(summary.max_timestamp);
            overdue |= summary.size > 0 && age >= config.max_compaction_lag_ms;
            if !summary.sealed {
                if overdue && summary.size > 0 {
                    self.seal();
                }
                break;
            }
            if summary.end > high_watermark || age < config.min_compaction_lag_ms {
                break;
            }
            dirty_bytes += summary.size;
            dirty_to = summary.end;
        }
        let share = dirty_bytes as f64 / (clean_bytes + dirty_bytes).max(1) as f64;
        let due = dirty_bytes > 0 && (overdue || share >= config.min_cleanable_dirty_ratio);
        Ok(due.then_some(CleaningPlan {
            view,
            producers,
            dirty_from: dirty_from.max(Offset::ZERO),
            dirty_to,
            delete_retention_ms: config.delete_retention_ms,
        }))
    }

    fn seal(self: &Arc<Self>) {
        if let Some(log) = self.lock().log.as_mut() {
            log.seal();
        }
        self.want_flush();
    }

    pub(crate) fn begin_compaction(&self, from: Offset, to: Offset) -> Option<Compaction> {
        self.lock().log.as_ref()?.begin_compaction(from, to)
    }

    pub(crate) fn finish_compaction(&self, compacted: Compacted) -> Result<Option<Removal>, StorageError> {
        match self.lock().log.as_mut() {
            Some(log) => log.finish_compaction(compacted),
            None => Ok(None),
        }
    }

    pub(crate) fn set_cleaned_to(&self, offset: Offset) {
        if let Some(log) = self.lock().log.as_mut() {
            log.set_cleaned_to(offset);
        }
    }
}
