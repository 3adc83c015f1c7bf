//! Who has the lease, and for how long.

use super::*;

/// Two slots. The second one took the lease over from the first.
async fn taken_over(table: &Table) -> [(SharedSlot<Table>, Box<dyn Lease>); 2] {
    let (first, second) = (slot(table), slot(&table.elsewhere()));
    first.save(&record("one"), Precondition::Absent).await.unwrap();
    let earlier = lease(&first).await;
    table.end_lease();
    let later = lease(&second).await;
    [(first, earlier), (second, later)]
}

#[tokio::test]
async fn a_lease_that_passed_to_another_holder_changes_nothing_more() {
    let table = Table::new();
    let [(first, mut earlier), (second, _later)] = taken_over(&table).await;
    save_intent(&second).await.unwrap();
    let before = table.row();
    assert!(!earlier.renew(Duration::from_secs(3600)).await.unwrap());
    let refused = save_intent(&first).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
    earlier.release().await.unwrap();
    assert_eq!(table.row(), before, "the lease and the intent of the other holder are kept");
}

#[tokio::test]
async fn a_dropped_lease_can_be_taken_again_only_through_the_same_connection() {
    let table = Table::new();
    let (one, same, other) = (slot(&table), slot(&table), slot(&table.elsewhere()));
    let held = lease(&one).await;
    for taken in [&one, &same, &other] {
        assert!(taken.try_lease().await.unwrap().is_none());
    }
    drop(held);
    assert!(
        other.try_lease().await.unwrap().is_none(),
        "it waits, because the lease may be in use"
    );
    lease(&same).await.release().await.unwrap();
    lease(&other).await.release().await.unwrap();
}

#[tokio::test]
async fn a_process_that_lost_its_lease_neither_saves_nor_clears_while_the_next_holder_has_it() {
    let table = Table::new();
    let [(first, _earlier), (second, later)] = taken_over(&table).await;
    let Stored { revision, .. } = first.load().await.unwrap().unwrap();
    let precondition = Precondition::Unchanged(revision.clone());
    let refused = first.save(&record("late"), precondition.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
    // A migration that was stopped does not remove the record either.
    let refused = first.clear(precondition.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
    assert_eq!(second.load().await.unwrap().unwrap().record.tokens, tokens("one"));
    later.release().await.unwrap();
    first.save(&record("late"), precondition).await.unwrap();
    assert_eq!(second.load().await.unwrap().unwrap().record.tokens, tokens("late"));
}

#[tokio::test]
async fn a_lease_is_renewed_only_if_it_would_end_too_early() {
    let table = Table::new();
    let slot = slot(&table);
    let mut lease = lease(&slot).await;
    let writes = || table.faults().writes;
    let before = writes();
    assert!(lease.renew(Duration::from_secs(10)).await.unwrap());
    assert_eq!(writes(), before, "there is time enough");
    assert!(lease.renew(Duration::from_secs(90)).await.unwrap());
    assert_eq!(writes(), before + 1);
    assert_eq!(table.row().hold.unwrap().lasts, Some(Duration::from_secs(95)));
    assert!(lease.renew(Duration::from_secs(60)).await.unwrap());
    assert_eq!(writes(), before + 1);
}

#[tokio::test]
async fn a_clock_that_is_set_back_or_forward_does_not_lengthen_a_lease() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
    let now = Arc::new(Mutex::new(start));
    let table = Table::new();
    let mut slot = slot(&table);
    let clock = now.clone();
    Arc::get_mut(&mut slot.0).unwrap().clock = Clock::new(move || *clock.lock().unwrap());
    let mut lease = lease(&slot).await;
    for seconds in [-3600_i64, 0, 3600, 3625] {
        let before = table.faults().writes;
        assert!(lease.renew(Duration::from_secs(20)).await.unwrap());
        assert_eq!(table.faults().writes, before, "there is time enough");
        let distance = Duration::from_secs(seconds.unsigned_abs());
        *now.lock().unwrap() = if seconds < 0 { start - distance } else { start + distance };
        assert!(lease.renew(Duration::from_secs(20)).await.unwrap());
        assert_eq!(table.faults().writes, before + 1, "{seconds}");
    }
}

#[tokio::test]
async fn each_holder_of_the_lease_has_its_own_number() {
    let table = Table::new();
    for expected in 1..4 {
        lease(&slot(&table)).await.release().await.unwrap();
        assert_eq!(table.row().fence, expected);
    }
}

#[tokio::test]
async fn a_holder_that_may_have_new_tokens_is_waited_for_while_the_server_can_be_reached() {
    let table = Table::new();
    let (first, second) = (slot(&table), slot(&table.elsewhere()));
    first.save(&record("one"), Precondition::Absent).await.unwrap();
    let earlier = lease(&first).await;
    table.end_lease();
    lease(&second).await.release().await.unwrap();
    drop(earlier);
    let mut now = Instant::now();
    let lease = lease(&first).await;
    save_intent(&first).await.unwrap();
    table.end_lease();
    // The second process sees that the lease is over. Then it cannot reach the server for 1 hour.
    assert!(second.try_lease().await.unwrap().is_none());
    let row = table.row();
    for pause in [3600, 2, 2, 2, 2, 2, 2] {
        now += Duration::from_secs(pause);
        assert!(second.0.may_come_back(&row, now), "{pause}");
    }
    // A write of the holder starts the wait again.
    let alive = Row { revision: "alive".into(), ..row.clone() };
    assert!(second.0.may_come_back(&alive, now));
    assert!(second.0.may_come_back(&row, now));
    for _ in 0..7 {
        now += Duration::from_secs(2);
        assert!(second.0.may_come_back(&row, now));
    }
    now += Duration::from_secs(2);
    assert!(!second.0.may_come_back(&row, now));
    // The holder does not wait for itself.
    drop(lease);
    self::lease(&first).await.release().await.unwrap();
}

#[tokio::test]
async fn a_refresh_whose_lease_has_ended_counts_as_interrupted() {
    let table = Table::new();
    let (first, other) = (slot(&table), Store(slot(&table.elsewhere())));
    first.save(&record("one"), Precondition::Absent).await.unwrap();
    let _lease = lease(&first).await;
    save_intent(&first).await.unwrap();
    assert_eq!(interrupted_refresh(&other).await.unwrap(), None, "it is under way");
    // A server that has no clock for leases returns when the row was written.
    let elsewhere = table.elsewhere();
    let looker = Store(slot(&elsewhere));
    for (minutes, is_told) in [(6, false), (7, true)] {
        let at = SystemTime::now() - Duration::from_secs(minutes * 60);
        elsewhere.faults().written = Some(at);
        assert_eq!(interrupted_refresh(&looker).await.unwrap().is_some(), is_told, "{minutes}");
    }
    // The holder may still save, and others wait for that. But the lease is over.
    table.end_lease();
    assert!(other.try_lease().await.unwrap().is_none());
    assert!(interrupted_refresh(&other).await.unwrap().is_some());
}

#[tokio::test]
async fn saving_the_intent_renews_the_lease_in_the_same_write() {
    let table = Table::new();
    let slot = slot(&table);
    slot.save(&record("one"), Precondition::Absent).await.unwrap();
    let mut lease = lease(&slot).await;
    let at_first = lease.time_left().unwrap();
    assert!(at_first <= Duration::from_secs(30), "{at_first:?}");
    let before = table.faults().writes;
    save_intent(&slot).await.unwrap();
    let left = lease.time_left().unwrap();
    assert!(left > Duration::from_secs(60), "{left:?}");
    assert_eq!(table.row().hold.unwrap().lasts, Some(Duration::from_secs(65)));
    // That is enough for a refresh of 30 seconds and the margin to save.
    assert!(lease.renew(Duration::from_secs(60)).await.unwrap());
    assert_eq!(table.faults().writes - before, 1);
    // A longer refresh needs one more write.
    assert!(lease.renew(Duration::from_secs(90)).await.unwrap());
    assert!(lease.time_left().unwrap() > Duration::from_secs(90));
    assert_eq!(table.faults().writes - before, 2);
}
