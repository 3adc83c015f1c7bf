//! Writes the tables of README.md and the plot, from the numbers of the last run.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use plotters::prelude::*;
use tokenkeep_benches::between;

/// One comparison: what was measured, what it is compared with, and the largest ratio that is allowed.
struct Row {
    work: &'static str,
    ours: Measured,
    against: &'static str,
    other: Measured,
    target: f64,
}

/// A number that was measured: a number of `note` in bytes, without a unit or in seconds, or a median of
/// criterion.
#[derive(Clone, Copy)]
enum Measured {
    Bytes(&'static str),
    Count(&'static str),
    Seconds(&'static str),
    Time(&'static str),
}

use Measured::{Bytes, Count, Seconds, Time};

const fn row(
    work: &'static str,
    ours: Measured,
    against: &'static str,
    other: Measured,
    target: f64,
) -> Row {
    Row { work, ours, against, other, target }
}

const READ: Measured = Time("read/tokenkeep: get_access_token");
const GET: Measured = Time("get/tokenkeep get");
const GET_FROM_KEYCHAIN: Measured = Time("get/tokenkeep get, keychain");

const ROWS: &[Row] = &[
    row(
        "cached read, `get_access_token`",
        READ,
        "`arc_swap` load and `SystemTime::now`",
        Time("read/floor: arc_swap load and SystemTime::now"),
        1.75,
    ),
    row(
        "cached read, instructions",
        Count("instructions of get_access_token"),
        "of the same floor",
        Count("instructions of floor"),
        2.0,
    ),
    row(
        "cached read",
        READ,
        "`RwLock<Option<…>>` of tokio, and a clone",
        Time("read/RwLock<Option<tokens>> and a clone"),
        1.0,
    ),
    row(
        "cached read",
        READ,
        "`aws-smithy-runtime`, identity cache",
        Time("read/aws-smithy-runtime: resolve_cached_identity"),
        1.0,
    ),
    row("cached read", READ, "`yup-oauth2`, `token()`", Time("read/yup-oauth2: token"), 1.0),
    row(
        "cached read",
        READ,
        "`google-cloud-auth`, `headers()`",
        Time("read/google-cloud-auth: headers"),
        1.0,
    ),
    row("40,000 reads, 2 threads", Time("threads/2"), "1 thread", Time("threads/1"), 1.0),
    row("40,000 reads, 8 threads", Time("threads/8"), "1 thread", Time("threads/1"), 1.0),
    row(
        "save, plaintext",
        Time("save/tokenkeep: plaintext"),
        "a durable replace of the same bytes",
        Time("save/floor: a durable replace"),
        1.25,
    ),
    row(
        "save, age",
        Time("save/tokenkeep: age"),
        "a bare age seal and a durable replace",
        Time("save/floor: a bare age seal and a durable replace"),
        1.25,
    ),
    row(
        "load, age",
        Time("load/tokenkeep: age"),
        "a read and a bare age open",
        Time("load/floor: a read and a bare age open"),
        1.25,
    ),
    row(
        "load, age",
        Time("load/tokenkeep: age"),
        "the same on tokio's blocking pool",
        Time("load/floor: the same on the blocking pool"),
        1.25,
    ),
    row(
        "save, passphrase-protected identity",
        Time("passphrase/tokenkeep: save"),
        "`age` with scrypt at its default, and a durable replace",
        Time("passphrase/floor: age with scrypt, and a durable replace"),
        0.001,
    ),
    row(
        "first load with a passphrase",
        Time("passphrase/tokenkeep: first load"),
        "one scrypt at work factor 17",
        Time("passphrase/floor: one scrypt at work factor 17"),
        1.05,
    ),
    row(
        "keychain, first load",
        Time("keychain/tokenkeep: first load"),
        "a bare read of keyring-core and an age open",
        Time("keychain/floor: a bare read and an age open"),
        1.25,
    ),
    row(
        "keychain, save",
        Time("later/save: keychain"),
        "age file, save",
        Time("later/save: age file"),
        1.1,
    ),
    row(
        "keychain, later load",
        Time("later/load: keychain"),
        "age file, load",
        Time("later/load: age file"),
        1.1,
    ),
    row(
        "10,000 tasks, expired: one call",
        Time("tasks/10000 tasks, expired"),
        "one call of 100 ms",
        Time("tasks/floor: one call"),
        1.6,
    ),
    row(
        "64 processes, expired: one call, CPU time",
        Seconds("cpu of 64 expired"),
        "64 processes that find it fresh",
        Seconds("cpu of 64 fresh"),
        1.1,
    ),
    row("`tokenkeep get`, cold", GET, "`age -d -i key`", Time("get/age -d -i"), 1.5),
    row(
        "`tokenkeep get`, peak memory",
        Bytes("memory of tokenkeep get"),
        "12 MB",
        Bytes("limit of memory"),
        1.0,
    ),
    row(
        "`tokenkeep get` from the keychain",
        GET_FROM_KEYCHAIN,
        "`secret-tool lookup`",
        Time("get/secret-tool lookup"),
        1.5,
    ),
    row(
        "`tokenkeep get` from the keychain",
        GET_FROM_KEYCHAIN,
        "Python `keyring get`",
        Time("get/Python keyring get"),
        1.0,
    ),
    row(
        "`migrate --all`, 1,000 profiles",
        Time("migrate/tokenkeep migrate --all, 1000 profiles"),
        "1,000 durable replaces",
        Time("migrate/floor: 1000 durable replaces"),
        1.5,
    ),
    row(
        "get one of 100,000 profiles",
        Time("profiles/get one of 100000"),
        "get one of 10",
        Time("profiles/get one of 10"),
        1.2,
    ),
];

impl Measured {
    /// Returns the value, in nanoseconds if it is a time. Returns `None` if it was not measured.
    fn value(self) -> Option<f64> {
        let noted = |name: &str| -> Option<f64> {
            fs::read_to_string(directory("numbers").join(name)).ok()?.trim().parse().ok()
        };
        match self {
            Time(id) => median(&directory("criterion"), id),
            Seconds(name) => noted(name).map(|seconds| seconds * 1e9),
            Bytes(name) | Count(name) => noted(name),
        }
    }

    fn shown(self) -> String {
        match (self, self.value()) {
            (_, None) => "not measured".into(),
            (Count(_), Some(count)) => format!("{count:.0}"),
            (Bytes(_), Some(bytes)) => format!("{:.1} MB", bytes / 1e6),
            (_, Some(ns)) if ns < 1e3 => format!("{ns:.0} ns"),
            (_, Some(ns)) if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
            (_, Some(ns)) if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
            (_, Some(ns)) => format!("{:.2} s", ns / 1e9),
        }
    }
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(name)
}

/// Returns the median of the benchmark with this full name, from the files of criterion.
fn median(below: &Path, id: &str) -> Option<f64> {
    let read = |path: PathBuf| -> Option<serde_json::Value> {
        serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
    };
    for entry in fs::read_dir(below).ok()?.flatten() {
        let path = entry.path();
        if let Some(benchmark) = read(path.join("new/benchmark.json")) {
            if benchmark["full_id"] == id {
                return read(path.join("new/estimates.json"))?["median"]["point_estimate"].as_f64();
            }
        } else if let Some(found) = median(&path, id) {
            return Some(found);
        }
    }
    None
}

fn ratio(row: &Row) -> Option<f64> {
    Some(row.ours.value()? / row.other.value()?)
}

fn table() -> String {
    let mut table =
        String::from("| work | ours | against | | ratio | target |\n|---|---|---|---|---|---|\n");
    for row in ROWS {
        let Row { work, ours, against, other, target } = row;
        let ratio = match ratio(row) {
            None => "not measured".into(),
            Some(ratio) if ratio < 0.01 => format!("**{ratio:.5}**"),
            Some(ratio) => format!("**{ratio:.2}**"),
        };
        let (ours, other) = (ours.shown(), other.shown());
        writeln!(table, "| {work} | {ours} | {against} | {other} | {ratio} | {target} |").unwrap();
    }
    table
}

/// Draws a bar for each ratio, on a logarithmic scale, and a line for each target.
fn plot(to: &Path) -> Result<(), Box<dyn std::error::Error>> {
    const LEAST: f64 = 0.0001;

    let rows: Vec<(&Row, f64)> =
        ROWS.iter().filter_map(|row| Some((row, ratio(row)?))).rev().collect();
    let area = SVGBackend::new(to, (900, 40 * rows.len() as u32 + 90)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "as a multiple of what it is measured against; a line is the target",
            ("sans-serif", 18),
        )
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(10)
        .build_cartesian_2d((LEAST..4.0).log_scale(), 0.0..rows.len() as f64)?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().draw()?;
    for (number, (row, ratio)) in rows.iter().enumerate() {
        let (low, high) = (number as f64 + 0.15, number as f64 + 0.6);
        let color =
            if *ratio <= row.target { RGBColor(60, 130, 90) } else { RGBColor(190, 80, 60) };
        let bar = Rectangle::new([(LEAST, low), (*ratio, high)], color.filled());
        let target = PathElement::new([(row.target, low - 0.05), (row.target, high + 0.05)], BLACK);
        let label = format!("{} / {}", row.work, row.against).replace('`', "");
        let label = Text::new(label, (LEAST * 1.1, high + 0.33), ("sans-serif", 13));
        chart.draw_series([bar])?;
        chart.draw_series([target])?;
        chart.draw_series([label])?;
    }
    area.present()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = here.join("README.md");
    let mut text = between(&fs::read_to_string(&readme)?, "times", &table());
    if let Ok(builds) = fs::read_to_string(directory("numbers").join("builds")) {
        text = between(&text, "builds", &builds);
    }
    fs::write(&readme, text)?;
    plot(&here.join("speed.svg"))?;
    print!("{}", table());
    Ok(())
}
