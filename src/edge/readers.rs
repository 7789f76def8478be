//! Reads large bodies off the async workers, so that a question of the platform is answered in
//! time whatever else arrives.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::reading::{self, MAX_VALUES, Push, Received};

/// Runs the reading of bodies. Its clones share one bound.
#[derive(Clone)]
pub struct Readers {
    /// One permit for each KiB that reading may take.
    memory: Arc<Semaphore>,
}

/// A body of this size is read at once: that takes about a millisecond.
const INLINE_BYTES: usize = 64 << 10;
/// The bound of the memory that all reading takes together.
const MEMORY: usize = 128 << 20;
/// The memory for one value while it is read.
const VALUE: usize = 256;

impl Default for Readers {
    fn default() -> Self {
        Self {
            memory: Arc::new(Semaphore::new(MEMORY / 1024)),
        }
    }
}

impl Readers {
    /// Reads a body as [`reading::read`] does; `None` if that failed.
    pub async fn read(&self, received: Received<'_>, body: Bytes) -> Option<Vec<Push>> {
        if body.len() <= INLINE_BYTES {
            // Others get their turn between many small bodies.
            tokio::task::coop::consume_budget().await;
            return Some(reading::read(&received, &body));
        }
        let (account, module) = (received.account.to_owned(), received.module.to_owned());
        let content_type = received.content_type.map(ToOwned::to_owned);
        let voice_base_url = received.voice_base_url.to_owned();
        self.run(body.len(), move || {
            let received = Received {
                account: &account,
                module: &module,
                content_type: content_type.as_deref(),
                voice_base_url: &voice_base_url,
            };
            reading::read(&received, &body)
        })
        .await
    }

    /// Runs what reads a body of `len` bytes; `None` if it panicked, which is logged.
    pub async fn run<T: Send + 'static>(
        &self,
        len: usize,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if len <= INLINE_BYTES {
            return Some(read());
        }
        let memory = self.memory.clone().acquire_many_owned(cost(len)).await;
        let read = tokio::task::spawn_blocking(move || {
            // Held until the work is done, also when nobody waits for it any more.
            let _memory = memory;
            read()
        });
        read.await.ok()
    }
}

/// The KiB that reading a body may take: the body, its text in each charset that is tried, in
/// values and their encoding, and the values themselves, of which two bytes can make one.
fn cost(len: usize) -> u32 {
    let values = (len / 2).min(MAX_VALUES) * VALUE;
    let bytes = len.saturating_mul(8).saturating_add(values);
    let kib = bytes.min(MEMORY) / 1024;
    u32::try_from(kib).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn large_bodies_are_read_one_after_the_other_and_small_ones_beside_them() {
        let readers = Readers::default();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let large = 8 << 20;
        let mut one = Box::pin(readers.run(large, move || wait.recv().is_ok()));
        assert!(one.as_mut().now_or_never().is_none());
        let mut other = Box::pin(readers.run(large, || ()));
        assert!(other.as_mut().now_or_never().is_none());
        // The first still holds the memory.
        assert!(readers.memory.available_permits() < cost(large) as usize);
        assert_eq!(
            readers.run(INLINE_BYTES, || 7).now_or_never(),
            Some(Some(7))
        );
        go.send(()).unwrap();
        assert_eq!(one.await, Some(true));
        assert_eq!(other.await, Some(()));
        assert_eq!(readers.memory.available_permits(), MEMORY / 1024);
    }

    #[tokio::test]
    async fn a_body_beyond_every_bound_is_read_alone() {
        let readers = Readers::default();
        assert_eq!(readers.run(usize::MAX / 8, || 7).await, Some(7));
    }
}
