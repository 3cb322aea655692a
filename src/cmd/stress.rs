use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::Usage;
use super::audit::exit_code;
use super::test_deployment::{TestDeployment, Topology};
use crate::config::{Backend, Flags, Settings};
use crate::core::model::{Clock, ItemId, MAX_STOCK, SystemClock};
use crate::load::{
    Address, Circumstances, DisabledGuard, LoadPlan, Prices, Report, Stress, StressError, Target,
};
use crate::stop;
use crate::telemetry::{remark, say};

/// Race buyers for an item, then audit; exit code 1 if a promise broke
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The item that everybody wants
    #[arg(long, value_name = "ID", value_parser = ItemId::parse)]
    item: ItemId,
    /// Units of it [default: 1]; a --target must have so many already
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = super::whole::<u64, 1, MAX_STOCK>)]
    stock: Option<u64>,
    /// Buyers, each with one order for one unit
    #[arg(long, value_name = "N", default_value_t = 10_000,
          allow_negative_numbers = true,
          value_parser = super::whole::<u64, 1, 1_000_000_000>)]
    users: u64,
    /// Connections that send orders
    #[arg(long, value_name = "N", default_value_t = 64,
          allow_negative_numbers = true,
          value_parser = super::whole::<u16, 1, 65_535>)]
    connections: u16,
    /// Independent workers, started here [default: 1]
    #[arg(long, value_name = "N", conflicts_with_all = ["target", "without"],
          allow_negative_numbers = true,
          value_parser = super::whole::<u16, 1, 64>)]
    workers: Option<u16>,
    /// Requests a second, on time whether or not answers come [default: no pause]
    #[arg(long, value_name = "R", allow_negative_numbers = true, value_parser = rate)]
    rate: Option<f64>,
    /// Part of the buyers who send twice, under one Idempotency-Key
    #[arg(long, value_name = "PART", default_value_t = 0.1,
          allow_negative_numbers = true, value_parser = part)]
    duplicates: f64,
    /// The same seed, the same requests in the same sequence [default: drawn]
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          value_parser = super::whole::<u64, 0, { u64::MAX }>)]
    seed: Option<u64>,
    /// A running flux serve, as http://HOST:PORT, not one of its own; audited by HTTP. Asked with
    /// the setting buy_key (or else admin_key) where there is one
    #[arg(long, value_name = "URL", value_parser = Address::parse)]
    target: Option<Address>,
    /// Let --target sell an item whose id does not begin with stress-: its units are then gone
    #[arg(long, requires = "target")]
    yes_sell_real_stock: bool,
    /// Write what came of it: as a page with plots to a FILE.html, as JSON to any other; repeatable
    #[arg(long, value_name = "FILE")]
    report: Vec<PathBuf>,
    /// Prices to count AWS's cost with, a table like config/prices.toml
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    prices: Option<PathBuf>,
    /// Take a guard out, lock or ledger-condition, and race four workers: nothing may go wrong
    /// without the first, it must oversell without the second
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
    let report_to = args.report.iter().map(|path| open(path)).collect::<Result<Vec<_>>>()?;
    let circumstances =
        Circumstances { command_line: command_line(), settings: settings.changed() };
    let plan = args.plan();
    let prices = args.prices.as_deref().map(prices).transpose()?;
    if prices.is_some() && settings.backend() == Backend::Embedded {
        let why = "--prices is for the aws backend: the embedded one is not paid by use";
        return Err(Usage(why.to_owned()).into());
    }
    if !without.is_empty() && settings.backend() == Backend::Aws {
        let why = "--without oversells on purpose, on a throw-away store only: use it with";
        return Err(Usage(format!("{why} --backend embedded")).into());
    }
    if !without.is_empty() && plan.users <= plan.stock.unwrap_or(1) {
        return Err(Usage("--without needs more --users than --stock".to_owned()).into());
    }
    let workers = usize::from(args.workers.unwrap_or(1));
    let stopped = stop::on_signal_or_hangup(grace)?;
    let (deployment, target) = match args.target.clone() {
        Some(address) => (None, Target { address: to_buy_at(address, &settings)?, own: None }),
        None => {
            let topology = Topology { connections: plan.connections, workers, without };
            let (deployment, mut target) = TestDeployment::start(settings, topology).await?;
            if let Some(own) = &mut target.own {
                own.prices = prices.or(own.prices.take());
            }
            (Some(deployment), target)
        }
    };
    let outcome = stopped.run_until_cancelled(Stress { plan, target }.run()).await;
    if let Some(deployment) = deployment {
        deployment.end(grace).await;
    }
    let report = outcome.context("stopped before the end: nothing was audited")?;
    let report = report.map_err(usage)?;
    say(&report)?;
    for ((form, file), path) in report_to.into_iter().zip(&args.report) {
        write(&form.of(&report, &circumstances)?, file)?;
        remark(format_args!("report written to {}", path.display()));
    }
    Ok(exit_code(report.verdict))
}

fn to_buy_at(address: Address, settings: &Settings) -> Result<Address, Usage> {
    match (&settings.buy_key, &settings.admin_key) {
        (Some(keys), _) => super::keyed(address, keys, "buy_key"),
        (None, Some(keys)) => super::keyed(address, keys, "admin_key"),
        (None, None) => Ok(address),
    }
}

/// Begins the ids of items that are there for load tests.
const STRESS_ITEM_PREFIX: &str = "stress-";

impl Args {
    /// Buying at a running server is for good.
    fn check(&self) -> Result<(), Usage> {
        let item = self.item.as_str();
        let meant = self.yes_sell_real_stock || item.starts_with(STRESS_ITEM_PREFIX);
        if self.target.is_none() || meant {
            return Ok(());
        }
        Err(Usage(format!(
            "--target sells the real stock of {item}: race for an item whose id begins with \
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
enum Form {
    Page,
    Json,
}

impl Form {
    /// By the name's end; one that says neither is JSON, and that is said.
    fn named(path: &Path) -> Form {
        let end = path.extension().map(|end| end.to_string_lossy().to_lowercase());
        match end.as_deref() {
            Some("html" | "htm") => Form::Page,
            Some("json") => Form::Json,
            _ => {
                let name = path.display();
                tracing::warn!("--report {name} will be JSON; FILE.html is a page with plots");
                Form::Json
            }
        }
    }

    fn of(self, report: &Report, circumstances: &Circumstances) -> Result<String> {
        match self {
            Form::Page => Ok(report.page(circumstances)),
            Form::Json => Ok(serde_json::to_string_pretty(report)? + "\n"),
        }
    }
}

/// Fails before the load test if a report cannot be written, and leaves what is there.
fn open(path: &Path) -> Result<(Form, File)> {
    let file = File::options().create(true).append(true).open(path);
    let wrong = |e| Usage(format!("cannot write to --report {}: {e}", path.display()));
    Ok((Form::named(path), file.map_err(wrong)?))
}

/// As it was typed, but for the place of the executable.
fn command_line() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    let quoted = |word: std::ffi::OsString| {
        let word = word.to_string_lossy();
        match !word.is_empty() && word.chars().all(plain) {
            true => word.into_owned(),
            false => format!("'{}'", word.replace('\'', "'\\''")),
        }
    };
    let words = std::env::args_os().skip(1).map(quoted);
    ["flux".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

fn prices(path: &Path) -> Result<Prices> {
    let wrong = |why: String| Usage(format!("--prices {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    Ok(Prices::parse(&text).map_err(wrong)?)
}

fn write(text: &str, mut file: File) -> Result<()> {
    file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).context("writing the report")
}

fn usage(error: StressError) -> anyhow::Error {
    match error {
        StressError::Ledger(e) => e.into(),
        e => Usage(e.to_string()).into(),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=1e7).contains(rate));
    rate.ok_or_else(|| "must be a number of requests a second, above 0".to_owned())
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "must be from 0 to 1: 0.1 repeats one request in ten".to_owned())
}
