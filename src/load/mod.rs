//! `flux stress` and `flux audit`: buyers over HTTP, and the auditor.

mod audit;
mod buyers;
mod cost;
mod drain;
mod error;
mod guard_experiment;
mod http_audit;
mod observation;
mod page;
mod plan;
mod report;
mod stats;
mod stress;
mod summary;
mod timeline;

pub use audit::audit;
pub use cost::{Cost, OperationUsage, PerThousand, Prices};
pub use error::StressError;
pub use guard_experiment::{DisabledGuard, GuardExperiment};
pub use page::Circumstances;
pub use plan::LoadPlan;
pub use report::{Machine, PlotData, Report, RequestsPerOrder};
pub use stats::Percentiles;
pub use stress::{OwnStore, Stress, Target};
pub use summary::{AuditReport, AuditResult, AuditSummary, ItemAudit};

pub use crate::client::Address;
