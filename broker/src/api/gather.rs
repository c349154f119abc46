//! A response put together from parts that come in any order, from any thread.

use std::sync::{Arc, Mutex, PoisonError};

type Finish<T> = Box<dyn FnOnce(Vec<T>) + Send>;

/// Collects `count` parts, then hands them over in their order.
pub(super) struct Gather<T>(Mutex<State<T>>);

struct State<T> {
    parts: Vec<Option<T>>,
    open: usize,
    finish: Option<Finish<T>>,
}

impl<T: Send + 'static> Gather<T> {
    /// `finish` is called once, with the last part; at once if there are none to wait for.
    pub(super) fn new(count: usize, finish: impl FnOnce(Vec<T>) + Send + 'static) -> Arc<Self> {
        let mut finish: Option<Finish<T>> = Some(Box::new(finish));
        if count == 0
            && let Some(finish) = finish.take()
        {
            finish(Vec::new());
        }
        let parts = std::iter::repeat_with(|| None).take(count).collect();
        Arc::new(Self(Mutex::new(State { parts, open: count, finish })))
    }

    /// Gives the part at a place, once.
    pub(super) fn set(&self, at: usize, part: T) {
        let (parts, finish) = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            assert!(state.parts[at].replace(part).is_none(), "a part was given twice");
            state.open -= 1;
            if state.open > 0 {
                return;
            }
            (std::mem::take(&mut state.parts), state.finish.take())
        };
        if let Some(finish) = finish {
            finish(parts.into_iter().flatten().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_handed_over_in_order_with_the_last_one() {
        let seen = Arc::new(Mutex::new(None));
        let gather = {
            let seen = Arc::clone(&seen);
            Gather::new(3, move |parts| *seen.lock().expect("not poisoned") = Some(parts))
        };
        gather.set(2, 'c');
        gather.set(0, 'a');
        assert_eq!(*seen.lock().expect("not poisoned"), None);
        gather.set(1, 'b');
        assert_eq!(*seen.lock().expect("not poisoned"), Some(vec!['a', 'b', 'c']));
    }
}
