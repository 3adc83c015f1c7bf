//! Which state of a slot is the latest.

use super::*;

#[tokio::test]
async fn an_earlier_state_is_an_error_for_a_process_that_saw_a_later_one() {
    let table = Table::new();
    let (reader, writer) = (slot(&table), slot(&table.elsewhere()));
    writer.save(&record("one"), Precondition::Anything).await.unwrap();
    let first = table.row();
    writer.save(&record("two"), Precondition::Anything).await.unwrap();
    let second = table.row();
    assert_eq!(reader.load().await.unwrap().unwrap().record.tokens, tokens("two"));

    for earlier in [first, Row { record: Vec::new(), ..second.clone() }] {
        table.put(earlier);
        for rolled_back in [
            reader.load().await.unwrap_err(),
            reader.save(&record("three"), Precondition::Anything).await.unwrap_err(),
        ] {
            assert!(matches!(rolled_back, StoreError::RolledBack { .. }), "{rolled_back}");
        }
        assert!(
            slot(&table.elsewhere()).load().await.is_ok(),
            "a new process has seen nothing later"
        );
    }
    table.put(second);
    assert_eq!(
        reader.load().await.unwrap().unwrap().record.tokens,
        tokens("two"),
        "the latest state is back"
    );
}

#[tokio::test]
async fn a_state_made_from_an_earlier_one_is_an_error_for_a_process_that_saw_a_later_one() {
    // The clocks stand still, so the second state has the generation after the first one.
    let still = || Clock::new(|| SystemTime::UNIX_EPOCH);
    let table = Table::new();
    let [reader, other] = [slot(&table), slot(&table.elsewhere())].map(|mut slot| {
        Arc::get_mut(&mut slot.0).unwrap().clock = still();
        slot
    });
    other.save(&record("one"), Precondition::Anything).await.unwrap();
    let first = table.row();
    other.save(&record("two"), Precondition::Anything).await.unwrap();
    assert!(reader.load().await.unwrap().is_some());
    table.put(first);
    let mut new = slot(&table.elsewhere());
    Arc::get_mut(&mut new.0).unwrap().clock = still();
    new.save(&record("other"), Precondition::Anything).await.unwrap();
    let rolled_back = reader.load().await.unwrap_err();
    assert!(matches!(rolled_back, StoreError::RolledBack { .. }), "{rolled_back}");
    // A login is later than all states that any process remembers.
    slot(&table.elsewhere()).save(&record("login"), Precondition::Anything).await.unwrap();
    assert_eq!(reader.load().await.unwrap().unwrap().record.tokens, tokens("login"));
}

/// How often the slot was changed, as its record says.
fn generation(table: &Table) -> u64 {
    Envelope::parse(&table.row().record, "table").unwrap().generation
}

#[tokio::test]
async fn the_generation_rises_even_if_the_clock_stands_still_or_is_set_back() {
    let table = Table::new();
    let now = Arc::new(Mutex::new(SystemTime::UNIX_EPOCH));
    let slot_now = || {
        let (mut slot, now) = (slot(&table.elsewhere()), now.clone());
        Arc::get_mut(&mut slot.0).unwrap().clock = Clock::new(move || *now.lock().unwrap());
        slot
    };
    let first = slot_now();
    for expected in 1..4 {
        first.save(&record("one"), Precondition::Anything).await.unwrap();
        assert_eq!(generation(&table), expected);
    }
    // Another process, which has seen no later state, saves over it. A logout counts too.
    let second = slot_now();
    second.clear(Precondition::Anything).await.unwrap();
    assert_eq!(generation(&table), 4);
    *now.lock().unwrap() += Duration::from_secs(1);
    second.save(&record("two"), Precondition::Absent).await.unwrap();
    assert_eq!(generation(&table), 1000);
    *now.lock().unwrap() = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    first.save(&record("three"), Precondition::Anything).await.unwrap();
    assert_eq!(generation(&table), 1001);
}

#[tokio::test]
async fn a_process_has_seen_the_state_that_it_wrote_last() {
    let table = Table::new();
    let slot = slot(&table);
    slot.save(&record("one"), Precondition::Anything).await.unwrap();
    let first = table.row();
    slot.save(&record("two"), Precondition::Anything).await.unwrap();
    let second = table.row();
    table.put(first);
    let rolled_back = slot.load().await.unwrap_err();
    assert!(matches!(rolled_back, StoreError::RolledBack { .. }), "{rolled_back}");
    table.put(second.clone());
    slot.clear(Precondition::Anything).await.unwrap();
    table.put(second);
    let rolled_back = slot.load().await.unwrap_err();
    assert!(matches!(rolled_back, StoreError::RolledBack { .. }), "{rolled_back}");
}

#[tokio::test]
async fn a_slow_answer_is_not_mistaken_for_an_earlier_state() {
    let table = Table::new();
    let (reader, writer) = (Arc::new(slot(&table)), slot(&table.elsewhere()));
    writer.save(&record("one"), Precondition::Anything).await.unwrap();
    let answers = Arc::new(Notify::new());
    table.faults().slow = Some(answers.clone());
    let slow = tokio::spawn({
        let reader = reader.clone();
        async move { reader.load().await }
    });
    while table.faults().slow.is_some() {
        tokio::task::yield_now().await;
    }
    writer.save(&record("two"), Precondition::Anything).await.unwrap();
    assert_eq!(reader.load().await.unwrap().unwrap().record.tokens, tokens("two"));
    answers.notify_one();
    assert_eq!(slow.await.unwrap().unwrap().unwrap().record.tokens, tokens("one"));
    // The slot still knows the later state.
    let known = reader.0.seen().clone().unwrap().revision;
    assert_eq!(reader.load().await.unwrap().unwrap().revision, known);
}

#[tokio::test]
async fn an_earlier_state_does_not_replace_the_latest_one_that_was_seen() {
    let table = Table::new();
    let slot = slot(&table);
    let later = Seen { generation: u64::MAX, revision: Revision::new(*b"later") };
    slot.0.see(later.clone());
    slot.0.see(Seen { generation: 1, revision: Revision::new(*b"earlier") });
    assert_eq!(slot.0.seen().clone().unwrap().revision, later.revision);
}

#[tokio::test]
async fn a_row_that_did_not_change_is_not_opened_again() {
    let table = Table::new();
    let (reader, writer) = (slot(&table.elsewhere()), slot(&table));
    let is_opened = |times| format!("{reader:?}").contains(&format!("opened {times} times"));
    for (round, name) in ["one", "two"].into_iter().enumerate() {
        writer.save(&record(name), Precondition::Anything).await.unwrap();
        for _ in 0..3 {
            assert_eq!(reader.load().await.unwrap().unwrap().record, record(name));
        }
        assert!(is_opened(round + 1));
    }
    // A change of the lease alone changes no content.
    lease(&writer).await.release().await.unwrap();
    reader.load().await.unwrap();
    assert!(is_opened(2));
    // What a process saved itself is opened once, to know that it can be.
    reader.save(&record("three"), Precondition::Anything).await.unwrap();
    assert_eq!(reader.load().await.unwrap().unwrap().record, record("three"));
    assert!(is_opened(3));
}
