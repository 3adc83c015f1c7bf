//! Refreshes of a manager through a slot.

use super::*;

#[tokio::test]
async fn new_tokens_are_saved_even_if_the_recipient_list_became_invalid() {
    let table = Table::new();
    let recipients = tempfile::NamedTempFile::new().unwrap();
    let list = recipients.path().to_owned();
    let recipient = age::x25519::Identity::generate().to_public();
    std::fs::write(
        &list,
        format!(
            "{recipient}
"
        ),
    )
    .unwrap();
    let key = key().with_recovery_recipients_file(&list);
    let slot = SharedSlot::new(table.clone(), key, "fleet").unwrap();
    slot.save(&record("one"), Precondition::Absent).await.unwrap();
    let mut lease = lease(&slot).await;
    lease.reserve().await.unwrap();
    let noted = save_intent(&slot).await.unwrap();
    // The list becomes invalid during the request to the server.
    std::fs::write(&list, "no recipient\n").unwrap();
    slot.save(&record("rotated"), Precondition::Unchanged(noted)).await.unwrap();
    let warning = lease.take_warning().expect("there is a warning").to_string();
    assert!(warning.contains("recipient"), "{warning}");
    assert_eq!(slot.load().await.unwrap().unwrap().record, record("rotated"));
    // A refresh that begins now fails before anything is sent.
    lease.reserve().await.unwrap_err();
}

#[tokio::test]
async fn an_identity_that_is_gone_when_the_answer_is_there_still_authenticates_the_new_tokens() {
    let table = Table::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.txt");
    let own = AgeKey::create_identity_file(&path).await.unwrap();
    let copy = SecretString::from(std::fs::read_to_string(&path).unwrap());
    let elsewhere = AgeKey::custom("a copy", move || Ok(copy.clone()));
    let slot = SharedSlot::new(table.clone(), own, "fleet").unwrap();
    slot.save(&record("one"), Precondition::Absent).await.unwrap();
    let mut lease = lease(&slot).await;
    lease.reserve().await.unwrap();
    let noted = save_intent(&slot).await.unwrap();
    std::fs::write(&path, "garbled\n").unwrap();
    slot.save(&record("rotated"), Precondition::Unchanged(noted)).await.unwrap();
    assert!(lease.take_warning().is_some(), "it is said");
    let other = SharedSlot::new(table.elsewhere(), elsewhere, "fleet").unwrap();
    assert_eq!(other.load().await.unwrap().unwrap().record, record("rotated"));
}

/// A manager whose refresher returns these tokens.
fn manager_of(table: &Table, tokens: AuthTokens) -> TokenManager {
    let refresh = move |_| std::future::ready(Ok::<_, RefreshFailure>(tokens.clone()));
    TokenManager::builder().store(Store(slot(table))).refresh_with(refresh).build()
}

fn manager(table: &Table) -> TokenManager {
    manager_of(table, AuthTokens::new("new").with_refresh_token("rotated"))
}

#[tokio::test]
async fn without_rotation_a_stopped_process_takes_the_tokens_of_the_next_holder() {
    let table = Table::new();
    slot(&table).save(&record("old"), Precondition::Anything).await.unwrap();
    let (asked, answered) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let stopped = {
        let (asked, answered) = (asked.clone(), answered.clone());
        let refresh = move |_| {
            let (asked, answered) = (asked.clone(), answered.clone());
            async move {
                asked.notify_one();
                answered.notified().await;
                Ok::<_, RefreshFailure>(AuthTokens::new("its own"))
            }
        };
        TokenManager::builder().store(Store(slot(&table))).refresh_with(refresh).build()
    };
    let refreshing = tokio::spawn(async move { stopped.refresh().await });
    asked.notified().await;
    // Its lease ends, and another process saves first.
    table.put(Row { hold: None, ..table.row() });
    let successor = manager_of(&table.elsewhere(), AuthTokens::new("its successor's"));
    successor.refresh().await.unwrap();
    answered.notify_one();
    let found = refreshing.await.unwrap().unwrap();
    assert_eq!(found.access_token, AuthTokens::new("its successor's").access_token);
    let stored = slot(&table.elsewhere()).load().await.unwrap().unwrap().record.tokens;
    assert_eq!(stored.access_token, found.access_token);
}

#[tokio::test]
async fn a_refresh_writes_four_times() {
    // Google accepts one write of an object per second.
    let table = Table::new();
    slot(&table).save(&record("old"), Precondition::Anything).await.unwrap();
    let before = table.faults().writes;
    manager(&table).refresh().await.unwrap();
    assert_eq!(
        table.faults().writes - before,
        4,
        "the lease, the intent, the record, and the lease"
    );
    assert_eq!(table.row().hold, None);
}

#[tokio::test]
async fn a_caller_that_finds_nothing_to_refresh_releases_the_lease() {
    let table = Table::new();
    let expired = tokens("old").with_expires_at(chrono::DateTime::UNIX_EPOCH);
    slot(&table).save(&expired.into(), Precondition::Anything).await.unwrap();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let manager = manager(&table.elsewhere());
            tokio::spawn(async move { manager.get_access_token().await.map(drop) })
        })
        .collect();
    for one in waiting {
        one.await.unwrap().unwrap();
    }
    assert_eq!(table.row().hold, None);
    // A refresh that finds nothing to do leaves no lease behind either.
    let store = slot(&table);
    store.clear(Precondition::Anything).await.unwrap();
    assert!(manager(&table).refresh().await.is_err());
    store.save(&tokens("backup").with_backup(true).into(), Precondition::Anything).await.unwrap();
    assert!(manager(&table).refresh().await.is_err());
    assert_eq!(table.row().hold, None);
}
