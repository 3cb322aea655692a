use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::UsageError;
use super::audit::exit_code;
use super::test_deployment::{TestDeployment, Topology};
use crate::config::{Backend, Flags, Settings};
use crate::core::model::{Clock, ItemId, MAX_STOCK, SystemClock};
use crate::load::{
    Address, Circumstances, DisabledGuard, LoadPlan, Prices, Report, Stress, StressError, Target,
};
use crate::stop;
use crate::telemetry::{remark, say};

/// Run a load test of one item, then audit it
///
/// Starts its own server and workers on a temporary store, or sends orders to a running server with
/// --target. Exits with 1 if a promise was broken.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Item that all buyers order
    #[arg(long, value_name = "ID", value_parser = ItemId::parse)]
    item: ItemId,
    /// Units of the item [default: 1]; with --target, the stock it must already have
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = super::whole::<u64, 1, MAX_STOCK>)]
    stock: Option<u64>,
    /// Number of buyers, each with one order for one unit
    #[arg(long, value_name = "N", default_value_t = 10_000,
          allow_negative_numbers = true,
          value_parser = super::whole::<u64, 1, 1_000_000_000>)]
    users: u64,
    /// Connections on which orders are sent
    #[arg(long, value_name = "N", default_value_t = 64,
          allow_negative_numbers = true,
          value_parser = super::whole::<u16, 1, 65_535>)]
    connections: u16,
    /// Independent workers to start [default: 1]
    #[arg(long, value_name = "N", conflicts_with_all = ["target", "without"],
          allow_negative_numbers = true,
          value_parser = super::whole::<u16, 1, 64>)]
    workers: Option<u16>,
    /// Requests per second, sent on schedule whether or not responses arrive [default: unlimited]
    #[arg(long, value_name = "R", allow_negative_numbers = true, value_parser = rate)]
    rate: Option<f64>,
    /// Fraction of the buyers who send their order twice, with one Idempotency-Key
    #[arg(long, value_name = "FRACTION", default_value_t = 0.1,
          allow_negative_numbers = true, value_parser = fraction)]
    duplicates: f64,
    /// Seed of the request sequence: the same seed, the same requests [default: random]
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          value_parser = super::whole::<u64, 0, { u64::MAX }>)]
    seed: Option<u64>,
    /// Test a running flux serve, as http://HOST:PORT, and audit it over HTTP. Requests use the
    /// setting buy_key, or else admin_key
    #[arg(long, value_name = "URL", value_parser = Address::parse)]
    target: Option<Address>,
    /// With --target, sell an item whose id does not begin with stress-; its units stay sold
    #[arg(long, requires = "target")]
    yes_sell_real_stock: bool,
    /// Write a report: an HTML page with plots if FILE ends in .html, else JSON. Repeatable
    #[arg(long, value_name = "FILE")]
    report: Vec<PathBuf>,
    /// AWS prices for the cost report, in the format of config/prices.toml
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    prices: Option<PathBuf>,
    /// Disable a guard, lock or ledger-condition, and run four workers at once. Without the lock no
    /// promise may break; without the ledger condition it must oversell. Repeatable
    #[arg(long, value_name = "GUARD", conflicts_with = "target", hide_possible_values = true)]
    without: Vec<GuardName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum GuardName {
    Lock,
    LedgerCondition,
}

pub async fn run(args: Args, flags: Flags) -> Result<ExitCode> {
    args.check()?;
    let settings = super::settings(&flags)?;
    let grace = Duration::from_millis(settings.grace_ms);
    let without = args.guards();
    let reports = args.report.iter().map(|path| open(path)).collect::<Result<Vec<_>>>()?;
    let circumstances =
        Circumstances { command_line: command_line(), settings: settings.changed() };
    let plan = args.plan();
    let prices = args.prices.as_deref().map(prices).transpose()?;
    if prices.is_some() && settings.backend() == Backend::Embedded {
        let what = "--prices needs --backend aws: the embedded backend has no cost per order";
        return Err(UsageError(what.to_owned()).into());
    }
    if !without.is_empty() && settings.backend() == Backend::Aws {
        let what = "--without oversells on purpose, so it runs on a temporary store only: add";
        return Err(UsageError(format!("{what} --backend embedded")).into());
    }
    if !without.is_empty() && plan.users <= plan.stock.unwrap_or(1) {
        return Err(UsageError("--without needs more --users than --stock".to_owned()).into());
    }
    let workers = usize::from(args.workers.unwrap_or(1));
    let stopped = stop::on_signal_or_hangup(grace)?;
    let (deployment, target) = match args.target.clone() {
        Some(address) => (None, Target { address: with_key(address, &settings)?, own: None }),
        None => {
            let topology = Topology { connections: plan.connections, workers, without };
            let (deployment, mut target) = TestDeployment::start(settings, topology).await?;
            if let Some(own) = &mut target.own {
                own.prices = prices.or(own.prices.take());
            }
            (Some(deployment), target)
        }
    };
    let result = stopped.run_until_cancelled(Stress { plan, target }.run()).await;
    if let Some(deployment) = deployment {
        deployment.end(grace).await;
    }
    let report = result.context("stopped before the end; nothing was audited")?;
    let report = report.map_err(usage)?;
    say(&report)?;
    for ((format, file), path) in reports.into_iter().zip(&args.report) {
        write(&format.render(&report, &circumstances)?, file)?;
        remark(format_args!("report written to {}", path.display()));
    }
    Ok(exit_code(report.verdict))
}

fn with_key(address: Address, settings: &Settings) -> Result<Address, UsageError> {
    match (&settings.buy_key, &settings.admin_key) {
        (Some(keys), _) => super::keyed(address, keys, "buy_key"),
        (None, Some(keys)) => super::keyed(address, keys, "admin_key"),
        (None, None) => Ok(address),
    }
}

/// Prefix of the ids of items that exist for load tests.
const STRESS_ITEM_PREFIX: &str = "stress-";

impl Args {
    /// Fails if a running server would sell real stock, unless that is confirmed.
    fn check(&self) -> Result<(), UsageError> {
        let item = self.item.as_str();
        let is_confirmed = self.yes_sell_real_stock || item.starts_with(STRESS_ITEM_PREFIX);
        if self.target.is_none() || is_confirmed {
            return Ok(());
        }
        Err(UsageError(format!(
            "--target would sell the real stock of {item}: use an item whose id begins with \
             {STRESS_ITEM_PREFIX}, or add --yes-sell-real-stock"
        )))
    }

    fn plan(&self) -> LoadPlan {
        LoadPlan {
            item: self.item.clone(),
            stock: self.stock,
            users: self.users,
            connections: self.connections.into(),
            rate: self.rate,
            duplicates: self.duplicates,
            seed: self.seed.unwrap_or(SystemClock.now().0),
        }
    }

    fn guards(&self) -> Vec<DisabledGuard> {
        let guard = |name: &GuardName| match name {
            GuardName::Lock => DisabledGuard::Lock,
            GuardName::LedgerCondition => DisabledGuard::LedgerCondition,
        };
        self.without.iter().map(guard).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReportFormat {
    Page,
    Json,
}

impl ReportFormat {
    /// The format for a file name; JSON, with a warning, if the extension is neither.
    fn of(path: &Path) -> ReportFormat {
        let extension = path.extension().map(|end| end.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("html" | "htm") => ReportFormat::Page,
            Some("json") => ReportFormat::Json,
            _ => {
                let name = path.display();
                tracing::warn!("--report {name} will be JSON; for a page with plots use FILE.html");
                ReportFormat::Json
            }
        }
    }

    fn render(self, report: &Report, circumstances: &Circumstances) -> Result<String> {
        match self {
            ReportFormat::Page => Ok(report.page(circumstances)),
            ReportFormat::Json => Ok(serde_json::to_string_pretty(report)? + "\n"),
        }
    }
}

/// Opens a report file before the load test, to fail early. Existing content is not changed yet.
fn open(path: &Path) -> Result<(ReportFormat, File)> {
    let file = File::options().create(true).append(true).open(path);
    let error = |e| UsageError(format!("cannot write to --report {}: {e}", path.display()));
    Ok((ReportFormat::of(path), file.map_err(error)?))
}

/// The command line, quoted for a shell, with `flux` in place of the executable's path.
fn command_line() -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    let quoted = |word: std::ffi::OsString| {
        let word = word.to_string_lossy();
        match !word.is_empty() && word.chars().all(is_plain) {
            true => word.into_owned(),
            false => format!("'{}'", word.replace('\'', "'\\''")),
        }
    };
    let words = std::env::args_os().skip(1).map(quoted);
    ["flux".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

fn prices(path: &Path) -> Result<Prices> {
    let error = |why: String| UsageError(format!("--prices {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
    Ok(Prices::parse(&text).map_err(error)?)
}

fn write(text: &str, mut file: File) -> Result<()> {
    let written = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
    written.context("cannot write the report")
}

fn usage(error: StressError) -> anyhow::Error {
    match error {
        StressError::Ledger(e) => e.into(),
        e => UsageError(e.to_string()).into(),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=1e7).contains(rate));
    rate.ok_or_else(|| "must be a number of requests per second, above 0".to_owned())
}

fn fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse().ok().filter(|fraction| (0.0..=1.0).contains(fraction));
    fraction.ok_or_else(|| "must be from 0 to 1: 0.1 repeats one order in ten".to_owned())
}
