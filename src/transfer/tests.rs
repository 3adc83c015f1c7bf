//! What is hard to make happen between two real stores.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::*;
use crate::record::Record;
use crate::stores::MemoryStore;

#[tokio::test]
async fn what_an_interrupted_run_left_is_saved_again_because_it_may_not_be_durable() {
    let (from, to) = (MemoryStore::new(), MemoryStore::new());
    let tokens = AuthTokens::new("mine");
    from.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
    let left = to.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
    assert!(migrate(&from, &to).await.unwrap().moved);
    let moved = to.load().await.unwrap().unwrap();
    assert_eq!(moved.record.tokens, tokens);
    assert_ne!(moved.revision, left);
}

#[tokio::test]
async fn a_slot_under_refresh_is_waited_for_and_no_longer_than_the_deadline() {
    let store = MemoryStore::new();
    let held = store.try_lease().await.unwrap().unwrap();
    // Time passes at each turn of the other tasks.
    let timer = Timer::new(|_| tokio::task::yield_now());
    let busy = lease(&store, &timer).await;
    assert!(matches!(busy, Err(TransferError::Busy { .. })));
    let (lease, _) = tokio::join!(lease(&store, &timer), held.release());
    lease.unwrap();
}

/// Who has a lease, and until when.
type Hold = Arc<Mutex<Option<(&'static str, Duration)>>>;

/// One of several ways to a slot whose lease ends by itself.
#[derive(Clone, Debug)]
struct Way {
    name: &'static str,
    slot: MemoryStore,
    hold: Hold,
    now: Arc<Mutex<Duration>>,
    /// A lease that passes to somebody else while this is written to.
    slows_down: Option<Hold>,
}

const SOMEBODY: (&str, Duration) = ("somebody", Duration::MAX);

impl Way {
    const LEASE: Duration = Duration::from_secs(30);

    fn new(name: &'static str) -> Self {
        let (slot, hold, now) = (MemoryStore::new(), Arc::default(), Arc::default());
        Self { name, slot, hold, now, slows_down: None }
    }

    /// Time passes when somebody waits.
    fn timer(&self) -> Timer {
        let now = self.now.clone();
        Timer::new(move |time| {
            *now.lock().unwrap() += time;
            std::future::ready(())
        })
    }

    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[async_trait]
impl TokenStore for Way {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        self.slot.load().await
    }

    async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        if let Some(hold) = &self.slows_down {
            *hold.lock().unwrap() = Some(SOMEBODY);
        }
        self.slot.save(record, precondition).await
    }

    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        self.slot.clear(precondition).await
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let mut hold = self.hold.lock().unwrap();
        if hold.is_some_and(|(_, until)| until > self.now()) {
            return Ok(None);
        }
        *hold = Some((self.name, self.now() + Self::LEASE));
        Ok(Some(Box::new(self.clone())))
    }
}

#[async_trait]
impl Lease for Way {
    async fn renew(&mut self, time: Duration) -> Result<bool, StoreError> {
        let mut hold = self.hold.lock().unwrap();
        let Some((name, until)) = hold.as_mut().filter(|(name, _)| *name == self.name) else {
            return Ok(false);
        };
        assert!(*until > self.now(), "{name} held on to it");
        *until = (*until).max(self.now() + time);
        Ok(true)
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        self.hold.lock().unwrap().take_if(|(name, _)| *name == self.name);
        Ok(())
    }
}

#[tokio::test]
async fn nothing_moves_from_a_slot_onto_itself_by_another_way() {
    let one = Way::new("one");
    let tokens = AuthTokens::new("mine");
    let saved = one.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
    for name in ["another", "way"] {
        let other = Way { name, ..one.clone() };
        assert_ne!(one.slot(), other.slot());
        let busy = migrate_by(&one, &other, &one.timer()).await.unwrap_err();
        assert!(matches!(busy, TransferError::Busy { .. }), "{busy}");
        assert_eq!(one.load().await.unwrap().unwrap().revision, saved);
        assert_eq!(*one.hold.lock().unwrap(), None, "nobody has to wait for it");
    }
}

#[tokio::test]
async fn tokens_that_somebody_refreshes_where_they_were_are_not_there_twice() {
    let (from, mut to) = (Way::new("a"), Way::new("b"));
    to.slows_down = Some(from.hold.clone());
    let tokens = AuthTokens::new("mine");
    let saved = from.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
    let busy = migrate(&from, &to).await.unwrap_err();
    assert!(matches!(&busy, TransferError::Busy { place } if place == "a"), "{busy}");
    assert!(to.load().await.unwrap().is_none());
    assert_eq!(from.load().await.unwrap().unwrap().revision, saved);
    // Once that is over, they move.
    (*from.hold.lock().unwrap(), to.slows_down) = (None, None);
    assert!(migrate(&from, &to).await.unwrap().moved);
    assert_eq!(to.load().await.unwrap().unwrap().record.tokens, tokens);
}

#[tokio::test]
async fn a_migration_that_moves_nothing_leaves_no_lease_taken() {
    let (from, to) = (Way::new("a"), Way::new("b"));
    let is_free = |way: &Way| way.hold.lock().unwrap().is_none();
    assert!(matches!(migrate(&from, &to).await, Err(TransferError::Empty { .. })));
    assert!(is_free(&from) && is_free(&to));
    from.save(&AuthTokens::new("mine").into(), Precondition::Absent).await.unwrap();
    to.save(&AuthTokens::new("others").into(), Precondition::Absent).await.unwrap();
    assert!(matches!(migrate(&from, &to).await, Err(TransferError::Occupied { .. })));
    assert!(is_free(&from) && is_free(&to));
    *to.hold.lock().unwrap() = Some(SOMEBODY);
    let busy = migrate_by(&from, &to, &to.timer()).await;
    assert!(matches!(busy, Err(TransferError::Busy { .. })));
    assert!(is_free(&from));
}

#[tokio::test]
async fn a_lease_that_passed_on_while_the_other_was_waited_for_moves_nothing() {
    let (from, to) = (Way::new("a"), Way::new("b"));
    let tokens = AuthTokens::new("mine");
    from.save(&tokens.clone().into(), Precondition::Absent).await.unwrap();
    *to.hold.lock().unwrap() = Some(SOMEBODY);
    // This process is stopped while it waits, and meanwhile somebody refreshes.
    let (hold, free) = (from.hold.clone(), to.hold.clone());
    let timer = Timer::new(move |_| {
        *hold.lock().unwrap() = Some(SOMEBODY);
        *free.lock().unwrap() = None;
        std::future::ready(())
    });
    let busy = migrate_by(&from, &to, &timer).await.unwrap_err();
    assert!(matches!(&busy, TransferError::Busy { place } if place == "a"), "{busy}");
    assert_eq!(from.load().await.unwrap().unwrap().record.tokens, tokens);
    assert!(to.load().await.unwrap().is_none());
}
