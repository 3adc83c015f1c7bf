//! Where events are published and traced.

use std::sync::Arc;

use tokio::sync::broadcast;

use super::events::{Event, Events};
#[cfg(feature = "tracing")]
use super::trace;
use crate::store::TokenStore;

/// How many events wait for a slow receiver. Beyond that, the oldest are dropped.
const WAITING: usize = 64;

/// Publishes what happens to the tokens of one store.
#[derive(Clone)]
pub(super) struct Publisher {
    sender: broadcast::Sender<Event>,
    /// Traces contain its name.
    #[cfg_attr(not(feature = "tracing"), expect(dead_code, reason = "only traces name it"))]
    store: Arc<dyn TokenStore>,
}

impl Publisher {
    pub(super) fn new(store: Arc<dyn TokenStore>) -> Self {
        Self { sender: broadcast::Sender::new(WAITING), store }
    }

    pub(super) fn subscribe(&self) -> Events {
        Events(self.sender.subscribe())
    }

    pub(super) fn publish(&self, event: Event) {
        #[cfg(feature = "tracing")]
        trace::event(&self.store, &event);
        // An error means that nobody has subscribed.
        let _ = self.sender.send(event);
    }
}
