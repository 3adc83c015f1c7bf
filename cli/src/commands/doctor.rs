//! doctor: checks every kind of store and every profile on this machine, without prompting.

mod leftovers;

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use console::style;
use serde_json::json;
use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep::error::escape_hidden;
use tokenkeep::keychain::{KeychainState, probe_keychain};
use tokenkeep::store::Precondition;
use tokenkeep::stores::AgeFileStore;
use tokenkeep::tokens::Freshness;
use tokenkeep::{AgeKey, AuthTokens, StoreError, StoreUrl, TokenStore};

use crate::context::{Context, advised};
use crate::describe::{describe, doubts, span, warnings};
use crate::failure::{Code, Failure, Outcome};
use crate::harden::Limits;
use crate::profile::Profile;
use crate::provider::Provider;
use crate::selection::Selection;
use crate::target::{check_key, how_to_sign_in};
use crate::terminal::Terminal;

/// The result of one check.
struct Finding {
    name: String,
    state: String,
    how: String,
    /// The one step that fixes it.
    fix: Option<String>,
}

pub(super) async fn doctor(context: &Context, json: bool) -> Outcome {
    let slots = slots(context)?;
    let keychain = probe_keychain().await;
    let backends = vec![keychain_finding(keychain), age_finding().await, plaintext_finding()];
    // All at the same time: each store may have a server of its own that does not answer.
    let looks: Vec<_> = slots
        .into_iter()
        .map(|(name, looked_at)| {
            tokio::spawn(slot_finding(context.clone(), name, looked_at, keychain))
        })
        .collect();
    let mut profiles = Vec::new();
    for look in looks {
        profiles.push(look.await.map_err(io::Error::other)?);
    }
    let system = vec![core_finding(context.limits), swap_finding()];

    // Only profiles count: a machine without a keychain is not broken, and neither is one that
    // swaps.
    let is_ill = profiles.iter().any(|(finding, _)| finding.fix.is_some());
    if json {
        let rows = |findings: &[Finding]| findings.iter().map(Finding::to_json).collect::<Vec<_>>();
        let profiles = profiles.iter().map(|(finding, tokens)| {
            let mut row = finding.to_json();
            row["tokens"] = tokens.clone();
            row
        });
        let report = json!({
            "backends": rows(&backends),
            "profiles": profiles.collect::<Vec<_>>(),
            "system": rows(&system),
        });
        context.terminal.print_json(&report)?;
    } else {
        let profiles: Vec<Finding> = profiles.into_iter().map(|(finding, _)| finding).collect();
        print(&context.terminal, "stores", &backends)?;
        print(&context.terminal, "profiles", &profiles)?;
        print(&context.terminal, "system", &system)?;
    }
    Ok(if is_ill { Code::Other.into() } else { ExitCode::SUCCESS })
}

fn keychain_finding(state: KeychainState) -> Finding {
    let how = if state == KeychainState::Unsupported {
        "no keychain is known for this system"
    } else if cfg!(all(unix, not(target_vendor = "apple"))) {
        "asked the session bus for its Secret Service and default collection"
    } else {
        "it is part of the system"
    };
    Finding {
        name: "keychain".into(),
        state: state.to_string(),
        how: how.into(),
        fix: state.advice().map(str::to_owned),
    }
}

/// Seals and opens a record in a directory of its own.
async fn age_finding() -> Finding {
    let tried = async {
        let mut directory = tempfile::Builder::new();
        #[cfg(unix)]
        directory.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let directory = directory.prefix("tokenkeep-doctor-").tempdir()?;
        let path = directory.path().join("private/tokens.age");
        let store = AgeFileStore::new(path, AgeKey::generate());
        let tokens = AuthTokens::new("test");
        store.save(&tokens.clone().into(), Precondition::Absent).await?;
        let found = store.load().await?;
        Ok::<_, Failure>(found.is_some_and(|found| found.record.tokens == tokens))
    };
    let (state, fix) = match tried.await {
        Ok(true) => ("works".into(), None),
        Ok(false) => ("broken".into(), Some("the opened record differs; report this".into())),
        Err(failure) => ("broken".into(), Some(failure.message().to_owned())),
    };
    Finding { name: "age file".into(), state, how: "sealed and opened a test record".into(), fix }
}

fn plaintext_finding() -> Finding {
    Finding {
        name: "plaintext".into(),
        state: "works".into(),
        how: "needs nothing, protects nothing; only used when named".into(),
        fix: None,
    }
}

/// What is checked.
struct Slot {
    store: StoreUrl,
    /// The provider that refreshes the tokens.
    provider: Option<Provider>,
    /// Why the next refresh needs more than the provider's token endpoint.
    to_discover: Option<String>,
}

type LookedAt = Result<Slot, Failure>;

/// Returns the slot that was named, or else all profiles.
fn slots(context: &Context) -> Result<Vec<(String, LookedAt)>, Failure> {
    let of = |profile: Profile| {
        let to_discover = profile.why_to_discover();
        Slot { store: profile.store, provider: profile.provider, to_discover }
    };
    if !context.selection.is_given() {
        let all = Profile::all()?.into_iter();
        return Ok(all.map(|(name, profile)| (name, profile.map(of))).collect());
    }
    Ok(vec![match context.selection.selected()? {
        Selection::Profile(name) => {
            let profile = Profile::load(&name)?;
            (name, Ok(of(profile)))
        }
        Selection::Store(url) => {
            (url.to_string(), Ok(Slot { store: *url, provider: None, to_discover: None }))
        }
    }])
}

async fn slot_finding(
    context: Context,
    name: String,
    looked_at: LookedAt,
    keychain: KeychainState,
) -> (Finding, serde_json::Value) {
    let none = serde_json::Value::Null;
    let broken = |state: String, how: String, fix: String| Finding {
        name: name.clone(),
        state,
        how,
        fix: Some(fix),
    };
    let Slot { store, provider, to_discover } = match looked_at {
        Ok(looked_at) => looked_at,
        Err(failure) => {
            let fix = if failure.is(Code::Inaccessible) {
                "make its file accessible to this user, or run this as its owner".to_owned()
            } else {
                "fix its file; if the profile is not needed, delete the file".to_owned()
            };
            return (broken("broken".into(), failure.message().to_owned(), fix), none);
        }
    };
    let how = store.to_string();
    if let Some(fix) = leftovers::of_root(&store) {
        return (broken("has files of root".into(), how, fix), none);
    }
    if store.uses_keychain()
        && let Some(advice) = keychain.advice()
    {
        return (broken(keychain.to_string(), how, advice.into()), none);
    }
    // A check does not ask for a passphrase.
    let client = provider.as_ref().map(Provider::client_name).unwrap_or_default();
    let looked = async {
        let opened = store.open()?;
        let stored = opened.load().await?;
        check_key(&context, &store).await?;
        let record = stored.map(|stored| stored.record);
        let doubts = doubts(&*opened, record.as_ref(), &client).await;
        let tokens = record.map(|record| record.tokens);
        let has_refresh_token = tokens.as_ref().is_some_and(|it| it.refresh_token.is_some());
        if has_refresh_token && store.env_prefix().is_none() {
            tokenkeep::refresh::check_replaceable(&*opened).await?;
        }
        Ok((tokens, doubts))
    };
    let (tokens, doubts) = match looked.await {
        Ok(looked) => looked,
        Err(StoreError::Locked { .. }) if !store.uses_keychain() => {
            let state = "locked by a passphrase, which was not asked for".into();
            return (Finding { name, state, how, fix: None }, none);
        }
        Err(error) => {
            let is_locked = matches!(error, StoreError::Locked { .. });
            let state = if is_locked { "locked" } else { "broken" };
            let fix = Failure::from(error).message().to_owned();
            return (broken(state.into(), how, fix), none);
        }
    };
    let now = Utc::now();
    let mut state = state(tokens.as_ref(), now);
    if let Some(written) = store.path().and_then(|path| written(&path, now)) {
        state += &format!(", written {written} ago");
    }
    let profile = Some(&*name).filter(|name| *name != how);
    let sign_in = how_to_sign_in(profile, &store, provider.is_some()).unwrap_or_default();
    let remedy = remedy(tokens.as_ref(), provider.as_ref(), now);
    let mut fix = remedy.map(|remedy| advised(remedy, &sign_in));
    if !doubts.is_empty() {
        fix = Some(advised(&doubts.join("; "), &sign_in));
    } else if store.is_plaintext() {
        fix = fix.or_else(|| warnings(&store));
    }
    // Without a refresh token, there is no refresh.
    let has_refresh_token = tokens.as_ref().is_some_and(|it| it.refresh_token.is_some());
    fix = fix.or(to_discover.filter(|_| has_refresh_token));
    let tokens = describe(tokens.as_ref(), now);
    (Finding { name, state, how, fix }, tokens)
}

/// Returns how to fix tokens that are not good.
fn remedy(
    tokens: Option<&AuthTokens>,
    provider: Option<&Provider>,
    now: DateTime<Utc>,
) -> Option<&'static str> {
    let tokens = tokens.filter(|tokens| tokens.freshness(now) >= Freshness::Expiring)?;
    let is_own_client = provider.is_some_and(|provider| provider.is_own_client);
    let is_refreshed = (tokens.refresh_token.is_some() || is_own_client) && !tokens.is_backup();
    match (is_refreshed, provider) {
        // The next `get` refreshes them.
        (true, Some(_)) => None,
        (true, None) => {
            Some("refresh them where they were issued, and give the new ones to `tokenkeep set`")
        }
        (false, _) => Some("sign in again"),
    }
}

fn state(tokens: Option<&AuthTokens>, now: DateTime<Utc>) -> String {
    let Some(tokens) = tokens else { return "no tokens".into() };
    let freshness = format!("{:?}", tokens.freshness(now)).to_lowercase();
    match tokens.expiry() {
        Some(expiry) if expiry > now => format!("{freshness}, expires in {}", span(expiry - now)),
        Some(expiry) => format!("{freshness} {} ago", span(now - expiry)),
        None => format!("{freshness}, no expiry"),
    }
}

/// Returns how long ago a file was written.
fn written(path: &Path, now: DateTime<Utc>) -> Option<String> {
    let modified: DateTime<Utc> = path.metadata().ok()?.modified().ok()?.into();
    Some(span(now - modified))
}

#[cfg(unix)]
fn core_finding(limits: Limits) -> Finding {
    let (state, fix) = if limits.dumps_core() {
        ("on", Some("`ulimit -c 0`, for programs that hold tokens in memory"))
    } else {
        ("off", None)
    };
    Finding {
        name: "core dumps".into(),
        state: state.into(),
        how: "read the limit for new programs here; tokenkeep itself dumps no core".into(),
        fix: fix.map(str::to_owned),
    }
}

/// Windows has no such limit: administrators choose which crashes are written to a file.
#[cfg(windows)]
fn core_finding(_limits: Limits) -> Finding {
    Finding {
        name: "crash dumps".into(),
        state: "not known".into(),
        how: "set in Windows Error Reporting, which tokenkeep does not read".into(),
        fix: None,
    }
}

#[cfg(target_os = "linux")]
fn swap_finding() -> Finding {
    let (state, fix) = match std::fs::read_to_string("/proc/swaps") {
        Err(_) => ("not known", None),
        Ok(text) if text.lines().count() > 1 => {
            ("on", Some("encrypt it: memory may be written to it"))
        }
        Ok(_) => ("off", None),
    };
    Finding {
        name: "swap".into(),
        state: state.into(),
        how: "read /proc/swaps".into(),
        fix: fix.map(str::to_owned),
    }
}

#[cfg(not(target_os = "linux"))]
fn swap_finding() -> Finding {
    let (state, how) = ("not known".into(), "this system does not say".into());
    Finding { name: "swap".into(), state, how, fix: None }
}

impl Finding {
    fn to_json(&self) -> serde_json::Value {
        json!({ "name": self.name, "state": self.state, "how": self.how, "fix": self.fix })
    }
}

/// Prints a table. Colours are left out if the output is not a terminal or the user turned them
/// off.
fn print(terminal: &Terminal, title: &str, findings: &[Finding]) -> io::Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    if !io::stdout().is_terminal() {
        // Scripts get one line for each finding, with tabs between the columns. Tables are for
        // people.
        let line = |finding: &Finding| {
            let fix = finding.fix.as_deref().unwrap_or_default();
            format!("{title}\t{}\t{}\t{}\t{fix}\n", finding.name, finding.state, finding.how)
        };
        return terminal.print(&findings.iter().map(line).collect::<String>());
    }
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or_default();
    let mut text = format!("{}\n", style(title).bold());
    for Finding { name, state, how, fix } in findings {
        let state = escape_hidden(state);
        let state = if fix.is_none() { style(state).green() } else { style(state).yellow() };
        let (name, how) = (escape_hidden(name), escape_hidden(how));
        text += &format!("  {name:width$}  {state}  ({how})\n");
        if let Some(fix) = fix {
            text += &format!("  {:width$}  -> {}\n", "", escape_hidden(fix));
        }
    }
    terminal.print_styled(&text)
}
