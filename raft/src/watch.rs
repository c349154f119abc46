//! openraft's watch channel, which wakes in the order in which was waited: tokio's picks by chance, and a simulation could not be played
//! again.

use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::{OptionalSend, OptionalSync};
use tokio::sync::Notify;

/// See the module.
#[derive(Debug)]
pub(crate) struct InOrder;

struct Shared<T> {
    state: RwLock<State<T>>,
    news: Notify,
}

struct State<T> {
    value: T,
    /// Counts the values.
    version: u64,
    senders: usize,
    receivers: usize,
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<T>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Sender<T>(Arc<Shared<T>>);

pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The value that was seen last.
    seen: u64,
}

/// The value, which does not change meanwhile.
pub(crate) struct Ref<'a, T>(RwLockReadGuard<'a, State<T>>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl Watch for InOrder {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let state = State { value: init, version: 0, senders: 1, receivers: 1 };
        let shared = Arc::new(Shared { state: RwLock::new(state), news: Notify::new() });
        (Sender(Arc::clone(&shared)), Receiver { shared, seen: 0 })
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<InOrder, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.read().receivers == 0 {
            return Err(SendError(value));
        }
        self.send_if_modified(|current| {
            *current = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        let modified = {
            let mut state = self.0.write();
            let modified = modify(&mut state.value);
            state.version += u64::from(modified);
            modified
        };
        if modified {
            self.0.news.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        Ref(self.0.read())
    }

    fn subscribe(&self) -> Receiver<T> {
        let seen = {
            let mut state = self.0.write();
            state.receivers += 1;
            state.version
        };
        Receiver { shared: Arc::clone(&self.0), seen }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<InOrder, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            // From before the look: what is sent after it wakes.
            let mut news = std::pin::pin!(self.shared.news.notified());
            news.as_mut().enable();
            {
                let state = self.shared.read();
                if state.version != self.seen {
                    self.seen = state.version;
                    return Ok(());
                }
                if state.senders == 0 {
                    return Err(RecvError(()));
                }
            }
            news.await;
        }
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        Ref(self.shared.read())
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let state = self.shared.read();
        self.seen = state.version;
        Ref(state)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.write().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let left = {
            let mut state = self.0.write();
            state.senders -= 1;
            state.senders
        };
        if left == 0 {
            self.0.news.notify_waiters();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.write().receivers += 1;
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.write().receivers -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_not_seen_is_news_and_the_last_sender_s_end_is_the_end() {
        let (sender, mut receiver) = InOrder::channel(1);
        let mut late = sender.subscribe();
        sender.send(2).expect("somebody listens");
        assert!(!sender.send_if_modified(|_| false));
        receiver.changed().await.expect("2 is news");
        assert_eq!((*receiver.borrow_watched(), *late.borrow_and_update()), (2, 2));
        let waits = tokio::spawn(async move { late.changed().await });
        let other = sender.clone();
        drop(sender);
        other.send(3).expect("somebody listens");
        waits.await.expect("no panic").expect("3 is news, although one sender is gone");
        drop(other);
        receiver.changed().await.expect("so it is here");
        receiver.changed().await.expect_err("nobody is left to send");
    }

    #[tokio::test]
    async fn nobody_listens_any_more() {
        let (sender, receiver) = InOrder::channel(1);
        drop(receiver.clone());
        sender.send(2).expect("one listens");
        drop(receiver);
        assert_eq!(sender.send(3).expect_err("none does").0, 3);
    }
}
