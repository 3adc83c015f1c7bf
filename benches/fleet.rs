//! A fleet in virtual time.
//!
//! It counts how many replicas ask the server for the lease, and measures how late they notice a refresh. The
//! managers are real. The simulated server takes as long as a real one. It gets as many requests as the
//! stores of this crate send: each change reads the row and then replaces it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use plotters::prelude::*;
use tokenkeep::chrono::{DateTime, Utc};
use tokenkeep::refresh::RefreshPolicy;
use tokenkeep::store::{Lease, Precondition, Record, Revision, Stored};
use tokenkeep::stores::MemoryStore;
use tokenkeep::{AuthTokens, StoreError, TokenManager, TokenStore, async_trait};
use tokio::time::{Instant, sleep};

/// The lifetime of each token.
const LIFETIME: Duration = Duration::from_secs(3600);

/// How long the provider takes for a refresh.
const PROVIDER: Duration = Duration::from_millis(500);

/// How often each replica needs the token.
const EVERY: Duration = Duration::from_secs(5);

/// The time in which the replicas start, one after the other. A manager loads the store every 30 s, so the
/// loads are spread over this time.
const START: Duration = Duration::from_secs(30);

/// The time in which the replicas start again, after all of them were stopped.
const RESTART: Duration = Duration::from_secs(1);

/// A server, with the time that it takes to read and to write.
#[derive(Clone, Copy)]
struct Server {
    name: &'static str,
    read: Duration,
    write: Duration,
}

/// The times of two servers. On the same machine, PostgreSQL took 0.03 ms to read and 0.2 ms to write. The
/// rest is for the network and a slow disk. The times of S3 are from its documentation ("Best practices
/// design patterns: optimizing Amazon S3 performance": 100 to 200 ms for small objects).
const SERVERS: [Server; 2] = [
    Server { name: "PostgreSQL", read: Duration::from_millis(1), write: Duration::from_millis(3) },
    Server { name: "S3", read: Duration::from_millis(100), write: Duration::from_millis(150) },
];

/// An event that affects all replicas at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The token becomes due while all replicas run. It is refreshed up to `jitter` earlier.
    Due { jitter: Duration },
    /// All replicas start, and the token has expired.
    Expired,
}

const MOMENTS: [Moment; 3] = [
    Moment::Due { jitter: Duration::ZERO },
    Moment::Due { jitter: Duration::from_secs(300) },
    Moment::Expired,
];

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Due { jitter } => write!(f, "due, jitter {} s", jitter.as_secs()),
            Self::Expired => f.write_str("expired, all start within 1 s"),
        }
    }
}

/// The results of one run.
#[derive(Default)]
struct Run {
    refreshes: usize,
    /// For each second since the beginning: the requests for the lease, and all requests.
    asked: BTreeMap<u64, (usize, usize)>,
    refreshed_at: Option<Duration>,
    /// How long after the refresh each replica first had the new token.
    noticed: Vec<Duration>,
}

/// The row of the slot on the server.
#[derive(Default)]
struct Row {
    slot: MemoryStore,
    /// Counts the changes of the row. Each change is one compare-and-swap of the whole row.
    version: AtomicU64,
}

/// The store of one replica.
#[derive(Clone)]
struct Replica {
    row: Arc<Row>,
    server: Server,
    run: Arc<Mutex<Run>>,
    begun: Instant,
}

impl Replica {
    async fn ask(&self, takes: Duration, is_for_lease: bool) {
        let second = self.begun.elapsed().as_secs();
        {
            let mut run = self.run.lock().unwrap();
            let (lease, all) = run.asked.entry(second).or_default();
            *lease += usize::from(is_for_lease);
            *all += 1;
        }
        sleep(takes).await;
    }

    async fn read(&self) -> u64 {
        self.ask(self.server.read, false).await;
        self.row.version.load(Ordering::SeqCst)
    }

    /// Replaces the version that was read. If another replica was faster, reads the new version.
    async fn replace(&self, over: u64) -> bool {
        self.ask(self.server.write, false).await;
        let written =
            self.row.version.compare_exchange(over, over + 1, Ordering::SeqCst, Ordering::SeqCst);
        if written.is_err() {
            self.read().await;
        }
        written.is_ok()
    }

    async fn change(&self) {
        loop {
            let version = self.read().await;
            if self.replace(version).await {
                return;
            }
        }
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replica")
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a slot")
    }
}

#[async_trait]
impl TokenStore for Replica {
    async fn load(&self) -> Result<Option<Stored>, StoreError> {
        self.read().await;
        self.row.slot.load().await
    }

    async fn save(
        &self,
        record: &Record,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        self.change().await;
        self.row.slot.save(record, precondition).await
    }

    async fn clear(&self, precondition: Precondition) -> Result<(), StoreError> {
        self.change().await;
        self.row.slot.clear(precondition).await
    }

    async fn try_lease(&self) -> Result<Option<Box<dyn Lease>>, StoreError> {
        self.ask(self.server.read, true).await;
        let version = self.row.version.load(Ordering::SeqCst);
        // This lease is dropped at once. It only shows what the row said.
        if self.row.slot.try_lease().await?.is_none() || !self.replace(version).await {
            return Ok(None);
        }
        let held = self.row.slot.try_lease().await?.expect("nobody else wrote that");
        Ok(Some(Box::new(RowLease { replica: self.clone(), held })))
    }

    fn slot(&self) -> String {
        self.row.slot.slot()
    }
}

/// A lease in the row. Each change of the lease changes the row.
#[derive(Debug)]
struct RowLease {
    replica: Replica,
    held: Box<dyn Lease>,
}

#[async_trait]
impl Lease for RowLease {
    async fn reserve(&mut self) -> Result<(), StoreError> {
        self.held.reserve().await
    }

    fn take_warning(&mut self) -> Option<StoreError> {
        self.held.take_warning()
    }

    fn time_left(&self) -> Option<Duration> {
        self.held.time_left()
    }

    /// Sends no request, because saving the intent has renewed the lease.
    async fn renew(&mut self, time: Duration) -> Result<bool, StoreError> {
        self.held.renew(time).await
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        self.replica.change().await;
        self.held.release().await
    }
}

fn tokens(name: &str, from: SystemTime) -> AuthTokens {
    AuthTokens::new(name)
        .with_refresh_token(format!("refresh {name}"))
        .with_obtained_at(DateTime::<Utc>::from(from))
        .with_expires_at(DateTime::<Utc>::from(from + LIFETIME))
}

/// Simulates the time from a login, or from a restart long after it, until all replicas have the new token.
#[expect(clippy::disallowed_methods, reason = "the tokens are only names")]
async fn simulate(replicas: usize, server: Server, moment: Moment) -> Run {
    let (begun, wall) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30));
    let row = Arc::new(Row::default());
    let (signed_in, start, jitter) = match moment {
        Moment::Due { jitter } => (wall, START, jitter),
        Moment::Expired => (wall - 2 * LIFETIME, RESTART, Duration::ZERO),
    };
    row.slot.save(&tokens("first", signed_in).into(), Precondition::Absent).await.unwrap();
    let run = Arc::new(Mutex::new(Run::default()));
    let tasks: Vec<_> = (0..replicas)
        .map(|number| {
            let store = Replica { row: row.clone(), server, run: run.clone(), begun };
            let refreshed = run.clone();
            let manager = TokenManager::builder()
                .store(store)
                .policy(RefreshPolicy::default().refresh_in_background().jitter(jitter))
                .clock(move || wall + begun.elapsed())
                .timer(sleep)
                .refresh_with(move |_| {
                    let refreshed = refreshed.clone();
                    async move {
                        sleep(PROVIDER).await;
                        let mut run = refreshed.lock().unwrap();
                        run.refreshes += 1;
                        run.refreshed_at = Some(begun.elapsed());
                        Ok(tokens("second", wall + begun.elapsed()))
                    }
                })
                .build();
            let run = run.clone();
            tokio::spawn(async move {
                sleep(start.mul_f64(number as f64 / replicas as f64)).await;
                while begun.elapsed() < LIFETIME {
                    let token = manager
                        .get_access_token()
                        .await
                        .expect("there is always an accepted token");
                    if token.expose_secret() == "second" {
                        let mut run = run.lock().unwrap();
                        let at = run.refreshed_at.expect("it was refreshed");
                        run.noticed.push(begun.elapsed() - at);
                        break;
                    }
                    sleep(EVERY).await;
                }
                manager
            })
        })
        .collect();
    let mut managers = Vec::new();
    for task in tasks {
        managers.push(task.await.unwrap());
    }
    for manager in managers {
        manager.shutdown(Duration::from_secs(60)).await.unwrap();
    }
    std::mem::take(&mut *run.lock().unwrap())
}

fn main() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut rows = String::from(
        "| server | replicas | the token is | refreshes | asked for the lease, busiest second | all requests, \
         busiest second | all requests, each second on average | noticed by half | by all |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    let mut curves = Vec::new();
    for server in SERVERS {
        for replicas in [1_000, 10_000] {
            for moment in MOMENTS {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .start_paused(true)
                    .build()
                    .unwrap();
                let mut run = runtime.block_on(simulate(replicas, server, moment));
                run.noticed.sort();
                assert_eq!(
                    run.noticed.len(),
                    replicas,
                    "in the end, all replicas have the new token"
                );
                let most = |of: fn(&(usize, usize)) -> usize| {
                    run.asked.values().map(of).max().unwrap_or_default()
                };
                let seconds = run.asked.keys().max().map_or(1, |last| last + 1);
                let all: usize = run.asked.values().map(|(_, all)| all).sum();
                rows += &format!(
                    "| {} | {replicas} | {moment} | {} | {} | {} | {:.0} | {:.1} s | {:.1} s |\n",
                    server.name,
                    run.refreshes,
                    most(|(lease, _)| *lease),
                    most(|(_, all)| *all),
                    all as f64 / seconds as f64,
                    run.noticed[replicas / 2].as_secs_f64(),
                    run.noticed[replicas - 1].as_secs_f64(),
                );
                if replicas == 10_000 && moment != Moment::Expired {
                    curves.push((server, moment, run));
                }
            }
        }
    }
    print!("{rows}");
    plot(&here.join("fleet.svg"), &curves).unwrap();
    let readme = here.join("README.md");
    let text = std::fs::read_to_string(&readme).unwrap();
    std::fs::write(&readme, tokenkeep_benches::between(&text, "fleet", &rows)).unwrap();
}

/// Plots the share of the replicas that have the new token, by the seconds since the refresh.
fn plot(to: &Path, curves: &[(Server, Moment, Run)]) -> Result<(), Box<dyn std::error::Error>> {
    const COLORS: [RGBColor; 4] = [
        RGBColor(190, 80, 60),
        RGBColor(60, 130, 90),
        RGBColor(230, 160, 60),
        RGBColor(60, 100, 190),
    ];

    let area = SVGBackend::new(to, (900, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let last = curves.iter().filter_map(|(.., run)| run.noticed.last()).max();
    let last = last.map_or(1.0, Duration::as_secs_f64).max(1.0);
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "10,000 replicas: seconds since the refresh, and how many have it",
            ("sans-serif", 18),
        )
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..last, 0.0..1.0)?;
    chart.configure_mesh().y_label_formatter(&|share| format!("{:.0} %", share * 100.0)).draw()?;
    for ((server, moment, run), color) in curves.iter().zip(COLORS) {
        let count = run.noticed.len() as f64;
        let points = run
            .noticed
            .iter()
            .enumerate()
            .step_by(20)
            .map(|(index, time)| (time.as_secs_f64(), index as f64 / count));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(format!("{}, {moment}", server.name))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}
